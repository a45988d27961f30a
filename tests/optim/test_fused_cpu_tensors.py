"""The fused path on a CPU works on memory: what others do to the tensors before, between and after its steps."""

import weakref
from typing import Any

import pytest
import torch

from tests.optim.problem import NAMES, cls


def driven(name: str, flags: dict[str, bool], change: Any, shape: tuple[int, ...] = (6, 3, 4, 5)) -> tuple[Any, Any]:
    """Eight steps; after the fourth `change(p, state)`, with a state that was taken after the second."""
    p = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    optimizer = cls(name)([p], lr=1e-2, rho=0.1, **flags)
    for step in range(8):
        optimizer.train()
        p.grad = (p.detach() * 0.3 + torch.sin(torch.arange(p.numel()) + step).view(shape)).to(p.dtype)
        optimizer.step()
        if step == 1:
            state = dict(optimizer.state)[p]
        elif step == 3:
            change(p, state)
    return p.detach(), optimizer


CHANGES: dict[str, Any] = {
    "m's memory": lambda p, state: [setattr(x, "data", x.data * 1.0) for x in state.values() if x.dim()],
    "weights' order": lambda p, state: setattr(p, "data", p.data.contiguous(memory_format=torch.channels_last)),
    "m in float64": lambda p, state: state.update({k: x.double() for k, x in state.items() if x.dim()}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_what_others_do_to_the_tensors_does_not_mix_them_up(name, change):
    expected, _ = driven(name, {"foreach": False}, CHANGES[change])
    got, _ = driven(name, {"fused": True}, CHANGES[change])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_shape_is_refused(name):
    def change(p: Any, state: Any) -> None:
        for key, x in state.items():
            if x.dim():
                state[key] = x[:4].clone()

    with pytest.raises(RuntimeError, match=r"\(4, 3, 4, 5\), and its parameter is \(6, 3, 4, 5\)"):
        driven(name, {"fused": True}, change)


@pytest.mark.parametrize("name", NAMES)
def test_a_lazily_conjugated_gradient(name):
    ends = []
    for lazy in (True, False):
        p = torch.nn.Parameter(torch.ones(4, dtype=torch.complex64))
        optimizer = cls(name)([p], lr=1e-2, fused=True)
        for step in range(3):
            optimizer.train()
            g = torch.full((4,), 1.0 + 1j * (step + 1)).conj()
            p.grad = g if lazy else g.resolve_conj()
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(ends[1], ends[0])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_let_go(name):
    """`zero_grad()` frees their memory, before the next forward pass."""
    p = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = cls(name)([p], lr=1e-2, fused=True)
    for _ in range(2):
        optimizer.train()
        p.grad = torch.ones(4, 3)
        gradient = weakref.ref(p.grad)
        optimizer.step()
        optimizer.zero_grad()
        assert gradient() is None


@pytest.mark.parametrize("name", NAMES)
def test_autograd_notices_that_the_weights_changed(name):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = cls(name)([p], lr=1e-2, fused=True)
    for _ in range(2):
        optimizer.train()
        p.grad = torch.ones(3)
        optimizer.step()
    optimizer.train()
    loss = (p * p).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
