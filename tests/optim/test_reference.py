"""Every class x option x path against the float64 reference: tight in float64, on the line in float32."""

from typing import Any

import pytest
import torch

from tests.optim.cases import CASES, FEW, FEW_IDS, IDS
from tests.optim.problem import (
    LINE,
    NAMES,
    PATHS,
    TIGHT,
    TORQUE_NAMES,
    Problem,
    assert_follows,
    flat,
    learning_rate,
    run_reference,
    run_tamft,
)

PROBLEM = Problem()
LIMIT = {torch.float64: TIGHT, torch.float32: LINE}


def problem_of(options: dict[str, Any], steps: int) -> Problem:
    """Concave where the options say `maximize`: what it can climb without running away."""
    return Problem(steps=steps, concave=(0, 1, 2, 3, 4) if options.get("maximize") else ())


@pytest.mark.parametrize("path", ["loop", "foreach", "fused"])
@pytest.mark.parametrize(("label", "name", "options"), CASES, ids=IDS)
def test_weights_follow_the_reference_in_float32(label, name, options, path):
    problem, options = problem_of(options, 50), {"lr": learning_rate(name), **options}
    expected = run_reference(name, problem, **options)
    params, optimizer = run_tamft(name, problem, dtype=torch.float32, **options, **PATHS[path])
    assert optimizer.backend == path
    assert_follows(params, expected.weights, problem.start, LINE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("label", "name", "options"), CASES, ids=IDS)
def test_weights_and_state_follow_the_reference_in_float64(label, name, options, path):
    problem, options = problem_of(options, 20), {"lr": learning_rate(name), **options}
    expected = run_reference(name, problem, **options)
    params, optimizer = run_tamft(name, problem, **options, **PATHS[path])
    assert_follows(params, expected.weights, problem.start, TIGHT)

    moment = "exp_avg" if expected.adam else "momentum_buffer"
    torque = options.get("torque", name in TORQUE_NAMES)
    for p, slot in zip(params, expected.slots, strict=True):
        state = optimizer.state[p]
        assert float(state["step"]) == slot.t == problem.steps
        torch.testing.assert_close(state[moment], torch.tensor(slot.m), rtol=1e-10, atol=1e-12)
        if expected.adam:
            torch.testing.assert_close(state["exp_avg_sq"], torch.tensor(slot.v), rtol=1e-10, atol=1e-12)
        scalars = {"alignment": slot.s_hat} if torque else {}
        if torque and options.get("rescale"):
            scalars["damping"] = slot.damping
        assert set(state) == {"step", moment, *scalars} | ({"exp_avg_sq"} if expected.adam else set())
        for key, value in scalars.items():
            assert state[key].shape == () and state[key].dtype == torch.float64
            assert float(state[key]) == pytest.approx(value, abs=1e-10)


# Different numbers in every group: each must be read from its own group.
def unequal(name: str) -> list[tuple[list[int], dict[str, Any]]]:
    lr = learning_rate(name)
    shape = {"betas": (0.5, 0.9), "eps": 1e-3} if name not in ("TAM", "MSAM") else {"momentum": 0.5}
    torque = {"gamma": 0.3, "torque_eps": 0.05} if name in TORQUE_NAMES else {}
    return [
        ([0], {"lr": 2 * lr, "weight_decay": 0.1, "rho": 0.4}),
        ([1, 2], {"lr": lr, "rho": 0.0, **shape, **torque}),
        ([3, 4], {"lr": lr / 2, "weight_decay": 0.0, "rho": 0.1, "maximize": True}),
    ]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)
def test_groups_with_different_numbers(name, options, path):
    problem = Problem(concave=(3, 4))
    expected = run_reference(name, problem, groups=unequal(name), **options)
    for dtype, limit in LIMIT.items():
        params, _ = run_tamft(name, problem, dtype=dtype, drive="train", groups=unequal(name), **options, **PATHS[path])
        assert_follows(params, expected.weights, problem.start, limit)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_train_backward_step_equals_the_closure_bitwise(name, path):
    options = {"lr": learning_rate(name), "rho": 0.3, "weight_decay": 0.1}
    by_closure, _ = run_tamft(name, PROBLEM, dtype=torch.float32, drive="closure", **options, **PATHS[path])
    by_train, _ = run_tamft(name, PROBLEM, dtype=torch.float32, drive="train", **options, **PATHS[path])
    assert all(torch.equal(a, b) for a, b in zip(by_closure, by_train, strict=True))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)
def test_gradients_that_come_and_go(name, options, path):
    """A parameter without a gradient keeps its state; one that starts late has step 1 when the others have 6."""
    problem = Problem(missing=lambda step, i: (i == 0 and step % 3 == 1) or (i == 1 and step < 5) or i == 2)
    options = {"lr": learning_rate(name), "weight_decay": 0.1, **options}
    expected = run_reference(name, problem, **options)
    for dtype, limit in LIMIT.items():
        for drive in ("closure", "train"):
            params, optimizer = run_tamft(name, problem, dtype=dtype, drive=drive, **options, **PATHS[path])
            assert_follows(params, expected.weights, problem.start, limit)
            assert torch.equal(params[2], torch.tensor(problem.start[2], dtype=dtype))
            assert [float(optimizer.state[params[i]]["step"]) for i in (0, 1, 4)] == [33, 45, 50]


@pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)
def test_the_paths_meet_and_repeat_themselves_bitwise(name, options):
    options = {"lr": learning_rate(name), "weight_decay": 0.05, **options}
    runs = {}
    for path, flags in PATHS.items():
        runs[path], _ = run_tamft(name, PROBLEM, dtype=torch.float32, **options, **flags)
        again, _ = run_tamft(name, PROBLEM, dtype=torch.float32, **options, **flags)
        assert (flat(runs[path]) == flat(again)).all()
    for path in ("foreach", "fused", "loop-capturable", "foreach-capturable"):
        assert_follows(runs[path], runs["loop"], PROBLEM.start, LINE)
