"""A study's folder: the plan as it was decided, the runs, and study.jsonl, from which everything can be made again."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tamft.atomic import write_atomically
from tamft.compare import outcome, runs
from tamft.compare.outcome import COMPLETE, Outcome
from tamft.compare.plan import Plan
from tamft.compare.runs import BASE, CONFIRM, Run
from tamft.errors import InputError
from tamft.row_files import read_rows
from tamft.train.record import check_writable

PLAN, CONTENT, LINES, ROWS = "plan.yaml", "plan.json", "study.jsonl", "train.jsonl"
VERSIONS = ("tamft", "torch", "transformers", "sentence-transformers", "accelerate")


def check_folder(plan: Plan, folder: Path) -> None:
    """InputError for a folder that holds another plan's study, or other things, or that cannot be written."""
    check_writable(folder)
    there = read_json(folder / CONTENT)
    if there is None and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--output_dir {folder}: holds files, but no study; name a new folder")
    if there is not None and there.get("hash") != plan.hash:
        changed = [key for key in plan.content if there.get(key) != plan.content[key] and key != "hash"]
        raise InputError(
            f"--output_dir {folder}: holds the study of another plan (different: {', '.join(changed)}); a plan that "
            "was changed after its first results is another study: name a new folder"
        )


def open_study(plan: Plan, folder: Path) -> Path | None:
    """Make the folder of a study if it is not there; returns the file to train on, where there had to be made one."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    if not (folder / CONTENT).is_file():
        shutil.copyfile(plan.path, folder / PLAN)
        write_atomically(folder / CONTENT, json.dumps(plan.content, indent=1, ensure_ascii=False) + "\n")
    return train_file(plan, folder)


def train_file(plan: Plan, folder: Path) -> Path | None:
    """One file of the rows of several, in `folder`: recipes read one. None where there is one already."""
    if len(plan.train_files) < 2:
        return None
    path = folder.absolute() / ROWS
    if not path.is_file():
        rows = (row for file in plan.train_files for _, row in read_rows(file))
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def read_outcome(folder: Path, run: Run) -> Outcome:
    """What has become of a run of the study in `folder`."""
    return outcome.read(folder / "runs" / run.key, trained=run.stage != BASE)


def selection(plan: Plan, found: Outcome) -> float | None:
    """What a configuration is chosen by, higher is better; None where a run did not end well."""
    if found.status != COMPLETE:
        return None
    if plan.select is None:
        losses = found.record.get("eval_loss") or []
        return -float(losses[-1][1]) if losses and losses[-1][1] is not None else None
    scores = task_scores(found.scores)
    values = [scores.get(name) for name in plan.content["select"]["tasks"]]
    return None if None in values else math.fsum(v for v in values if v is not None) / len(values)


def task_scores(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Main score of each task, the mean over its splits and subsets."""
    parts: dict[str, list[float]] = {}
    for record in records:
        if record.get("main_score") is not None:
            parts.setdefault(record["task"], []).append(record["main_score"])
    return {task: math.fsum(values) / len(values) for task, values in parts.items()}


def chosen(plan: Plan, folder: Path) -> dict[str, dict[str, Any] | None]:
    """The best configuration of each arm by the mean over the screening seeds; the first of equal ones.

    A configuration that diverged or failed on any seed cannot win. None: none ended well.
    """
    sums: dict[str, dict[tuple[tuple[str, Any], ...], list[float | None]]] = {name: {} for name in plan.arms}
    for run in runs.screen(plan):
        value = selection(plan, read_outcome(folder, run))
        sums[run.arm].setdefault(run.params, []).append(value)
    best: dict[str, dict[str, Any] | None] = {}
    for name, tried in sums.items():
        means = {p: math.fsum(v for v in vs if v is not None) / len(vs) for p, vs in tried.items() if None not in vs}
        best[name] = dict(max(means, key=means.__getitem__)) if means else None
    return best


def all_runs(plan: Plan, folder: Path) -> list[Run]:
    """Every run that is known by now: the confirmation only when the screening is over."""
    screened = runs.screen(plan)
    known = [runs.base(plan), *screened]
    if all(read_outcome(folder, run).status for run in screened):
        known += runs.confirm(plan, chosen(plan, folder))
    return known


def write_lines(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Write study.jsonl from the runs' folders: a line for each run that has ended."""
    found = [(run, read_outcome(folder, run)) for run in all_runs(plan, folder)]
    lines = [line(plan, run, o) for run, o in found if o.status is not None]
    text = "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in lines)
    write_atomically(folder / LINES, text)
    return lines


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a study's study.jsonl; none where there is no file."""
    path = folder / LINES
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def line(plan: Plan, run: Run, found: Outcome) -> dict[str, Any]:
    """The line of a run in study.jsonl; `scores` are those of the reported tasks."""
    record, scores = found.record, task_scores(found.scores)
    params = dict(run.params)
    optimizer = record.get("optimizer") or {}
    config = record.get("config") or {}
    devices = [record.get("device"), *(score.get("device") for score in found.scores)]
    return {
        "run": run.key,
        "stage": run.stage,
        "arm": run.arm,
        "optimizer": run.optim,
        "optim_args": dict(run.args) | {key: value for key, value in params.items() if key not in config},
        "learning_rate": params.get("learning_rate"),
        "weight_decay": params.get("weight_decay", config.get("weight_decay")),
        "params": params,
        "seed": run.seed,
        "control": run.control,
        "status": found.status,
        "error": found.error,
        "selection": selection(plan, found),
        "selection_scores": {name: scores[name] for name in plan.content["select"].get("tasks", []) if name in scores},
        "scores": {name: scores[name] for name in plan.content["report"]["tasks"] if name in scores},
        "types": {name: task["type"] for name, task in plan.content["tasks"].items()},
        "steps": record.get("steps"),
        "seconds": record.get("seconds"),
        "peak_memory_bytes": record.get("peak_memory_bytes"),
        "state_bytes": optimizer.get("state_bytes"),
        "loss": record.get("loss") or [],
        "telemetry": record.get("telemetry") or [],
        "first_batches_sha256": record.get("first_batches_sha256"),
        "device": next((device for device in devices if device), None),
        "versions": record.get("versions") or {},
    }


def problems(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes runs incomparable that should differ in their optimizer alone, a line each."""
    found = []
    orders: dict[int, dict[str, list[str]]] = {}
    for one in lines:
        if one["first_batches_sha256"]:
            orders.setdefault(one["seed"], {}).setdefault(one["first_batches_sha256"], []).append(one["arm"])
    for seed, hashes in orders.items():
        if len(hashes) > 1:
            groups = " / ".join(", ".join(dict.fromkeys(arms)) for arms in hashes.values())
            found.append(f"seed {seed}: not all arms were trained on the same batches: {groups}")
    for key, values in (
        ("device", {one["device"] for one in lines if one["device"] and one["stage"] == CONFIRM}),
        ("versions", {_versions(one) for one in lines if one["versions"] and one["stage"] == CONFIRM}),
    ):
        if len(values) > 1:
            found.append(f"confirmation on more than one {key.rstrip('s')}: {' / '.join(sorted(values))}")
    return found


def _versions(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {one['versions'].get(name)}" for name in VERSIONS)


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
