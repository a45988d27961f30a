"""With the torque off and rho = 0 the classes are torch's SGD, Adam and AdamW, bit for bit, path by path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from tests.optim.problem import (
    GROUPS,
    NAMES,
    TORQUE_NAMES,
    Problem,
    apart,
    assert_follows,
    cls,
    groups_of,
    one_step,
    state_bits,
)

PROBLEM = Problem(steps=30, missing=lambda step, i: i == 1 and step in (3, 4))
TWIN = {
    "TAM": torch.optim.SGD,
    "MSAM": torch.optim.SGD,
    "AdaTAM": torch.optim.Adam,
    "AdaTAMW": torch.optim.AdamW,
    "AdamWMSAM": torch.optim.AdamW,
}
FLAGS: dict[str, dict[str, bool]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def off(name: str) -> dict[str, Any]:
    return {"torque": False, "rho": 0.0} if name in TORQUE_NAMES else {"rho": 0.0}


def run(
    optimizer_cls: Any,
    dtype: torch.dtype,
    *,
    schedule: Callable[[Any], Any] | None = None,
    groups: Any = GROUPS,
    problem: Problem = PROBLEM,
    **options: Any,
) -> tuple[list[Any], Any]:
    params = problem.parameters(dtype)
    optimizer = optimizer_cls(groups_of(params, groups), **options)
    scheduler = schedule(optimizer) if schedule else None
    for step in range(problem.steps):
        one_step(optimizer, problem, params, step, "step")
        if scheduler is not None:
            scheduler.step()
    return params, optimizer


def assert_twins(name: str, dtype: torch.dtype, ours: dict[str, Any], **both: Any) -> None:
    momentum = {} if name not in ("TAM", "MSAM") or "momentum" in both else {"momentum": 0.9}
    got, optimizer = run(cls(name), dtype, **ours, **both)
    expected, twin = run(TWIN[name], dtype, **momentum, **both)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    mine = state_bits(optimizer)
    for key, value in state_bits(twin).items():
        if value != b"None":
            assert mine[key] == value, f"state {key} differs from torch's"


COMMON: dict[str, dict[str, Any]] = {
    "default": {"lr": 1e-2},
    "decay": {"lr": 1e-2, "weight_decay": 0.1},
    "maximize": {"lr": 1e-2, "weight_decay": 0.1, "maximize": True},
    "tiny decay, lr 0": {"lr": 0.0, "weight_decay": 1e-9},
}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {"momentum=0": {"momentum": 0.0, "lr": 1e-2}, "momentum=0.3": {"momentum": 0.3, "weight_decay": 0.1}},
    "Adam": {"beta1=0": {"betas": (0.0, 0.9)}, "betas": {"betas": (0.7, 0.8), "eps": 1e-4}, "eps=0": {"eps": 0.0}},
}
TWINS = [
    (name, options)
    for name in NAMES
    for options in (COMMON | OWN["SGD" if TWIN[name] is torch.optim.SGD else "Adam"]).values()
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", FLAGS)
@pytest.mark.parametrize(("name", "options"), TWINS, ids=[f"{n}-{o}" for n, o in TWINS])
def test_bitwise_torch(name, options, path, dtype):
    assert_twins(name, dtype, off(name), **FLAGS[path], **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", FLAGS)
@pytest.mark.parametrize("name", NAMES)
def test_bitwise_torch_with_unequal_groups(name, path, dtype):
    own = {"momentum": 0.3} if TWIN[name] is torch.optim.SGD else {"betas": (0.5, 0.7), "eps": 1e-5}
    groups = [([0], {"lr": 0.05, "weight_decay": 0.3}), ([1, 2], own), ([3, 4], {"weight_decay": 0.0, "lr": 1e-4})]
    assert_twins(name, dtype, off(name), **FLAGS[path], groups=groups, lr=1e-2, weight_decay=0.01)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=20),
    "warm-up": lambda o: schedulers.LinearLR(o, start_factor=0.1, total_iters=10),
    "lambda per group": lambda o: schedulers.LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 0.9**t]),
    # OneCycle also moves `momentum` or `betas[0]` in the groups: the update must read them there at every step
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=0.05, total_steps=40),
}


@pytest.mark.parametrize("path", FLAGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
def test_bitwise_torch_under_schedulers(name, schedule, path):
    for dtype in (torch.float32, torch.float64):
        assert_twins(name, dtype, off(name), **FLAGS[path], lr=1e-2, schedule=SCHEDULES[schedule], weight_decay=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_bitwise_torch_with_a_tensor_learning_rate(name):
    """torch divides a tensor rate in float32; so do we, although the number itself would be more exact."""
    for dtype in (torch.float32, torch.float64):
        assert_twins(name, dtype, off(name), foreach=False, lr=torch.tensor(0.01), weight_decay=0.1)


@pytest.mark.parametrize("path", FLAGS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_without_torque_its_options_are_unused(name, path):
    unused = {"gamma": 0.1, "torque_eps": 0.5, "alignment": "global", "torque_steps": 3, "rescale": True}
    assert_twins(name, torch.float32, off(name) | unused, **FLAGS[path], lr=1e-2, weight_decay=0.1)


# gamma = 1: ŝ ≡ 0 and d ≡ ½, so the torque is a learning-rate change and nothing else.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", FLAGS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_frozen_torque_is_torch_at_half_the_rate(name, path, dtype):
    problem, eta, decay = Problem(), 1e-2, 0.1
    decoupled = name == "AdaTAMW"
    momentum = {"momentum": 0.9} if name == "TAM" else {}
    both = {**FLAGS[path], "problem": problem}
    expected, _ = run(TWIN[name], dtype, lr=eta, weight_decay=decay, **momentum, **both)
    frozen, _ = run(
        cls(name),
        dtype,
        gamma=1.0,
        torque_eps=0.0,
        lr=2 * eta,
        weight_decay=decay / 2 if decoupled else decay,
        **both,
    )
    # with rescale the constant factor cancels: same rate, same decay
    rescaled, _ = run(cls(name), dtype, gamma=1.0, rescale=True, lr=eta, weight_decay=decay, **both)
    limit = 1e-12 if dtype == torch.float64 else 2e-6
    assert_follows(frozen, expected, problem.start, limit)
    assert_follows(rescaled, expected, problem.start, limit)
    plain, _ = run(cls(name), dtype, gamma=1.0, torque_eps=0.0, lr=eta, weight_decay=decay, **both)
    assert apart(plain, expected, problem.start) > 0.1  # the law above is not vacuous


@pytest.mark.parametrize("path", FLAGS)
@pytest.mark.parametrize("name", ["AdaTAM", "AdaTAMW"])
def test_transferred_rate_of_the_sum_form_meets_the_ema_form(name, path):
    """At gamma = 1 "sum" is "ema" at (1 - β1) times the rate, but for Adam's bias corrections (gone at late steps)."""
    import tamft

    problem = Problem(steps=400, noise=0.1)
    both = {**FLAGS[path], "problem": problem, "gamma": 1.0, "weight_decay": 0.0}
    both |= {"betas": (0.9, 0.95)}
    ema, _ = run(cls(name), torch.float64, lr=tamft.transfer_lr(1e-2), **both)
    summed, _ = run(
        cls(name), torch.float64, first_moment="sum", lr=tamft.transfer_lr(1e-2, first_moment="sum"), **both
    )
    assert apart(summed, ema, problem.start) < 0.05
