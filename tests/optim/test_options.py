"""Ranges, defaults, and the errors that say what to write instead."""

import inspect
import math
from typing import Any

import pytest
import torch

import tamft
from tamft.optim import cpu_kernels
from tests.optim.problem import ADAM_NAMES, BALL_NAMES, NAMES, PATHS, TORQUE_NAMES, cls
from tests.reference.optimizers import DEFAULTS

NAN, INF = math.nan, math.inf
# The table of options: classes, values that are refused, values that are welcome.
TABLE: dict[str, tuple[list[str], list[Any], list[Any]]] = {
    "lr": (
        NAMES,
        [-1e-3, NAN, INF, -INF, "1e-3", None, True, torch.tensor([1e-3, 1e-3]), torch.tensor(-1.0), torch.tensor(NAN)],
        [0, 0.0, 1, 1e-5, torch.tensor(1e-3)],
    ),
    "momentum": (BALL_NAMES, [-0.1, 1.0, 1.5, NAN, INF, "0.9", None], [0, 0.0, 0.999]),
    "betas": (
        ADAM_NAMES,
        [
            *((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.1), (NAN, 0.9), (0.9, NAN)),
            *((0.9,), (0.9, 0.9, 0.9), 0.9, None, "ab", ("0.9", "0.99")),
        ],
        [(0.0, 0.0), (0, 0.5), [0.9, 0.99]],
    ),
    "eps": (ADAM_NAMES, [-1e-8, NAN, "1e-8", None], [0, 0.0, 1.0]),
    "weight_decay": (NAMES, [-1e-2, NAN, INF, "0.1", None], [0, 0.5]),
    "gamma": (TORQUE_NAMES, [-0.1, 1.1, NAN, INF, "0.9", None], [0, 1, 0.0, 1.0, 0.5]),
    "torque_eps": (TORQUE_NAMES, [-1e-8, NAN, "x", None], [0, 0.5]),
    "torque": (TORQUE_NAMES, ["False", 2, None, NAN], [True, False]),
    "alignment": (TORQUE_NAMES, ["row", "", None, 1, True], ["tensor", "global"]),
    "torque_steps": (TORQUE_NAMES, [0, -1, 1.5, "10", NAN, INF, True], [None, 1, 1000]),
    "rescale": (TORQUE_NAMES, ["yes", 2, None], [True, False]),
    "first_moment": (["AdaTAM", "AdaTAMW"], ["mean", "", None, 1], ["ema", "sum"]),
    "rho": (NAMES, [-0.1, NAN, INF, "0.3", None, True], [0, 0.0, 0.3, 3]),
    "rho_start": (NAMES, [-1, 1.5, "1", NAN, None, True], [0, 100]),
    "allow_low_precision": (NAMES, ["yes", 2, None], [True, False]),
    "kahan_sum": (NAMES, ["yes", 2, None], [True, False]),
}
BAD = [(name, option, value) for option, (names, bad, _) in TABLE.items() for name in names for value in bad]
GOOD = [(name, option, value) for option, (names, _, good) in TABLE.items() for name in names for value in good]


def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(("name", "option", "value"), BAD, ids=[f"{n}-{o}={v}" for n, o, v in BAD])
def test_a_bad_value_is_refused_by_name(name, option, value):
    """In the constructor, in one group of several, and in a group that is added: option and value are named."""
    with pytest.raises((ValueError, TypeError)) as caught:
        cls(name)([weight()], **{option: value})
    assert option in str(caught.value) and str(value) in str(caught.value)
    with pytest.raises((ValueError, TypeError), match=option):
        cls(name)([{"params": [weight()]}, {"params": [weight()], option: value}])
    optimizer = cls(name)([weight()])
    with pytest.raises((ValueError, TypeError), match=option):
        optimizer.add_param_group({"params": [weight()], option: value})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("name", "option", "value"), GOOD, ids=[f"{n}-{o}={v}" for n, o, v in GOOD])
def test_the_edges_of_the_ranges_are_inside(name, option, value):
    p = weight()
    optimizer = cls(name)([p], **{option: value})
    kept = optimizer.param_groups[0][option]
    assert (tuple(kept) == tuple(value)) if option == "betas" else (kept is value or kept == value)
    for _ in range(2):
        optimizer.train()
        p.grad = torch.full((3,), 0.5)
        optimizer.step()
    assert p.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_table(name):
    signature = inspect.signature(cls(name).__init__).parameters
    defaults = {key: parameter.default for key, parameter in signature.items() if key not in ("self", "params")}
    torque = {"torque"} if name not in TORQUE_NAMES else set()  # the reference's switch; MSAM has no such option
    ema = {"first_moment"} if name == "AdamWMSAM" else set()
    expected = {key: value for key, value in DEFAULTS[name].items() if key not in torque | ema}
    flags = dict.fromkeys(("allow_low_precision", "kahan_sum", "capturable", "differentiable"), False)
    assert defaults == expected | flags | {"foreach": None, "fused": None}
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in signature.values())
    optimizer = cls(name)([weight()])
    assert {key: optimizer.param_groups[0][key] for key in defaults} == defaults


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_documented(name):
    doc = inspect.getdoc(cls(name))
    assert doc is not None and "Args:" in doc
    entries = doc.split("Args:")[1]
    for argument in inspect.signature(cls(name)).parameters:
        assert f"\n    {argument}: " in entries, f"{name} does not document {argument}"


@pytest.mark.parametrize("option", ["gamma", "torque_eps", "torque", "alignment", "torque_steps", "rescale"])
@pytest.mark.parametrize("name", ["MSAM", "AdamWMSAM"])
def test_msam_has_no_torque_options(name, option):
    with pytest.raises(TypeError, match=option):
        cls(name)([weight()], **{option: 1})


UNEQUAL: dict[str, tuple[list[str], Any, Any]] = {
    "alignment": (TORQUE_NAMES, "tensor", "global"),
    "first_moment": (["AdaTAM", "AdaTAMW"], "ema", "sum"),
    "rescale": (TORQUE_NAMES, False, True),
    "torque_steps": (TORQUE_NAMES, None, 5),
    "rho_start": (NAMES, 0, 3),
    "foreach": (NAMES, False, True),
    "capturable": (NAMES, False, True),
    "differentiable": (NAMES, False, True),
}
CLASHES = [(name, option) for option, (names, _, _) in UNEQUAL.items() for name in names]


@pytest.mark.parametrize(("name", "option"), CLASHES, ids=[f"{n}-{o}" for n, o in CLASHES])
def test_what_must_be_equal_in_all_groups(name, option):
    _, a, b = UNEQUAL[option]
    for first, second in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=option):
            cls(name)([{"params": [weight()], option: first}, {"params": [weight()], option: second}], rho=0.0)
        optimizer = cls(name)([weight()], rho=0.0, **{option: first})
        with pytest.raises(ValueError, match=option):
            optimizer.add_param_group({"params": [weight()], option: second})
        optimizer.add_param_group({"params": [weight()], option: first})


# What fused=True cannot have on a CPU, and a word of the reason; with fused=None another path is taken.
UNFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "capturable": (weight, {"capturable": True}, "capturable"),
    "gaps": (lambda: torch.nn.Parameter(torch.ones(4, 6)[:, ::2]), {}, "gaps"),
    "subclass": (lambda: Stranger(torch.ones(2)), {}, "Stranger"),
    "device": (lambda: torch.nn.Parameter(torch.ones(2, device="meta")), {}, "meta"),
    "dtype": (lambda: torch.nn.Parameter(torch.ones(2, dtype=torch.float8_e4m3fn)), {}, "float8"),
}


class Stranger(torch.nn.Parameter):
    """A tensor with a meaning of its own, as a sharded one has."""


@pytest.mark.parametrize("why", UNFUSED)
@pytest.mark.parametrize("name", NAMES)
def test_fused_obeys_or_raises_with_the_reason(name, why):
    make, options, reason = UNFUSED[why]
    with pytest.raises(RuntimeError, match=rf"{name}: fused=True is not available: .*{reason}.*fused=None"):
        cls(name)([make()], fused=True, **options)
    for fused in (None, False):
        assert cls(name)([make()], fused=fused, **options).backend in ("loop", "foreach")


@pytest.mark.parametrize("other", ["foreach", "differentiable"])
@pytest.mark.parametrize("name", NAMES)
def test_fused_excludes(name, other):
    with pytest.raises(RuntimeError, match=f"fused=True and {other}=True"):
        cls(name)([weight()], fused=True, rho=0.0, **{other: True})


@pytest.mark.parametrize("name", NAMES)
def test_a_torch_whose_kernels_differ_is_left_alone(name, monkeypatch):
    """The kernels are private: another meaning, another signature or none at all must not be met in a training run."""
    real = torch._fused_sgd_

    def other(*args, dampening, **call):
        return real(*args, dampening=1 - dampening, **call)

    def gone(*args, **call):
        raise NotImplementedError("not on this device")

    try:
        for kernel, reason in ((other, "something else"), (gone, "not on this device")):
            monkeypatch.setattr(torch, "_fused_sgd_", kernel)
            cpu_kernels.kernels_differ.cache_clear()
            assert cls(name)([weight()]).backend == "loop"
            with pytest.raises(RuntimeError, match=reason):
                cls(name)([weight()], fused=True)
    finally:
        monkeypatch.undo()
        cpu_kernels.kernels_differ.cache_clear()
    assert cls(name)([weight()]).backend == "fused"


@pytest.mark.parametrize("name", NAMES)
def test_differentiable_with_rho_is_refused(name):
    with pytest.raises(ValueError, match=r"differentiable.*rho"):
        cls(name)([weight()], differentiable=True, rho=0.1)
    with pytest.raises(ValueError, match=r"differentiable.*rho"):
        cls(name)([{"params": [weight()]}, {"params": [weight()], "rho": 0.1}], differentiable=True, rho=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_backend_says_what_was_asked(name):
    for path, flags in PATHS.items():
        assert cls(name)([weight()], **flags).backend == path.split("-")[0]
    assert cls(name)([weight()]).backend == "fused"  # on a CPU, unasked
    assert cls(name)([weight()], lr=torch.tensor(1e-3)).backend == "fused"
    assert cls(name)([weight()], fused=False).backend == "loop"
    assert cls(name)([weight()], rho=0.0, differentiable=True).backend == "loop"


@pytest.mark.parametrize("name", NAMES)
def test_no_parameters_is_torchs_error(name):
    with pytest.raises(ValueError, match="empty parameter list"):
        cls(name)([])


# ---- learning rates and groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2e-4),
        ({"alignment": 0.0}, 2e-4),
        ({"alignment": 1.0}, 1e-4),
        ({"alignment": 0.6}, 1.25e-4),
        ({"alignment": -0.5}, 4e-4),
        ({"first_moment": "sum"}, 2e-5),
        ({"first_moment": "sum", "beta1": 0.0}, 2e-4),
        ({"first_moment": "sum", "beta1": 0.5, "alignment": 1.0}, 5e-5),
        ({"beta1": 0.5}, 2e-4),
    ],
    ids=str,
)
def test_transfer_lr(options, expected):
    assert tamft.transfer_lr(1e-4, **options) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("lr", "options", "named"),
    [
        (-1e-4, {}, "lr"),
        (NAN, {}, "lr"),
        (INF, {}, "lr"),
        (1e-4, {"alignment": -1.0}, "alignment"),  # E[d] = 0: no rate makes up for that
        (1e-4, {"alignment": 1.1}, "alignment"),
        (1e-4, {"alignment": NAN}, "alignment"),
        (1e-4, {"first_moment": "mean"}, "first_moment"),
        (1e-4, {"first_moment": "sum", "beta1": 1.0}, "beta1"),
        (1e-4, {"first_moment": "sum", "beta1": NAN}, "beta1"),
    ],
    ids=str,
)
def test_transfer_lr_refuses(lr, options, named):
    with pytest.raises(ValueError, match=named):
        tamft.transfer_lr(lr, **options)


def test_param_groups_split_by_decay():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 5, bias=True))
    model[2].weight = model[0].weight  # tied: once, not twice
    model[1].bias.requires_grad_(False)  # frozen: not at all
    decay, rest = tamft.param_groups(model, weight_decay=0.1)
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert [p is model[0].weight for p in decay["params"]] == [True]
    assert {id(p) for p in rest["params"]} == {id(model[1].weight), id(model[2].bias)}
    optimizer = tamft.AdaTAMW([decay, rest], lr=1e-3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
