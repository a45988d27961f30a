"""kahan_sum: bf16 and fp16 weights that lose nothing to rounding, from one step to the next."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optim.cases import FEW, FEW_IDS
from tests.optim.problem import NAMES, PATHS, Problem, bits, cls, flat, learning_rate, run_tamft, state_bits
from tests.optim.test_state import go_on, resumed, through_a_file

LOW = [torch.bfloat16, torch.float16]
PROBLEM = Problem(steps=10)
each_dtype = pytest.mark.parametrize("dtype", LOW, ids=["bfloat16", "float16"])
each_path = pytest.mark.parametrize("path", PATHS)
few = pytest.mark.parametrize(("name", "options"), FEW, ids=FEW_IDS)


def full(params: list[Tensor], optimizer: Any) -> list[Tensor]:
    """The weights in float32: what the model holds, with what rounding took from it."""
    return [p.detach().float() + optimizer.state[p]["compensation"].float() for p in params]


def drive(name: str, dtype: torch.dtype, *, steps: int, lr: float, **options: Any) -> tuple[Tensor, Any]:
    """`steps` steps of one tensor under gradients that do not depend on it: only the weights' rounding differs."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(500, generator=generator).to(LOW[0]).to(LOW[1]).to(dtype))
    pull = torch.randn(500, generator=generator)
    optimizer = cls(name)([p], lr=lr, rho=0.0, **options)
    for _ in range(steps):
        p.grad = (pull + torch.randn(500, generator=generator)).bfloat16().to(dtype)
        optimizer.step()
    return p, optimizer


@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_follows_float32_where_plain_rounding_does_not(name, dtype):
    """100 steps, each of them a part of what the 16-bit format can tell apart, as in fine-tuning."""
    rate = (1e-4 if dtype == torch.bfloat16 else 1e-5) * (1 if "Ada" in name else 1 / 4)
    kinds = {"exact": (torch.float32, False), "nearest": (dtype, False), "kahan": (dtype, True)}
    runs = {
        label: drive(name, as_dtype, steps=100, lr=rate, kahan_sum=kahan) for label, (as_dtype, kahan) in kinds.items()
    }
    start = drive(name, torch.float32, steps=0, lr=rate)[0]
    expected = flat([runs["exact"][0]]) - flat([start])

    def apart(weights: Tensor) -> float:
        return float(abs(flat([weights]) - flat([start]) - expected).sum() / abs(expected).sum())

    nearest, kahan = apart(runs["nearest"][0]), apart(full([runs["kahan"][0]], runs["kahan"][1])[0])
    assert nearest > 0.3  # a third of the way is lost, or more
    assert kahan < 0.01
    # What the model holds is the nearest that its format can say: half a unit in the last place.
    model, optimizer = runs["kahan"]
    assert bool((optimizer.state[model]["compensation"].abs() <= torch.finfo(dtype).eps / 2 * model.abs()).all())


@each_dtype
@each_path
@pytest.mark.parametrize("name", NAMES)
def test_updates_too_small_to_be_seen_add_up(name, path, dtype):
    """Steps of a hundredth of the distance to the next number: plain rounding stands still for ever."""
    for kahan in (False, True):
        p = torch.nn.Parameter(torch.ones(5, dtype=dtype))
        step = torch.finfo(dtype).eps / 100
        optimizer = cls(name)([p], lr=step, rho=0.0, weight_decay=0.0, kahan_sum=kahan, **PATHS[path])
        for _ in range(200):
            p.grad = torch.full((5,), -0.5).to(dtype)
            optimizer.step()
        assert bool((p > 1).all()) is kahan


@each_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_other_weights_are_left_alone(name, path, dtype):
    runs = [run_tamft(name, PROBLEM, dtype=dtype, rho=0.1, kahan_sum=kahan, **PATHS[path]) for kahan in (True, False)]
    assert [bits(p) for p in runs[0][0]] == [bits(p) for p in runs[1][0]]
    assert state_bits(runs[0][1]) == state_bits(runs[1][1])


@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_it_costs_two_bytes_per_parameter(name, dtype):
    sizes = []
    for kahan in (False, True):
        params, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=2, rho=0.0, kahan_sum=kahan)
        sizes.append(sum(x.nbytes for state in optimizer.state.values() for x in state.values()))
    assert sizes[1] - sizes[0] == 2 * sum(p.numel() for p in params)
    assert all(optimizer.state[p]["compensation"].dtype == dtype for p in params)


@each_dtype
@few
def test_the_other_paths_are_the_loop(name, options, dtype):
    options = {"allow_low_precision": True, "lr": 2e-3, "kahan_sum": True, **options}
    loop = full(*run_tamft(name, PROBLEM, dtype=dtype, **options, foreach=False))
    for path in ("foreach", "fused"):
        other = full(*run_tamft(name, PROBLEM, dtype=dtype, **options, **PATHS[path]))
        for got, expected in zip(other, loop, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@each_dtype
@few
def test_resume_is_bitwise(name, options, dtype):
    """Saved after 5 steps, loaded into a fresh optimizer, 5 more: every bit of weights and state, in its own dtype."""
    options = {"lr": learning_rate(name), "allow_low_precision": True, "kahan_sum": True, **options}
    params, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=5, drive="train", **options)
    fresh, loaded = resumed(params, through_a_file(optimizer.state_dict()), name, **options)
    assert all(loaded.state[p]["compensation"].dtype == dtype for p in fresh)
    assert any(loaded.state[p]["compensation"].any() for p in fresh)
    go_on(params, optimizer, 5, 10)
    go_on(fresh, loaded, 5, 10)
    assert [bits(p) for p in fresh] == [bits(p) for p in params]
    assert state_bits(loaded) == state_bits(optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_turned_on_in_the_middle(name):
    """A state that was made without it gains it at the next step."""
    params, optimizer = run_tamft(name, PROBLEM, dtype=torch.bfloat16, last=3, rho=0.0, foreach=False)
    for group in optimizer.param_groups:
        group["kahan_sum"] = True
    go_on(params, optimizer, 3, 6)
    assert any(optimizer.state[p]["compensation"].any() for p in params)


@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_the_perturbation_leaves_it_alone(name, dtype):
    options = {"rho": 0.3, "allow_low_precision": True, "kahan_sum": True, "lr": learning_rate(name)}
    params, optimizer = run_tamft(name, PROBLEM, dtype=dtype, last=4, **options)
    before = [(bits(p), bits(optimizer.state[p]["compensation"])) for p in params]
    optimizer.train()
    assert [bits(p) for p in params] != [weight for weight, _ in before]
    assert [bits(optimizer.state[p]["compensation"]) for p in params] == [kept for _, kept in before]
    optimizer.eval()
    assert [(bits(p), bits(optimizer.state[p]["compensation"])) for p in params] == before
