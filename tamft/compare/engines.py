"""Where runs are carried out: in slots of this machine, or as tasks of Ray. Both call `attempts.attempt`."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from tamft.compare import attempts, outcome
from tamft.compare.runs import Job
from tamft.errors import InputError

TICK = 0.5  # seconds between two looks at the clock
HELD = 3.0  # … and between two looks at runs that another command holds
RETRIES = 5  # how often Ray starts a run again whose node was lost

Told = Callable[[Job, str | None], None]  # None: the run begins; else its status


@dataclass(frozen=True)
class Slot:
    """What one run has of this machine: CUDA devices (none: the CPU alone) and threads for each of its processes."""

    devices: tuple[str, ...]
    threads: int


def slots(jobs: int, devices: Sequence[str], processes: int, threads: int) -> list[Slot]:
    """`jobs` slots with `processes` devices each, dealt out in turn."""
    count = len(devices)
    return [
        Slot(tuple(devices[(i * processes + j) % count] for j in range(processes)) if count else (), threads)
        for i in range(jobs)
    ]


def local(jobs: Iterable[Job], places: Sequence[Slot], told: Told) -> None:
    """Carry out all jobs, as many at once as there are slots. Interrupted, it ends the runs first."""
    waiting, held, free = deque(jobs), list[Job](), deque(places)
    running: dict[Future[str | None], tuple[Job, Slot]] = {}
    look = time.monotonic()
    with ThreadPoolExecutor(len(places)) as pool:
        try:
            while waiting or held or running:
                if held and time.monotonic() > look:
                    waiting.extend(held)
                    held.clear()
                while waiting and free:
                    job, slot = waiting.popleft(), free.popleft()
                    told(job, None)
                    placed = replace(job, devices=slot.devices, threads=slot.threads)
                    running[pool.submit(attempts.attempt, placed)] = (job, slot)
                if not running:
                    time.sleep(TICK)
                for future in wait(running, TICK, FIRST_COMPLETED).done:
                    job, slot = running.pop(future)
                    free.append(slot)
                    if (status := future.result()) is not None:
                        told(job, status)
                    else:
                        told(job, "held")
                        held.append(job)
                        look = time.monotonic() + HELD
        except BaseException:
            attempts.stop()
            raise


def on_ray(jobs: Sequence[Job], address: str | None, count: int, told: Told) -> None:
    """Carry out all jobs on a Ray cluster, each with its own CPUs and GPUs, again elsewhere if its node is lost.

    Without an address a cluster of this machine is started, with room for `count` runs at once; `close` ends it.
    The study's folder has to be the same on all nodes, and tamft installed there.
    """
    ray = _ray()
    cpus = jobs[0].threads * jobs[0].processes
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
        here: dict[str, Any] = {} if address else {"num_cpus": cpus * count, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **here)
    gpus = jobs[0].processes if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(_task).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
    pending = {task.remote(job): job for job in jobs}
    try:
        while pending:
            for reference in ray.wait(list(pending), timeout=TICK)[0]:
                job = pending.pop(reference)
                try:
                    told(job, ray.get(reference))
                except ray.exceptions.RayError as error:  # after the last retry
                    text = " ".join(str(error).split())[:200]
                    outcome.add_failure(job.folder, f"Ray: {text}", final=True)
                    told(job, outcome.FAILED)
    finally:
        if pending:  # interrupted: the runs end in good order
            for reference in pending:
                ray.cancel(reference)
            ray.wait(list(pending), num_returns=len(pending), timeout=attempts.PATIENCE)


def close() -> None:
    """Leave the Ray cluster, and end it if it is this command's own."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def _task(job: Job) -> str:
    """A run as Ray's task: the devices are those that Ray gives."""
    import ray

    ids = tuple(str(number) for number in ray.get_gpu_ids())
    return attempts.attempt(replace(job, devices=ids), wait=True) or "held"


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError('--engine ray needs Ray, which is not installed: pip install "tamft[ray]"') from None
    return ray
