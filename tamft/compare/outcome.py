"""What has become of a run, read from its folder: nothing else remembers it, so any machine can go on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamft.atomic import write_atomically

RUN, SCORES, FAILURES = "run.json", "scores.json", "failures.json"
COMPLETE, DIVERGED, FAILED = "complete", "diverged", "failed"
ATTEMPTS = 2  # a crash may have been the machine's; a second one is the run's


@dataclass(frozen=True)
class Outcome:
    """`status` is None while there is still something to do; `record` is run.json, `scores` those of `tamft eval`."""

    status: str | None
    error: str | None = None
    record: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0


def read(folder: Path, *, trained: bool = True) -> Outcome:
    """The outcome of the run in `folder`. `trained`: False for the base model, which has no run.json."""
    record = _json(folder / RUN)
    record = record if isinstance(record, dict) else {}
    scores = _json(folder / SCORES)
    failures = _json(folder / FAILURES) or []
    if isinstance(scores, list) and (not trained or record.get("status") == COMPLETE):
        return Outcome(COMPLETE, None, record, scores, len(failures))
    if record.get("status") == DIVERGED:
        return Outcome(DIVERGED, record.get("error"), record, [], len(failures))
    if len(failures) >= ATTEMPTS:
        return Outcome(FAILED, failures[-1], record, [], len(failures))
    return Outcome(None, failures[-1] if failures else None, record, [], len(failures))


def add_failure(folder: Path, error: str, *, final: bool = False) -> None:
    """Count an attempt that failed. `final`: another one would end in the same way."""
    folder.mkdir(parents=True, exist_ok=True)
    failures = _json(folder / FAILURES) or []
    failures += [error] * (max(1, ATTEMPTS - len(failures)) if final else 1)
    write_atomically(folder / FAILURES, json.dumps(failures, indent=1) + "\n")


def forget_failures(folder: Path) -> None:
    """Let a run that failed be tried again."""
    (folder / FAILURES).unlink(missing_ok=True)


def shorten_paths(folder: Path, names: Sequence[tuple[str, str]]) -> None:
    """Replace paths in run.json by names: a study's small files are for others to read, and for other machines.

    `names`: (path, what stands for it) in the order of replacing.
    """

    def shortened(value: Any) -> Any:
        if isinstance(value, str):
            for path, name in names:
                value = value.replace(path, name)
            return value
        if isinstance(value, dict):
            return {key: shortened(one) for key, one in value.items()}
        return [shortened(one) for one in value] if isinstance(value, list) else value

    record = _json(folder / RUN)
    if record is not None and (short := shortened(record)) != record:
        write_atomically(folder / RUN, json.dumps(short, ensure_ascii=False, indent=1) + "\n")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
