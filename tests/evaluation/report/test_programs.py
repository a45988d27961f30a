"""The programs in eval/: every complete run is scored once, and the committed tables are what the files say."""

import json
import runpy
import shutil
import sys

import pytest

from tests.conftest import ROOT
from tests.evaluation.report.making import a_run
from tests.evaluation.study.making import a_plan, some_rows, write_study


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Run a program of eval/ as `python eval/NAME.py *words`, in an empty folder; its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [f"eval/{name}.py", *map(str, words)])
        try:
            runpy.run_path(str(ROOT / "eval" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code or 0
        return 0

    return run


@pytest.fixture
def runs(tmp_path, tiny_model):
    """One complete run in depth, one that diverged, one whose model was not copied."""
    complete = a_run(tmp_path / "runs" / "sweep" / "one", "adatamw")
    shutil.copytree(tiny_model, complete / "model")
    a_run(tmp_path / "runs" / "two", "adamw_torch", status="diverged", model_dir=None)
    a_run(tmp_path / "runs" / "three", "adamw_torch")
    return tmp_path / "runs"


@pytest.mark.usefixtures("tiny_tasks")
def test_every_complete_run_is_scored_once(program, runs, other_tiny_model, tmp_path, capsys, forbid_loading):
    words = (runs, "--base", other_tiny_model, "--tasks", "TinySTS", "--device", "cpu", "--json", "scores.json")
    assert program("score_runs", *words) == 0
    printed = capsys.readouterr()
    assert f"passed over: {runs / 'two'}: it is diverged" in printed.err
    assert f"passed over: {runs / 'three'}: its model is not here" in printed.err
    records = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert [r["model"] for r in records] == [str(other_tiny_model), str(runs / "sweep" / "one" / "model")]
    assert {r["status"] for r in records} == {"ok"}
    forbid_loading()
    assert program("score_runs", *words) == 0


def test_a_folder_without_runs_is_one_clear_error(program, tmp_path, capsys):
    assert program("score_runs", tmp_path, "--tasks", "STS12") == 2
    assert "no complete run below it" in capsys.readouterr().err
    assert program("make_tables", tmp_path) == 2
    assert "no sitting in it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def without_scipy(file):
    """Lines of a file but those that name the scipy of whoever made it."""
    return [
        line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("- statistics: scipy")
    ]


def test_the_committed_tables_are_what_the_files_say(program, tmp_path):
    shutil.copytree(ROOT / "eval" / "results", tmp_path / "results")
    summary = tmp_path / "results" / "SUMMARY.md"
    committed = without_scipy(summary)
    summary.unlink()
    assert program("make_tables", "results", "--no_pages") == 0
    assert without_scipy(summary) == committed


def test_tables_and_pages_of_a_sitting_with_runs(program, runs, tmp_path):
    pytest.importorskip("matplotlib")
    sitting = tmp_path / "results" / "2026-11-22_cpu_torch2.13.0"
    shutil.copytree(runs / "three", sitting / "three")
    shutil.copy(next((ROOT / "eval" / "results").glob("*/*.json")), sitting / "scores.json")
    records = json.loads((sitting / "scores.json").read_text(encoding="utf-8"))[:2]
    records[1]["model"] = str(sitting / "three" / "model")
    (sitting / "scores.json").write_text(json.dumps(records), encoding="utf-8")
    assert program("make_tables", "results") == 0
    text = (tmp_path / "results" / "SUMMARY.md").read_text(encoding="utf-8")
    assert "## 2026-11-22_cpu_torch2.13.0" in text
    assert "| adamw_torch | **0.8648** (+0.0644) |" in text
    assert "- training data: pairs.jsonl, 2400 rows" in text
    assert 'id="loss-axes_1"' in (sitting / "report.html").read_text(encoding="utf-8")


def test_tables_pages_and_figures_of_a_study(program, tmp_path):
    pytest.importorskip("matplotlib")
    study = tmp_path / "results" / "2026-11-22_cpu_torch2.13.0" / "intents"
    plan = a_plan()
    write_study(study, plan, some_rows(plan))
    assert program("make_tables", "results") == 0
    lines = (tmp_path / "results" / "SUMMARY.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert headings[:3] == ["# Results", "## 2026-11-22_cpu_torch2.13.0", f"### {headings[2][4:]}"]
    assert {line[:5] for line in headings[3:]} == {"#### "}
    picture = next(line for line in lines if line.startswith("!["))
    assert picture.endswith("(2026-11-22_cpu_torch2.13.0/intents/tasks.svg)")
    assert (study / "tasks.svg").read_text(encoding="utf-8").startswith("<svg")
    assert "<h2>Verdicts</h2>" in (study / "report.html").read_text(encoding="utf-8")
    assert program("make_tables", "results", "--no_pages") == 0
    assert (tmp_path / "results" / "SUMMARY.md").read_text(encoding="utf-8").splitlines() == lines
