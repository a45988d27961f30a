"""The fused path on a CPU: its own ways of being wrong. That it obeys the laws is tested where the laws are."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tamft.optim import cpu_kernels
from tests.optim.cases import CASES, FEW, FEW_IDS, IDS
from tests.optim.problem import (
    ADAM_NAMES,
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
    one_step,
    run_tamft,
)

PROBLEM = Problem(missing=lambda step, i: i == 1 and step < 3)
few = pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)


def moment(name: str) -> str:
    return "exp_avg" if name in ADAM_NAMES else "momentum_buffer"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("label", "name", "options"), CASES, ids=IDS)
def test_tensors_larger_than_a_block(label, name, options, dtype, monkeypatch):
    """Dot products in pieces of 4, updates in pieces of 5: every tensor of the problem is cut, as large ones are."""
    options = {"lr": learning_rate(name), "allow_low_precision": True, **options}
    expected, _ = run_tamft(name, PROBLEM, dtype=dtype, last=12, foreach=False, **options)
    monkeypatch.setattr(cpu_kernels, "_DOT", 4)
    monkeypatch.setattr(cpu_kernels, "BLOCK", 5)
    got, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=12, fused=True, **options)
    assert optimizer.backend == "fused"
    # A weight near a tie rounds to either side in bf16: as far apart as two of its neighbours, not further.
    assert_follows(got, expected, PROBLEM.start, LINE if dtype == torch.float32 else 5e-2)


@few
def test_whoever_looks_at_the_state_sees_m_and_changes_nothing(name, options):
    options = {"lr": learning_rate(name), "weight_decay": 0.05, **options}
    loop, reference = run_tamft(name, PROBLEM, dtype=torch.float64, foreach=False, **options)
    params = PROBLEM.parameters(torch.float64)
    optimizer = cls(name)(groups_of(params, GROUPS), fused=True, **options)
    for step in range(PROBLEM.steps):
        one_step(optimizer, PROBLEM, params, step, "closure")
        for state in optimizer.state.values():
            assert state[moment(name)].isfinite().all()
    assert_follows(params, loop, PROBLEM.start, 1e-10)
    for p, q in zip(params, loop, strict=True):
        for key, value in reference.state[q].items():
            torch.testing.assert_close(optimizer.state[p][key], value, rtol=1e-9, atol=1e-12)


@few
def test_telemetry_neither_changes_the_run_nor_sees_another_m(name, options):
    options = {"lr": learning_rate(name), **options}
    quiet, _ = run_tamft(name, PROBLEM, dtype=torch.float32, last=9, fused=True, **options)
    params = PROBLEM.parameters(torch.float32)
    watched = cls(name)(groups_of(params, GROUPS), fused=True, **options)
    for step in range(9):
        one_step(watched, PROBLEM, params, step, "closure")
        seen = watched.telemetry()
    assert [bits(p) for p in params] == [bits(p) for p in quiet]
    m = [state[moment(name)].double().reshape(-1) for state in watched.state.values()]
    assert seen["momentum_norm"] == pytest.approx(torch.cat(m).norm().item(), rel=1e-6)


@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_a_moment_changed_by_others_is_noticed(name):
    params, optimizer = run_tamft(name, PROBLEM, dtype=torch.float32, last=5, fused=True, gamma=0.0, lr=1e-2)
    for state in optimizer.state.values():
        state[moment(name)].zero_()
    one_step(optimizer, PROBLEM, params, 5, "closure")
    assert [state["alignment"].item() for state in optimizer.state.values()] == [0.0] * 5  # s = 0 where m = 0
    for state in optimizer.state.values():
        state[moment(name)] = torch.full_like(state[moment(name)], 1e20)  # replaced, and beyond float32's squares
    for p in params:
        p.grad = torch.full_like(p, 1e-25)
    optimizer.step()
    cosines = [optimizer.state[p]["alignment"].item() for p in params if p.numel()]
    assert cosines == pytest.approx([1.0] * 4, abs=1e-6)


@pytest.mark.parametrize("name", ADAM_NAMES)
def test_a_second_moment_replaced_behind_our_back_is_noticed(name):
    """Through a state that was taken before: nobody asks the optimizer again."""
    ends = []
    for flags in ({"foreach": False}, {"fused": True}):
        params, optimizer = run_tamft(name, PROBLEM, dtype=torch.float32, last=5, lr=1e-2, **flags)
        states = list(optimizer.state.values())
        one_step(optimizer, PROBLEM, params, 5, "closure")
        for state in states:
            state["exp_avg_sq"] = torch.full_like(state["exp_avg_sq"], 9.0)
        one_step(optimizer, PROBLEM, params, 6, "closure")
        ends.append(params)
        assert all(state["exp_avg_sq"].min() > 8 for state in states if state["exp_avg_sq"].numel())
    assert_follows(ends[1], ends[0], PROBLEM.start, LINE)


@pytest.mark.parametrize("name", ["AdaTAM", "AdaTAMW"])
@pytest.mark.parametrize("options", [{}, {"first_moment": "sum"}, {"rescale": True}, {"rho": 0.2}], ids=str)
def test_an_opposed_gradient_fades_without_a_jump(name, options):
    """gamma=0 and one number: s = ±1, so the factor falls to ε: far less than β1' can express in the kernel."""
    runs = []
    for flags in ({"foreach": False}, {"fused": True}):
        p = torch.nn.Parameter(torch.tensor(3.0))
        optimizer = cls(name)([p], lr=1e-2, gamma=0.0, **options, **flags)
        for step in range(30):
            optimizer.train()
            p.grad = torch.tensor(-1.0 if step % 3 == 2 else 0.7)
            optimizer.step()
        runs.append((p.item(), *(optimizer.state[p][key].item() for key in ("exp_avg", "exp_avg_sq", "alignment"))))
    assert runs[1] == pytest.approx(runs[0], rel=1e-5, abs=1e-7)


def scaled(name: str, *, inf_at: int, **options: Any) -> tuple[list[Any], Any, list[float]]:
    """Six steps under a GradScaler; the gradient of step `inf_at` is not finite. The weights after every step too."""
    params = PROBLEM.parameters(torch.float32)
    optimizer = cls(name)(groups_of(params, GROUPS), lr=learning_rate(name), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=100)
    norms = []
    for step in range(6):
        optimizer.train()
        PROBLEM.set_gradients(step, params)
        for p in params:
            if p.grad is not None:
                p.grad *= scaler.get_scale() if step else scaler.scale(torch.ones(()))
        if step == inf_at:
            params[0].grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.eval()  # what a skipped step leaves where the scaler does the skipping
        norms.append(float(sum(p.detach().double().square().sum() for p in params)))
    return params, optimizer, norms


@few
def test_grad_scaler_hands_over_and_a_skipped_step_changes_nothing(name, options):
    """torch's contract with fused optimizers: `grad_scale` and `found_inf` are ours to honour."""
    got, optimizer, norms = scaled(name, inf_at=3, fused=True, **options)
    assert optimizer._step_supports_amp_scaling
    expected, reference, _ = scaled(name, inf_at=3, foreach=False, **options)
    assert norms[3] == pytest.approx(norms[2], rel=1e-6)  # back at the real weights, not updated
    assert norms[4] != pytest.approx(norms[3], rel=1e-6)
    assert_follows(got, expected, PROBLEM.start, LINE)
    for p, q in zip(got, expected, strict=True):
        assert optimizer.state[p]["step"] == reference.state[q]["step"]
    assert not getattr(cls(name)([torch.nn.Parameter(torch.ones(2))]), "_step_supports_amp_scaling", False)


@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_one_infinite_gradient_shows_in_the_shared_cosine(name):
    ends = []
    for flags in ({"foreach": False}, {"fused": True}):
        params = [torch.nn.Parameter(torch.ones(n)) for n in (5, 8)]
        optimizer = cls(name)(params, lr=1e-2, alignment="global", **flags)
        for step in range(3):
            for p in params:
                p.grad = torch.ones_like(p)
            if step == 1:
                params[0].grad[2] = torch.inf
            optimizer.step()
        ends.append([optimizer.state[p]["alignment"].isnan().item() for p in params])
    assert ends == [[True, True]] * 2


@few
def test_telemetry_after_a_checkpoint_changes_nothing(name, options):
    ends = []
    for watched in (False, True):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls(name)(groups_of(params, GROUPS), lr=learning_rate(name), fused=True, **options)
        for step in range(8):
            one_step(optimizer, PROBLEM, params, step, "closure")
            optimizer.state_dict()
            if watched:
                optimizer.telemetry()
        ends.append([bits(p) for p in params])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_no_number_shows(name, bad):
    """As on the other paths: whoever watches for NaN finds it."""
    ends = []
    for flags in ({"foreach": False}, {"fused": True}):
        p = torch.nn.Parameter(torch.ones(100))
        optimizer = cls(name)([p], lr=1e-2, **flags)
        for step in range(3):
            optimizer.train()
            p.grad = torch.ones(100)
            if step == 1:
                p.grad[7] = bad
            optimizer.step()
        ends.append(p.detach())
    assert ends[0].isnan().any()
    assert torch.equal(ends[0].isnan(), ends[1].isnan())


class Allocations(TorchDispatchMode):
    """The largest storage that an operation made anew, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}, {"rho": 0.2}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_memory_is_that_of_torch_and_nothing_larger_than_a_tensor_passes_by(name, options):
    params = [torch.nn.Parameter(torch.randn(n)) for n in (3000, 50, 7)]
    optimizer = cls(name)(params, fused=True, **options)
    for step in range(3):
        with Allocations() as seen:
            optimizer.train()
            for p in params:
                p.grad = p.detach() * 0.1 + step
            seen.largest = 0
            optimizer.step()
            optimizer.train()
            optimizer.eval()
        assert seen.largest <= 4 * 3000
    for p, state in optimizer.state.items():
        tensors = [x for x in state.values() if x.shape == p.shape]
        assert sum(x.nbytes for x in tensors) == (8 if name in ADAM_NAMES else 4) * p.numel()
        assert len(state) - len(tensors) <= 6


def test_the_allocation_counter_counts():
    with Allocations() as seen:
        torch.ones(10) + torch.ones(10)
    assert seen.largest == 40


@pytest.mark.parametrize("name", NAMES)
def test_any_dense_memory_order_of_weights_and_gradients(name):
    """channels_last weights, transposed gradients: the same numbers as with plain ones."""
    generator = torch.Generator().manual_seed(0)
    start, slope = (torch.randn(4, 3, 5, 2, generator=generator) for _ in range(2))
    ends = []
    for order in (torch.contiguous_format, torch.channels_last):
        p = torch.nn.Parameter(start.clone(memory_format=order))
        optimizer = cls(name)([p], lr=1e-2, fused=True)
        for step in range(4):
            optimizer.train()
            g = p.detach() * slope + step
            p.grad = g if step % 2 else g.contiguous()  # as the weights lie, or not
            optimizer.step()
        assert optimizer.state[p][moment(name)].stride() == p.stride()
        ends.append(p.detach())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-6)
