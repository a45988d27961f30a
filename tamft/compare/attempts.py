"""Runs in processes of their own, watched: a crash is counted and tried once more, an interruption is not."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from tamft.compare import outcome, worker
from tamft.compare.runs import Job

POLL = 1.0  # seconds between two looks at a run that another command holds
PATIENCE = 60  # seconds that a run has to end in good order
_live: dict[int, Any] = {}
_lock = threading.Lock()
_stopping = threading.Event()


def attempt(job: Job, *, wait: bool = False) -> str | None:
    """Carry a run out, twice if it fails once. Returns its status; None: interrupted, or held by another command.

    `wait`: until the other command has it done.
    """
    trained = job.words is not None
    while not _stopping.is_set():
        found = outcome.read(job.folder, trained=trained)
        if found.status is not None:
            if found.status != outcome.COMPLETE and not job.keep_models:
                worker.drop_weights(job.folder)
            return found.status
        code = _watch(job)
        if _stopping.is_set():
            return None
        # A batch scheduler tells every process that its time is over, some of them before this one.
        if code in (worker.INTERRUPTED, -signal.SIGTERM, -signal.SIGINT):
            return None
        if code == worker.BUSY:
            if not wait:
                return None
            time.sleep(POLL)
        elif outcome.read(job.folder, trained=trained).status is None:
            outcome.add_failure(job.folder, _reason(job.folder, code), final=code == worker.BAD)
    return None


def stop() -> None:
    """End all runs of this process, in good order first."""
    _stopping.set()
    for number in (signal.SIGINT, signal.SIGKILL):
        with _lock:
            for pid in _live:
                _kill(pid, number)
        end = time.monotonic() + PATIENCE
        while _live and time.monotonic() < end:
            time.sleep(0.05)


def resume() -> None:
    """Allow runs again after `stop`."""
    _stopping.clear()


def _watch(job: Job) -> int:
    process = _context(job).Process(target=worker.main, args=(job,))
    with _lock:
        if _stopping.is_set():
            return worker.FAILED
        process.start()
        assert process.pid is not None
        _live[process.pid] = process
    try:
        process.join()
    except BaseException:  # Ray cancels a task by an interruption
        _kill(process.pid, signal.SIGINT)
        process.join(PATIENCE)
        raise
    finally:
        with _lock:
            del _live[process.pid]
    return process.exitcode if process.exitcode is not None else worker.FAILED


def _context(job: Job) -> Any:
    """Where the run's process comes from.

    A server that has imported everything forks it: no run waits ten seconds for imports, and each still has memory,
    random numbers and an ending of its own. Not where it uses a GPU, or where it only starts others.
    """
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods or not worker.in_process(job):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tamft.compare.warm"])
    return context


def _kill(pid: int, number: int) -> None:
    """Send a signal to a run's process group, or to the process where it has none (yet)."""
    for send in (getattr(os, "killpg", os.kill), os.kill):
        with contextlib.suppress(ProcessLookupError):
            send(pid, number)
            return


def _reason(folder: Path, code: int) -> str:
    """Why a run failed, in one line."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    record = outcome.read(folder).record
    if record.get("status") == "failed" and record.get("error"):
        return str(record["error"])
    try:
        lines = (folder / worker.LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
    return said[-1] if said else f"exit code {code}"
