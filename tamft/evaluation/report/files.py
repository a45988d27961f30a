"""Score records from files: of `tamft eval --json`, and result files in mteb's format, one's own or published ones."""

import fnmatch
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.evaluation import overlap
from tamft.evaluation.summary import FAILED, Record, find_task

if TYPE_CHECKING:
    from mteb.results import TaskResult

KEYS = {"model", "name", "revision", "task", "split", "subset", "main_score", "status", "reason"}
STATES = ("ok", "failed", "missing")
# where `tamft eval --dtype` has its results: below the revision's, as mteb keeps what it calls experiments
OTHER_PRECISION = "*/experiments/dtype_*"


@dataclass(frozen=True)
class Stored:
    """A result file: whose it is, what it says (None if it cannot be read), what tamft wrote beside it."""

    name: str
    revision: str
    file: Path
    result: "TaskResult | None"
    problem: str | None
    provenance: dict[str, Any]


def read_records(file: Path) -> list[Record]:
    """The records of a file that `tamft eval --json` has written. Raises InputError for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda _: None)  # NaN is no JSON
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); give a file that `tamft eval --json` has written"
        ) from None
    if not isinstance(content, list) or not all(isinstance(r, dict) and r.keys() >= KEYS for r in content):
        raise InputError(f"{file}: not a list of score records; give a file that `tamft eval --json` has written")
    for number, record in enumerate(content):
        score, status = record["main_score"], record["status"]
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if status not in STATES or (status == "ok") != is_number:
            raise InputError(f"{file}: record {number} has status {status!r} and main_score {score!r}: one is wrong")
    return content


def result_root(folder: Path) -> Path | None:
    """Where `<model>/<revision>/<task>.json` begins: in a results folder or a clone, in mteb's own cache, or here."""
    for root in (folder / "results", folder / "remote" / "results", folder):
        if root.name == "results" and next(root.glob("*/*/*.json"), None) is not None:
            return root
    return None


def model_names(root: Path) -> list[str]:
    """The models below the root, as mteb names their folders."""
    return sorted(folder.name.replace("__", "/") for folder in root.iterdir() if folder.is_dir())


def is_wanted(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether a model's name, or the part behind its last slash, is one of the names or matches one of the patterns."""
    parts = (name.lower(), name.lower().rpartition("/")[2])
    return patterns is None or any(fnmatch.fnmatchcase(part, p.lower()) for p in patterns for part in parts)


def read_results(
    root: Path, models: Sequence[str] | None = None, tasks: set[str] | None = None, *, precisions: bool = True
) -> list[Stored]:
    """The result files below the root, of these models and tasks (None: all), also those of `tamft eval --dtype`."""
    from tqdm.auto import tqdm

    folders = [
        (name, folder)
        for name in model_names(root)
        if is_wanted(name, models)
        for pattern in ("*", OTHER_PRECISION)[: 1 + precisions]
        for folder in sorted((root / name.replace("/", "__")).glob(pattern))
        if folder.is_dir()
    ]
    found = []
    for guess, folder in tqdm(folders, desc=f"reading {root}", unit="model", disable=None, leave=False):
        name, revision = _identity(folder, guess)
        beside = _provenance(folder)
        for file in sorted(folder.glob("*.json")):
            if file.name != "model_meta.json" and (tasks is None or file.stem in tasks):
                result, problem = _read(file)
                found.append(Stored(name, revision, file, result, problem, beside.get(file.stem, {})))
    return found


def join_revisions(stored: Sequence[Stored]) -> list[Stored]:
    """Of several revisions of a model, for each task the one that mteb's leaderboard shows."""
    from mteb.results import BenchmarkResults, ModelResult

    by_model: dict[tuple[str, str], list[TaskResult]] = {}
    for one in stored:
        if one.result is not None:
            by_model.setdefault((one.name, one.revision), []).append(one.result)
    made = [
        ModelResult.model_construct(model_name=name, model_revision=revision, task_results=results)
        for (name, revision), results in by_model.items()
    ]
    joined = BenchmarkResults.model_construct(model_results=made).join_revisions() if made else ()
    kept = {(m.model_name, m.model_revision, t.task_name) for m in joined for t in m.task_results}
    return [one for one in stored if one.result is not None and (one.name, one.revision, one.result.task_name) in kept]


def as_records(stored: Iterable[Stored]) -> Iterator[Record]:
    """One record for each split and subset; one that failed for a file that cannot be read."""
    for one in stored:
        base: Record = {
            "model": one.provenance.get("model") or f"{one.name} @ {one.revision}",
            "typed": one.provenance.get("model"),
            "name": one.name,
            "revision": one.revision,
            "task": one.file.stem,
            "type": one.provenance.get("type"),
            **dict.fromkeys(("split", "subset", "metric", "main_score")),
            "reason": one.problem,
            "status": FAILED,
            **dict.fromkeys(("mteb_version", "dataset_revision")),
            **{
                key: one.provenance.get(key) for key in ("device", "dtype", "batch", "batch_unit", "seconds", "command")
            },
        }
        yield from [base] if one.result is None else _from_result(one.result, base, one.provenance)


def _from_result(result: "TaskResult", base: Record, provenance: dict[str, Any]) -> Iterator[Record]:
    task, seconds = find_task(result.task_name), result.evaluation_time
    base = base | {
        "task": result.task_name,
        "metric": task.main_score if task is not None else None,
        "mteb_version": result.mteb_version,
        "dataset_revision": result.dataset_revision,
        "seconds": round(seconds, 3) if seconds is not None and math.isfinite(seconds) else None,
    }
    for split, entries in result.scores.items():
        for entry in entries:
            record, score = base | {"split": split, "subset": entry["hf_subset"]}, entry.get("main_score")
            record["overlap"] = overlap.pick(provenance.get("overlap"), split, entry["hf_subset"])
            if score is not None and math.isfinite(score):
                yield record | {"main_score": float(score), "status": "ok", "reason": provenance.get("warning")}
            else:
                warning = f"; {provenance['warning']}" if provenance.get("warning") else ""
                yield record | {"reason": f"the score is undefined (NaN){warning}"}


def _read(file: Path) -> tuple["TaskResult | None", str | None]:
    from mteb.results import TaskResult

    try:
        return TaskResult.from_disk(file), None
    except Exception as error:  # noqa: BLE001 - old, foreign or cut off files fail in many ways; one is not the others
        return None, f"{file.name} cannot be read ({type(error).__name__})"


def _identity(folder: Path, guess: str) -> tuple[str, str]:
    """Name and revision of a results folder: what mteb wrote beside the results, else the folders' names."""
    try:
        meta = json.loads((folder / "model_meta.json").read_text(encoding="utf-8"))
        return str(meta["name"]), str(meta["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return guess, (folder.parent.parent if folder.parent.name == "experiments" else folder).name


def _provenance(folder: Path) -> dict[str, dict[str, Any]]:
    """What tamft wrote beside mteb's results, by task: device, dtype, batch, command, warning."""
    from tamft.evaluation.results import PROVENANCE, provenance_lines

    return {str(entry.get("task")): entry for entry in provenance_lines(folder / PROVENANCE)}
