"""Scores are mteb's, belong to the right model, and every outcome is a record."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tamft.evaluation.score import main
from tests.evaluation import tiny_tasks
from tests.evaluation.adapters import save_adapter
from tests.evaluation.tiny_tasks import PAIRS

pytestmark = pytest.mark.usefixtures("tiny_tasks")

KEYS = [
    *("model", "name", "revision", "task", "type", "split", "subset", "metric", "main_score", "reason", "status"),
    *("mteb_version", "dataset_revision", "device", "dtype", "batch", "batch_unit", "seconds", "command", "overlap"),
]


def independent_score(folder: Path) -> float:
    """Pearson correlation of cosine and grade, without mteb."""
    import numpy as np
    from scipy.stats import pearsonr
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    a, b = (model.encode([pair[i] for pair in PAIRS]) for i in (0, 1))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(pearsonr(cosine, [pair[2] for pair in PAIRS]).statistic)


def result_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("results/*/*/*.json") if p.name != "model_meta.json")


# --- what a record says -----------------------------------------------------------------------------------------------


def test_a_record(score, tiny_model):
    import mteb

    (record,) = score(tiny_model, batch_size=4, command="how it was made")
    assert list(record) == KEYS
    assert record["main_score"] == pytest.approx(independent_score(tiny_model), abs=1e-6)
    assert re.fullmatch(r"[0-9a-f]{16}", record.pop("revision"))
    assert record.pop("seconds") > 0
    assert record.pop("main_score") is not None
    assert record == {
        "model": str(tiny_model),
        "name": "local/model",
        "task": "TinySTS",
        "type": "STS",
        "split": "test",
        "subset": "default",
        "metric": "cosine_pearson",
        "reason": None,
        "status": "ok",
        "mteb_version": mteb.__version__,
        "dataset_revision": "1",
        "device": "cpu",
        "dtype": "float32",
        "batch": 4,
        "batch_unit": "texts",
        "command": "how it was made",
        "overlap": None,
    }


def test_the_files_are_mtebs_own(score, tiny_model, tmp_path):
    import mteb

    (record,) = score(tiny_model)
    (result,) = mteb.ResultCache(tmp_path / "results").load_results(tasks=[tiny_tasks.TinySTS()]).model_results
    assert (result.model_name, result.model_revision) == ("local/model", record["revision"])
    assert result.task_results[0].get_score() == record["main_score"]


def test_two_models_of_one_folder_name_do_not_share_scores(score, tiny_model, other_tiny_model):
    one, two = score(tiny_model, other_tiny_model)
    assert one["name"] == two["name"] == "local/model"
    assert one["revision"] != two["revision"]
    assert one["main_score"] == pytest.approx(independent_score(tiny_model), abs=1e-6)
    assert two["main_score"] == pytest.approx(independent_score(other_tiny_model), abs=1e-6)
    assert one["main_score"] != two["main_score"]


def test_equal_models_in_two_places_both_show(score, tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy" / "model")
    one, two = score(tiny_model, copy)
    assert one["revision"] == two["revision"]
    assert one["main_score"] == two["main_score"]
    assert [one["model"], two["model"]] == [str(tiny_model), str(copy)]


def test_dtype_belongs_to_the_result(score, tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(tiny_model), device="cpu").bfloat16().save(str(tmp_path / "bf16"))
    (record,) = score(tmp_path / "bf16")
    assert record["dtype"] == "bfloat16"


def test_prompts_of_the_model_are_used(score, model):
    (before,) = score(model)
    path = model / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": {"STS": "how do i change the "}}))
    (after,) = score(model)
    assert after["main_score"] != before["main_score"]


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sentence-transformers", "peft"])
def test_base_and_adapter_differ(score, tiny_model, tmp_path, kind):
    adapter = save_adapter(tiny_model, tmp_path / "lora", kind=kind)
    base, tuned = score(tiny_model, adapter)
    assert (tuned["status"], tuned["reason"]) == ("ok", None)
    assert tuned["revision"] != base["revision"]
    assert abs(tuned["main_score"] - base["main_score"]) > 1e-4


@pytest.mark.parametrize("kind", ["sentence-transformers", "peft", "recipe"])
def test_dora_is_scored_with_its_magnitudes(score, tiny_model, tmp_path, kind):
    """Most save them under a name that transformers does not find again; peft does. The recipe adds `.weight`."""
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from sentence_transformers import SentenceTransformer

    way = "peft" if kind == "peft" else "sentence-transformers"
    adapter = save_adapter(tiny_model, tmp_path / "dora", kind=way, dora=True)
    file, end = adapter / "adapter_model.safetensors", ".lora_magnitude_vector"
    if kind == "recipe":
        save_file({key + ".weight" * key.endswith(end): value for key, value in load_file(file).items()}, file)
    merged = SentenceTransformer(str(tiny_model), device="cpu")
    merged[0].model = PeftModel.from_pretrained(merged[0].model, str(adapter)).merge_and_unload()
    merged.save_pretrained(str(tmp_path / "merged"))
    base, tuned, whole = score(tiny_model, adapter, tmp_path / "merged")
    assert (tuned["status"], tuned["reason"]) == ("ok", None)
    assert tuned["main_score"] == pytest.approx(whole["main_score"], abs=1e-6)
    assert abs(tuned["main_score"] - base["main_score"]) > 1e-4


def test_an_adapter_from_peft_keeps_its_bases_pooling(score, model, tmp_path):
    """peft saves no pooling: without the base's, the scores would be those of mean pooling."""
    pooling = next(model.glob("*Pooling/config.json"))
    adapter = save_adapter(model, tmp_path / "lora", kind="peft")
    (mean,) = score(adapter)
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"pooling_mode": "cls"}))
    (cls,) = score(adapter)
    assert cls["main_score"] != mean["main_score"]
    whole = save_adapter(model, tmp_path / "whole")  # the same weights, saved with modules, pooling and all
    assert cls["main_score"] == score(whole)[0]["main_score"]


@pytest.mark.parametrize("kind", ["sentence-transformers", "peft"])
def test_an_adapter_that_changes_nothing_is_reported_every_time(score, tiny_model, tmp_path, kind, capsys):
    adapter = save_adapter(tiny_model, tmp_path / "lora", kind=kind, no_op=True)
    base, tuned = score(tiny_model, adapter)
    assert tuned["main_score"] == base["main_score"]
    assert tuned["status"] == "ok"
    assert "the adapter changes nothing" in tuned["reason"]
    assert base["reason"] is None
    assert "WARNING" in capsys.readouterr().err
    assert score(adapter)[0]["reason"] == tuned["reason"]  # stored
    main([str(tiny_model), str(adapter), "--tasks", "TinySTS", "--results", str(tmp_path / "results")])
    assert "/lora: the adapter changes nothing" in capsys.readouterr().out


def test_an_adapter_that_does_not_fit_fails(score, tiny_model, tmp_path):
    """peft only warns, and the scores would be those of fresh random weights."""
    from safetensors.torch import load_file, save_file

    adapter = save_adapter(tiny_model, tmp_path / "lora", kind="peft")
    file = adapter / "adapter_model.safetensors"
    save_file({k.replace("encoder.layer", "0.model.encoder.layer"): v for k, v in load_file(file).items()}, file)
    (record,) = score(adapter)
    assert record["status"] == "failed"
    assert "8 of its 8 weights have no place there" in record["reason"]


# --- stored results ---------------------------------------------------------------------------------------------------


def test_done_tasks_are_not_run_again(score, tiny_model, forbid_loading):
    first = score(tiny_model, tasks=["TinySTS", "TwoLanguages"], command="first")
    forbid_loading()
    assert score(tiny_model, tasks=["TinySTS", "TwoLanguages"], command="second", batch_size=1) == first
    with_new = score(tiny_model, tasks=["TinySTS", "Random"])
    assert [r["status"] for r in with_new] == ["ok", "failed"]
    assert "a model was loaded" in with_new[1]["reason"]


def tamper(folder: Path, **changes) -> None:
    (path,) = result_files(folder)
    content = json.loads(path.read_text()) | changes
    content["scores"]["test"][0]["main_score"] = 0.123
    if "mteb_version" in changes:
        content["scores"]["test"][0]["mteb_version"] = changes["mteb_version"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),  # the control: a sound stored result is believed
        ({"mteb_version": "2.20.0"}, "from mteb 2.20.0"),
        ({"dataset_revision": "0"}, "from data revision 0"),
    ],
)
def test_results_of_another_version_are_not_reused(score, tiny_model, tmp_path, changes, said, capsys):
    (first,) = score(tiny_model)
    tamper(tmp_path / "results", **changes)
    capsys.readouterr()
    (second,) = score(tiny_model)
    printed = capsys.readouterr().err
    if said is None:
        assert second["main_score"] == 0.123
        assert "again" not in printed
    else:
        assert second["main_score"] == first["main_score"]
        assert said in printed


@pytest.mark.parametrize("size", [0, 1, 200])
def test_a_result_cut_off_while_written_is_made_again(score, tiny_model, tmp_path, size):
    (first,) = score(tiny_model)
    (path,) = result_files(tmp_path / "results")
    path.write_bytes(path.read_bytes()[:size])
    (second,) = score(tiny_model)
    assert second["main_score"] == first["main_score"]
    assert json.loads(path.read_text())["task_name"] == "TinySTS"


def test_only_the_subsets_that_were_asked_for(score, tiny_model):
    both = score(tiny_model, tasks=[tiny_tasks.TwoLanguages()])
    assert sorted(r["subset"] for r in both) == ["de", "en"]
    (english,) = score(tiny_model, tasks=[tiny_tasks.TwoLanguages().filter_languages(["eng"])])
    assert english["subset"] == "en"


def test_a_second_model_is_scored_on_the_same_samples(score, tiny_model, other_tiny_model):
    one, two = score(tiny_model, other_tiny_model, tasks=[tiny_tasks.Random()])
    assert one["revision"] != two["revision"]
    assert one["main_score"] == two["main_score"]


def test_an_aggregate_is_the_mean_of_its_parts(score, tiny_model, forbid_loading):
    aggregate = tiny_tasks.aggregate(tiny_tasks.TinySTS(), tiny_tasks.Random())
    whole, *parts = score(tiny_model, tasks=[aggregate, "TinySTS", "Random"])
    assert whole["status"] == "ok"
    assert whole["main_score"] == pytest.approx(sum(p["main_score"] for p in parts) / 2, abs=1e-6)
    forbid_loading()
    assert score(tiny_model, tasks=[aggregate])[0] == whole


def test_an_aggregate_with_a_part_that_is_not_here_is_missing(score, tiny_model):
    aggregate = tiny_tasks.aggregate(tiny_tasks.TinySTS(), tiny_tasks.Absent())
    (record,) = score(tiny_model, tasks=[aggregate])
    assert (record["status"], record["main_score"]) == ("missing", None)
    assert record["reason"].startswith("Absent: ")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_failing_task_does_not_cost_the_others(score, tiny_model, tmp_path):
    path = tmp_path / "scores.json"
    records = score(tiny_model, tasks=["Broken", "Absent", "NotANumber", "TinySTS"], json_file=path)
    assert [r["status"] for r in records] == ["failed", "missing", "failed", "ok"]
    assert [r["main_score"] is None for r in records] == [True, True, True, False]
    assert "sentence2" in records[0]["reason"]
    assert "not in the local cache" in records[1]["reason"]
    assert "NaN" in records[2]["reason"]
    assert all(list(r) == KEYS for r in records)
    assert json.loads(path.read_text()) == records


def test_a_model_that_cannot_be_loaded_does_not_cost_the_others(score, model, tiny_model):
    (model / "config.json").write_text('{"model_type": "no such architecture"}')
    records = score(model, tiny_model)
    assert [r["status"] for r in records] == ["failed", "ok"]
    assert "the model cannot be loaded" in records[0]["reason"]


def test_a_disk_that_fills_up_costs_the_task_and_not_the_others(score, tiny_model, monkeypatch):
    from tamft.evaluation.results import Results

    real = Results.save_to_cache

    def full(self, result, *args, **kwargs):
        if result.task_name == "Random":
            raise OSError(28, "No space left on device")
        return real(self, result, *args, **kwargs)

    monkeypatch.setattr(Results, "save_to_cache", full)
    records = score(tiny_model, tasks=["Random", "TinySTS"])
    assert [r["status"] for r in records] == ["failed", "ok"]
    assert "No space left on device" in records[0]["reason"]


@pytest.mark.parametrize(("asked", "got"), [({"batch_size": 32}, (4, "texts")), ({}, (12, "tokens"))])
def test_out_of_memory_halves_the_batch(score, tiny_model, tmp_path, small_memory, asked, got, capsys):
    (record,) = score(tiny_model, batch_size=1)
    small_memory(rows=4)
    (hungry,) = score(tiny_model, results=tmp_path / "hungry", **asked)
    assert hungry["status"] == "ok"
    assert (hungry["batch"], hungry["batch_unit"]) == got
    assert hungry["main_score"] == pytest.approx(record["main_score"], abs=1e-5)
    assert f"out of memory; going on with batches of {got[0]} {got[1]}" in capsys.readouterr().err


def test_out_of_memory_with_one_text_fails(score, tiny_model, small_memory):
    small_memory(rows=0)
    for record in (score(tiny_model, batch_size=32)[0], score(tiny_model)[0]):
        assert record["status"] == "failed"
        assert "out of memory" in record["reason"]


def test_data_that_is_not_here_loads_no_model(score, tiny_model, forbid_loading):
    forbid_loading()
    (record,) = score(tiny_model, tasks=["Absent"])
    assert (record["status"], record["main_score"]) == ("missing", None)


def test_the_json_file_is_replaced_whole_or_not_at_all(score, tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    path.write_text("old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("tamft.atomic.os.fsync", full)  # after the bytes, before the move
        with pytest.raises(OSError, match="No space left"):
            score(tiny_model, json_file=path, tasks=["Absent"])
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix in (".json", ".tmp")) == ["scores.json"]
    score(tiny_model, json_file=path, tasks=["Absent"])
    assert json.loads(path.read_text())[0]["status"] == "missing"
