"""Models × tasks: what is stored is read, the rest is scored here or in worker processes, and the order stays."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.evaluation.data import report_missing
from tamft.evaluation.identity import Identity
from tamft.evaluation.options import Options
from tamft.evaluation.progress import Monitor, Progress, expected_texts
from tamft.evaluation.results import Results
from tamft.evaluation.scorer import POLL, Record, Scorer
from tamft.evaluation.summary import labels

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

Job = tuple[int, int]  # number of the model, number of the task


@dataclass(frozen=True)
class Plan:
    """What a worker process has to know. Tasks are named, not carried: a task that was made here may not be pickled."""

    identities: list[Identity]
    source: dict[str, Any]  # arguments of `get_tasks`
    folder: Path
    options: Options

    def results(self) -> Results:
        """The results folder, as the options want it."""
        return Results(self.folder, dtype=self.options.dtype, mix_versions=self.options.mix_versions)

    def scorer(self, model: int, results: Results, monitor: Monitor, device: str | None = None) -> Scorer:
        """The scorer of a model."""
        label = labels([identity.typed for identity in self.identities])[self.identities[model].typed]
        return Scorer(self.identities[model], results, self.options, label=label, device=device, monitor=monitor)


class _Silent:
    """Nobody listens."""

    def texts(self, number: int) -> None:
        """Ignored."""

    def say(self, line: str) -> None:
        """Ignored."""


def score_all(plan: Plan, tasks: list["AbsTask"]) -> list[Record]:
    """Records of all models on all tasks, model by model, in the order of the tasks."""
    results = plan.results()
    found: dict[Job, list[Record]] = {}
    jobs: list[Job] = []
    for model in range(len(plan.identities)):
        reader = plan.scorer(model, results, _Silent())
        for number, task in enumerate(tasks):
            records = reader.stored(task)
            if records is None:
                jobs.append((model, number))
            else:
                found[model, number] = records
    if jobs:
        report_missing(tasks[number] for number in dict.fromkeys(number for _, number in jobs))
        sizes = {number: expected_texts(tasks[number]) for _, number in jobs}
        progress = Progress(jobs, sizes)
        try:
            if len(plan.options.devices) == 1:
                done = _score_here(plan, tasks, jobs, results, progress)
            else:
                from tamft.evaluation.workers import score_in_workers

                # the longest first: the last one to begin must not be the one that everybody waits for
                jobs.sort(key=lambda job: (job[0], -(sizes[job[1]] or 0)))
                done = score_in_workers(plan, tasks, jobs, results, progress)
            found |= done
        finally:
            progress.close()
    order = ((model, number) for model in range(len(plan.identities)) for number in range(len(tasks)))
    return [record for job in order for record in found[job]]


def _score_here(
    plan: Plan, tasks: list["AbsTask"], jobs: list[Job], results: Results, progress: Progress
) -> Iterator[tuple[Job, list[Record]]]:
    """Score in this process. Tasks that another evaluation is scoring come last, and are waited for."""
    for model in dict.fromkeys(model for model, _ in jobs):
        monitor = Counting(progress)
        scorer = plan.scorer(model, results, monitor, plan.options.devices[0])
        left = [job for job in jobs if job[0] == model]
        while left:
            busy = []
            for job in left:
                monitor.count = 0
                progress.start(f"{tasks[job[1]].metadata.name} · {scorer.label}")
                records = scorer.records(tasks[job[1]])
                if records is None:
                    busy.append(job)
                    continue
                progress.end(job, monitor.count)
                yield job, records
            if len(busy) == len(left):
                progress.wait(f"waiting for another evaluation: {tasks[busy[0][1]].metadata.name}")
                time.sleep(POLL)
            left = busy


class Counting:
    """Passes everything on, and counts the texts of a task."""

    def __init__(self, to: Monitor) -> None:
        self.to = to
        self.count = 0

    def texts(self, number: int) -> None:
        """Count and pass on."""
        self.count += number
        self.to.texts(number)

    def say(self, line: str) -> None:
        """Pass on."""
        self.to.say(line)
