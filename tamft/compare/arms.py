"""The arms of a plan: which optimizers, with what budget, on which seeds, against which controls."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamft import registry
from tamft.compare import schema, space
from tamft.compare.schema import Axis
from tamft.errors import InputError
from tamft.optim_args import nearest, plain

# What can be searched beside the optimizer's own options.
FLAGS = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
PLAIN = ("adamw_torch", "adamw_torch_fused", "torch.optim.AdamW")


@dataclass(frozen=True)
class Arm:
    """An optimizer of the plan; `args` are fixed options of `--optim_args`."""

    name: str
    optim: str
    args: dict[str, Any]
    space: Mapping[str, Axis]


def has_torque(optim: str) -> bool:
    """Whether an optimizer has a torque that can be frozen."""
    return optim in registry.names() and "gamma" in registry.options(optim)


def make_arm(path: Path, name: str, given: schema.Optimizer) -> Arm:
    """An arm as the plan in `path` has it. Raises InputError, as all functions here do."""
    if not schema.NAME.fullmatch(name):
        raise InputError(f"{path}: optimizers: {name!r} is no name: at most 60 letters, digits, blanks and . _ = + -")
    where = f"{path}: optimizers.{name}"
    if not given.space:
        raise InputError(f"{where}.space is empty: say which learning rates are tried, for every arm equally many")
    if "learning_rate" not in given.space:
        raise InputError(
            f"{where}.space has no learning_rate: a rate that was tuned for another optimizer decides the comparison"
        )
    twice = set(given.args) & set(given.space)
    if twice:
        raise InputError(f"{where}: {sorted(twice)[0]} is both fixed (args) and searched (space); write it once")
    return Arm(name, given.optim or name, dict(given.args), given.space)


def count_trials(path: Path, given: schema.Plan, arms: Mapping[str, Arm]) -> int:
    """Configurations of each arm. Raises InputError unless they are as many, and found in the same way, for all."""
    if given.baseline not in arms:
        raise InputError(
            f"{path}: baseline: the optimizers have no {given.baseline!r}{nearest(given.baseline, arms)} A comparison "
            "needs AdamW, tuned with the same budget: add it to optimizers, or name its arm with `baseline: NAME`"
        )
    if arms[given.baseline].optim not in PLAIN:
        raise InputError(
            f"{path}: baseline: {given.baseline} is {arms[given.baseline].optim}; the baseline is AdamW itself "
            f"({', '.join(PLAIN)})"
        )
    if len(arms) < 2:
        raise InputError(f"{path}: optimizers: there is only {given.baseline}; add what it is to be compared with")
    seen: dict[str, str] = {}
    for name, arm in arms.items():
        same = seen.setdefault(json.dumps([arm.optim, arm.args], sort_keys=True, default=str), name)
        if same != name:
            raise InputError(f"{path}: optimizers: {same} and {name} are the same optimizer; one would be tuned twice")
    kinds = {name: "a grid" if space.is_grid(arm.space) else "a sample" for name, arm in arms.items()}
    other = next((name for name in arms if kinds[name] != kinds[given.baseline]), None)
    if other is not None:
        raise InputError(
            f"{path}: optimizers: unequal budgets: the space of {given.baseline} is {kinds[given.baseline]}, that of "
            f"{other} is {kinds[other]}; give all arms lists of values, or all a range (log)"
        )
    if kinds[given.baseline] == "a sample":
        if given.trials is None:
            raise InputError(f"{path}: trials is missing: how many points of its space each arm may try")
        return given.trials
    for name, arm in arms.items():
        wanted = given.trials or space.size(arms[given.baseline].space)
        if space.size(arm.space) != wanted:
            of = "trials says" if given.trials else f"{given.baseline} has"
            raise InputError(
                f"{path}: optimizers: unequal budgets: the grid of {name} has {space.size(arm.space)} configurations, "
                f"{of} {wanted}; give every arm as many"
            )
    return space.size(arms[given.baseline].space)


def choose_controls(path: Path, given: schema.Plan, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """`aa`: whether there is one; `frozen_torque`: the arm whose torque is frozen, or None."""
    wish = given.controls.frozen_torque
    able = [name for name, arm in arms.items() if has_torque(arm.optim) and "gamma" not in (arm.args | dict(arm.space))]
    if isinstance(wish, str) and wish not in able:
        there = f"; it is one of {', '.join(able)}" if able else ""
        raise InputError(f"{path}: controls.frozen_torque: {wish!r} is no arm with a torque to freeze{there}")
    frozen = wish if isinstance(wish, str) else able[0] if wish and able else None
    return {"aa": given.controls.aa, "frozen_torque": frozen}


def choose_seeds(
    path: Path, given: schema.Plan, controls: Mapping[str, Any], warnings: list[str]
) -> dict[str, list[int]]:
    """`screen`, `confirm` and `aa`, no seed in two of them; a warning for few."""
    screen, confirm = given.seeds.screen, given.seeds.confirm
    if len(confirm) < 2:
        raise InputError(f"{path}: seeds.confirm: {len(confirm)} seed allows no inference; give at least 2, better 6")
    if len(confirm) < 6:
        warnings.append(
            f"seeds.confirm: {len(confirm)} seeds find only large differences; 6 or more are usual (see the sizes)"
        )
    start = max(screen + confirm) + 1
    aa = given.seeds.aa or list(range(start, start + len(confirm)))
    if controls["aa"] and len(aa) != len(confirm):
        raise InputError(f"{path}: seeds.aa: the A/A control needs as many seeds as confirm has ({len(confirm)})")
    seen: dict[int, str] = {}
    for part, seeds in (("screen", screen), ("confirm", confirm), ("aa", aa if controls["aa"] else [])):
        for seed in seeds:
            if seed < 0 or seed >= 2**32:
                raise InputError(f"{path}: seeds.{part}: {seed} is no seed: it must be from 0 to {2**32 - 1}")
            if seed in seen:
                raise InputError(
                    f"{path}: seeds.{part}: {seed} is in {seen[seed]} already; a seed that chose a configuration, or "
                    "counts twice, proves nothing: give another"
                )
            seen[seed] = part
    return {"screen": screen, "confirm": confirm, "aa": aa if controls["aa"] else []}


def choose_confirmed(path: Path, given: schema.Plan, arms: Mapping[str, Arm]) -> list[str]:
    """The arms that get fresh seeds, the baseline among them."""
    wanted = given.confirm if given.confirm is not None else list(arms)
    for name in wanted:
        if name not in arms:
            raise InputError(
                f"{path}: confirm: there is no arm {name!r}{nearest(name, arms)} There are: {', '.join(arms)}"
            )
    chosen = [name for name in arms if name in wanted or name == given.baseline]
    if len(chosen) < 2:
        raise InputError(f"{path}: confirm: nothing but the baseline would be confirmed; name an arm")
    return chosen


def check_optimizer(path: Path, arm: Arm) -> None:
    """InputError for an optimizer that nobody knows, and for options that it does not have."""
    import tamft.hf as hf
    from tamft.hf import others

    where = f"{path}: optimizers.{arm.name}"
    hf.register()
    from transformers.training_args import OptimizerNames

    try:
        others.learn(arm.optim)
        known = [member.value for member in OptimizerNames]
        if arm.optim not in known:
            raise InputError(
                f"no optimizer is called {arm.optim!r}{nearest(arm.optim, known)} Ours: {registry.names()}"
            )
        ours = arm.optim in registry.names()
        own = [key for key in registry.options(arm.optim) if key not in registry.owned(arm.optim)] if ours else []
        for key in arm.space:
            if key not in FLAGS and key not in own:
                raise InputError(f"space: {key!r} is no option of {arm.optim}{nearest(key, [*FLAGS, *own])}")
        if ours:
            registry.parse_optim_args(arm.optim, optim_args(arm.args))
            for key, axis in arm.space.items():
                for value in axis.values or axis.log or []:
                    if key not in FLAGS:
                        registry.parse_optim_args(arm.optim, f"{key}={plain(value)}")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def optim_args(args: Mapping[str, Any]) -> str:
    """The text of --optim_args."""
    return ",".join(f"{key}={plain(value)}" for key, value in args.items())
