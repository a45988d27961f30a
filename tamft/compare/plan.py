"""A plan with everything looked up: optimizers, files and their hashes, tasks and their revisions. It has a hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft import registry
from tamft.compare import schema, space
from tamft.compare.schema import Axis
from tamft.errors import InputError
from tamft.optim_args import nearest, plain
from tamft.yaml_file import expand, read_yaml

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

SCHEMA = 1
# Options of the recipe that the plan says elsewhere, and where.
ELSEWHERE = {
    "model": "model",
    "optim": "optimizers",
    "optim_args": "optimizers.NAME.args",
    "learning_rate": "optimizers.NAME.space",
    "seed": "seeds",
    "data_seed": "seeds",
}
# … and those that belong to the command.
OURS = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "dry_run", "disable_tqdm", "report_to")
FILES = ("train_file", "eval_file")
CHECKPOINTS = ("save_strategy", "save_steps", "save_total_limit", "save_only_model", "load_best_model_at_end")
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


@dataclass(frozen=True)
class Plan:
    """A plan that can be carried out here.

    `content` is plan.json: what was decided, without a path of this machine. `options` are the recipe's, with paths;
    `train_files` are to become one file, where there are several. `select` and `report` are arguments of
    `tamft.evaluation.tasks.get_tasks`; `select` is None where the recipe measures the metric itself.
    """

    path: Path
    content: dict[str, Any]
    arms: dict[str, Arm]
    model: str
    options: dict[str, Any]
    train_files: list[Path]
    select: dict[str, Any] | None
    report: dict[str, Any]
    tasks: dict[str, list["AbsTask"]]
    warnings: list[str]

    @property
    def hash(self) -> str:
        """sha256 of all that was decided, in hex."""
        return str(self.content["hash"])

    @property
    def seeds(self) -> dict[str, list[int]]:
        """`screen`, `confirm` and `aa`."""
        return dict(self.content["seeds"])


def read_plan(path: Path) -> Plan:
    """The plan in a file, checked as far as that goes without loading models and data of tasks.

    Raises InputError with the place of the first mistake.
    """
    given = schema.read(path)
    warnings: list[str] = []
    arms = {name: _arm(path, name, arm) for name, arm in given.optimizers.items()}
    trials = _budgets(path, given, arms)
    controls = _controls(path, given, arms)
    seeds = _seeds(path, given, controls, warnings)
    confirm = _confirmed(path, given, arms)
    for arm in arms.values():
        _check_optimizer(path, arm)
    options, files, told = _training(path, given)
    model, revision = _model(path, given.model)
    specs = {"select": _spec(path, given.select), "report": _spec(path, given.report)}
    tasks = {key: _tasks(spec) for key, spec in specs.items()}
    _check_tasks(path, tasks, options, given)
    content = {
        "schema": SCHEMA,
        "name": given.name,
        "description": given.description,
        "model": given.model,
        "model_revision": revision,
        "recipe": given.recipe,
        "train": told,
        "select": {"tasks": [t.metadata.name for t in tasks["select"]]}
        if specs["select"]
        else {"metric": given.select.metric},
        "report": {"tasks": [t.metadata.name for t in tasks["report"]]}
        | ({"suite": given.report.suite} if given.report.suite else {}),
        "tasks": {
            t.metadata.name: {
                "type": t.metadata.type,
                "revision": t.metadata.revision,
                "metric": t.metadata.main_score,
            }
            for found in tasks.values()
            for t in found
        },
        "optimizers": {
            name: {
                "optim": arm.optim,
                "args": arm.args,
                "space": {key: axis.model_dump(exclude_none=True) for key, axis in arm.space.items()},
            }
            for name, arm in arms.items()
        },
        "trials": trials,
        "seeds": seeds,
        "confirm": confirm,
        "baseline": given.baseline,
        "controls": controls,
        "delta": given.delta,
        "sd": given.sd,
    }
    content["hash"] = digest(content)
    report = specs["report"] or {}
    return Plan(path, content, arms, model, options, files, specs["select"], report, tasks, warnings)


def digest(content: Any) -> str:
    """sha256 of JSON with sorted keys and no blanks, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def has_torque(optim: str) -> bool:
    """Whether an optimizer has a torque that can be frozen."""
    return optim in registry.names() and "gamma" in registry.options(optim)


# --- optimizers, budgets, seeds ---------------------------------------------------------------------------------------


def _arm(path: Path, name: str, given: schema.Optimizer) -> Arm:
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


def _budgets(path: Path, given: schema.Plan, arms: Mapping[str, Arm]) -> int:
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


def _controls(path: Path, given: schema.Plan, arms: Mapping[str, Arm]) -> dict[str, Any]:
    wish = given.controls.frozen_torque
    able = [name for name, arm in arms.items() if has_torque(arm.optim) and "gamma" not in (arm.args | dict(arm.space))]
    if isinstance(wish, str) and wish not in able:
        there = f"; it is one of {', '.join(able)}" if able else ""
        raise InputError(f"{path}: controls.frozen_torque: {wish!r} is no arm with a torque to freeze{there}")
    frozen = wish if isinstance(wish, str) else able[0] if wish and able else None
    return {"aa": given.controls.aa, "frozen_torque": frozen}


def _seeds(path: Path, given: schema.Plan, controls: Mapping[str, Any], warnings: list[str]) -> dict[str, list[int]]:
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


def _confirmed(path: Path, given: schema.Plan, arms: Mapping[str, Arm]) -> list[str]:
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


def _check_optimizer(path: Path, arm: Arm) -> None:
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


# --- training and tasks -----------------------------------------------------------------------------------------------


def _training(path: Path, given: schema.Plan) -> tuple[dict[str, Any], list[Path], dict[str, Any]]:
    """The recipe's options with paths, the training files, and the options as plan.json tells them."""
    from tamft.train.models import file_sha256
    from tamft.train.shipped import find_config, find_recipe

    find_recipe(given.recipe)
    options = {str(key).replace("-", "_"): value for key, value in given.train.items()}
    for key in options:
        if key in ELSEWHERE:
            raise InputError(f"{path}: train.{key}: the plan says that in `{ELSEWHERE[key]}`; remove it here")
        if key in OURS:
            raise InputError(f"{path}: train.{key}: `tamft compare` sets this itself; remove it")
    name = options.pop("config", None)
    if name is not None:
        near = path.parent / expand(str(name), f"{path}: train.config")
        config = read_yaml(near if near.is_file() else find_config(str(name)))
        config = {str(key).replace("-", "_"): value for key, value in config.items()}
        options = {key: value for key, value in config.items() if key not in (*ELSEWHERE, *OURS)} | options
    if "save_strategy" not in given.train:
        # Checkpoints gain nothing in a run of minutes; a plan of long runs asks for them.
        options = {key: value for key, value in options.items() if key not in CHECKPOINTS} | {"save_strategy": "no"}
    told = dict(options)
    files: list[Path] = []
    for key in FILES:
        names = options.get(key)
        if names is None:
            continue
        names = names if isinstance(names, list) else [names]
        paths = [_file(path, f"train.{key}", name) for name in names]
        told[key] = [{"name": found.name, "sha256": file_sha256(found)} for found in paths]
        if key == "train_file":
            files = paths
        elif len(paths) > 1:
            raise InputError(f"{path}: train.{key} takes one file")
        options[key] = str(paths[0])
    if not files and not options.get("dataset"):
        raise InputError(f"{path}: train.train_file is missing: the rows to train on (or train.dataset, on the Hub)")
    return options, files, told


def _file(path: Path, where: str, name: Any) -> Path:
    if not isinstance(name, str):
        raise InputError(f"{path}: {where}: {name!r} is not the name of a file")
    found = (path.parent / Path(expand(name, f"{path}: {where}")).expanduser()).absolute()
    if not found.is_file():
        raise InputError(f"{path}: {where}: there is no file {found}")
    return found


def _model(path: Path, name: str) -> tuple[str, str]:
    """What the recipe loads, and which model that is."""
    from tamft.evaluation.identity import identify
    from tamft.train.models import resolve

    name = expand(name, f"{path}: model")
    near = path.parent / name
    found = str(near.absolute()) if near.is_dir() else name
    try:
        resolved = resolve(found)
        return found, identify(resolved).revision
    except InputError as error:
        raise InputError(f"{path}: model: {error}") from None


def _spec(path: Path, given: schema.Select | schema.Tasks) -> dict[str, Any] | None:
    if isinstance(given, schema.Select) and given.metric is not None:
        return None

    def place(name: str) -> str:
        name = expand(name, f"{path}: tasks")
        near = path.parent / name
        return str(near.absolute()) if name.endswith((".yaml", ".yml")) and near.is_file() else name

    names = None if given.tasks is None else [place(name) for name in given.tasks]
    return {"tasks": names, "suite": place(given.suite) if given.suite else None, "languages": given.languages}


def _tasks(spec: dict[str, Any] | None) -> list["AbsTask"]:
    from tamft.evaluation.tasks import get_tasks

    return get_tasks(**spec) if spec is not None else []


def _check_tasks(path: Path, tasks: Mapping[str, list["AbsTask"]], options: Mapping[str, Any], given: Any) -> None:
    reported = {task.metadata.name: task for task in tasks["report"]}
    data = {str(sorted(map(str, _data(task)))): name for name, task in reported.items()}
    for task in tasks["select"]:
        name = task.metadata.name
        other = name if name in reported else data.get(str(sorted(map(str, _data(task)))))
        if other is not None:
            same = "" if other == name else f" (the same data as {other})"
            raise InputError(
                f"{path}: select and report both have {name}{same}: what a configuration was chosen by says nothing "
                "about it any more; select by a development set"
            )
    if given.select.metric == schema.EVAL_LOSS:
        if not options.get("eval_file") and not options.get("eval_split"):
            raise InputError(f"{path}: select.metric: {schema.EVAL_LOSS} needs train.eval_file (or train.eval_split)")
        if options.get("eval_strategy", "no") in ("no", False):
            raise InputError(f"{path}: select.metric: {schema.EVAL_LOSS} needs train.eval_strategy: steps or epoch")


def _data(task: "AbsTask") -> list[Any]:
    dataset = task.metadata.dataset
    # tasks of one's own have a revision that is a hash of their files and of their lines
    return [dataset.get("path"), dataset.get("name"), dataset.get("revision"), *task.eval_splits, *task.hf_subsets]
