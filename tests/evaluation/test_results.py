"""What is stored is whole, valid, and never of two kinds in one file."""

import json

import numpy as np
import pytest

from tamft.errors import InputError
from tamft.evaluation.identity import identify
from tamft.evaluation.results import PROVENANCE, Results
from tests.evaluation import tiny_tasks
from tests.evaluation.test_score import result_files, tamper

pytestmark = pytest.mark.usefixtures("tiny_tasks")


# --- dtype ------------------------------------------------------------------------------------------------------------


def test_two_dtypes_of_a_model_never_share_a_file(score, tiny_model, tmp_path, forbid_loading):
    import mteb

    asked = [None, "float32", "bfloat16", "float16"]
    scores = {dtype: score(tiny_model, dtype=dtype)[0] for dtype in asked}
    assert [r["dtype"] for r in scores.values()] == ["float32", "float32", "bfloat16", "float16"]
    assert scores["float32"]["main_score"] == scores[None]["main_score"]
    assert scores["bfloat16"]["main_score"] != scores[None]["main_score"]
    for dtype in ("bfloat16", "float16"):
        assert scores[dtype]["main_score"] == pytest.approx(scores[None]["main_score"], abs=0.02)
    files = sorted((tmp_path / "results").rglob("TinySTS.json"))
    assert len(files) == 4
    forbid_loading()
    assert {dtype: score(tiny_model, dtype=dtype)[0] for dtype in asked} == scores
    # mteb itself sees one result of the model, and the others when it is asked for experiments
    cache = mteb.ResultCache(tmp_path / "results")
    (plain,) = cache.load_results(tasks=[tiny_tasks.TinySTS()], load_experiments="no_experiments").model_results
    assert plain.task_results[0].get_score() == scores[None]["main_score"]
    every = cache.load_results(tasks=[tiny_tasks.TinySTS()], load_experiments="match_name").model_results
    assert len(every) == 4


@pytest.mark.parametrize("kind", ["sentence-transformers", "peft"])
def test_an_adapter_in_another_dtype(score, tiny_model, tmp_path, kind):
    from tests.evaluation.adapters import save_adapter

    adapter = save_adapter(tiny_model, tmp_path / "lora", kind=kind)
    (record,) = score(adapter, dtype="bfloat16")
    assert (record["status"], record["dtype"], record["reason"]) == ("ok", "bfloat16", None)


# --- undefined metrics ------------------------------------------------------------------------------------------------


class ConstantGrades(tiny_tasks.TinySTS):
    """All pairs are equally alike."""

    metadata = tiny_tasks.metadata("ConstantGrades")

    def load_data(self, num_proc=None, **kwargs):
        super().load_data()
        pairs = self.dataset["test"].remove_columns("score")
        self.dataset["test"] = pairs.add_column("score", [1.0] * len(pairs))


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_an_undefined_metric_is_null_with_its_reason(score, tiny_model, tmp_path, forbid_loading):
    (record,) = score(tiny_model, tasks=[ConstantGrades()])
    assert (record["status"], record["main_score"]) == ("failed", None)
    assert record["reason"] == "cosine_pearson is undefined (NaN): all similarities, or all grades, are equal"
    (path,) = result_files(tmp_path / "results")
    assert "NaN" not in path.read_text()
    stored = json.loads(path.read_text())["scores"]["test"][0]
    assert stored["main_score"] is stored["cosine_pearson"] is None
    forbid_loading()  # it is known, and not computed again
    assert score(tiny_model, tasks=[ConstantGrades()]) == [record]


@pytest.fixture
def constant(model):
    """A model that tells no two texts apart."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    for name, tensor in weights.items():
        tensor.fill_(0.5 if name == "encoder.layer.1.output.LayerNorm.bias" else 0.0)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_model_that_tells_no_two_texts_apart(score, constant):
    sts, retrieval = score(constant, tasks=["TinySTS", "EmbeddedRetrieval"])  # the second has a score all the same
    for record in (sts, retrieval):
        assert "are equal: the model tells no two texts apart" in record["reason"]
    assert (sts["status"], sts["main_score"]) == ("failed", None)
    assert (retrieval["status"], retrieval["main_score"] is not None) == ("ok", True)


def test_embeddings_that_are_no_numbers_fail_the_task(score, model):
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (record,) = score(model)
    assert (record["status"], record["main_score"]) == ("failed", None)
    assert "10 of 10 embeddings are not finite" in record["reason"]


class Long(tiny_tasks.TinySTS):
    """Texts that do not fit into the model."""

    metadata = tiny_tasks.metadata("Long")

    def load_data(self, num_proc=None, **kwargs):
        super().load_data()
        self.dataset["test"] = self.dataset["test"].map(lambda row: {"sentence1": row["sentence1"] + " card" * 40})


@pytest.mark.parametrize("options", [{}, {"batch_size": 8}])
def test_truncation_is_reported_every_time(score, tiny_model, options):
    from tamft.evaluation.summary import notes

    records = score(tiny_model, tasks=[Long(), "TinySTS"], **options)
    said = "50% of the texts are longer than the model's 32 tokens and were cut off"
    assert [r["reason"] for r in records] == [said, None]
    assert records[0]["status"] == "ok"
    assert score(tiny_model, tasks=[Long(), "TinySTS"], **options) == records  # stored
    assert notes(records) == [f"WARNING bert/model: {said}"]


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"mteb_version": "2.20.0"}, {"dataset_revision": "0"}])
def test_other_versions_are_used_when_asked_and_say_so(score, tiny_model, tmp_path, changes, forbid_loading):
    (first,) = score(tiny_model)
    tamper(tmp_path / "results", **changes)
    forbid_loading()
    (record,) = score(tiny_model, mix_versions=True)
    assert record["main_score"] == 0.123
    assert {key: record[key] for key in changes} == changes
    assert f"the stored result is from {'mteb' if 'mteb_version' in changes else 'data revision'}" in record["reason"]
    assert first["reason"] is None


def test_a_result_is_kept_until_its_successor_is_there(score, tiny_model, tmp_path, forbid_loading):
    score(tiny_model)
    tamper(tmp_path / "results", mteb_version="2.20.0")
    before = result_files(tmp_path / "results")[0].read_text()
    forbid_loading()
    (record,) = score(tiny_model)
    assert record["status"] == "failed"
    assert result_files(tmp_path / "results")[0].read_text() == before


def test_no_file_holds_two_versions(score, tiny_model, tmp_path):
    """A part of another version is replaced, not added to: mteb's own rule would keep it."""
    score(tiny_model, tasks=[tiny_tasks.TwoLanguages().filter_languages(["eng"])])
    tamper(tmp_path / "results", mteb_version="2.20.0")
    records = score(tiny_model, tasks=[tiny_tasks.TwoLanguages()], mix_versions=True)
    assert len({r["mteb_version"] for r in records}) == 1
    assert 0.123 not in {r["main_score"] for r in records}


# --- provenance -------------------------------------------------------------------------------------------------------


def test_one_line_of_provenance_for_each_task(score, tiny_model, tmp_path):
    score(tiny_model, tasks=["TinySTS", "TwoLanguages"], command="the command")
    (file,) = (tmp_path / "results").rglob(PROVENANCE)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["task"] for line in lines] == ["TinySTS", "TwoLanguages"]
    assert {(line["device"], line["dtype"], line["command"]) for line in lines} == {("cpu", "float32", "the command")}


def test_what_an_interrupted_run_found_is_not_forgotten(score, tiny_model, monkeypatch):
    """The second run meets only the subset that was left, whose texts all fit."""

    class Mixed(tiny_tasks.TwoLanguages):
        metadata = tiny_tasks.metadata("Mixed", eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]})
        interrupted = True

        def load_data(self, num_proc=None, **kwargs):
            super().load_data()
            long = self.dataset["en"]["test"].map(lambda row: {"sentence1": row["sentence1"] + " card" * 40})
            self.dataset = {"en": {"test": long}, "de": self.dataset["de"]}

        def evaluate(self, model, split="test", subsets_to_run=None, **kwargs):
            if self.interrupted and subsets_to_run == ["de"]:
                raise KeyboardInterrupt
            return super().evaluate(model, split, subsets_to_run, **kwargs)

    try:
        score(tiny_model, tasks=[Mixed()])
        pytest.skip("this mteb scores all subsets of a task together: there is no half")
    except KeyboardInterrupt:
        pass
    monkeypatch.setattr(Mixed, "interrupted", False)
    records = score(tiny_model, tasks=[Mixed()])
    assert len(records) == 2
    assert all("were cut off" in r["reason"] for r in records)


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_task_is_claimed_once_and_let_go(tiny_model, tmp_path):
    one, two = Results(tmp_path), Results(tmp_path)
    bf16 = Results(tmp_path, dtype="bfloat16")
    identity, task, other = identify(str(tiny_model)), tiny_tasks.TinySTS(), tiny_tasks.TwoLanguages()
    with one.claim(identity, task) as mine:
        assert mine
        for results, same, free in ((two, task, False), (two, other, True), (bf16, task, True)):
            with results.claim(identity, same) as also:
                assert also is free
    with two.claim(identity, task) as mine:
        assert mine


# --- options ----------------------------------------------------------------------------------------------------------

BAD = {
    "at least 1": {"batch_tokens": 0},
    "--batch_size 0.5": {"batch_size": 0.5},
    "give one of them": {"batch_tokens": 8, "batch_size": 8},
    "there are float32, bfloat16, float16": {"dtype": "float64"},
    "at least 0": {"cache_mb": -1},
    "--num_processes 0": {"num_processes": 0},
    "give it alone": {"devices": ["cpu"], "num_processes": 2},
    "torch sees no GPU": {"devices": ["all"]},
    "--devices 'cuda:7' cannot be used": {"devices": ["cpu", "cuda:7"], "device": None},
    "name at least one": {"devices": [], "device": None},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_options(tiny_model, tmp_path, said):
    from tamft.evaluation.score import evaluate

    with pytest.raises(InputError, match=said):
        evaluate(str(tiny_model), tasks=["TinySTS"], results=tmp_path / "results", **BAD[said])
    assert not (tmp_path / "results").exists()


def test_devices_of_processes():
    from tamft.evaluation.options import choose_devices

    assert choose_devices() == (None,)
    assert choose_devices("cpu") == ("cpu",)
    assert choose_devices(num_processes=2) == (None, None)
    assert choose_devices("cpu", num_processes=3) == ("cpu",) * 3
    assert choose_devices(devices=["cpu", "cpu"]) == ("cpu", "cpu")


def test_nan_becomes_null_and_everything_else_stays():
    from tamft.evaluation.results import _without_nan

    content = {"a": [1, 2.5, float("nan"), {"b": float("-inf")}], "c": "NaN", "d": True, "e": None}
    assert _without_nan(content) == {"a": [1, 2.5, None, {"b": None}], "c": "NaN", "d": True, "e": None}
    assert _without_nan(json.loads(json.dumps({"x": np.nan}))) == {"x": None}
