"""Momentum perturbation: where the weights are, when, and what step(), train() and eval() promise."""

import copy
import pickle
from io import BytesIO
from typing import Any

import pytest
import torch

from tests.optim.problem import (
    GROUPS,
    NAMES,
    PATHS,
    TIGHT,
    Problem,
    assert_follows,
    bits,
    cls,
    flat,
    groups_of,
    learning_rate,
    one_step,
    run_tamft,
    state_bits,
)
from tests.reference.optimizers import Reference

PROBLEM = Problem(steps=12)
each_class = pytest.mark.parametrize("name", NAMES)
each_path = pytest.mark.parametrize("path", PATHS)


def made(name: str, *, steps: int = 3, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[list[Any], Any]:
    """Parameters and optimizer after a few steps, rho = 0.3."""
    options = {"lr": learning_rate(name), "rho": 0.3, **options}
    return run_tamft(name, PROBLEM, dtype=dtype, last=steps, **options)


def norm(a: list[Any], b: list[Any]) -> float:
    return float(((flat(a) - flat(b)) ** 2).sum() ** 0.5)


def snapshot(params: list[Any]) -> list[bytes]:
    return [bits(p) for p in params]


@each_path
@each_class
def test_weights_are_real_after_step_and_perturbed_in_between(name, path):
    """At every step: θ̃ inside the closure, θ after it, both the reference's."""
    groups = [([0, 1], {"rho": 0.4}), ([2, 3], {"rho": 0.0}), ([4], {"rho": 0.1})]
    options = {"lr": learning_rate(name), "weight_decay": 0.1}
    params = PROBLEM.parameters(torch.float64)
    optimizer = cls(name)(groups_of(params, groups), **options, **PATHS[path])
    reference = Reference(name, groups_of(PROBLEM.start, groups), **options)
    for step in range(PROBLEM.steps):
        seen = []

        def closure(step=step, seen=seen):
            seen += [p.detach().clone() for p in params]
            PROBLEM.set_gradients(step, params)
            return torch.tensor(0.0)

        points = reference.look()
        optimizer.step(closure)
        reference.step(PROBLEM.gradients(step, points))
        assert (norm(points, reference.weights) > 0.1) or step == 0
        assert norm(seen, points) < 1e-13
        assert norm(params, reference.weights) < 1e-13


@each_path
@each_class
def test_train_and_eval_are_idempotent_and_return_self(name, path):
    params, optimizer = made(name, **PATHS[path])
    clean = [p.detach().clone() for p in params]
    assert optimizer.train() is optimizer
    there = snapshot(params)
    assert norm(params, clean) == pytest.approx(0.3, rel=1e-6)
    assert optimizer.train(True) is optimizer and snapshot(params) == there
    assert optimizer.eval() is optimizer
    back = snapshot(params)
    assert norm(params, clean) < 1e-15
    assert optimizer.eval() is optimizer and snapshot(params) == back
    assert optimizer.train(False) is optimizer and snapshot(params) == back
    optimizer.train(mode=True)
    assert norm(params, clean) == pytest.approx(0.3, rel=1e-6)


@each_path
@each_class
def test_nothing_happens_at_rho_zero(name, path):
    params, optimizer = made(name, rho=0.0, **PATHS[path])
    clean = snapshot(params)
    assert optimizer.train() is optimizer and snapshot(params) == clean
    assert not any(group["moved"] for group in optimizer.param_groups)
    assert optimizer.eval() is optimizer and snapshot(params) == clean
    PROBLEM.set_gradients(4, params)
    optimizer.step()  # no train() needed


@each_path
@each_class
def test_the_way_there_and_back_in_float32_costs_rounding_only(name, path):
    params, optimizer = made(name, dtype=torch.float32, **PATHS[path])
    clean = [p.detach().clone() for p in params]
    for _ in range(10):
        optimizer.train()
        optimizer.eval()
    assert norm(params, clean) < 1e-6


@each_class
def test_what_went_out_comes_back_whatever_rho_became(name):
    for later in (0.0, 0.01, 5.0):
        params, optimizer = made(name)
        clean = [p.detach().clone() for p in params]
        optimizer.train()
        for group in optimizer.param_groups:
            group["rho"] = later
        optimizer.eval()
        assert norm(params, clean) < 1e-15

        # and through step(): the same update as with an unchanged rho
        expected, other = made(name)
        for o, q in ((optimizer, params), (other, expected)):
            for group in o.param_groups:
                group["rho"] = 0.3
            o.train()
            PROBLEM.set_gradients(3, q)
        for group in optimizer.param_groups:
            group["rho"] = later
        optimizer.step()
        other.step()
        assert norm(params, expected) < 1e-14
        assert not any(group["moved"] for group in optimizer.param_groups)


@each_path
@each_class
def test_a_step_that_was_not_perturbed_raises_and_changes_nothing(name, path):
    params, optimizer = made(name, **PATHS[path])
    before, state = snapshot(params), state_bits(optimizer)
    PROBLEM.set_gradients(3, params)
    with pytest.raises(RuntimeError, match=r"optimizer\.train\(\)"):
        optimizer.step()
    assert snapshot(params) == before and state_bits(optimizer) == state
    optimizer.train()
    PROBLEM.set_gradients(3, params)
    optimizer.step()  # the cure works
    expected, _ = made(name, steps=4, **PATHS[path])
    assert_follows(params, expected, PROBLEM.start, TIGHT)


@each_class
def test_eval_in_the_middle_is_caught_too(name):
    params, optimizer = made(name)
    optimizer.train()
    optimizer.eval()
    PROBLEM.set_gradients(3, params)
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step()


@each_path
@each_class
def test_the_first_step_is_plain(name, path):
    """Bare, after train() and by closure: the same, as torch's distributed checkpoint needs."""
    results = []
    for drive in ("step", "train", "closure"):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls(name)(groups_of(params, GROUPS), rho=0.5, **PATHS[path])
        if drive == "train":
            optimizer.train()
            assert norm(params, PROBLEM.start) == 0
        one_step(optimizer, PROBLEM, params, 0, drive)
        results.append(snapshot(params))
        plain = PROBLEM.parameters(torch.float32)
        one_step(cls(name)(groups_of(plain, GROUPS), rho=0.0, **PATHS[path]), PROBLEM, plain, 0, "step")
        results.append(snapshot(plain))
    assert all(result == results[0] for result in results)


@each_path
@each_class
def test_moved_and_scale_live_in_the_groups(name, path):
    params, optimizer = made(name, groups=[([0, 1], {"rho": 0.4}), ([2, 3, 4], {"rho": 0.1})], **PATHS[path])
    moment = "exp_avg" if name not in ("TAM", "MSAM") else "momentum_buffer"
    length = float(flat([optimizer.state[p][moment] for p in params]).__pow__(2).sum() ** 0.5)
    optimizer.train()
    for group, rho in zip(optimizer.param_groups, (0.4, 0.1), strict=True):
        assert group["moved"] is True
        assert group["scale"].shape == () and group["scale"].dtype == torch.float32
        assert float(group["scale"]) == pytest.approx(rho / length, rel=1e-6)
    PROBLEM.set_gradients(3, params)
    optimizer.step()
    assert [group["moved"] for group in optimizer.param_groups] == [False, False]


@each_path
@each_class
def test_zero_momentum_gives_scale_zero(name, path):
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = cls(name)(params, rho=0.3, weight_decay=0.0, **PATHS[path])
    for _ in range(3):
        optimizer.train()
        assert torch.equal(params[0].detach(), torch.ones(3))
        params[0].grad = torch.zeros(3)
        optimizer.step()
    optimizer.train()
    assert float(optimizer.param_groups[0]["scale"]) == 0
    assert torch.equal(params[0].detach(), torch.ones(3))


@each_path
@each_class
def test_a_parameter_without_a_gradient_moves_too(name, path):
    params, optimizer = made(name, **PATHS[path])
    clean = [p.detach().clone() for p in params]
    optimizer.zero_grad(set_to_none=True)
    optimizer.train()
    assert all(norm([p], [q]) > 0 for p, q in zip(params, clean, strict=True) if p.numel())
    PROBLEM.set_gradients(3, params)
    params[0].grad = None
    optimizer.step()
    assert norm([params[0]], [clean[0]]) < 1e-15  # back, and not updated
    assert norm([params[1]], [clean[1]]) > 1e-4


@each_path
@each_class
def test_rho_start(name, path):
    """The first `rho_start` steps are at θ; step rho_start + 1 is at θ̃."""
    params = PROBLEM.parameters(torch.float64)
    optimizer = cls(name)(groups_of(params, GROUPS), rho=0.3, rho_start=4, **PATHS[path])
    for step in range(7):
        clean = [p.detach().clone() for p in params]
        optimizer.train()
        assert norm(params, clean) == pytest.approx(0.3 if step >= 4 else 0.0, rel=1e-6)
        PROBLEM.set_gradients(step, params)
        optimizer.step()
    assert optimizer.train().eval() is optimizer


# ---- copies, files -----------------------------------------------------------------------------------------------


class Pair(torch.nn.Module):
    """A model whose parameters the optimizer holds, so that both are copied together."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(PROBLEM.parameters(dtype))


def pair(name: str, dtype: torch.dtype = torch.float64, steps: int = 3, **options: Any) -> tuple[Pair, Any]:
    model = Pair(dtype)
    optimizer = cls(name)(groups_of(list(model.weights), GROUPS), lr=learning_rate(name), **options)
    for step in range(steps):
        one_step(optimizer, PROBLEM, list(model.weights), step, "closure")
    return model, optimizer


def go_on(model: Pair, optimizer: Any) -> list[bytes]:
    """Gradients where the weights are now, then two more steps."""
    PROBLEM.set_gradients(3, list(model.weights))
    optimizer.step()
    for step in (4, 5):
        one_step(optimizer, PROBLEM, list(model.weights), step, "train")
    return snapshot(list(model.weights))


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
    "torch.save": lambda both: torch.load(_saved(both), weights_only=False),
}


def _saved(value: Any) -> BytesIO:
    stream = BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return stream


@pytest.mark.parametrize("how", COPIES)
@each_class
def test_a_copy_made_while_moved_goes_back_and_goes_on(name, how):
    model, optimizer = pair(name, rho=0.3)
    clean = [p.detach().clone() for p in model.weights]
    optimizer.train()
    copied, copied_optimizer = COPIES[how]((model, optimizer))
    assert all(group["moved"] for group in copied_optimizer.param_groups)
    copied_optimizer.eval()
    assert norm(list(copied.weights), clean) < 1e-15
    assert norm(list(model.weights), clean) > 0.2  # the original has not moved
    copied_optimizer.train()  # with |m| computed anew: a rounding away from the original's, not further
    assert norm(list(copied.weights), list(model.weights)) < 1e-15
    again, again_optimizer = COPIES[how]((model, optimizer))
    assert go_on(again, again_optimizer) == go_on(model, optimizer)


@each_path
@each_class
def test_a_checkpoint_saved_while_moved_resumes_bitwise(name, path):
    for dtype in (torch.float32, torch.float64):
        model, optimizer = pair(name, dtype, rho=0.3, **PATHS[path])
        clean = [p.detach().clone() for p in model.weights]
        optimizer.train()
        saved = torch.load(_saved([model.state_dict(), optimizer.state_dict()]), weights_only=True)
        fresh, fresh_optimizer = pair(name, dtype, steps=0, rho=0.3, **PATHS[path])
        fresh.load_state_dict(saved[0])
        fresh_optimizer.load_state_dict(saved[1])
        assert snapshot(list(fresh.weights)) == snapshot(list(model.weights))
        assert go_on(fresh, fresh_optimizer) == go_on(model, optimizer)
        fresh.load_state_dict(saved[0])
        fresh_optimizer.load_state_dict(saved[1])
        fresh_optimizer.eval()
        assert norm(list(fresh.weights), clean) < 1e-6


@each_class
def test_load_state_dict_never_touches_weights(name):
    _, moved = pair(name, rho=0.3)
    moved.train()
    _, still = pair(name, rho=0.3)
    for saved in (moved.state_dict(), still.state_dict()):
        for ahead in (True, False):
            model, optimizer = pair(name, steps=2, rho=0.3)
            optimizer.train(ahead)
            before = snapshot(list(model.weights))
            optimizer.load_state_dict(saved)
            assert snapshot(list(model.weights)) == before
