"""A plan with everything looked up: optimizers, files and their hashes, tasks and their revisions. It has a hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.compare import arms as arms_of
from tamft.compare import schema
from tamft.compare.arms import Arm
from tamft.errors import InputError
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
    def processes(self) -> int:
        """Processes (GPUs) of each run."""
        return int(self.content.get("processes", 1))

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
    arms = {name: arms_of.make_arm(path, name, arm) for name, arm in given.optimizers.items()}
    trials = arms_of.count_trials(path, given, arms)
    controls = arms_of.choose_controls(path, given, arms)
    seeds = arms_of.choose_seeds(path, given, controls, warnings)
    confirm = arms_of.choose_confirmed(path, given, arms)
    for arm in arms.values():
        arms_of.check_optimizer(path, arm)
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
    if given.processes > 1:  # the global batch, and so the result, depends on it
        content["processes"] = given.processes
    content["hash"] = digest(content)
    report = specs["report"] or {}
    return Plan(path, content, arms, model, options, files, specs["select"], report, tasks, warnings)


def digest(content: Any) -> str:
    """sha256 of JSON with sorted keys and no blanks, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
