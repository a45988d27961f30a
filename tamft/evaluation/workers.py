"""Tasks spread over processes, one for each device.

A process scores whole tasks, so every score is computed as one process alone would compute it. (sentence-transformers'
own pool spreads the texts of each task instead; reading data, probes and clustering then stay behind in one process.)
A process that dies costs the task it was at, and nobody waits for it.
"""

import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.evaluation.jobs import Counting, Job, Plan
from tamft.evaluation.progress import Progress
from tamft.evaluation.quiet import quiet_libraries
from tamft.evaluation.results import Results
from tamft.evaluation.scorer import POLL, Record

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

TELL = 0.25  # seconds between two messages about texts


# --- in the process that was asked ------------------------------------------------------------------------------------


class _Worker:
    """A process and the job it is at."""

    def __init__(self, number: int, device: str | None, plan: Plan, threads: int) -> None:
        context = get_context("spawn")  # a fork would inherit CUDA's state and other libraries' threads
        self.number = number
        self.device = device
        self.job: Job | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, device, plan, threads), daemon=True)
        try:
            with _threads_of_children(threads):
                self.process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"a task cannot be sent to another process ({error}); define its class in a module, give the task by "
                "its name, or score in one process"
            ) from None
        theirs.close()  # the other end is the child's alone: it closes when the child ends, however it ends

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # it has died: `hear` will say so
            self.connection.send(job)

    def hear(self) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = self.connection.recv()
            return message
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
            return "died", f"the process that scored it {how}; did memory run out?"

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def score_in_workers(
    plan: Plan, tasks: list["AbsTask"], jobs: list[Job], results: Results, progress: Progress
) -> Iterator[tuple[Job, list[Record]]]:
    """Records of jobs, in the order in which they are done."""
    import torch

    devices = plan.options.devices[: len(jobs)]
    threads = max(1, torch.get_num_threads() // len(devices)) if set(devices) <= {None, "cpu"} else None
    left = deque(jobs)
    workers = {i: _Worker(i, device, plan, threads) for i, device in enumerate(devices)}
    try:
        while True:
            for worker in workers.values():
                if worker.job is None and left:
                    worker.give(left.popleft())
                    progress.start(_title(plan, tasks, worker.job), worker.number)
            at_work = {worker.connection: worker for worker in workers.values() if worker.job is not None}
            if not at_work:
                return
            for connection in wait(list(at_work)):
                worker = at_work[connection]
                kind, content = worker.hear()
                job = worker.job
                if kind == "texts":
                    progress.texts(content)
                elif kind == "say":
                    progress.say(content)
                else:
                    worker.job = None
                    if kind == "busy":  # another evaluation is at it
                        left.append(job)
                        continue
                    if kind == "died":
                        content = (
                            plan.scorer(job[0], results, progress).without_score(tasks[job[1]], "failed", content),
                            0,
                        )
                        worker.stop()
                        del workers[worker.number]
                        if left:
                            workers[worker.number] = _Worker(worker.number, worker.device, plan, threads)
                    records, texts = content
                    progress.end(job, texts, worker.number)
                    yield job, records
    finally:
        for worker in workers.values():
            worker.stop()


def _title(plan: Plan, tasks: list["AbsTask"], job: Job) -> str:
    return tasks[job[1]].metadata.name if len(plan.identities) == 1 else f"{tasks[job[1]].metadata.name} ({job[0] + 1})"


@contextmanager
def _threads_of_children(threads: int | None) -> Iterator[None]:
    """For BLAS and scikit-learn, which read the environment when they are imported: N processes share the cores."""
    name = "OMP_NUM_THREADS"
    if threads is None or name in os.environ:
        yield
        return
    os.environ[name] = str(threads)
    try:
        yield
    finally:
        del os.environ[name]


# --- in a worker ------------------------------------------------------------------------------------------------------


class _Pipe:
    """A monitor at the other end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.told = time.monotonic()
        self.count = 0

    def texts(self, number: int) -> None:
        self.count += number
        if time.monotonic() - self.told > TELL:
            self.flush()

    def flush(self) -> None:
        self.connection.send(("texts", self.count))
        self.count, self.told = 0, time.monotonic()

    def say(self, line: str) -> None:
        self.connection.send(("say", line))


def _work(connection: Connection, device: str | None, plan: Plan, threads: int | None) -> None:
    """Score jobs as they come, until the pipe closes because the other process ended."""
    import torch

    from tamft.evaluation.tasks import get_tasks

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes; the one that was asked stops the others
    quiet_libraries()
    if threads is not None:
        torch.set_num_threads(threads)
    pipe = _Pipe(connection)
    monitor = Counting(pipe)
    results = plan.results()
    tasks: list[AbsTask] | None = None
    model, scorer = None, None
    with suppress(EOFError, BrokenPipeError):
        while True:
            job: Job = connection.recv()
            if tasks is None:
                tasks = get_tasks(**plan.source)
            if scorer is None or model != job[0]:
                scorer = None  # the old model goes before the new one comes
                model, scorer = job[0], plan.scorer(job[0], results, monitor, device)
            monitor.count = 0
            records = scorer.records(tasks[job[1]])
            pipe.flush()
            if records is None:
                time.sleep(POLL)
            connection.send(("busy", None) if records is None else ("records", (records, monitor.count)))
