"""How many test texts stand in a model's training data: in the records, below the table, and in no score."""

import json
import shutil
from types import SimpleNamespace

import pytest
from datasets import Dataset, DatasetDict

from tamft import fingerprints
from tamft.evaluation import overlap
from tamft.evaluation.identity import identify
from tamft.evaluation.summary import notes
from tests.evaluation.adapters import save_adapter
from tests.evaluation.tiny_tasks import PAIRS

pytestmark = pytest.mark.usefixtures("tiny_tasks")
# three of the first column (one of them written otherwise) and one of the second
SEEN = [PAIRS[0][0], PAIRS[3][0].upper() + "!", PAIRS[5][0], PAIRS[9][1], "something else"]


def test_counted_in_records_and_below_the_table(score, model, other_tiny_model):
    fingerprints.write(fingerprints.make(SEEN), model)
    records = score(model, other_tiny_model)
    assert [record["overlap"] for record in records] == [{"texts": 4, "of": 20}, None]
    (line,) = notes(records)
    assert line.startswith("overlap TinySTS: 4 of 20 test texts are in the training data of ")
    assert json.loads(json.dumps(records)) == records


def test_stored_scores_keep_their_count_and_the_file_is_no_part_of_the_model(score, model, tmp_path, forbid_loading):
    before = identify(str(model))
    fingerprints.write(fingerprints.make(SEEN), model)
    assert identify(str(model)).revision == before.revision
    first = score(model)
    forbid_loading()
    assert score(model) == first
    copy = shutil.copytree(model, tmp_path / "elsewhere" / "model")
    (again,) = score(copy)
    assert again["overlap"] == {"texts": 4, "of": 20}


def test_no_overlap_is_said_in_the_record_and_not_below_the_table(score, model):
    fingerprints.write(fingerprints.make(["something else"]), model)
    records = score(model)
    assert records[0]["overlap"] == {"texts": 0, "of": 20}
    assert notes(records) == []


def test_each_subset_for_itself_and_parts_that_failed(score, model):
    fingerprints.write(fingerprints.make(SEEN), model)
    records = score(model, tasks=["TwoLanguages", "Absent"], languages=["all"])
    found = {(r["task"], r["subset"]): r["overlap"] for r in records}
    assert found[("TwoLanguages", "en")] == found[("TwoLanguages", "de")] == {"texts": 4, "of": 20}
    assert found[("Absent", "default")] is None
    assert "overlap TwoLanguages: 8 of 40" in "\n".join(notes(records))


def test_an_adapters_base_was_trained_too(model, tmp_path):
    adapter = save_adapter(model, tmp_path / "adapter")
    fingerprints.write(fingerprints.make(SEEN[:2]), model)
    fingerprints.write(fingerprints.make(SEEN[1:]), adapter)
    assert overlap.fingerprint_of(identify(str(adapter))).texts == 5


def test_a_damaged_file_is_found_before_any_work(score, model, tmp_path):
    path = fingerprints.write(fingerprints.make(SEEN), model)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="remove the file"):
        score(model)
    assert not (tmp_path / "results").exists()


TEXTS = ["one", "two", "three"]
SHAPES = {
    "classification": ({"input_column_name": "t"}, {"t": TEXTS, "label_text": ["one"] * 3}),
    "one subset with its level": ({"input_column_name": "t"}, {"t": TEXTS}),
    "pairs": ({"input1_column_name": "a", "input2_column_name": "b"}, {"a": TEXTS, "b": ["four"] * 3, "c": TEXTS}),
    "lists": ({"input_column_name": "sentences"}, {"sentences": [TEXTS, ["four"]]}),
    "unnamed": ({}, {"eng": TEXTS, "deu": ["eins"] * 3, "id": ["one"] * 3, "number": [1, 2, 3]}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_tasks(shape):
    attributes, columns = SHAPES[shape]
    data = DatasetDict({"test": Dataset.from_dict(columns), "train": Dataset.from_dict({"t": ["two"] * 9})})
    data = {"default": data} if "level" in shape else data
    task = SimpleNamespace(dataset=data, hf_subsets=["default"], eval_splits=["test"], **attributes)
    counted = overlap.count(task, fingerprints.make(["two", "three"]))
    of = {"pairs": 6, "lists": 4, "unnamed": 6}.get(shape, 3)
    assert overlap.pick(counted, "test", "default") == {"texts": 2, "of": of}


@pytest.mark.parametrize("old", [False, True])
def test_retrieval_counts_queries(old):
    corpus = Dataset.from_dict({"id": ["a"], "text": ["two"]})
    queries = Dataset.from_dict({"id": ["1", "2", "3"], "text": TEXTS})
    task = SimpleNamespace(hf_subsets=["default"], eval_splits=["test"], dataset=None)
    if old:
        task.queries, task.corpus = {"test": {"1": "one", "2": "two", "3": "three"}}, {"test": {"a": "two"}}
    else:
        task.dataset = {"default": {"test": {"queries": queries, "corpus": corpus}}}
    counted = overlap.count(task, fingerprints.make(["two"]))
    assert overlap.pick(counted, "test", "default") == {"texts": 1, "of": 3}


def test_a_task_without_texts_says_nothing():
    task = SimpleNamespace(hf_subsets=["default"], eval_splits=["test"], dataset={"default": {}})
    assert overlap.pick(overlap.count(task, fingerprints.make(TEXTS)), "test", "default") is None
