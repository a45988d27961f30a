"""One run in a process of its own: train, score, throw the weights away. Done twice is done once."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tamft.compare import outcome
from tamft.compare.runs import Job
from tamft.errors import InputError

LOCK, LOG, RESULTS = "study.lock", "log.txt", "results"
OK, FAILED, BAD, BUSY, INTERRUPTED = 0, 1, 2, 3, 4  # exit codes of a worker
# The recipe's codes: what another attempt would not change, and what is nobody's fault.
CODES = {2: BAD, 130: INTERRUPTED, 143: INTERRUPTED}


def main(job: Job) -> None:
    """Body of the process; ends it with one of the codes above. The run's outcome is in its folder."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a terminal's Ctrl-C goes to the command alone, which passes it on to the whole group
    job.folder.mkdir(parents=True, exist_ok=True)
    _redirect(job.folder / LOG)
    # Before anything looks for a GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job.devices)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    from tamft.train import lock

    try:
        with lock.hold(job.folder, LOCK):
            sys.exit(_work(job))
    except InputError as error:  # only the lock raises it here
        print(error, file=sys.stderr)
        sys.exit(BUSY)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _work(job: Job) -> int:
    before = outcome.read(job.folder, trained=job.words is not None)
    if before.status is not None:  # another process did it between our look and our lock
        return OK
    print(f"--- attempt {before.attempts + 1}: {job.text}", flush=True)
    import torch

    torch.set_num_threads(job.threads)
    try:
        if job.words is not None:
            code = _train(job)
            outcome.shorten_paths(job.folder, job.names)
            if code != 0:
                return CODES.get(code, FAILED)
        if (problem := _score(job)) is not None:
            print(f"error: {problem}", file=sys.stderr)
            return FAILED
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD
    if not job.keep_models:
        drop_weights(job.folder)
    return OK


def drop_weights(folder: Path) -> None:
    """Delete what is large and not needed any more: scores and run.json are enough to go on."""
    for path in folder.iterdir():
        if path.is_dir():  # model, merged, checkpoints, mteb's results
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("*.hashes"):
        path.unlink()


def _train(job: Job) -> int:
    """Train unless that was done before; returns the recipe's exit code."""
    record = outcome.read(job.folder).record
    if record.get("status") == outcome.COMPLETE and (job.folder / "model").is_dir():
        return 0
    words = list(job.words or ())
    if in_process(job):
        return run_recipe(job.recipe, words)
    from tamft.train.launch import main as launch

    group = ["--num_processes", str(job.processes), "--num_cpu_threads_per_process", str(job.threads)]
    if job.accelerate_config:
        group += ["--accelerate_config", job.accelerate_config]
    return launch([job.recipe, *group, *words])


def in_process(job: Job) -> bool:
    """Whether a recipe runs in the worker itself: all that `accelerate launch` does for one process is to start it.

    On a GPU the process that trains has to be a fresh one, and several need the launcher.
    """
    return job.processes == 1 and not job.devices and not job.accelerate_config and not job.recipe.endswith(".py")


def run_recipe(name: str, words: list[str]) -> int:
    """Run a shipped recipe in this process; returns its exit code."""
    from tamft.train import run
    from tamft.train.shipped import find_recipe

    module_name = f"tamft_recipe_{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, find_recipe(name))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their annotations up there
        spec.loader.exec_module(module)
    return run.command(sys.modules[module_name].main, words)


def _score(job: Job) -> str | None:
    """Write scores.json; returns why not, where a task has no score."""
    from tamft.evaluation.quiet import quiet_libraries
    from tamft.evaluation.results import write_json
    from tamft.evaluation.score import evaluate
    from tamft.train.models import resolve

    quiet_libraries()
    model = str(job.folder / "model") if job.words is not None else resolve(job.model)
    records: list[dict[str, Any]] = []
    for spec in job.scored:
        records += evaluate(model, **spec, results=job.folder / RESULTS, device="cuda:0" if job.devices else "cpu")
    failed = next((record for record in records if record["status"] != "ok"), None)
    if failed is not None:
        return f"{failed['task']} has no score: {failed['reason']}"
    drop = ("model", "command")  # a path of this machine
    write_json(job.folder / outcome.SCORES, [{k: v for k, v in r.items() if k not in drop} for r in records])
    return None


def _redirect(path: Path) -> None:
    """What this process and its children print goes into the run's log."""
    stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(stream, number)
    os.close(stream)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
