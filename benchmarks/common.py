"""What the benchmark programs share: taking turns, medians and ratios, provenance, JSON files, tables."""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.parser import Parser
from tamft.train import record

SCHEMA = 2  # of the JSON files
PACKAGES = (
    *("tamft", "torch", "triton", "numba", "numpy", "transformers", "sentence-transformers", "accelerate", "mteb"),
    *("pytorch_optimizer", "schedulefree", "torch-optimi"),
)

Measures = dict[str, float]  # "seconds" is what ratios are made of, the others are reported beside it


# ---- measuring --------------------------------------------------------------------------------------------------


def cpu_time(call: Callable[[], object]) -> Measures:
    """CPU time of the whole process during `call` (all its threads), and wall-clock time."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"seconds": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def cuda_time(call: Callable[[], object]) -> Measures:
    """Time between two CUDA events around `call`, launched onto an idle GPU; `host_s` until Python had it launched."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    host = time.perf_counter()
    start.record()
    call()
    end.record()
    host = time.perf_counter() - host
    torch.cuda.synchronize()
    return {"seconds": start.elapsed_time(end) / 1e3, "host_s": host}


def cuda_time_behind_work(call: Callable[[], object]) -> float:
    """Seconds between the same events where the GPU is still busy while Python launches, as in training.

    What is left is the work of the GPU; gaps between launches show only where the host needs more than the 50 ms or so
    that the GPU waits first.
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(100_000_000)  # cycles
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def alternate(
    turns: Sequence[Callable[[], Measures]],
    *,
    rounds: int,
    warmup: int = 2,
    before: Callable[[], object] | None = None,
) -> list[list[Measures]]:
    """Let all take turns `warmup + rounds` times and return the measures of the last `rounds`, one list for each.

    The order rotates, so that nobody always runs behind the same neighbour. `before` is called, untimed, before each
    round.
    """
    measured: list[list[Measures]] = [[] for _ in turns]
    for number in range(warmup + rounds):
        if before:
            before()
        for i in [(k + number) % len(turns) for k in range(len(turns))]:
            measures = turns[i]()
            if number >= warmup:
                measured[i].append(measures)
    return measured


def summary(own: Sequence[Measures], baseline: Sequence[Measures]) -> dict[str, float]:
    """Median, range and ratio to the baseline of the same rounds.

    Returns `median_s`, `min_s`, `max_s`, `ratio` (median by median), `ratio_q25`, `ratio_q75` (quartiles of the
    ratios of the single rounds: how far to trust it); for any other measure `x_s` its median and `x_ratio`.
    """
    seconds, base = [m["seconds"] for m in own], [m["seconds"] for m in baseline]
    each = [a / b for a, b in zip(seconds, base, strict=True)]
    quartiles = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    result = {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "ratio": statistics.median(seconds) / statistics.median(base),
        "ratio_q25": quartiles[0],
        "ratio_q75": quartiles[2],
    }
    for key in own[0]:
        if key != "seconds":
            result[key] = statistics.median(m[key] for m in own)
            result[f"{key.removesuffix('_s')}_ratio"] = result[key] / statistics.median(m[key] for m in baseline)
    return result


# ---- where, with what, how ----------------------------------------------------------------------------------------


def provenance(benchmark: str, program: str, argv: Sequence[str], device: torch.device, seed: int) -> dict[str, Any]:
    """What every JSON file begins with: date, commit, versions, device, threads, seed and the command line."""
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "command": shlex.join(["python", f"benchmarks/{program}", *argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions(),
        "device": record.device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}  # says +cpu or +cu…, which the package's version does not always


def commit() -> str | None:
    """The commit that was measured, with `+changes` if the working tree differs; None outside a git checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git here
        return None
    return found.stdout.strip() or None


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the JSON file, whole or not at all, and say so. Makes its folder."""
    text = json.dumps(report, indent=1, allow_nan=False)
    # A list of numbers on one line: the files are read, and compared, by people as well.
    text = re.sub(r"\[[^][{}\"]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text + "\n")
    say(f"written: {path}")


# ---- the command line ---------------------------------------------------------------------------------------------


def parser(program: str, description: str, *, rounds: int | None = None) -> Parser:
    """The options that all programs have; `rounds` is the default of --rounds, None: there is no such option."""
    options = Parser(prog=f"python benchmarks/{program}", description=description, allow_abbrev=False)
    if rounds is not None:
        text = f"alternations (default: {rounds})"
        options.add_argument("--rounds", type=count, default=rounds, metavar="N", help=text)
    options.add_argument("--threads", type=count, default=1, metavar="N", help="of torch on the CPU (default: 1)")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers with their provenance")
    options.add_argument("--short", action="store_true", help="a look in a minute or less; no result to quote")
    return options


def set_up(args: argparse.Namespace) -> torch.device:
    """Set the number of threads and return the device. Raises InputError: no GPU, a folder that cannot be written."""
    torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; leave the option away to measure the CPU")
    if args.json:
        check_folder(args.json)
    return torch.device(args.device)


def check_folder(file: Path) -> None:
    """InputError if `file` could not be written in the end: measuring takes minutes."""
    try:
        record.check_writable(file.parent)
    except InputError as error:
        raise InputError(f"{file} cannot be written: name a file in another folder") from error


def no_bars() -> None:
    """No progress bars of other libraries, in this process and in those that it starts."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    os.environ["TQDM_DISABLE"] = "1"


def command(main: Callable[[Sequence[str]], int]) -> int:
    """Run a program's `main`: one line for what users can mend. Returns the exit code (0, 2 bad input, 130)."""
    try:
        return main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def count(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


# ---- what the reader sees -----------------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line of plain text."""
    print(text, flush=True)


def show(title: str, headings: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> None:
    """Print a table; a row is (is a line drawn under it, its cells). The first two columns are words."""
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=True)
    for last, cells in rows:
        table.add_row(*cells, end_section=last)
    # A file or a pipe has no width of its own, and 80 columns would cut the numbers.
    Console(width=None if sys.stdout.isatty() else 150).print(table)
