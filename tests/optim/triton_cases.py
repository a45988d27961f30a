"""The CUDA path computes what the loop computes. Run by `test_triton.py`, in Triton's interpreter, on CPU tensors."""

import pytest
import torch
import triton

from tests.optim.cases import CASES
from tests.optim.interpreted import BRIEF, LOOP, PROBLEM, SHORT, compare, run_fused
from tests.optim.problem import (
    GROUPS,
    LINE,
    NAMES,
    TORQUE_NAMES,
    Problem,
    assert_follows,
    bits,
    cls,
    groups_of,
    state_bits,
)

# Each option once per update; the other three classes differ by weight decay and by what they do not offer.
SELECTED = [
    (label, name, options)
    for label, name, options in CASES
    if name in ("TAM", "AdaTAMW") or label.partition("-")[2] in ("rho, decay", "everything", "maximize")
]


@pytest.mark.parametrize(("label", "name", "options"), SELECTED, ids=[label for label, _, _ in SELECTED])
def test_case(label, name, options):
    compare(name, BRIEF, **{**options, **{key: SHORT[key] for key in options if key in SHORT}})


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdaTAMW", {"rho": 0.3, "rescale": True}), ("TAM", {"alignment": "global", "weight_decay": 0.1, "rho": 0.1})],
    ids=["AdaTAMW", "TAM"],
)
def test_fifty_steps(name, options):
    compare(name, Problem(), **options)


@pytest.mark.parametrize("options", [{}, {"alignment": "global", "rescale": True, "rho": 0.2}], ids=str)
def test_bitwise_reproducible(options):
    runs = [run_fused("AdaTAMW", **options) for _ in range(2)]
    (a, first), (b, second) = runs
    assert [bits(p) for p in a] == [bits(p) for p in b]
    assert state_bits(first) == state_bits(second)


def test_unequal_groups_and_a_schedule():
    groups = [
        ([0], {"lr": 0.05, "weight_decay": 0.3, "rho": 0.4, "gamma": 0.5}),
        ([1, 2], {"betas": (0.5, 0.7), "eps": 1e-3, "rho": 0.0, "torque": False}),
        ([3, 4], {"maximize": True, "torque_eps": 0.1, "rho": 0.1, "lr": torch.tensor(0.02)}),
    ]
    for options in ({}, {"alignment": "global", "rescale": True}):
        optimizer = compare("AdaTAMW", Problem(steps=7, concave=(3, 4)), groups=groups, lr=1e-2, **options)
        assert ["alignment" in optimizer.state[g["params"][0]] for g in optimizer.param_groups] == [True, False, True]

    ends = []
    for path in ({"fused": True}, LOOP):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls("AdaTAMW")(groups_of(params, GROUPS), lr=0.1, **path)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=10)  # moves betas too
        for step in range(7):
            PROBLEM.set_gradients(step, params)
            optimizer.step()
            scheduler.step()
        ends.append(params)
    assert_follows(*ends, PROBLEM.start, LINE)


@pytest.mark.parametrize("name", ["TAM", "AdaTAMW"])
@pytest.mark.parametrize("alignment", ["tensor", "global"])
def test_missing_gradients(name, alignment):
    """Who has no gradient this time still goes back, counts in |m| and keeps its state and its count of steps."""
    missing = lambda step, i: (step + i) % 3 == 1 or (i == 4 and step < 3)  # noqa: E731
    optimizer = compare(name, Problem(steps=7, missing=missing), lr=0.05, rho=0.4, alignment=alignment)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert [int(optimizer.state[p]["step"]) for p in params] == [
        sum(not missing(step, i) for step in range(7)) for i in range(5)
    ]


def test_changing_addresses_of_gradients():
    """Old gradients stay alive, so new ones lie elsewhere; a kernel that read the old ones would go nowhere."""
    ends, alive = [], []
    for path in ({"fused": True}, LOOP):
        params = PROBLEM.parameters(torch.float32)
        optimizer = cls("TAM")(params, lr=0.02, **path)
        for step in range(6):
            if step % 2 == 0:
                PROBLEM.set_gradients(step, params)
                alive.append([p.grad for p in params])
            else:
                for p in params:
                    p.grad.mul_(-0.5)  # the same address, another value
            optimizer.step()
        ends.append(params)
    assert_follows(*ends, PROBLEM.start, LINE)


@pytest.mark.parametrize("alignment", ["tensor", "global"])
@pytest.mark.parametrize("exponent", [-30, -20, 18, 30])
def test_magnitudes(exponent, alignment):
    torch.manual_seed(exponent)
    draws = [[(10.0**exponent * torch.randn(n, dtype=torch.float64)).float() for n in (40, 7)] for _ in range(2)]
    params = [torch.nn.Parameter(torch.zeros(n)) for n in (40, 7)]
    optimizer = cls("TAM")(params, lr=0.0, gamma=0.5, alignment=alignment, rho=0.5, fused=True)
    for grads in draws:
        optimizer.train()
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
    first, second = [[x.double() * 10.0**-exponent for x in grads] for grads in draws]
    if alignment == "global":
        first, second = [torch.cat(first)] * 2, [torch.cat(second)] * 2
    expected = [0.5 * float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(first, second, strict=True)]
    assert [float(optimizer.state[p]["alignment"]) for p in params] == pytest.approx(expected, rel=3e-6)
    optimizer.train()
    m = torch.cat([optimizer.state[p]["momentum_buffer"].double() * 10.0**-exponent for p in params])
    scale = float(optimizer.param_groups[0]["scale"])
    assert scale * float(m.norm()) * 10.0**exponent == pytest.approx(0.5, rel=1e-6) or scale < 1e-37  # a subnormal


def test_layouts_and_alignment():
    """Aligned or not, transposed, expanded, with steps in memory: all as the loop."""
    torch.manual_seed(0)
    room = torch.randn(100)
    starts = [room[1:49], room[52:84].view(4, 8), torch.randn(6, 5).t(), torch.randn(1, 3, 4, 4)]
    starts[3] = starts[3].contiguous(memory_format=torch.channels_last)
    ends = []
    for path in ({"fused": True}, LOOP):
        torch.manual_seed(1)
        own = room.clone()
        params = [torch.nn.Parameter(own[1:49]), torch.nn.Parameter(own[52:84].view(4, 8))]
        params += [torch.nn.Parameter(x.clone(memory_format=torch.preserve_format)) for x in starts[2:]]
        assert params[0].data_ptr() % 16 and not params[2].is_contiguous()
        optimizer = cls("AdaTAMW")(params, lr=0.05, rho=0.1, **path)
        for _ in range(4):
            optimizer.train()
            params[0].grad = torch.randn(96)[::2]
            params[1].grad = torch.randn(8, 4).t()
            params[2].grad = torch.randn(5, 1).expand(5, 6)
            params[3].grad = torch.randn(1, 3, 4, 4)
            optimizer.step()
        assert optimizer.state[params[3]]["exp_avg"].stride() == params[3].stride()
        ends.append(params)
    assert_follows(*ends, starts, LINE)
    for p, before in zip(ends[0], starts, strict=True):
        assert (p != before).all()


LOW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_16_bit_weights_are_the_float32_update_rounded_once(name, dtype):
    torch.manual_seed(0)
    start, gradients = torch.randn(50).to(dtype), [torch.randn(50).to(dtype) for _ in range(2)]
    wide, p = torch.nn.Parameter(start.float()), torch.nn.Parameter(start.clone())
    pairs = [(x, cls(name)([x], lr=0.1, weight_decay=0.1, rho=0.0, fused=True)) for x in (wide, p)]
    for gradient in gradients:
        for x, optimizer in pairs:
            x.grad = gradient.to(x.dtype)
            optimizer.step()
        assert torch.equal(p, wide.to(dtype))  # to nearest, ties to even, as torch rounds
        wide.data.copy_(p)
    assert all(x.dtype == torch.float32 for x in pairs[1][1].state[p].values())


def test_ties_go_to_even():
    """w - g lies half-way between two bfloat16 numbers, or is no number."""
    w = torch.cat([1 + torch.arange(16) / 128, torch.tensor([1.0, -1.0, 2.0])]).bfloat16()
    not_a_number = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # as GPUs write it
    g = torch.cat([torch.full((16,), 2.0**-8), torch.tensor([torch.inf, -torch.inf]), not_a_number])
    p = torch.nn.Parameter(w.clone())
    p.grad_dtype = torch.float32
    optimizer = cls("TAM")([p], lr=1.0, momentum=0.0, torque=False, fused=True)
    p.grad = g
    optimizer.step()
    torch.testing.assert_close(p.detach(), (w.float() - g).bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_dtypes_side_by_side():
    torch.manual_seed(0)
    dtypes = [torch.float32, *LOW, torch.bfloat16]
    start, steps = torch.randn(20), torch.randn(5, 20)
    results = []
    for path in ({"fused": True}, LOOP):
        params = [torch.nn.Parameter(start.to(dtype, copy=True)) for dtype in dtypes]
        params[3].grad_dtype = torch.float32  # as some trainers accumulate
        optimizer = cls("AdaTAMW")(params, lr=0.1, **path)
        for g in steps:
            for p in params:
                p.grad = g.to(p.grad_dtype if p is params[3] else p.dtype)
            optimizer.step()
        results.append(params)
    for a, b, limit in zip(*results, (1e-6, 8e-3, 1e-3, 8e-3), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=limit, atol=limit / 10)
        assert not torch.allclose(a.float(), start, atol=0.1)


assert set(TORQUE_NAMES) <= set(NAMES) and triton.__version__
