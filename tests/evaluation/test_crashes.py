"""Killed at any moment, or one of eight that share a folder: every score is there once, and whole."""

import json
import os
import random
import signal
import time
from collections import Counter

import pytest

from tests.evaluation import suite_runs

# The sizes that a release is tried with are KILLS=20 and TOGETHER=8; smaller ones find the same mistakes, less surely.
KILLS = int(os.environ.get("TAMFT_TEST_KILLS", "6"))
TOGETHER = int(os.environ.get("TAMFT_TEST_TOGETHER", "4"))


@pytest.fixture
def diary(tmp_path, monkeypatch):
    path = tmp_path / "diary"
    path.touch()
    monkeypatch.setenv("DIARY", str(path))
    return path


@pytest.fixture
def uninterrupted(tiny_model, tmp_path, diary):
    records = suite_runs.run(str(tiny_model), tmp_path / "whole")
    diary.write_text("")
    assert all(record["status"] == "ok" for record in records)
    return records


def table(records):
    return [(r["task"], r["subset"], r["status"], r["main_score"], r["dtype"], r["batch"]) for r in records]


def assert_files_are_whole(folder):
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for path in folder.rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)


@pytest.mark.parametrize("seed", [0])
def test_killed_in_the_middle_again_and_again(tiny_model, tmp_path, diary, uninterrupted, seed):
    folder, moments = tmp_path / "results", random.Random(seed)
    done: set[str] = set()
    for _ in range(KILLS):
        before = diary.read_text()
        process = suite_runs.start(str(tiny_model), folder)
        time.sleep(moments.uniform(0.2, 2.5))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lines = diary.read_text().removeprefix(before).splitlines()
        ran = {line.removeprefix("run ") for line in lines if line.startswith("run ")}
        assert not ran & done, "what was complete ran again"
        done |= {line.removeprefix("saved ") for line in lines if line.startswith("saved ")}
        stored = {p.stem for p in folder.glob("results/*/*/*.json")}
        assert done <= stored, "what was complete is gone"
        if folder.exists():
            assert_files_are_whole(folder)
        if len(done) == len(suite_runs.NAMES):  # begin anew: the kills that are left should meet work as well
            done, folder = set(), tmp_path / f"results{time.time_ns()}"
    records = suite_runs.run(str(tiny_model), folder)
    assert table(records) == table(uninterrupted)
    assert_files_are_whole(folder)


def test_many_evaluations_share_a_folder(tiny_model, tmp_path, diary, uninterrupted):
    folder = tmp_path / "results"
    processes = [suite_runs.start(str(tiny_model), folder) for _ in range(TOGETHER)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    lines = diary.read_text().splitlines()
    runs = Counter(line for line in lines if line.startswith("run "))
    subsets = runs.pop(f"run {suite_runs.NAMES[-1]}")
    assert subsets <= 2  # older versions of mteb score both at once
    assert runs == Counter(f"run {name}" for name in suite_runs.NAMES[:-1])
    assert_files_are_whole(folder)
    for path in folder.glob("results/*/*/run_settings.jsonl"):  # older versions of mteb write none
        assert {json.loads(line)["task"] for line in path.read_text().splitlines()} == set(suite_runs.NAMES)
    assert table(suite_runs.run(str(tiny_model), folder)) == table(uninterrupted)


def test_a_lock_of_a_dead_process_does_not_hold(tiny_model, tmp_path, diary, uninterrupted, monkeypatch):
    monkeypatch.setattr(suite_runs.Diary, "seconds", 30)
    process = suite_runs.start(str(tiny_model), tmp_path / "results")
    while "run" not in diary.read_text():
        time.sleep(0.05)
    assert list((tmp_path / "results" / ".locks").rglob("Slow0.lock"))
    monkeypatch.setattr(suite_runs.Diary, "seconds", 0)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    start = time.monotonic()
    assert table(suite_runs.run(str(tiny_model), tmp_path / "results")) == table(uninterrupted)
    assert time.monotonic() - start < 25


def test_what_another_evaluation_scores_is_waited_for(tiny_model, tmp_path, diary, monkeypatch):
    monkeypatch.setattr(suite_runs.Diary, "seconds", 1.5)
    process = suite_runs.start(str(tiny_model), tmp_path / "results")
    while "run Slow0" not in diary.read_text():
        time.sleep(0.05)
    records = suite_runs.run(str(tiny_model), tmp_path / "results")
    process.join()
    assert process.exitcode == 0
    assert [r["status"] for r in records] == ["ok"] * 6
    assert diary.read_text().count("run Slow0") == 1
