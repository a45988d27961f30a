"""Tasks spread over processes: the same records, and nobody waits for the dead."""

import json
import os
import signal
from pathlib import Path

import pytest

from tamft.errors import InputError
from tamft.evaluation.score import evaluate
from tests.evaluation import tiny_tasks
from tests.evaluation.tiny_tasks import metadata


class Deadly(tiny_tasks.TinySTS):
    """Kills the process that scores it, the first time."""

    metadata = metadata("Deadly")

    def evaluate(self, model, split="test", *args, **kwargs):
        marker = Path(os.environ["DEADLY"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(model, split, *args, **kwargs)


class Other(tiny_tasks.TinySTS):
    metadata = metadata("Other")


class Third(tiny_tasks.TinySTS):
    metadata = metadata("Third")


@pytest.mark.slow
def test_the_same_records_from_two_processes(tiny_model, other_tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DEADLY", str(tmp_path / "killed"))
    models = [str(tiny_model), str(other_tiny_model)]
    tasks = [tiny_tasks.TinySTS(), tiny_tasks.Absent(), tiny_tasks.TwoLanguages(), tiny_tasks.Broken(), Deadly()]
    options = {"device": "cpu", "batch_size": 8}
    alone = evaluate(models, tasks=[*tasks[:-1], Other()], results=tmp_path / "alone", **options)
    capsys.readouterr()
    spread = evaluate(
        models,
        tasks=[*tasks, Other()],
        results=tmp_path / "spread",
        json_file=tmp_path / "json",
        num_processes=2,
        **options,
    )
    dead = [r for r in spread if r["task"] == "Deadly"]
    assert [r["status"] for r in dead] == ["failed", "ok"]
    assert dead[0]["reason"] == "the process that scored it was killed by SIGKILL; did memory run out?"
    rest = [r for r in spread if r["task"] != "Deadly"]
    assert [{**r, "seconds": None} for r in rest] == [{**r, "seconds": None} for r in alone]
    assert json.loads((tmp_path / "json").read_text()) == spread
    printed = capsys.readouterr().err
    assert "TinySTS · " in printed  # what happens in the workers is heard
    assert "Deadly · " in printed


def test_a_task_that_cannot_travel_is_refused(tiny_model, tmp_path):
    class Local(tiny_tasks.TinySTS):
        metadata = metadata("Local")

    with pytest.raises(InputError, match="define its class in a module"):
        evaluate(str(tiny_model), tasks=[Local(), Other()], results=tmp_path, device="cpu", num_processes=2)


def test_stored_scores_start_no_process(tiny_model, tmp_path, monkeypatch):
    from tamft.evaluation import workers

    def work(*args):
        raise AssertionError("a process was started")

    first = evaluate(str(tiny_model), tasks=[Other(), Third()], results=tmp_path, device="cpu")
    monkeypatch.setattr(workers, "score_in_workers", work)
    assert evaluate(str(tiny_model), tasks=[Other(), Third()], results=tmp_path, devices=["cpu", "cpu"]) == first
    with pytest.raises(AssertionError, match="a process was started"):
        evaluate(str(tiny_model), tasks=[tiny_tasks.TinySTS()], results=tmp_path, devices=["cpu", "cpu"])
