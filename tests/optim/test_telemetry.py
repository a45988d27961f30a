"""telemetry(): the numbers that go into a training log."""

import numpy as np
import pytest
import torch

from tests.optim.problem import NAMES, PATHS, TORQUE_NAMES, Problem, cls, flat, run_reference, run_tamft

PROBLEM = Problem(steps=6)
SPREAD = {f"{what}_{how}" for what in ("alignment", "damping") for how in ("mean", "std", "q10", "q50", "q90")}


@pytest.mark.parametrize("name", NAMES)
def test_empty_before_the_first_step(name):
    optimizer = cls(name)([torch.nn.Parameter(torch.ones(2))])
    assert optimizer.telemetry() == {}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_references(name, path):
    for rho in (0.0, 0.3):
        _, optimizer = run_tamft(name, PROBLEM, rho=rho, **PATHS[path])
        reference = run_reference(name, PROBLEM, rho=rho)
        got = optimizer.telemetry()
        assert all(type(value) is float for value in got.values())
        torque = SPREAD if name in TORQUE_NAMES else set()
        assert set(got) == torque | {"momentum_norm"} | ({"rho"} if rho else set())
        moments = [slot.m for slot in reference.slots]
        assert got["momentum_norm"] == pytest.approx(float(np.linalg.norm(flat(moments))), rel=1e-6)
        if rho:
            assert got["rho"] == pytest.approx(rho)
        if torque:
            s_hat = np.array([slot.s_hat for slot in reference.slots])
            for what, x in (("alignment", s_hat), ("damping", (1 + s_hat) / 2)):
                assert got[f"{what}_mean"] == pytest.approx(x.mean(), abs=1e-9)
                assert got[f"{what}_std"] in (pytest.approx(x.std()), pytest.approx(x.std(ddof=1)))
                for q in (10, 50, 90):
                    assert got[f"{what}_q{q}"] == pytest.approx(np.quantile(x, q / 100), abs=1e-9)
        assert optimizer.telemetry() == got  # asking changes nothing


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_is_enough(name):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = cls(name)([p])
    p.grad = torch.ones(2)
    optimizer.step()
    values = optimizer.telemetry()
    assert all(np.isfinite(value) for value in values.values())
    if name in TORQUE_NAMES:
        assert values["alignment_std"] == 0 and values["damping_mean"] == 0.5


@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_without_torque_there_is_no_alignment(name):
    _, optimizer = run_tamft(name, PROBLEM, torque=False)
    assert set(optimizer.telemetry()) == {"momentum_norm"}
