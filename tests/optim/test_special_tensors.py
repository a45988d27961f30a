"""Sparse, complex, empty, 0-d, tied, frozen, non-contiguous tensors, and gradients that are missing."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.optim.cases import FEW, FEW_IDS
from tests.optim.problem import (
    NAMES,
    PATHS,
    TORQUE_NAMES,
    Problem,
    bits,
    cls,
    flat,
    learning_rate,
    run_tamft,
    state_bits,
)
from tests.reference.optimizers import Reference

few = pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)
each_path = pytest.mark.parametrize("path", PATHS)


@each_path
@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_are_refused_before_anything_changes(name, path):
    dense, sparse = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(4, 2))
    optimizer = cls(name)([dense, sparse], rho=0.0, **PATHS[path])
    dense.grad = torch.ones(3)
    sparse.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(RuntimeError, match=rf"{name}.*sparse"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(3)) and torch.equal(sparse, torch.ones(4, 2))
    assert state_bits(optimizer) == {}


@pytest.mark.parametrize("drive", ["closure", "train"])
@each_path
@few
def test_a_complex_parameter_is_two_real_ones(name, options, path, drive):
    options = {"lr": learning_rate(name), "weight_decay": 0.1, **options, **PATHS[path]}
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.complex128, torch.complex64):
        start = torch.randn(4, 3, dtype=dtype, generator=generator)
        gradients = [torch.randn(4, 3, dtype=dtype, generator=generator) for _ in range(6)]
        both: list[torch.Tensor] = []
        for view in (lambda x: x, torch.view_as_real):
            p = torch.nn.Parameter(view(start.clone()).clone())
            optimizer = cls(name)([p], **options)
            for g in gradients:

                def closure(p=p, g=g, view=view):
                    p.grad = (view(g) + 0.5 * p).detach()  # depends on where it is taken
                    return torch.tensor(0.0)

                if drive == "closure":
                    optimizer.step(closure)
                else:
                    optimizer.train()
                    closure()
                    optimizer.step()
            both.append(p.detach() if p.is_complex() else torch.view_as_complex(p.detach()))
        tolerance = 1e-12 if dtype == torch.complex128 else 1e-6
        torch.testing.assert_close(both[0], both[1], rtol=tolerance, atol=tolerance)


@each_path
@few
def test_empty_and_0d_tensors_alone(name, options, path):
    empty, scalar = torch.nn.Parameter(torch.zeros(0, 3)), torch.nn.Parameter(torch.tensor(1.0))
    optimizer = cls(name)([empty, scalar], lr=0.1, **options, **PATHS[path])
    reference = Reference(name, [{"params": [np.zeros((0, 3)), np.ones(())]}], lr=0.1, **options)
    for _ in range(5):
        optimizer.train()
        empty.grad, scalar.grad = torch.zeros(0, 3), torch.tensor(0.5)
        optimizer.step()
        reference.step([np.zeros((0, 3)), np.array(0.5)])
    assert scalar.item() == pytest.approx(float(reference.weights[1]), rel=1e-5)
    alone = torch.nn.Parameter(torch.zeros(0, 3))
    optimizer = cls(name)([alone], lr=0.1, **options, **PATHS[path])
    for _ in range(3):
        optimizer.train()
        alone.grad = torch.zeros(0, 3)
        optimizer.step()
    assert alone.shape == (0, 3)


@each_path
@few
def test_no_gradient_at_all(name, options, path):
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = cls(name)(params, weight_decay=0.5, **options, **PATHS[path])
    for _ in range(3):
        optimizer.train()
        optimizer.step()
    assert all(torch.equal(p, torch.ones_like(p)) for p in params)
    assert state_bits(optimizer) == {} and optimizer.telemetry() == {}


@each_path
@few
def test_frozen_parts_stay(name, options, path):
    """requires_grad False from the start, and later: no decay, no update, no drift."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    model[0].requires_grad_(False)
    before = [bits(p) for p in model[0].parameters()]
    optimizer = cls(name)(model.parameters(), lr=0.05, weight_decay=0.5, **options, **PATHS[path])
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def steps(n: int) -> None:
        for _ in range(n):
            optimizer.train()
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    steps(4)
    assert [bits(p) for p in model[0].parameters()] == before
    assert not any(p in optimizer.state for p in model[0].parameters())
    model[2].bias.requires_grad_(False)  # frozen after it has gathered momentum
    late = model[2].bias.detach().clone()
    steps(4)
    torch.testing.assert_close(model[2].bias.detach(), late, rtol=0, atol=1e-6)
    assert float(optimizer.state[model[2].bias]["step"]) == 4


@each_path
@few
def test_tied_weights_are_one_parameter(name, options, path):
    """A tied model equals the same model written with one matrix used twice."""
    torch.manual_seed(0)
    start = torch.randn(6, 4).double()
    tokens = torch.tensor([0, 3, 5, 5])

    embedding, head = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False)
    head.weight = embedding.weight = torch.nn.Parameter(start.clone())
    tied = torch.nn.Sequential(embedding, head)
    single = torch.nn.Parameter(start.clone())
    assert len(list(tied.parameters())) == 1
    runs = [
        (list(tied.parameters()), lambda: tied(tokens)),
        ([single], lambda: single[tokens] @ single.T),
    ]
    for params, forward in runs:
        optimizer = cls(name)(params, lr=0.01, **options, **PATHS[path])
        for _ in range(6):

            def closure(optimizer=optimizer, forward=forward):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(forward(), tokens)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert embedding.weight is head.weight
    torch.testing.assert_close(embedding.weight.detach(), single.detach(), rtol=1e-12, atol=1e-12)
    assert not torch.equal(single.detach(), start)


@each_path
@few
def test_layout_of_parameter_and_gradient_do_not_matter(name, options, path):
    """Transposed weights, sliced gradients, channels_last: the values are the contiguous ones."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 6, generator=generator).double(), torch.randn(2, 3, 4, 4, generator=generator).double()]
    gradients = [[torch.randn(x.shape, generator=generator).double() for x in start] for _ in range(5)]

    def strange(x: torch.Tensor) -> torch.Tensor:
        return x.clone(memory_format=torch.channels_last) if x.dim() == 4 else x.T.contiguous().T

    results = []
    for of_p, of_g in ((torch.clone, torch.clone), (strange, torch.clone), (torch.clone, strange), (strange, strange)):
        params = [torch.nn.Parameter(of_p(x)) for x in start]
        optimizer = cls(name)(params, lr=0.05, weight_decay=0.1, **options, **PATHS[path])
        for step in gradients:
            optimizer.train()
            for p, g in zip(params, step, strict=True):
                p.grad = of_g(g)
            optimizer.step()
        results.append(flat([p.detach().contiguous() for p in params]))
    for other in results[1:]:
        assert abs(other - results[0]).max() < 1e-13


@each_path
@pytest.mark.parametrize("name", TORQUE_NAMES)
def test_the_global_cosine_runs_over_the_tensors_that_have_a_gradient(name, path):
    """A tensor without a gradient neither joins the cosine nor changes its ŝ; nor does it break the others."""
    params = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    optimizer = cls(name)(params, alignment="global", gamma=0.0, weight_decay=0.0, **PATHS[path])
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, -1.0])
    for grads in ((a, b), (a, b)):
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
    assert [float(optimizer.state[p]["alignment"]) for p in params] == pytest.approx([1.0, 1.0])
    params[0].grad, params[1].grad = -a, None
    optimizer.step()
    assert [float(optimizer.state[p]["alignment"]) for p in params] == pytest.approx([-1.0, 1.0])


@each_path
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_read_only(name, path):
    """Neither maximize nor coupled decay may write into p.grad: clipping and logging read it afterwards."""
    options: dict[str, Any] = {"maximize": True, "weight_decay": 0.5, "lr": 0.1, **PATHS[path]}
    problem = Problem(steps=2, shapes=((3, 2), (4,)))
    params, optimizer = run_tamft(name, problem, groups=[([0, 1], {})], last=1, **options)
    optimizer.train()
    problem.set_gradients(1, params)
    before = [bits(p.grad) for p in params]
    optimizer.step()
    assert [bits(p.grad) for p in params] == before
