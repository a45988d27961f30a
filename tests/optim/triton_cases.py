"""The CUDA path in Triton's interpreter, on CPU tensors. `test_triton.py` runs this file in a process of its own:
Triton decides when it is imported whether it compiles or interprets.
"""

import copy
import pickle
import sys
import threading
from typing import Any

import pytest
import torch
import triton
import triton.runtime.interpreter as interpreter
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tamft.optim import base, cuda_tables, fused_cuda
from tests.optim.cases import CASES
from tests.optim.problem import (
    GROUPS,
    LINE,
    NAMES,
    TORQUE_NAMES,
    Problem,
    assert_follows,
    bits,
    cls,
    groups_of,
    learning_rate,
    run_tamft,
    state_bits,
)

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


# Each option once per update; the other three classes differ by weight decay and by what they do not offer.
SELECTED = [
    (label, name, options)
    for label, name, options in CASES
    if name in ("TAM", "AdaTAMW") or label.partition("-")[2] in ("rho, decay", "everything", "maximize")
]


@pytest.mark.parametrize(("label", "name", "options"), SELECTED, ids=[label for label, _, _ in SELECTED])
def test_case(label, name, options):
    compare(name, BRIEF, **{**options, **{key: SHORT[key] for key in options if key in SHORT}})


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdaTAMW", {"rho": 0.3, "rescale": True}), ("TAM", {"alignment": "global", "weight_decay": 0.1, "rho": 0.1})],
    ids=["AdaTAMW", "TAM"],
)
def test_fifty_steps(name, options):
    compare(name, Problem(), **options)


@pytest.mark.parametrize("options", [{}, {"alignment": "global", "rescale": True, "rho": 0.2}], ids=str)
def test_bitwise_reproducible(options):
    runs = [run_fused("AdaTAMW", **options) for _ in range(2)]
    (a, first), (b, second) = runs
    assert [bits(p) for p in a] == [bits(p) for p in b]
    assert state_bits(first) == state_bits(second)


def test_unequal_groups_and_a_schedule():
    groups = [
        ([0], {"lr": 0.05, "weight_decay": 0.3, "rho": 0.4, "gamma": 0.5}),
        ([1, 2], {"betas": (0.5, 0.7), "eps": 1e-3, "rho": 0.0, "torque": False}),
        ([3, 4], {"maximize": True, "torque_eps": 0.1, "rho": 0.1, "lr": torch.tensor(0.02)}),
    ]
    for options in ({}, {"alignment": "global", "rescale": True}):
        optimizer = compare("AdaTAMW", Problem(steps=7, concave=(3, 4)), groups=groups, lr=1e-2, **options)
        assert ["alignment" in optimizer.state[g["params"][0]] for g in optimizer.param_groups] == [True, False, True]

    ends = []
    for path in ({"fused": True}, LOOP):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls("AdaTAMW")(groups_of(params, GROUPS), lr=0.1, **path)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=10)  # moves betas too
        for step in range(7):
            PROBLEM.set_gradients(step, params)
            optimizer.step()
            scheduler.step()
        ends.append(params)
    assert_follows(*ends, PROBLEM.start, LINE)


@pytest.mark.parametrize("name", ["TAM", "AdaTAMW"])
@pytest.mark.parametrize("alignment", ["tensor", "global"])
def test_missing_gradients(name, alignment):
    """Who has no gradient this time still goes back, counts in |m| and keeps its state and its count of steps."""
    missing = lambda step, i: (step + i) % 3 == 1 or (i == 4 and step < 3)  # noqa: E731
    optimizer = compare(name, Problem(steps=7, missing=missing), lr=0.05, rho=0.4, alignment=alignment)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert [int(optimizer.state[p]["step"]) for p in params] == [
        sum(not missing(step, i) for step in range(7)) for i in range(5)
    ]


def test_changing_addresses_of_gradients():
    """Old gradients stay alive, so new ones lie elsewhere; a kernel that read the old ones would go nowhere."""
    ends, alive = [], []
    for path in ({"fused": True}, LOOP):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls("TAM")(params, lr=0.02, **path)
        for step in range(6):
            if step % 2 == 0:
                PROBLEM.set_gradients(step, params)
                alive.append([p.grad for p in params])
            else:
                for p in params:
                    p.grad.mul_(-0.5)  # the same address, another value
            optimizer.step()
        ends.append(params)
    assert_follows(*ends, PROBLEM.start, LINE)


@pytest.mark.parametrize("alignment", ["tensor", "global"])
@pytest.mark.parametrize("exponent", [-30, -20, 18, 30])
def test_magnitudes(exponent, alignment):
    torch.manual_seed(exponent)
    draws = [[(10.0**exponent * torch.randn(n, dtype=torch.float64)).float() for n in (40, 7)] for _ in range(2)]
    params = [torch.nn.Parameter(torch.zeros(n)) for n in (40, 7)]
    optimizer = cls("TAM")(params, lr=0.0, gamma=0.5, alignment=alignment, rho=0.5, fused=True)
    for grads in draws:
        optimizer.train()
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
    first, second = [[x.double() * 10.0**-exponent for x in grads] for grads in draws]
    if alignment == "global":
        first, second = [torch.cat(first)] * 2, [torch.cat(second)] * 2
    expected = [0.5 * float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(first, second, strict=True)]
    assert [float(optimizer.state[p]["alignment"]) for p in params] == pytest.approx(expected, rel=3e-6)
    optimizer.train()
    m = torch.cat([optimizer.state[p]["momentum_buffer"].double() * 10.0**-exponent for p in params])
    scale = float(optimizer.param_groups[0]["scale"])
    assert scale * float(m.norm()) * 10.0**exponent == pytest.approx(0.5, rel=1e-6) or scale < 1e-37  # a subnormal


def test_layouts_and_alignment():
    """Aligned or not, transposed, expanded, with steps in memory: all as the loop."""
    torch.manual_seed(0)
    room = torch.randn(100)
    starts = [room[1:49], room[52:84].view(4, 8), torch.randn(6, 5).t(), torch.randn(1, 3, 4, 4)]
    starts[3] = starts[3].contiguous(memory_format=torch.channels_last)
    ends = []
    for path in ({"fused": True}, LOOP):
        torch.manual_seed(1)
        own = room.clone()
        params = [torch.nn.Parameter(own[1:49]), torch.nn.Parameter(own[52:84].view(4, 8))]
        params += [torch.nn.Parameter(x.clone(memory_format=torch.preserve_format)) for x in starts[2:]]
        assert params[0].data_ptr() % 16 and not params[2].is_contiguous()
        optimizer = cls("AdaTAMW")(params, lr=0.05, rho=0.1, **path)
        for _ in range(4):
            optimizer.train()
            params[0].grad = torch.randn(96)[::2]
            params[1].grad = torch.randn(8, 4).t()
            params[2].grad = torch.randn(5, 1).expand(5, 6)
            params[3].grad = torch.randn(1, 3, 4, 4)
            optimizer.step()
        assert optimizer.state[params[3]]["exp_avg"].stride() == params[3].stride()
        ends.append(params)
    assert_follows(*ends, starts, LINE)
    for p, before in zip(ends[0], starts, strict=True):
        assert (p != before).all()


LOW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_16_bit_weights_are_the_float32_update_rounded_once(name, dtype):
    torch.manual_seed(0)
    start, gradients = torch.randn(50).to(dtype), [torch.randn(50).to(dtype) for _ in range(2)]
    wide, p = torch.nn.Parameter(start.float()), torch.nn.Parameter(start.clone())
    pairs = [(x, cls(name)([x], lr=0.1, weight_decay=0.1, rho=0.0, fused=True)) for x in (wide, p)]
    for gradient in gradients:
        for x, optimizer in pairs:
            x.grad = gradient.to(x.dtype)
            optimizer.step()
        assert torch.equal(p, wide.to(dtype))  # to nearest, ties to even, as torch rounds
        wide.data.copy_(p)
    assert all(x.dtype == torch.float32 for x in pairs[1][1].state[p].values())


def test_ties_go_to_even():
    """w - g lies half-way between two bfloat16 numbers, or is no number."""
    w = torch.cat([1 + torch.arange(16) / 128, torch.tensor([1.0, -1.0, 2.0])]).bfloat16()
    not_a_number = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # as GPUs write it
    g = torch.cat([torch.full((16,), 2.0**-8), torch.tensor([torch.inf, -torch.inf]), not_a_number])
    p = torch.nn.Parameter(w.clone())
    p.grad_dtype = torch.float32
    optimizer = cls("TAM")([p], lr=1.0, momentum=0.0, torque=False, fused=True)
    p.grad = g
    optimizer.step()
    torch.testing.assert_close(p.detach(), (w.float() - g).bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_dtypes_side_by_side():
    torch.manual_seed(0)
    dtypes = [torch.float32, *LOW, torch.bfloat16]
    start, steps = torch.randn(20), torch.randn(5, 20)
    results = []
    for path in ({"fused": True}, LOOP):
        params = [torch.nn.Parameter(start.to(dtype, copy=True)) for dtype in dtypes]
        params[3].grad_dtype = torch.float32  # as some trainers accumulate
        optimizer = cls("AdaTAMW")(params, lr=0.1, **path)
        for g in steps:
            for p in params:
                p.grad = g.to(p.grad_dtype if p is params[3] else p.dtype)
            optimizer.step()
        results.append(params)
    for a, b, limit in zip(*results, (1e-6, 8e-3, 1e-3, 8e-3), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=limit, atol=limit / 10)
        assert not torch.allclose(a.float(), start, atol=0.1)


def test_scaled_and_skipped_steps():
    """grad_scale divides the gradients; found_inf leaves clean weights and an untouched state."""
    for options in ({"rho": 0.3}, {"rho": 0.3, "alignment": "global", "weight_decay": 0.1}):
        plain, first = run_fused("TAM", last=3, drive="train", **options)
        scaled, second = run_fused("TAM", last=3, drive="train", **options)
        clean, state = [p.detach().clone() for p in scaled], state_bits(second)
        second.train()
        PROBLEM.set_gradients(3, scaled)
        scaled[0].grad[0, 0] = torch.inf
        second.grad_scale, second.found_inf = torch.tensor(64.0), torch.tensor([1.0])
        second.step()
        for p, expected in zip(scaled, clean, strict=True):
            torch.testing.assert_close(p, expected, rtol=0, atol=1e-6)
        assert state_bits(second) == state
        assert not any(group["moved"] for group in second.param_groups)

        first.train()
        PROBLEM.set_gradients(3, plain)
        first.step()
        second.train()
        PROBLEM.set_gradients(3, scaled)
        for p in scaled:
            p.grad *= 64
        second.found_inf = torch.tensor([0.0])
        second.step()
        assert_follows(scaled, plain, clean, 1e-4)
        assert int(second.state[scaled[0]]["step"]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    params, optimizer = run_fused(name, last=3, rho=0.3)
    clean = torch.cat([p.detach().flatten() for p in params])
    optimizer.train()
    there = [bits(p) for p in params]
    assert float((torch.cat([p.detach().flatten() for p in params]) - clean).norm()) == pytest.approx(0.3, rel=1e-5)
    optimizer.train()
    assert [bits(p) for p in params] == there
    optimizer.eval()
    for group in optimizer.param_groups:
        group["rho"] = 1.0
    back = [bits(p) for p in params]
    optimizer.eval()
    assert [bits(p) for p in params] == back
    assert float((torch.cat([p.detach().flatten() for p in params]) - clean).norm()) < 1e-6


def test_the_norm_after_somebody_changed_m_or_loaded_a_state():
    params, optimizer = run_fused("AdaTAMW", last=3, rho=0.3)
    saved = copy.deepcopy(optimizer.state_dict())
    moments = [optimizer.state[p]["exp_avg"] for p in params]
    optimizer.train().eval()  # |m|² is known now
    moments[4].mul_(3)
    for _ in range(2):
        optimizer.train()
        norm = float(torch.cat([m.flatten() for m in moments]).norm())
        assert float(optimizer.param_groups[0]["scale"]) == pytest.approx(0.3 / norm, rel=1e-6)
        optimizer.eval()
        optimizer.load_state_dict(saved)
        moments = [optimizer.state[p]["exp_avg"] for p in params]


def test_a_resumed_run_is_bitwise_the_same():
    options: dict[str, Any] = {"rho": 0.3, "alignment": "global", "rescale": True, "fused": True, "lr": 1e-2}
    whole, first = run_fused("AdaTAMW", last=6, **options)
    params, half = run_fused("AdaTAMW", last=3, **options)
    saved = pickle.loads(pickle.dumps(half.state_dict()))
    other = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = cls("AdaTAMW")(groups_of(other, GROUPS), **options)
    resumed.load_state_dict(saved)
    for step in range(3, 6):
        resumed.train()
        PROBLEM.set_gradients(step, other)
        resumed.step()
    assert [bits(p) for p in other] == [bits(p) for p in whole]
    assert state_bits(resumed) == state_bits(first)


def test_16_bit_weights_come_back_exactly():
    options: dict[str, Any] = {"rho": 0.3, "allow_low_precision": True, "weight_decay": 0.1, "dtype": torch.bfloat16}
    for name in ("MSAM", "AdaTAM"):  # coupled decay at θ̃, whose weights are back before the kernel runs
        params, optimizer = run_fused(name, last=4, **options)
        clean = [bits(p) for p in params]
        before = torch.cat([p.detach().double().flatten() for p in params])
        optimizer.train()
        assert [bits(p) for p in params] != clean
        m = torch.cat([optimizer.state[p][optimizer.moment].double().flatten() for p in params])
        applied = before - torch.cat([p.detach().double().flatten() for p in params])
        cosine = float(torch.cosine_similarity(applied, m, dim=0))
        assert float(optimizer._engine.applied) == pytest.approx(cosine, abs=1e-9) and 0.9 < cosine < 0.99999
        optimizer.eval()
        assert [bits(p) for p in params] == clean
        assert all("clean" not in optimizer.state[p] for p in params)
        expected, _ = run_tamft(name, PROBLEM, lr=learning_rate(name), **options, **LOOP)
        got, _ = run_fused(name, **options)
        assert_follows(got, expected, PROBLEM.start, 1e-2)


def test_capturable_with_a_tensor_rate_and_steps_compared_on_the_device():
    options: dict[str, Any] = {"capturable": True, "rho": 0.3, "rho_start": 3, "torque_steps": 4}
    optimizer = compare("AdaTAMW", lr=torch.tensor(1e-2), **options)
    engine = optimizer._engine
    rates = engine._tables._made["refs"][0][1::2]
    assert rates == [group["lr"].data_ptr() for group in optimizer.param_groups]  # read where it is, at every replay


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not str(func).startswith("profiler."):
            self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tensors", [3, 40])
def test_launches(tensors, monkeypatch):
    """Whatever the number of tensors: a step is one memset and one kernel, the way to θ̃ and the way back one kernel."""
    params = [torch.nn.Parameter(torch.randn(n + 1)) for n in range(tensors)]
    optimizer = cls("AdaTAMW")([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}], rho=0.1, fused=True)
    launched: list[str] = []
    for kernel in ("step_kernel", "move_kernel", "square_kernel"):
        real = getattr(fused_cuda.kernels, kernel).run

        def run(*args, real=real, kernel=kernel, **kwargs):
            launched.append(kernel)
            with _disable_current_modes():  # the interpreter's own operations are no launches
                return real(*args, **kwargs)

        monkeypatch.setattr(getattr(fused_cuda.kernels, kernel), "run", run)
    for p in params:
        p.grad = torch.randn_like(p)
    for step in range(4):
        launched.clear()
        with torch.no_grad(), Counter() as there:
            optimizer.train()
        with torch.no_grad(), Counter() as counter:
            optimizer.step()
        if step > 1:  # the tables are made by then
            assert launched == ["move_kernel", "step_kernel"]
            assert (there.ops, counter.ops) == ([], ["aten.zero_.default"])  # no copies, no questions
    launched.clear()
    optimizer.train()
    optimizer.eval()
    assert launched == ["move_kernel"] * 2


def test_programs_side_by_side(monkeypatch):
    """Three threads take tickets of the same launch and wait for each other: no deadlock, the same bits."""
    problem = Problem(steps=4, shapes=((90,), (7,), (40, 3), (33,)))
    groups = [([0, 1, 2, 3], {})]
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *args: None)  # CPU tensors: no copies

    def run(alignment: str) -> list[bytes]:
        options: dict[str, Any] = {"groups": groups, "alignment": alignment, "rho": 0.2, "rescale": True}
        params, optimizer = run_fused("AdaTAMW", problem, **options)
        return [bits(p) for p in params] + [*state_bits(optimizer).values()]

    alone = {alignment: run(alignment) for alignment in ("tensor", "global")}
    real = fused_cuda.kernels.step_kernel.run
    shares: list[int] = []

    def threads(*args, grid, **kwargs):
        failures: list[BaseException] = []

        def program(number: int) -> None:
            try:
                real(*args, grid=(1,), **kwargs)
            except BaseException as error:  # noqa: BLE001 - handed to the test's thread
                failures.append(error)

        pool = [threading.Thread(target=program, args=(i,), daemon=True) for i in range(3)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join(60)
        assert not failures and not any(thread.is_alive() for thread in pool)
        shares.append(1)

    monkeypatch.setattr(fused_cuda.kernels.step_kernel, "run", threads)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for alignment, expected in alone.items():
            assert run(alignment) == expected
    finally:
        sys.setswitchinterval(interval)
    assert len(shares) == 8


def refused(params: list[Any], **options: Any) -> str:
    group = {"differentiable": False, "kahan_sum": False, "params": params, **options}
    reason = fused_cuda.refusal([group], "exp_avg")
    assert reason is not None
    return reason


def test_refusals():
    good = torch.nn.Parameter(torch.zeros(3))
    assert fused_cuda.refusal([{"differentiable": False, "kahan_sum": False, "params": [good]}], "exp_avg") is None
    assert "float64" in refused([good, torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))])
    assert "complex64" in refused([torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))])
    assert "kahan_sum" in refused([torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))], kahan_sum=True)
    assert fused_cuda.refusal([{"differentiable": False, "kahan_sum": True, "params": [good]}], "exp_avg") is None
    assert "gaps" in refused([torch.nn.Parameter(torch.zeros(4, 4)[:, :2])])
    assert "Odd" in refused([type("Odd", (torch.nn.Parameter,), {})(torch.zeros(3))])
    assert "autograd" in refused([good], differentiable=True)
    assert "interpreter" in refused([torch.nn.Parameter(torch.zeros(3, device="meta"))])
    assert "several devices" in refused([good, torch.nn.Parameter(torch.zeros(3, device="meta"))])


def test_a_copied_optimizer_has_its_own_memory():
    params, optimizer = run_fused("AdaTAMW", last=2, rho=0.2)
    before = [bits(p) for p in params]
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs = [p for group in other.param_groups for p in group["params"]]
        other.train()
        PROBLEM.set_gradients(2, theirs)
        other.step()
        assert [bits(p) for p in theirs] != before
        assert [bits(p) for p in params] == before


def test_torque_switched_on_later():
    """ŝ is made when it is first asked for, and the cosine then sees the m that is there."""
    for path in ({"fused": True}, LOOP):
        params, optimizer = run_tamft("TAM", PROBLEM, dtype=torch.float32, last=3, torque=False, gamma=0.0, **path)
        for group in optimizer.param_groups:
            group["torque"] = True
        PROBLEM.set_gradients(3, params)
        m, g = optimizer.state[params[4]]["momentum_buffer"].flatten(), params[4].grad.flatten()
        expected = float(torch.cosine_similarity(m, g, dim=0))
        optimizer.step()
        assert float(optimizer.state[params[4]]["alignment"]) == pytest.approx(expected, rel=1e-5)


assert set(TORQUE_NAMES) <= set(NAMES) and triton.__version__
