"""What the options may be: one table of ranges, one place that says no."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Equal in all groups: they say which algorithm runs, not how hard a group is pushed.
SHARED = (
    "alignment",
    "first_moment",
    "rescale",
    "torque_steps",
    "rho_start",
    "foreach",
    "fused",
    "capturable",
    "differentiable",
)
# How a step is computed, not what is computed: they stay the optimizer's own when a state is loaded.
BACKEND = ("foreach", "fused", "capturable", "differentiable")
LOW_PRECISION = (torch.bfloat16, torch.float16)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rate(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex() and _number(value.item()) and value.item() >= 0
    return _not_negative(value)


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _fraction(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_rate, "a finite number >= 0 or a 0-d tensor that holds one"),
    "momentum": (_fraction, "a number in [0, 1)"),
    "betas": (
        lambda value: isinstance(value, tuple | list) and len(value) == 2 and all(map(_fraction, value)),
        "two numbers in [0, 1)",
    ),
    "eps": (_not_negative, "a finite number >= 0"),
    "weight_decay": (_not_negative, "a finite number >= 0"),
    "gamma": (lambda value: _number(value) and 0 <= value <= 1, "a number in [0, 1]"),
    "torque_eps": (_not_negative, "a finite number >= 0"),
    "torque": (lambda value: isinstance(value, bool), "True or False"),
    "alignment": (lambda value: value in ("tensor", "global"), '"tensor" or "global"'),
    "torque_steps": (lambda value: value is None or (_count(value) and value >= 1), "None or a whole number >= 1"),
    "rescale": (lambda value: isinstance(value, bool), "True or False"),
    "first_moment": (lambda value: value in ("ema", "sum"), '"ema" or "sum"'),
    "rho": (_not_negative, "a finite number >= 0"),
    "rho_start": (lambda value: _count(value) and value >= 0, "a whole number >= 0"),
    "allow_low_precision": (lambda value: isinstance(value, bool), "True or False"),
    "kahan_sum": (lambda value: isinstance(value, bool), "True or False"),
    "maximize": (lambda value: isinstance(value, bool), "True or False"),
    "foreach": (lambda value: value is None or isinstance(value, bool), "None, True or False"),
    "fused": (lambda value: value is None or isinstance(value, bool), "None, True or False"),
    "capturable": (lambda value: isinstance(value, bool), "True or False"),
    "differentiable": (lambda value: isinstance(value, bool), "True or False"),
}


def given(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The options among a constructor's `locals()`: all but self, the parameters and the cell of `super()`."""
    return {name: value for name, value in scope.items() if name not in ("self", "params", "__class__")}


def check(owner: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for a value outside its range, RuntimeError for a backend that cannot be had.

    `owner` is the class's name, for the message; `options` may hold keys that are no options (`params`, `initial_lr`).
    """
    for name, (allowed, text) in RANGES.items():
        if name in options and not allowed(options[name]):
            raise ValueError(f"{owner}: {name}={options[name]!r} is out of range: it must be {text}")
    if options["fused"] and (options["foreach"] or options["differentiable"]):
        other = "foreach" if options["foreach"] else "differentiable"
        raise RuntimeError(
            f"{owner}: fused=True and {other}=True exclude each other, as in torch.optim: give one of them"
        )
    if options["differentiable"]:
        if options["rho"] > 0:
            raise ValueError(
                f"{owner}: differentiable=True cannot be combined with rho={options['rho']}: moving the weights to the "
                "perturbed point and back is no differentiable operation. Use rho=0"
            )
        if options["foreach"]:
            raise ValueError(f"{owner}: foreach=True has no autograd support: leave foreach=None with differentiable")
    if options["foreach"] and isinstance(options["lr"], Tensor) and not options["capturable"]:
        raise ValueError(
            f"{owner}: a tensor lr with foreach=True needs capturable=True, as in torch.optim; "
            "otherwise pass a number or foreach=False"
        )


def check_group(owner: str, group: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Raise ValueError if a parameter group disagrees with the first one or cannot carry a perturbation."""
    check(owner, group)
    for name in SHARED:
        if name in group and group[name] != first[name]:
            raise ValueError(
                f"{owner}: {name} must be equal in all parameter groups, but one has {first[name]!r} "
                f"and another {group[name]!r}"
            )
    if group["rho"] > 0 and not group["allow_low_precision"]:
        for p in group["params"]:
            if p.dtype in LOW_PRECISION:
                raise ValueError(
                    f"{owner}: rho={group['rho']} with {p.dtype} weights: a perturbation this small is mostly lost to "
                    "rounding. Load float32 weights and use --bf16 autocast (torch.autocast), or accept it with "
                    "allow_low_precision=True"
                )
