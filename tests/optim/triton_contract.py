"""What the CUDA path keeps besides the maths: skipped steps, the way to θ̃ and back, saved states, launches, refusals.

Run by `test_triton.py`, in Triton's interpreter, on CPU tensors.
"""

import copy
import pickle
import sys
import threading
from typing import Any

import pytest
import torch
import triton.runtime.interpreter as interpreter
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tamft.optim import fused_cuda
from tests.optim.interpreted import LOOP, PROBLEM, compare, run_fused
from tests.optim.problem import (
    GROUPS,
    NAMES,
    Problem,
    assert_follows,
    bits,
    cls,
    groups_of,
    learning_rate,
    run_tamft,
    state_bits,
)


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
