"""The torque's laws: what ŝ does, right cosines at every magnitude."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.optim.problem import NAMES, PATHS, TORQUE_NAMES, cls

SHAPES = ((4, 3), (6,))


def feed(name: str, gradients: list[list[torch.Tensor]], *, lr: float = 1e-3, **options: Any) -> Any:
    """Run given gradients (one list per step); returns the optimizer and its parameters."""
    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients[0]]
    optimizer = cls(name)(params, lr=lr, **options)
    for step in gradients:
        optimizer.train()
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return optimizer, params


def alignments(optimizer: Any) -> list[float]:
    return [float(state["alignment"]) for state in optimizer.state.values()]


def draw(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype) for s in SHAPES]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"alignment": "global"},
    {"rescale": True},
    {"rho": 0.1},
    {"alignment": "global", "rescale": True, "rho": 0.1},
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_a_constant_gradient_aligns(name, options, path):
    g = draw(0)
    optimizer, _ = feed(name, [g] * 90, **options, **PATHS[path])
    assert all(0.9998 < s <= 1 + 1e-6 for s in alignments(optimizer))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_an_alternating_gradient_opposes(name, options, path):
    g = draw(0)
    # With β1 = 0.9 Adam's m is 0.9·0.05 g - 0.1·0.45 g = 0 after two steps: rounding noise would decide what follows.
    beta = {} if name == "TAM" else {"betas": (0.8, 0.999)}
    for n in (2, 3, 10, 31):  # at the default gamma: with a short memory ŝ follows the alternation itself
        optimizer, _ = feed(name, [[(-1) ** t * x for x in g] for t in range(n)], **options, **beta, **PATHS[path])
        assert all(-1 - 1e-6 <= s < 0 for s in alignments(optimizer))
    assert all(s < -0.8 for s in alignments(optimizer))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_the_first_step_is_damped_by_a_half(name, path):
    """m_0 = 0, so s_1 = 0 and d_1 = ½."""
    g = draw(3)
    optimizer, params = feed(name, [g], lr=1.0, torque_eps=0.0, **PATHS[path])
    moment = "momentum_buffer" if name == "TAM" else "exp_avg"
    scale = 0.5 if name == "TAM" else 0.5 * (1 - 0.9)
    for p, x in zip(params, g, strict=True):
        torch.testing.assert_close(optimizer.state[p][moment], scale * x)
    assert alignments(optimizer) == [0.0, 0.0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_a_zero_gradient_has_cosine_zero(name, path):
    zero = [torch.zeros(s) for s in SHAPES]
    optimizer, params = feed(name, [zero, zero, draw(0), draw(0), zero], gamma=0.5, weight_decay=0.0, **PATHS[path])
    assert alignments(optimizer) == pytest.approx([0.25, 0.25], rel=1e-6)  # s = 0, 0, 0, 1, 0
    assert all(p.isfinite().all() for p in params)


def cos(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    # factored by the largest element, so that numpy's float64 cannot under- or overflow either
    x = np.concatenate([t.double().numpy().ravel() for t in a])
    y = np.concatenate([t.double().numpy().ravel() for t in b])
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


EXPONENTS = [-30, -26, -23, -20, -10, 0, 10, 18, 20, 25, 30]


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("alignment", ["tensor", "global"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_the_cosine_at_every_magnitude(name, path, alignment, exponent):
    """float32 dots and norms are 0 below 1e-23 and inf above 1e18; the cosine must be neither."""
    for dtype in (torch.float32, torch.float64):
        first, second = draw(1, 10.0**exponent, dtype), draw(2, 10.0**exponent, dtype)
        optimizer, params = feed(
            name, [first, second], lr=0.0, gamma=0.5, alignment=alignment, weight_decay=0.0, **PATHS[path]
        )
        if alignment == "global":
            expected = [cos(first, second)] * 2
        else:
            expected = [cos([a], [b]) for a, b in zip(first, second, strict=True)]
        assert alignments(optimizer) == pytest.approx([0.5 * s for s in expected], rel=3e-6)
        assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_the_cosine_of_unlike_magnitudes(name, path):
    """Momentum and gradient, and tensors side by side, may be 60 orders of magnitude apart."""
    a, b = draw(1), draw(2)
    first, second = [a[0] * 1e-30, a[1] * 1e30], [b[0] * 1e30, b[1] * 1e-30]
    optimizer, _ = feed(name, [first, second], lr=0.0, gamma=0.0, weight_decay=0.0, **PATHS[path])
    assert alignments(optimizer) == pytest.approx([cos([a[0]], [b[0]]), cos([a[1]], [b[1]])], rel=3e-6)
    # the whole model's cosine: momentum lives in tensor 1, the gradient in tensor 0
    optimizer, _ = feed(name, [first, second], lr=0.0, gamma=0.0, alignment="global", weight_decay=0.0, **PATHS[path])
    assert all(abs(s) < 1e-6 for s in alignments(optimizer))


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_the_perturbation_has_length_rho_at_every_magnitude(name, path, exponent):
    for dtype in (torch.float32, torch.float64):
        gradients = draw(1, 10.0**exponent, dtype)
        optimizer, params = feed(name, [gradients], lr=0.0, rho=0.25, weight_decay=0.0, **PATHS[path])
        optimizer.train()
        norm = math.sqrt(sum(float(p.detach().double().square().sum()) for p in params))
        assert norm == pytest.approx(0.25, rel=1e-6)
        for p, g in zip(params, gradients, strict=True):  # against the gradient's direction: m = c·g, c > 0
            assert cos([p.detach()], [g]) == pytest.approx(-1, abs=1e-6)
        optimizer.eval()
        assert all(p.abs().max() < 1e-7 for p in params)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_torque_steps_freezes_the_factor_without_a_jump(name, path):
    steps = [draw(seed) for seed in range(12)]
    free, _ = feed(name, steps[:5], gamma=0.5, **PATHS[path])
    frozen, _ = feed(name, steps, gamma=0.5, torque_steps=5, **PATHS[path])
    assert alignments(frozen) == alignments(free)
    assert all(s != 0 for s in alignments(free))


@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_global_means_one_number_for_all_groups(name):
    """One ŝ although the tensors sit in two groups, and not the tensors' own."""
    params = [torch.nn.Parameter(torch.zeros(s)) for s in SHAPES]
    for path in PATHS.values():
        optimizer = cls(name)([{"params": [params[0]]}, {"params": [params[1]]}], alignment="global", gamma=0.0, **path)
        for seed in (1, 2):
            for p, g in zip(params, draw(seed), strict=True):
                p.grad = g
            optimizer.step()
        assert alignments(optimizer) == pytest.approx([cos(draw(1), draw(2))] * 2, rel=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["TAM", "AdaTAM", "AdaTAMW"])
def test_rescale_without_torque_eps_survives_total_opposition(name, path):
    """d_t = 0 for ever: nothing moves and nothing is 0 / 0."""
    g = draw(0)
    own = {"momentum": 0.0} if name == "TAM" else {"betas": (0.0, 0.99)}
    steps = [[(-1) ** t * x for x in g] for t in range(4)]
    _, params = feed(name, steps, gamma=0.0, torque_eps=0.0, rescale=True, **own, **PATHS[path])
    assert all(p.isfinite().all() for p in params)
