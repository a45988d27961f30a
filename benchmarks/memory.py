"""What an optimizer keeps, what it needs for a moment, and how often it launches something on a GPU."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler would announce its start and stop


def state(optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> dict[str, float]:
    """Size of the optimizer's state per parameter.

    Returns `state_bytes_per_parameter`, of all tensors with the shape of their parameter; `state_scalars_per_tensor`,
    the largest number of other values (0-d tensors, Python numbers) kept for one parameter tensor.
    """
    moments, scalars = 0, 0
    for p in params:
        small = 0
        for value in optimizer.state[p].values():
            if isinstance(value, Tensor) and value.shape == p.shape and p.dim() > 0:
                moments += value.numel() * value.element_size()
            elif isinstance(value, Tensor):
                small += value.numel()
            else:
                small += isinstance(value, int | float)
        scalars = max(scalars, small)
    return {
        "state_bytes_per_parameter": moments / sum(p.numel() for p in params),
        "state_scalars_per_tensor": scalars,
    }


def allocations(call: Callable[[], object], device: torch.device) -> dict[str, int | None]:
    """Memory that `call` allocates, as the allocator itself reports it: inside torch's kernels, too.

    Returns `largest_bytes`, the largest single allocation (None on a GPU, whose allocator does not tell);
    `peak_bytes`, the most that was alive at once; `kept_bytes`, what is still there afterwards.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return {
            "largest_bytes": None,
            "peak_bytes": torch.cuda.max_memory_allocated() - before,
            "kept_bytes": torch.cuda.memory_allocated() - before,
        }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory(prefix="tamft-bench-") as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    found = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    alive = peak = 0
    for _, size in found:
        alive += size
        peak = max(peak, alive)
    return {"largest_bytes": max((size for _, size in found), default=0), "peak_bytes": peak, "kept_bytes": alive}


def launches(call: Callable[[], object]) -> int:
    """Kernels, copies and fills that `call` puts onto the GPU."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    return sum(
        event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
        for event in profiler.events()
    )
