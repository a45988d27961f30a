"""What is done and what is left: one live table in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from types import TracebackType
from typing import Any

from tamft.compare import outcome
from tamft.compare.runs import CONFIRM, SCREEN, Job, Run


class Board:
    """Progress of a stage. Use it as a context manager; `told` is what engines call."""

    def __init__(self, planned: list[Run], ended: dict[str, str], places: int, selections: dict[str, float]) -> None:
        """`planned`: of this stage and share. `ended`: status of those that ended earlier. Both maps are by key."""
        from rich.console import Console
        from rich.live import Live

        self.runs = {run.key: run for run in planned}
        self.status: dict[str, str] = dict(ended)
        self.earlier = len(ended)
        self.places = places
        self.selections = selections
        self.started = time.monotonic()
        self.console = Console()
        self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=1, transient=False)
        self.is_live = self.console.is_terminal

    def __enter__(self) -> "Board":
        if self.is_live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_live:
            self.live.stop()

    def told(self, job: Job, status: str | None, selection: float | None = None) -> None:
        """A run begins (None), ended with a status, or is held by another command."""
        known = self.status.get(job.key)
        self.status[job.key] = status or "running"
        if selection is not None:
            self.selections[job.key] = selection
        if self.is_live or status is None or known == status:
            return
        if status == "held":
            self.console.print(f"{job.text}: another command is at it", markup=False, highlight=False)
            return
        done = self._done()
        score = f" {selection:.4f}" if selection is not None else ""
        reason = f" ({outcome.read(job.folder).error})" if status not in (outcome.COMPLETE,) else ""
        line = f"[{done}/{len(self.runs)}] {job.text}: {status}{reason}{score}{self._left(done)}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _done(self) -> int:
        return sum(status not in ("running", "held") for status in self.status.values())

    def _left(self, done: int) -> str:
        """Time left, from the runs of this sitting."""
        fresh = done - self.earlier
        if fresh < 1 or done == len(self.runs):
            return ""
        seconds = (time.monotonic() - self.started) / fresh * (len(self.runs) - done)
        return f", {clock(seconds)} left"

    def _table(self) -> Any:
        from rich import box
        from rich.table import Table

        done = self._done()
        stage = next(iter(self.runs.values())).stage if self.runs else ""
        title = f"{stage}: {done} of {len(self.runs)} runs{self._left(done)}"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
        table.add_column("arm", no_wrap=True)
        for head in ("done", "running", "failed", "diverged", "selection"):
            table.add_column(head, justify="right")
        for arm in dict.fromkeys(run.arm for run in self.runs.values()):
            keys = [key for key, run in self.runs.items() if run.arm == arm]
            count = Counter(self.status.get(key, "waiting") for key in keys)
            values = [self.selections[key] for key in keys if key in self.selections]
            shown = "" if not values else f"{max(values) if stage == SCREEN else sum(values) / len(values):.4f}"
            done_here = count[outcome.COMPLETE] + count[outcome.FAILED] + count[outcome.DIVERGED]
            cells = [
                f"{done_here}/{len(keys)}",
                *(str(count[word] or "") for word in ("running", "failed", "diverged")),
            ]
            table.add_row(arm, *cells, shown)
        if stage in (SCREEN, CONFIRM):
            table.caption = f"selection: {'best run' if stage == SCREEN else 'mean'} so far; more is better"
        return table


def clock(seconds: float) -> str:
    """1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
