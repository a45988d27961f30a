"""A study's two files, or the one that has both: read, checked, written."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.evaluation.study.trials import Row

PLAN, ROWS, SUFFIX = "plan.json", "study.jsonl", ".jsonl"
PLAN_KEYS: dict[str, Any] = dict.fromkeys(("name", "model", "recipe", "baseline", "hash"), str) | {
    **dict.fromkeys(("train", "select", "report", "optimizers", "seeds"), dict),
    "trials": int,
    "delta": int | float,
}
ROW_KEYS = {"run": str, "stage": str, "arm": str, "params": dict, "status": str}
STAGES = ("base", "screen", "confirm")


def is_study(path: Path) -> bool:
    """Whether a path is a study's folder, or a file with all of a study."""
    if path.is_dir():
        return (path / PLAN).is_file() or (path / ROWS).is_file()
    return path.suffix == SUFFIX and path.is_file()


def read_study(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The plan and the rows of a study's folder, or of a file that `--format jsonl` has written.

    Raises InputError, with the line, for what is missing or damaged.
    """
    file = path / ROWS if path.is_dir() else path
    rows = _lines(file)
    if path.is_dir():
        plan = _json(path / PLAN, _text(path / PLAN))
    elif rows and set(rows[0]) == {"plan"}:
        plan = rows.pop(0)["plan"]
    else:
        raise InputError(f"{file}: its first line is no plan; name the study's folder, or a file of --format jsonl")
    _check_plan(plan, path / PLAN if path.is_dir() else file)
    for number, row in enumerate(rows, start=1 if path.is_dir() else 2):
        _check_row(row, plan, f"{file}, line {number}")
    _check_twice(rows, file)
    if not rows:
        raise InputError(f"{file}: no run has ended yet; come back when one has")
    return plan, rows


def as_jsonl(plan: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Everything that a report is made from, in one text: the plan, then a line for each run."""
    return "".join(
        json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in ({"plan": dict(plan)}, *rows)
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); name a folder that `tamft compare` has written") from None


def _json(place: Path | str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise InputError(f"{place}: not valid JSON ({error}); `tamft compare` writes it anew") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _lines(file: Path) -> list[Any]:
    found = [
        _json(f"{file}, line {i}", text) for i, text in enumerate(_text(file).splitlines(), start=1) if text.strip()
    ]
    if not all(isinstance(row, dict) for row in found):
        raise InputError(f"{file}: not one object in each line; `tamft compare` writes it anew")
    return found


def _check_plan(plan: Any, file: Path) -> None:
    def no(reason: str) -> InputError:
        return InputError(f"{file}: {reason}; it is not the plan of a study, or of another version of tamft")

    if not isinstance(plan, dict):
        raise no("no object")
    for key, kind in PLAN_KEYS.items():
        if not isinstance(plan.get(key), kind) or isinstance(plan[key], bool):
            raise no(f"{key} is {plan.get(key)!r}")
    seeds, tasks = plan["seeds"], plan["report"].get("tasks")
    for key in ("screen", "confirm"):
        if not isinstance(seeds.get(key), list) or not seeds[key]:
            raise no(f"seeds.{key} is {seeds.get(key)!r}")
    if not isinstance(tasks, list) or not tasks:
        raise no(f"report.tasks is {tasks!r}")
    if plan["baseline"] not in plan["optimizers"]:
        raise no(f"baseline {plan['baseline']!r} is none of its optimizers")
    unknown = set(plan.get("confirm") or ()) - set(plan["optimizers"])
    if unknown:
        raise no(f"confirm has {sorted(unknown)[0]!r}, which is none of its optimizers")
    if not plan["delta"] > 0:
        raise no(f"delta is {plan['delta']!r}")


def _check_row(row: Row, plan: Mapping[str, Any], place: str) -> None:
    for key, kind in ROW_KEYS.items():
        if not isinstance(row.get(key), kind):
            raise InputError(f"{place}: {key} is {row.get(key)!r}; `tamft compare` writes the file anew")
    known = row["stage"] == "base" or row["arm"] in plan["optimizers"] or row.get("control")
    seeds = plan["seeds"]
    wanted = seeds.get("aa") if row.get("control") == "aa" else seeds.get(row["stage"])
    if row["stage"] not in STAGES or not known:
        raise InputError(f"{place}: {row['stage']} run of {row['arm']!r}, which the plan does not have")
    if row["stage"] != "base" and row.get("seed") not in (wanted or ()):
        raise InputError(f"{place}: seed {row.get('seed')!r} of {row['arm']}, which the plan does not have")
    values = [row.get("selection"), *(row.get("scores") or {}).values()]
    if not all(v is None or (isinstance(v, int | float) and math.isfinite(v)) for v in values):
        raise InputError(f"{place}: a score is no number: {values}")


def _check_twice(rows: Sequence[Row], file: Path) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for row in rows:
        settings = json.dumps(row["params"], sort_keys=True) if row["stage"] == "screen" else ""
        key = (row["stage"], row["arm"], str(row.get("seed")), settings)
        if key in seen:
            raise InputError(f"{file}: the {row['stage']} run of {row['arm']}, seed {row.get('seed')}, is there twice")
        seen[key] = row["run"]
