"""Time and memory of one optimizer step, next to torch's own optimizers and other packages', on real models' tensors.

    make bench                                                                        # a look, about a minute
    OMP_NUM_THREADS=1 python benchmarks/step.py --json benchmarks/results/step_cpu.json
    python benchmarks/step.py --device cuda --json benchmarks/results/step_cuda.json

All contenders take turns in one process on the same parameters and gradients, so that a busy machine slows all of them.
On a CPU the time is CPU time of the process, on a GPU the time between two CUDA events. For a perturbing optimizer a
step is `train()` and `step()`.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import common
import contenders as field
import memory
import psutil
import torch
from contenders import Contender
from tensors import SETS, Noise, TensorSet
from torch import Tensor

from tamft.errors import InputError
from tamft.optim import cpu_kernels
from tamft.parser import Parser

SEED = 0
WARMUP = 2
GIB = 2**30


def measure(
    tensors: TensorSet, rows: Sequence[Contender], *, rounds: int, device: torch.device, limit: float | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Time every contender `rounds` times (after WARMUP rounds that do not count).

    Contenders whose states do not fit into `limit` bytes side by side (None: `state_limit`) run in groups, each with
    the family's baseline among them. Returns a record for each contender, and a line for each that is not available.
    """
    generator = torch.Generator(device).manual_seed(SEED)
    params = [
        torch.randn(shape, generator=generator, device=device, dtype=tensors.dtype).mul_(0.02).requires_grad_()
        for shape in tensors.shapes
    ]
    gradients = Noise(params, generator)
    size = sum(p.numel() for p in params)
    memory.allocations(gc.collect, torch.device("cpu"))  # the profiler's own first start takes a second
    records, notes, seen = [], [], set()
    for number, group in enumerate(lanes(rows, size, state_limit(device) if limit is None else limit)):
        running: dict[str, tuple[torch.optim.Optimizer, dict[str, Any]]] = {}
        for contender in group:
            try:
                running[contender.label] = start(contender, params, device)
            except (RuntimeError, ValueError, ImportError) as error:  # what an unavailable path raises
                notes.append(f"{tensors.name}: {contender.label}: not available: {first_sentence(error)}")
            gradients.move()
        alive = [contender for contender in group if contender.label in running]
        if not alive or not alive[0].baseline:
            continue  # nothing to compare with; the note says why
        turns = [partial(turn, running[contender.label][0], device) for contender in alive]
        measured = common.alternate(turns, rounds=rounds, warmup=WARMUP, before=gradients.move)
        for contender, measures in zip(alive, measured, strict=True):
            if contender.label in seen:
                continue  # the baseline of an earlier group
            seen.add(contender.label)
            optimizer, facts = running[contender.label]
            records.append(
                {
                    "set": tensors.name,
                    "family": contender.family,
                    "optimizer": contender.name,
                    "path": contender.path,
                    "backend": field.backend(contender, optimizer),
                    "group": number,
                    **common.summary(measures, measured[0]),
                    **memory.state(optimizer, params),
                    **facts,
                    **footprint(optimizer, device),
                }
            )
        del turns, running, optimizer
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return records, notes


def lanes(rows: Sequence[Contender], size: int, limit: float) -> Iterator[list[Contender]]:
    """Groups of one family, its baseline first, whose states fit into `limit` bytes for `size` parameters."""
    for base in [contender for contender in rows if contender.baseline]:
        rest = [c for c in rows if c.family == base.family and c is not base]
        group = [base]
        for contender in rest:
            if len(group) > 1 and size * sum(c.state for c in [*group, contender]) > limit:
                yield group
                group = [base]
            group.append(contender)
        yield group


def state_limit(device: torch.device) -> float:
    """Bytes for the states of contenders that take turns: 6 GiB and half of what is free, on a GPU 60 % of it."""
    if device.type == "cuda":
        return 0.6 * torch.cuda.mem_get_info()[0]
    return min(6 * GIB, 0.5 * psutil.virtual_memory().available)


def start(
    contender: Contender, params: Sequence[Tensor], device: torch.device
) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """Build the optimizer and let it take its first step, which makes state and kernels."""
    optimizer = contender.make(params)
    seconds = 0.0

    def first_step() -> None:
        nonlocal seconds
        before = time.perf_counter()
        field.one_step(optimizer)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - before

    kept = memory.allocations(first_step, device)["kept_bytes"]
    size = sum(p.numel() for p in params)
    return optimizer, {"first_step_s": seconds, "kept_bytes_per_parameter": (kept or 0) / size}


def turn(optimizer: torch.optim.Optimizer, device: torch.device) -> common.Measures:
    """The measures of one step; on a GPU of two, the second one launched while the GPU is busy."""
    step = partial(field.one_step, optimizer)
    if device.type == "cpu":
        return common.cpu_time(step)
    return common.cuda_time(step) | {"device_s": common.cuda_time_behind_work(step)}


def footprint(optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, int | None]:
    """Temporaries of a later step, and the launches of one."""
    step = partial(field.one_step, optimizer)
    found = memory.allocations(step, device)
    return {
        "largest_temporary_bytes": found["largest_bytes"],
        "temporary_bytes": found["peak_bytes"],
        "launches": memory.launches(step) if device.type == "cuda" else None,
    }


def first_sentence(error: Exception) -> str:
    """The beginning of an error's message, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else f"{text[:157]}…"


def choose(patterns: Sequence[str] | None, *, short: bool) -> tuple[list[Contender], list[str]]:
    """The contenders whose label contains one of `patterns` (case does not matter; None: all), and the baselines."""
    others, notes = field.rivals()
    everyone = [*field.contenders(), *([] if short else others)]
    chosen = [c for c in everyone if not short or c.main]
    for pattern in patterns or []:
        if not any(pattern.lower() in c.label.lower() for c in everyone):
            raise InputError(
                f"--optimizers {pattern}: no optimizer is called so: {', '.join(c.label for c in everyone)}"
            )
    if patterns:
        chosen = [c for c in everyone if any(pattern.lower() in c.label.lower() for pattern in patterns)]
    families = {c.family for c in chosen}
    return [c for c in everyone if c in chosen or (c.baseline and c.family in families)], [] if short else notes


def show(tensors: TensorSet, records: Sequence[dict[str, Any]], *, rounds: int, device: torch.device) -> None:
    """Print one set's table."""
    gpu = device.type == "cuda"
    headings = ["optimizer", "path", "ms", "ratio", "quartiles"]
    headings += ["GPU alone", "ratio", "host", "launches"] if gpu else ["wall clock"]
    headings += ["B/param", "scalars", "temporaries", *([] if gpu else ["largest"])]
    rows = []
    for record, after in zip(records, [*records[1:], None], strict=True):
        chosen = record["backend"] != record["path"]
        path = f"{record['path']} ({record['backend']})" if chosen else record["path"]
        cells = [record["optimizer"], path, f"{1e3 * record['median_s']:.2f}", f"{record['ratio']:.2f}"]
        cells.append(f"{record['ratio_q25']:.2f}-{record['ratio_q75']:.2f}")
        if gpu:
            cells += [f"{1e3 * record['device_s']:.2f}", f"{record['device_ratio']:.2f}"]
            cells += [f"{1e3 * record['host_s']:.2f}", str(record["launches"])]
        else:
            cells.append(f"{record['wall_ratio']:.2f}")
        cells += [f"{record['state_bytes_per_parameter']:.2f}", str(record["state_scalars_per_tensor"])]
        cells.append(f"{record['temporary_bytes'] / 1e6:.1f} MB")
        cells += [] if gpu else [f"{record['largest_temporary_bytes'] / 1e6:.1f} MB"]
        rows.append((after is None or after["family"] != record["family"], cells))
    kind = "time between CUDA events" if gpu else "CPU time"
    title = (
        f"{tensors.name}: {tensors.what}, {len(tensors.shapes)} tensors, {tensors.parameters / 1e6:.1f} M parameters, "
        f"{str(tensors.dtype).removeprefix('torch.')}; {kind}, median of {rounds}, {torch.get_num_threads()} thread(s)"
    )
    common.show(title, headings, rows)


def options() -> Parser:
    """The command line."""
    parser = common.parser("step.py", "Time and memory of one optimizer step, against torch's optimizers.", rounds=11)
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"any of {' '.join(SETS)} (default: all that fit)")
    parser.add_argument(
        "--optimizers", nargs="+", metavar="TEXT", help="only those whose name and path contain one of these"
    )
    parser.add_argument("--no_numba", action="store_true", help="our fused CPU path as it is without the package numba")
    return parser


def main(argv: Sequence[str]) -> int:
    """The program. Raises InputError."""
    args = options().parse_words(argv)
    device = common.set_up(args)
    names = args.sets or (
        ["minilm"] if args.short else [s.name for s in SETS.values() if args.device != "cpu" or s.on_cpu]
    )
    if unknown := [name for name in names if name not in SETS]:
        raise InputError(f"--sets {unknown[0]}: there is {', '.join(SETS)}")
    rows, notes = choose(args.optimizers, short=args.short)
    if args.no_numba:
        cpu_kernels.compiled_kernels = lambda: None
    compiled = device.type == "cpu" and cpu_kernels.compiled_kernels() is not None

    records: list[dict[str, Any]] = []
    for name in names:
        found, missing = measure(SETS[name], rows, rounds=args.rounds, device=device)
        show(SETS[name], found, rounds=args.rounds, device=device)
        records += found
        notes += missing
    common.say("ratio: to torch's fused AdamW (upper block) and fused SGD with momentum (lower block).")
    if args.device == "cuda":
        common.say("GPU alone (ms): launched while the GPU was busy; host (ms): until Python had launched the step.")
    common.say("B/param, scalars: bytes of state per parameter, and single numbers per tensor beside them.")
    if device.type == "cpu":
        common.say(f"our fused path: {'compiled kernels (numba)' if compiled else 'torch kernels, numba is not used'}.")
    common.say("temporaries: the most that was alive at once during a step.")
    for note in notes:
        common.say(note)
    if args.json:
        report = common.provenance("optimizer step", "step.py", argv, device, SEED)
        report |= {
            "rounds": args.rounds,
            "compiled_kernels": compiled,
            "sets": {
                name: {
                    "what": SETS[name].what,
                    "tensors": len(SETS[name].shapes),
                    "parameters": SETS[name].parameters,
                    "largest_tensor_bytes": max(map(math.prod, SETS[name].shapes)) * SETS[name].dtype.itemsize,
                    "dtype": str(SETS[name].dtype).removeprefix("torch."),
                }
                for name in names
            },
            "results": records,
            "notes": notes,
        }
        common.write(args.json, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.command(main))
