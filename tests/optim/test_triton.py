"""The CUDA path where there is no GPU: in Triton's interpreter, through Triton's compiler, and its queue of work.

What only a GPU can show is not tested here: memory ordering on hardware, CUDA graphs, speed.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from tamft.optim import cuda_tables
from tamft.optim.cuda_tables import PLAIN, REDUCE, WAITING, WHOLE

HERE = Path(__file__).parent
# Kinds of tensors (PLAIN: no torque) and sizes, in units of a piece: several, one, a fraction, none, beyond a batch.
QUEUES = [
    ([3.5, 1, 0.5, 0, 700, 20, 1], "WWWWWWW"),
    ([3.5, 1, 0.5, 0, 700, 20, 1], "WPWPPWP"),
    ([200] * 12, "W" * 12),
    ([1], "W"),
    ([5], "P"),
]


def needs_triton() -> None:
    pytest.importorskip("triton", minversion="3.6", reason="Triton 3.6 or newer is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "part"), [("cases", "test_case"), ("cases", "not test_case"), ("contract", "test")])
def test_in_the_interpreter(file, part, run_python):
    """Files in a fresh process: Triton decides when it is imported whether it compiles or interprets."""
    needs_triton()
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.optim.interpreted", "-k", part]
    arguments += ["--rootdir", HERE.parents[1]]
    result = run_python(
        "-m", "pytest", HERE / f"triton_{file}.py", *arguments, env={"TRITON_INTERPRET": "1"}, timeout=1200
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout and "failed" not in result.stdout and "skipped" not in result.stdout


@pytest.mark.parametrize("shared", [False, True], ids=["tensor", "global"])
@pytest.mark.parametrize(("units", "letters"), QUEUES)
def test_the_queue(units, letters, shared):
    """Every piece is updated once; who waits comes after all that it waits for, so programs cannot block each other."""
    chunk, batch = cuda_tables.CHUNK, cuda_tables.BATCH
    sizes = [int(unit * chunk) for unit in units]
    kinds = [WAITING if letter == "W" else PLAIN for letter in letters]
    if shared:  # then every tensor with a gradient takes part in the sum
        kinds = [WAITING] * len(kinds)
    items = [(int(i) & 3, (int(i) & 0xFFFFFFFF) >> 2, int(i) >> 32) for i in cuda_tables.queue(sizes, kinds, shared)]

    updated = sorted((tensor, piece) for kind, tensor, piece in items if kind != REDUCE)
    assert updated == [(t, i) for t, size in enumerate(sizes) for i in range(max(1, math.ceil(size / chunk)))]
    reduced: set[tuple[int, int]] = set()
    ahead = most = 0
    for kind, tensor, piece in items:
        if kind == REDUCE:
            assert kinds[tensor] == WAITING and (tensor, piece) not in reduced
            reduced.add((tensor, piece))
            ahead += min(chunk, sizes[tensor] - piece * chunk)
            most = max(most, ahead)
        elif kind == WAITING:
            waits_for = range(len(sizes)) if shared else [tensor]
            assert {(t, i) for t, i in updated if t in waits_for} <= reduced
            ahead -= min(chunk, sizes[tensor] - piece * chunk)
        else:
            assert kind == (WHOLE if kinds[tensor] == WAITING else PLAIN) and (kind == PLAIN or sizes[tensor] <= chunk)
    assert bool(reduced) == (shared or any(k == WAITING and s > chunk for k, s in zip(kinds, sizes, strict=True)))
    if not shared:  # what was read and not yet updated fits into two batches, or is one large tensor with a batch
        assert most <= max(2 * batch, max(sizes) + batch)


def test_rows_of_hyper_parameters():
    group = {"betas": (0.0, 0.99), "lr": torch.tensor(0.5), "weight_decay": 0.1, "maximize": True, "rho": 0.2}
    row = cuda_tables.hyper(group | {"eps": 1e-8, "gamma": 0.9, "torque_eps": 0.0}, True)
    assert row == [0.5, 0.0, 0.99, -math.inf, math.log(0.99), 1e-8, 0.1, 0.0, 0.9, 0.0, -1.0, 0.2]
    row = cuda_tables.hyper({"momentum": 0.9, "lr": 1, "weight_decay": 0.1, "maximize": False, "rho": 0.0}, False)
    assert row[:2] + row[6:8] == [1.0, 0.9, 0.0, 0.1]


COMPILE = """
import json, sys, time
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tamft.optim import cuda_tables, fused_cuda, triton_kernels

kinds = json.loads(sys.argv[1])
sizes = {"CHUNK": cuda_tables.CHUNK, "BLOCK": fused_cuda.BLOCK, "SUM": fused_cuda.SUM}
step = {"grad_scale": None, "found_inf": None, "ADAM": True, "EMA": True, "GLOBAL": False, "NORM": True, "KINDS": kinds}
programs = {
    "step_kernel": step, "move_kernel": {"started": None, "AHEAD": True, "KINDS": kinds}, "square_kernel": {},
}
types = {"hyper": "*fp64", "work": "*i32", "shares": "*fp64", "squares": "*fp64"}
integers = ("n_items", "n_slots", "n_tensors", "n_counted", "n_groups", "torque_steps")
start = time.perf_counter()
texts = {}
for name, constants in programs.items():
    kernel = getattr(triton_kernels, name)
    constants = constants | sizes
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else "i32" if n in integers else types.get(n, "*i64") for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()}, aligned)
    options = {"num_warps": fused_cuda.WARPS, "maxnreg": fused_cuda.REGISTERS}
    texts[name] = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm
seconds = time.perf_counter() - start
print(json.dumps({
    "seconds": seconds, "ptx": texts["step_kernel"]["ptx"], "cubins": [len(asm["cubin"]) for asm in texts.values()],
}))
"""


@pytest.mark.parametrize("kinds", [1, 1 | 16], ids=["float32", "float32 and bfloat16"])
def test_compiled_for_a_gpu(kinds, run_python, tmp_path):
    """All kernels of a first step in at most 10 s from an empty cache, with wide loads and ordered flags."""
    needs_triton()
    script = tmp_path / "compile.py"
    script.write_text(COMPILE)
    env = {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_INTERPRET": "0"}
    result = json.loads(run_python(script, json.dumps(kinds), env=env, check=True).stdout)
    assert all(size > 1000 for size in result["cubins"])  # machine code for sm_90
    assert result["seconds"] < 10
    ptx = result["ptx"]
    # p, m, v, g in the update, m and g twice each in the reduction, and p with coupled decay: 16 bytes at a time
    loads = [line for line in ptx.splitlines() if "ld.global" in line and ".v4.b32" in line]
    assert len(loads) >= 10
    for ordered in ("atom.global.gpu.acq_rel.add.u32", "atom.global.gpu.release.exch.b32", "gpu.acquire"):
        assert ordered in ptx
    assert "sqrt.rn.f32" in ptx and "sqrt.approx" not in ptx and "div.full" not in ptx
