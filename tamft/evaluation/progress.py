"""One display for a whole evaluation: which task, texts per second, time left. Silent in a pipe."""

import sys
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from tqdm.auto import tqdm

from tamft.evaluation.data import needs_no_data
from tamft.evaluation.sizes import size

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

UNKNOWN = 1000  # texts, where no task says how many it has


class Monitor(Protocol):
    """Who hears what a scorer does: the display, or the pipe that leads to it."""

    def texts(self, number: int) -> None:
        """So many texts were encoded (or found); negative: they are encoded again."""

    def say(self, line: str) -> None:
        """A line for the reader."""


class Progress:
    """A bar that counts texts. Jobs are (number of the model, number of the task).

    Args:
        jobs: what is to be done.
        sizes: about how many texts a task has, by its number; None where nobody knows.
    """

    def __init__(self, jobs: list[tuple[int, int]], sizes: Mapping[int, int | None]) -> None:
        known = [size for size in sizes.values() if size]
        guess = int(median(known)) if known else UNKNOWN
        self._left = {job: sizes[job[1]] or guess for job in jobs}
        self._now: dict[Any, str] = {}  # by worker
        self._tasks = f"{len(jobs)}"
        self._done = 0
        self._bar = tqdm(
            total=sum(self._left.values()), unit=" texts", unit_scale=True, smoothing=0.1, disable=None, file=sys.stderr
        )

    def start(self, title: str, worker: int = 0) -> None:
        """A job begins."""
        self._now[worker] = title
        self._describe()

    def texts(self, number: int) -> None:
        """So many texts more."""
        self._bar.update(number)
        if self._bar.total is not None and self._bar.n > self._bar.total:
            self._bar.total = self._bar.n

    def end(self, job: tuple[int, int], texts: int, worker: int = 0) -> None:
        """A job is done; it had `texts` texts, whatever was expected."""
        self._now.pop(worker, None)
        self._done += 1
        self._bar.total = max(self._bar.n, self._bar.total - self._left.pop(job, texts) + texts)
        self._describe()

    def wait(self, why: str) -> None:
        """Nothing can be done at the moment."""
        self._now = {0: why}
        self._describe()

    def say(self, line: str) -> None:
        """A line above the bar."""
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def _describe(self) -> None:
        self._bar.set_description(f"{self._done}/{self._tasks} {', '.join(self._now.values())}".strip())


def expected_texts(task: "AbsTask") -> int | None:
    """About how many distinct texts scoring a task encodes; None where its data would have to be read to know."""
    known = None if needs_no_data(task) else size(task)
    return known.texts if known else None
