"""Time of one optimizer step on the tensors of all-MiniLM-L6-v2, next to torch's own optimizers. CPU only.

    make bench                                                    # the table, about a minute
    make bench ARGS='--json benchmarks/results/NAME.json'         # and the numbers with their provenance

All contenders take turns in one process on the same parameters and gradients, so that a busy machine slows all of them;
the time is the median of the process's CPU time. For a perturbing optimizer a step is `train()` and `step()`.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tamft

LR = 1e-6  # so small that the shared parameters stay what they are


def minilm_shapes() -> list[tuple[int, ...]]:
    """Shapes of all-MiniLM-L6-v2's 103 tensors (22.7 M parameters): BERT with 6 layers of width 384."""
    h, f = 384, 1536
    attention = [(h, h), (h,)] * 4 + [(h,), (h,)]
    feed_forward = [(f, h), (f,), (h, f), (h,), (h,), (h,)]
    return [(30522, h), (512, h), (2, h), (h,), (h,), *(attention + feed_forward) * 6, (h, h), (h,)]


def contenders() -> list[tuple[str, str, str, Callable[[list[Tensor]], torch.optim.Optimizer]]]:
    """(family, name, path, constructor); the fused torch optimizer of a family is what the others are divided by."""
    loop, foreach, fused = ("loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})
    table = [
        ("Adam", "torch AdamW", torch.optim.AdamW, [fused, foreach, loop]),
        ("Adam", "AdaTAMW", tamft.AdaTAMW, [foreach, loop]),
        ("Adam", "AdamW-MSAM", tamft.AdamWMSAM, [foreach, loop]),
        ("SGD", "torch SGD", partial(torch.optim.SGD, momentum=0.9), [fused, foreach, loop]),
        ("SGD", "TAM", tamft.TAM, [foreach, loop]),
        ("SGD", "MSAM", tamft.MSAM, [foreach, loop]),
    ]
    return [
        (family, name, path, partial(cls, lr=LR, **how)) for family, name, cls, paths in table for path, how in paths
    ]


def one_step(optimizer: torch.optim.Optimizer) -> float:
    """CPU seconds of one step; the gradients are those that are already there."""
    start = time.process_time()
    if hasattr(optimizer, "train"):
        optimizer.train()  # moves the weights where rho > 0, otherwise nothing
    optimizer.step()
    return time.process_time() - start


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors that the optimizer keeps per parameter."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def measure(shapes: Sequence[tuple[int, ...]], *, rounds: int, seed: int = 0) -> list[dict[str, object]]:
    """Time every contender `rounds` times (after two rounds that do not count) and return one record for each.

    Seconds are CPU seconds of the whole process; `ratio` is to the fused torch optimizer of the same family.
    """
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * 1e-3
    rows = contenders()
    optimizers = [make(params) for *_, make in rows]
    times: list[list[float]] = [[] for _ in rows]
    for turn in range(rounds + 2):
        for i in [(k + turn) % len(rows) for k in range(len(rows))]:  # nobody always runs behind the same neighbour
            seconds = one_step(optimizers[i])
            if turn >= 2:
                times[i].append(seconds)

    medians = [statistics.median(values) for values in times]
    base = {row[0]: median for row, median in zip(rows, medians, strict=True) if row[2] == "fused"}
    count = sum(p.numel() for p in params)
    return [
        {
            "family": family,
            "optimizer": name,
            "path": path,
            "median_s": median,
            "min_s": min(values),
            "max_s": max(values),
            "ratio": median / base[family],
            "state_bytes_per_parameter": state_bytes(optimizer) / count,
        }
        for (family, name, path, _), median, values, optimizer in zip(rows, medians, times, optimizers, strict=True)
    ]


def cpu_name() -> str:
    """The processor as its maker calls it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that was measured, with `+changes` if the working tree differs; None outside a git checkout."""
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time of one optimizer step, against torch's optimizers (CPU).")
    parser.add_argument("--rounds", type=int, default=31, help="timed steps of every contender (default: 31)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--json", type=Path, help="also write the numbers, with versions and device, to this file")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(args.threads)

    shapes = minilm_shapes()
    records = measure(shapes, rounds=args.rounds)

    table = Table(
        title=f"One step on MiniLM's {len(shapes)} tensors, {args.threads} thread(s), median of {args.rounds}"
    )
    for heading in ("optimizer", "path", "ms (CPU time)", "ratio", "state B/param"):
        table.add_column(heading, justify="left" if heading in ("optimizer", "path") else "right")
    for record in records:
        table.add_row(
            str(record["optimizer"]),
            str(record["path"]),
            f"{1e3 * record['median_s']:.1f}",  # type: ignore[operator]
            f"{record['ratio']:.2f}",
            f"{record['state_bytes_per_parameter']:.2f}",
            end_section=record is records[-1] or record["family"] != records[records.index(record) + 1]["family"],
        )
    console = Console()
    console.print(table)
    console.print("ratio: to torch's fused AdamW (upper block) and fused SGD with momentum (lower block)")

    if args.json:
        report = {
            "schema": 1,
            "benchmark": "optimizer step",
            "command": shlex.join(["python", "benchmarks/step.py", *(sys.argv[1:] if argv is None else argv)]),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "tamft": tamft.__version__},
            "device": {"kind": "cpu", "name": cpu_name(), "cores": os.cpu_count(), "threads": args.threads},
            "seed": 0,
            "rounds": args.rounds,
            "tensors": len(shapes),
            "results": records,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        partial = args.json.with_name(f"{args.json.name}.partial")
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        partial.replace(args.json)
        console.print(f"written: {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
