"""bf16 and fp16 weights: float32 state, and what a perturbation of them takes."""

from typing import Any

import pytest
import torch

from tests.optim.problem import NAMES, PATHS, TORQUE_NAMES, Problem, bits, cls, learning_rate, run_tamft

LOW = [torch.bfloat16, torch.float16]
PROBLEM = Problem(steps=10)
each_dtype = pytest.mark.parametrize("dtype", LOW, ids=["bfloat16", "float16"])


@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_rho_with_low_precision_weights_names_the_cure(name, dtype):
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    with pytest.raises(ValueError, match=r"(?s)rho.*0\.25.*float32 weights.*bf16.*allow_low_precision"):
        cls(name)([p], rho=0.25)
    optimizer = cls(name)([torch.nn.Parameter(torch.ones(3))], rho=0.25)
    with pytest.raises(ValueError, match="float32 weights"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1
    cls(name)([p], rho=0.0)  # without perturbation they are welcome
    optimizer.add_param_group({"params": [p], "rho": 0.0})


@each_dtype
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_state_is_float32(name, path, dtype):
    options = {"rescale": True} if name in TORQUE_NAMES else {}
    _, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=3, rho=0.0, **options, **PATHS[path])
    for state in optimizer.state.values():
        assert {key: value.dtype for key, value in state.items()} == dict.fromkeys(state, torch.float32)


@each_dtype
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_follow_float32_to_rounding(name, path, dtype):
    """One step from the same 16-bit weights and gradients: the float32 update, rounded once."""
    torch.manual_seed(0)
    start, gradient = torch.randn(50).to(dtype), torch.randn(50).to(dtype)
    results = []
    for as_dtype in (dtype, torch.float32):
        p = torch.nn.Parameter(start.to(as_dtype, copy=True))
        optimizer = cls(name)([p], lr=0.1, weight_decay=0.1, **PATHS[path], rho=0.0)
        p.grad = gradient.to(as_dtype)
        optimizer.step()
        results.append(p.detach())
    assert not torch.equal(results[0], start)
    torch.testing.assert_close(results[0], results[1].to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)


@each_dtype
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_an_exact_clean_copy_waits_while_moved(name, path, dtype):
    options: dict[str, Any] = {"rho": 0.3, "allow_low_precision": True, "lr": learning_rate(name), **PATHS[path]}
    params, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=4, **options)
    clean = [bits(p) for p in params]
    optimizer.train()
    assert [bits(p) for p in params] != clean
    for p, expected in zip(params, clean, strict=True):
        copied = optimizer.state[p]["clean"]
        assert copied.dtype == dtype and bits(copied) == expected
    optimizer.eval()
    assert [bits(p) for p in params] == clean
    for _ in range(20):  # arithmetic would drift by now
        optimizer.train()
        optimizer.train()
        optimizer.eval()
    assert [bits(p) for p in params] == clean


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_starts_from_the_exact_clean_weights(name, path):
    """lr = 0 and no decay: whatever the perturbation did, step() restores every bit."""
    options: dict[str, Any] = {"rho": 0.3, "allow_low_precision": True, "lr": 0.0, "weight_decay": 0.0, **PATHS[path]}
    for drive in ("closure", "train"):
        params, _ = run_tamft(name, PROBLEM, dtype=torch.bfloat16, drive=drive, **options)
        assert [bits(p) for p in params] == [bits(p) for p in PROBLEM.parameters(torch.bfloat16)]


@pytest.mark.parametrize("name", NAMES)
def test_the_applied_cosine_is_reported_and_right(name):
    torch.manual_seed(0)
    for rho, low, high in ((1e-3, 0.0, 0.9), (30.0, 0.999, 1.0)):
        p = torch.nn.Parameter(torch.randn(400).bfloat16())
        optimizer = cls(name)([p], rho=rho, allow_low_precision=True, lr=1e-3)
        p.grad = torch.randn(400).bfloat16()
        optimizer.step()
        clean = p.detach().double()
        optimizer.train()
        moment = optimizer.state[p]["exp_avg" if name not in ("TAM", "MSAM") else "momentum_buffer"].double()
        applied = clean - p.detach().double()
        expected = float(applied @ moment / applied.norm() / moment.norm()) if applied.any() else 0.0
        assert low <= expected <= high  # a small rho is mostly lost to rounding, a large one is not
        assert optimizer.telemetry()["applied_cosine"] == pytest.approx(expected, abs=1e-5)
    params, optimizer = run_tamft(name, PROBLEM, dtype=torch.float32, last=3, rho=0.1)
    optimizer.train()
    assert "applied_cosine" not in optimizer.telemetry() and "clean" not in optimizer.state[params[0]]


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_parameters_in_one_group(name):
    """A float32 and a bf16 tensor side by side, each in its own precision, on both paths alike."""
    results = []
    for path in PATHS.values():
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(5).bfloat16())]
        optimizer = cls(name)(params, lr=0.1, rho=0.5, allow_low_precision=True, **path)
        for _ in range(4):
            optimizer.train()
            for p in params:
                p.grad = (p.detach() * 0.5 + 1).to(p.dtype)
            optimizer.step()
        assert [p.dtype for p in params] == [torch.float32, torch.bfloat16]
        results.append([p.detach().float() for p in params])
    for other in results[1:]:
        torch.testing.assert_close(other[0], results[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other[1], results[0][1], rtol=1e-2, atol=1e-2)
