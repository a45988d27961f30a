"""The fixed list of runs: screening, then fresh seeds for what was chosen, the controls, and the base model."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamft.compare import space
from tamft.compare.arms import FLAGS, optim_args
from tamft.compare.plan import FILES, Plan, digest

BASE, SCREEN, CONFIRM = "base", "screen", "confirm"
FROZEN = {"gamma": 1.0}  # ŝ stays 0 and d stays ½: the torque is a constant
AA = "{} (A/A)"
FROZEN_ARM = "{} gamma=1"


@dataclass(frozen=True)
class Run:
    """One training and its scores, or the scores of the base model.

    `params` are the searched values, `args` the fixed options of the optimizer. `key` is a hash of all that can change
    the result, and the name of the run's folder.
    """

    key: str
    stage: str
    arm: str
    optim: str | None = None
    args: tuple[tuple[str, Any], ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    seed: int | None = None
    control: str | None = None

    def describe(self) -> str:
        """What tells it from the others, in a line."""
        if self.stage == BASE:
            return "the base model"
        return f"{self.stage} {self.arm}, {plain(dict(self.params))}, seed {self.seed}"


def plain(params: Mapping[str, Any]) -> str:
    """Searched values for people: `learning_rate 2e-05, rho 0.1`."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in params.items()
    )


def base(plan: Plan) -> Run:
    """The model before any training."""
    return Run(digest({"model": plan.content["model_revision"], "tasks": _tasks(plan, CONFIRM)})[:16], BASE, "base")


def screen(plan: Plan) -> list[Run]:
    """Every configuration of every arm on every screening seed, arms taking turns."""
    found = {name: trials(plan, name) for name in plan.arms}
    return [
        _run(plan, SCREEN, name, plan.arms[name].optim, plan.arms[name].args, found[name][i], seed)
        for i in range(plan.content["trials"])
        for seed in plan.seeds["screen"]
        for name in plan.arms
    ]


def trials(plan: Plan, name: str) -> list[dict[str, Any]]:
    """The configurations of an arm."""
    return space.configurations(plan.arms[name].space, plan.content["trials"], int(plan.hash[:8], 16))


def confirm(plan: Plan, chosen: Mapping[str, Mapping[str, Any] | None]) -> list[Run]:
    """Fresh seeds for the chosen configuration of each arm, and the controls, seed by seed.

    `chosen`: arm -> its parameters; None: none of its configurations ended well, so there is nothing to confirm.
    """
    found = []
    baseline, frozen = plan.content["baseline"], plan.content["controls"]["frozen_torque"]
    for i, seed in enumerate(plan.seeds["confirm"]):
        for name in plan.content["confirm"]:
            params, arm = chosen[name], plan.arms[name]
            if params is None:
                continue
            found.append(_run(plan, CONFIRM, name, arm.optim, arm.args, params, seed))
            if name == baseline and plan.seeds["aa"]:
                further = plan.seeds["aa"][i]
                found.append(_run(plan, CONFIRM, AA.format(name), arm.optim, arm.args, params, further, "aa"))
        if frozen is not None and (params := chosen[frozen]) is not None:
            arm = plan.arms[frozen]
            name, args = FROZEN_ARM.format(frozen), arm.args | FROZEN
            found.append(_run(plan, CONFIRM, name, arm.optim, args, params, seed, "null"))
    return found


def count_confirm(plan: Plan) -> int:
    """How many runs `confirm` gives when every arm has a configuration: known before anything ran."""
    arms = len(plan.content["confirm"]) + (plan.content["controls"]["frozen_torque"] is not None)
    return arms * len(plan.seeds["confirm"]) + len(plan.seeds["aa"])


def _run(
    plan: Plan,
    stage: str,
    arm: str,
    optim: str,
    args: Mapping[str, Any],
    params: Mapping[str, Any],
    seed: int,
    control: str | None = None,
) -> Run:
    content = {
        "model": plan.content["model_revision"],
        "recipe": plan.content["recipe"],
        "train": plan.content["train"],
        "optim": optim,
        "args": dict(args),
        "params": dict(params),
        "seed": seed,
        "tasks": _tasks(plan, stage),
    }
    if plan.processes > 1:
        content["processes"] = plan.processes
    return Run(digest(content)[:16], stage, arm, optim, tuple(args.items()), tuple(params.items()), seed, control)


def _tasks(plan: Plan, stage: str) -> dict[str, str]:
    """Revisions of what a run is scored on: nobody looks at reported tasks while there is something to choose."""
    names = [*plan.content["select"].get("tasks", []), *(plan.content["report"]["tasks"] if stage != SCREEN else [])]
    return {name: str(plan.content["tasks"][name]["revision"]) for name in names}


@dataclass(frozen=True)
class Job:
    """What a worker needs for one run: plain values, so that it can go to another machine with the same folders."""

    key: str
    text: str
    folder: Path
    recipe: str
    words: tuple[str, ...] | None  # of the recipe's command line; None: nothing is trained, `model` is scored
    model: str
    scored: tuple[dict[str, Any], ...]  # arguments of get_tasks
    names: tuple[tuple[str, str], ...] = ()  # paths of this machine, and what stands for them in run.json
    keep_models: bool = False
    processes: int = 1
    accelerate_config: str | None = None
    threads: int = 1
    devices: tuple[str, ...] = ()  # CUDA devices; none: the CPU


def job(plan: Plan, run: Run, study: Path, train_file: Path | None, **settings: Any) -> Job:
    """The job of a run in the folder of a study. `settings`: the fields of Job that say how it is run."""
    scored = [spec for spec in (plan.select, plan.report if run.stage != SCREEN else None) if spec is not None]
    folder = study.absolute() / "runs" / run.key
    words = None if run.stage == BASE else tuple(_words(plan, run, folder, train_file))
    recipe, names = plan.content["recipe"], _names(plan, study.absolute())
    return Job(run.key, run.describe(), folder, recipe, words, plan.model, tuple(scored), names, **settings)


def _names(plan: Plan, study: Path) -> tuple[tuple[str, str], ...]:
    """Paths of this machine that a run gets, and their names in the plan or in the study's folder."""
    files = [Path(plan.options[key]) for key in FILES if plan.options.get(key)]
    found = {str(path): path.name for path in (*plan.train_files, *files)}
    if plan.model != plan.content["model"]:
        found[plan.model] = plan.content["model"]
    return (*found.items(), (f"{study}{os.sep}", ""))


def _words(plan: Plan, run: Run, folder: Path, train_file: Path | None) -> list[str]:
    options = dict(plan.options)
    if train_file is not None:
        options["train_file"] = str(train_file)
    args = dict(run.args)
    for key, value in run.params:
        (options if key in FLAGS else args)[key] = value
    options |= {"model": plan.model, "optim": run.optim, "seed": run.seed, "output_dir": str(folder)}
    options |= {"optim_args": optim_args(args) or None, "disable_tqdm": True, "report_to": "none"}
    options |= {"overwrite_output_dir": True}
    if options.get("save_strategy") != "no":
        options["resume_from_checkpoint"] = "auto"
    return as_words(options)


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line; None is not said."""
    words: list[str] = []
    for key, value in options.items():
        if isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words.append(f"--{key}={str(value).lower() if isinstance(value, bool) else _text(value)}")
    return words


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
