"""Runs cells in processes: many cells per process, because the imports of one cost longer than a dozen trainings."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from tests.compatibility.matrix import LAUNCHERS, Cell
from tests.conftest import ROOT

SCRIPT = Path(__file__).with_name("worker.py")
CHUNK = 80  # cells per process
STUCK = 180  # seconds without a result after which a process is ended


def run(cells: Sequence[Cell], *, jobs: int = 1, done: Callable[[], object] = lambda: None) -> dict[Cell, str]:
    """The outcome of every cell; `done` is called after each. `jobs` processes (launches) at a time."""
    chunks = []
    for launcher in LAUNCHERS:
        # together, so that a process imports few of the libraries
        mine = sorted((cell for cell in cells if cell.launcher == launcher), key=lambda cell: cell.trainer)
        chunks += [mine[i : i + CHUNK] for i in range(0, len(mine), CHUNK)]
    chunks.sort(key=len, reverse=True)
    found: dict[Cell, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for outcomes in pool.map(lambda chunk: _launch(chunk, done), chunks):
            found |= outcomes
    return found


def _launch(cells: list[Cell], done: Callable[[], object]) -> dict[Cell, str]:
    words, processes = LAUNCHERS[cells[0].launcher]
    with tempfile.TemporaryDirectory(prefix="compatibility-") as name:
        folder = Path(name)
        plan, results, log = folder / "plan.json", folder / "results.jsonl", folder / "log.txt"
        plan.write_text(json.dumps([asdict(cell) for cell in cells]), encoding="utf-8")
        results.touch()
        line = [
            sys.executable,
            *words.split(),
            SCRIPT,
            plan,
            results,
            folder / "runs",
            *([] if words else ["--register"]),
        ]
        quiet = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                list(map(str, line)), env={**os.environ, **quiet}, cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )
            reported, since = 0, time.monotonic()
            while process.poll() is None:
                time.sleep(0.2)
                now = len(_finished(results, processes))
                for _ in range(now - reported):
                    done()
                if now > reported:
                    reported, since = now, time.monotonic()
                elif time.monotonic() - since > STUCK:
                    process.terminate()  # torchrun ends its children
                    process.wait(30)
        outcomes = _finished(results, processes)
        for _ in range(len(outcomes) - reported):
            done()
        if len(outcomes) < len(cells):
            tqdm.write(log.read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
        died = f"FAILS: the process ended ({process.returncode}) before this cell"
        return {cell: outcomes.get(i, died) for i, cell in enumerate(cells)}


def _finished(results: Path, processes: int) -> dict[int, str]:
    """Cells that all processes are through with; where they disagree, the failure counts."""
    said: dict[int, list[str]] = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        i, _, outcome = json.loads(line)
        said.setdefault(i, []).append(outcome)
    return {
        i: next((one for one in each if one.startswith("FAILS")), each[0])
        for i, each in said.items()
        if len(each) == processes
    }
