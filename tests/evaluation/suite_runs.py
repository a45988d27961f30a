"""A suite in a process of its own, which may be killed at any moment, and a diary of what ran."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from mteb.results import TaskResult

from tamft.evaluation.results import Results
from tamft.evaluation.score import evaluate
from tests.evaluation.tiny_tasks import TinySTS, TwoLanguages, metadata

NAMES = [f"Slow{i}" for i in range(5)]


class Diary(TinySTS):
    """Writes down when it is scored, and takes its time."""

    metadata = metadata("Diary")
    seconds = 0.1

    def evaluate(self, model: Any, split: str = "test", *args: Any, **kwargs: Any) -> Any:
        write(f"run {self.metadata.name}")
        time.sleep(self.seconds)
        return super().evaluate(model, split, *args, **kwargs)


def write(line: str) -> None:
    """A line into the diary, whole even when others write at the same moment."""
    file = os.open(os.environ["DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def tasks() -> list[TinySTS]:
    """Five tasks; the last has two subsets, so that mteb saves it half done first."""
    made = [type(name, (Diary,), {"metadata": metadata(name)})() for name in NAMES[:-1]]
    languages = {"metadata": metadata(NAMES[-1], eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]})}
    return [*made, type(NAMES[-1], (Diary, TwoLanguages), languages)()]


def run(model: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """One evaluation of the suite."""
    return evaluate(model, tasks=tasks(), results=folder, device="cpu", **options)


def start(model: str, folder: Path, **options: Any) -> multiprocessing.Process:
    """The same in a process of its own. It is a fork: starting Python anew would take longer than the suite."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(model, folder, options))
    process.start()
    return process


def _child(model: str, folder: Path, options: dict[str, Any]) -> None:
    real = Results.save_to_cache

    def save(self: Results, result: TaskResult, *args: Any, **kwargs: Any) -> None:
        real(self, result, *args, **kwargs)
        if sum(len(scores) for scores in result.scores.values()) == (2 if result.task_name == NAMES[-1] else 1):
            write(f"saved {result.task_name}")

    Results.save_to_cache = save  # type: ignore[method-assign] - in this process alone
    run(model, folder, **options)
