"""Triton's kernels on CPU tensors, in Triton's interpreter: a pytest plugin for the files `triton_*.py`.

`test_triton.py` runs those in processes of their own, because Triton decides when it is imported whether it compiles.
"""

from typing import Any

import pytest
import torch
import triton.runtime.interpreter as interpreter

from tamft.optim import base, cuda_tables, fused_cuda
from tests.optim.problem import LINE, Problem, assert_follows, learning_rate, run_tamft

assert fused_cuda.INTERPRETED, "run this file with TRITON_INTERPRET=1"

# The interpreter patches triton.language for every call of a device function and takes 5 ms for it; once is enough.
_patch, _patched = interpreter._patch_lang, set()


def _patch_once(fn: Any) -> Any:
    if id(fn.__globals__) not in _patched:
        _patched.add(id(fn.__globals__))
        _patch(fn)
    return interpreter._LangPatchScope()


interpreter._patch_lang = _patch_once


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Pieces so small that small tensors have several, and batches of two of the larger ones."""
    monkeypatch.setattr(base, "ENGINES", {"cpu": ("tamft.optim.fused_cuda", True)})
    monkeypatch.setattr(cuda_tables, "CHUNK", 16)
    monkeypatch.setattr(cuda_tables, "BATCH", 30)
    monkeypatch.setattr(fused_cuda, "BLOCK", 8)
    monkeypatch.setattr(fused_cuda, "SUM", 4)


LOOP: dict[str, Any] = {"fused": False, "foreach": False}
SHORT = {"torque_steps": 3, "rho_start": 2}
PROBLEM = Problem(steps=7)
BRIEF = Problem(steps=5)


def run_fused(name: str, problem: Problem = PROBLEM, **options: Any) -> tuple[list[Any], Any]:
    """Run the kernels over the problem; parameters and optimizer."""
    params, optimizer = run_tamft(
        name, problem, **{"dtype": torch.float32, "lr": learning_rate(name), "fused": True, **options}
    )
    assert optimizer.backend == "fused"
    return params, optimizer


def compare(name: str, problem: Problem = PROBLEM, limit: float = LINE, **options: Any) -> Any:
    """Run the loop and the kernels over the problem; returns the latter's optimizer."""
    options.setdefault("lr", learning_rate(name))
    expected, _ = run_tamft(name, problem, dtype=torch.float32, **LOOP, **options)
    got, optimizer = run_fused(name, problem, **options)
    assert_follows(got, expected, problem.start, limit)
    return optimizer
