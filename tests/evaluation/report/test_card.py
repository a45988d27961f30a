"""Scores in a model card: in mteb's form, once, and nothing else is touched."""

import json
import shutil
from pathlib import Path

import mteb
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from tamft.errors import InputError
from tamft.evaluation.identity import identify
from tamft.evaluation.report.card import prepare, with_scores
from tests.evaluation.making import record
from tests.evaluation.report.making import a_run, write_results

CARD = """---
# what the licence office wants first
license:   apache-2.0
language: no
tags: [sentence-transformers,   "mteb"]
model-index:
- name: my-model
  results:
  - task:
      type: semantic-similarity
      name: Semantic Similarity
    dataset:
      name: dev
      type: dev
    metrics:
    - type: pearson_cosine
      value: .nan
      name: Pearson Cosine
    extra: kept
co2: 1e-3   # grams
---
# Title

---
Text with `model-index:` in it.  \t
"""


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "runs" / "a" / "model")


@pytest.fixture
def records(folder):
    identity = identify(str(folder))
    changes = {"name": identity.name, "revision": identity.revision, "metric": "cosine_spearman"}
    values = {("STS12", "default"): 0.5, ("STS22", "en"): 0.25, ("STS22", "de-en"): 0.75}
    return [
        record("m", task, value, subset=subset, dataset_revision=mteb.get_task(task).metadata.revision, **changes)
        for (task, subset), value in values.items()
    ]


def write(folder, records):
    change = prepare(folder, records)
    change.write()
    return change.scores


def test_the_entries_are_those_that_mteb_makes(folder, records, tmp_path):
    (folder / "README.md").unlink(missing_ok=True)
    assert write(folder, records) == 3
    made = ModelCard.load(folder / "README.md").data
    scores = {"STS12": 0.5, "STS22": {"test": {"en": 0.25, "de-en": 0.75}}}
    results = write_results(tmp_path / "r", {("local/model", "x"): scores})
    (model,) = mteb.ResultCache(results).load_results()
    with pytest.warns(DeprecationWarning):
        theirs = [entry for result in model for entry in result.get_hf_eval_results()]
    assert sorted(made.eval_results, key=str) == sorted(theirs, key=str)
    assert made.model_name == "a/model"


def test_everything_else_in_the_card_stays_as_it_is(folder, records):
    path = folder / "README.md"
    path.write_text(CARD, encoding="utf-8")
    write(folder, records)
    text = path.read_text(encoding="utf-8")
    start, end = CARD.index("model-index:"), CARD.index("co2:")
    assert text.startswith(CARD[:start])
    assert text.endswith(CARD[end:])
    results = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"]
    assert [r["dataset"]["name"] for r in results] == ["dev", "STS12 (default)", "STS22 (en)", "STS22 (de-en)"]
    assert results[0]["extra"] == "kept"


def test_a_second_time_changes_nothing_and_new_scores_replace_the_old(folder, records, monkeypatch):
    path = folder / "README.md"
    path.write_text(CARD, encoding="utf-8")
    write(folder, records)
    first = path.read_bytes()
    before = path.stat().st_mtime_ns
    write(folder, records)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (first, before)
    records[0]["main_score"] = 0.625
    write(folder, records[:2])
    values = [
        r["metrics"][0]["value"] for r in yaml.safe_load(path.read_text().split("---")[1])["model-index"][0]["results"]
    ]
    assert values[1:] == [0.625, 0.25]


def test_the_card_is_no_part_of_the_identity(folder, records):
    before = identify(str(folder))
    write(folder, records)
    assert identify(str(folder)) == before


def test_line_ends_and_cards_without_metadata_are_kept(folder, records):
    path = folder / "README.md"
    path.write_bytes(CARD.replace("\n", "\r\n").encode())
    write(folder, records)
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 50
    path.write_bytes(b"# Only a title\n\n")
    write(folder, records)
    assert path.read_bytes().endswith(b"---\n\n# Only a title\n\n")
    assert len(ModelCard.load(path).data.eval_results) == 3


def test_two_tasks_on_one_data_set_stay_two(records):
    """mteb's S2S and P2P tasks share data set, subset and split."""
    pair = [record("m", f"MasakhaNEWSClustering{kind}", 0.5, metric="v_measure") for kind in ("S2S", "P2P")]
    index = yaml.safe_load(with_scores("", pair, "README.md", name="m").split("---")[1])["model-index"]
    assert [r["dataset"]["name"].split(" ")[0] for r in index[0]["results"]] == [r["task"] for r in pair]
    assert len(eval_results_to_model_index("m", ModelCard(with_scores("", pair, "x", name="m")).data.eval_results)) == 1


def test_what_failed_and_the_smoke_test_do_not_go_in(folder, records):
    same = {key: records[0][key] for key in ("name", "revision")}
    more = [record("m", "STS13", None, **same), record("m", "EmbeddedSTS", 0.5, **same)]
    assert write(folder, records + more) == 3
    with pytest.raises(InputError, match="none of its scores belongs into a card"):
        prepare(folder, more)


def test_a_run_folder_means_its_model(folder, records):
    content = a_run(folder.parent.parent / "b", "adamw_torch") / "run.json"
    shutil.move(content, folder.parent / "run.json")
    assert write(folder.parent, records) == 3
    assert (folder / "README.md").exists()
    assert not (folder.parent / "README.md").exists()


def test_a_model_that_has_changed_is_refused_and_its_card_left_alone(folder, records):
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    config = folder / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prompts": {"query": "q: "}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"it is local/model @ \w{16} now, and these are scores of local/model @"):
        prepare(folder, records)
    assert (folder / "README.md").read_text(encoding="utf-8") == CARD


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\na: [\n---\n", "not valid YAML"),
        ("---\n- a\n- b\n---\n", "not a list of keys and values"),
        ("---\nmodel-index: 7\n---\n", "not of the usual form"),
        ("---\nmodel-index:\n- name: x\n---\n", "not of the usual form"),
        ("---\nmodel-index: [{name: x,\n\nresults: []}]\n---\n", "block style"),
        ("---\n'model-index': [{name: x, results: []}]\n---\n", "block style"),
    ],
)
def test_cards_that_cannot_be_changed_safely(folder, records, card, message):
    (folder / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        prepare(folder, records)


def test_a_hub_model_is_refused(records):
    with pytest.raises(InputError, match="a Hub model's card is not changed"):
        prepare(Path("acme/tiny"), records)
