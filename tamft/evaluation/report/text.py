"""A summary as Markdown, CSV or JSON."""

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from tamft.evaluation.report import runs, scores
from tamft.evaluation.summary import Row, Summary

COLUMNS = (
    *("kind", "type", "task", "metric", "model", "name", "revision", "score", "state", "difference"),
    *("mteb_version", "dataset_revision", "device", "dtype", "batch"),
)


def markdown(summary: Summary, trained: Mapping[str, runs.Run] | None = None) -> str:
    """Tables for GitHub: scores with differences, what to know, provenance."""
    labels = [plain(summary.labels[m]) for m in summary.models]
    corner = "main score" + (f" (difference from {labels[0]})" if len(labels) > 1 else "")
    grid = [[corner, *labels]]
    for row in summary.rows:
        name = plain(row.name) if row.kind == "task" else f"*{plain(row.name)}*"
        grid.append([name, *(_cell(row, model) for model in summary.models)])
    if len(labels) > len(summary.rows):  # the longer side downwards
        grid = [list(column) for column in zip(*grid, strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in grid]
    lines.insert(1, "|---|" + "---:|" * (len(grid[0]) - 1))
    notes = [f"- {plain(note)}" for note in [*runs.warnings(trained or {}), *scores.warnings(summary)]]
    notes += [f"- {plain(note)}" for note in summary.notes if not note.startswith("WARNING")]
    notes += [f"- {plain(line)}" for line in scores.DOES_NOT_SHOW[:1]]
    facts = [
        f"- {plain(name)}: {plain(str(value))}" for name, value in [*scores.provenance(summary), *scores.data(summary)]
    ]
    if trained:
        facts += [f"- {plain(name)}: {plain(str(value))}" for name, value in runs.provenance(trained)]
    return "\n".join([*lines, "", *notes, "", "Provenance:", "", *facts]) + "\n"


def _cell(row: Row, model: str) -> str:
    score = row.scores[model]
    if isinstance(score, str):
        return score
    shown = f"**{score:.4f}**" if row.is_best(model) else f"{score:.4f}"
    difference = row.difference(model)
    return shown if difference is None else f"{shown} ({difference:+.4f})"


def plain(text: str) -> str:
    """Text that Markdown leaves as it is: a name is no markup, and a line end would end the table."""
    text = re.sub(r"([\\`*|<>\[\]#~$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)


def as_csv(summary: Summary, trained: Mapping[str, runs.Run] | None = None) -> str:
    """One line for each row of the table and each model; what is no number has an empty score and a word as state.

    Runs have no place in it; their scores are there under their names.
    """
    stream = io.StringIO()
    out = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    out.writeheader()
    for row in _cells(summary):
        out.writerow({key: "" if row.get(key) is None else row[key] for key in COLUMNS})
    return stream.getvalue()


def _cells(summary: Summary) -> list[dict[str, Any]]:
    of: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in summary.records:
        of.setdefault((record["model"], record["task"]), []).append(record)
        of.setdefault((record["model"], ""), []).append(record)
    found = []
    for row in summary.rows:
        for model, score in row.scores.items():
            mine = of.get((model, row.name if row.kind == "task" else ""), [])
            identity = of.get((model, ""), [{}])[0]
            known = {key: {str(r.get(key)) for r in mine if r.get(key) is not None} for key in COLUMNS[-5:]}
            found.append(
                {
                    "kind": row.kind,
                    "type": row.type,
                    "task": row.name if row.kind == "task" else None,
                    "metric": row.metric,
                    "model": summary.labels[model],
                    "name": identity.get("name"),
                    "revision": identity.get("revision"),
                    "score": None if isinstance(score, str) else score,
                    "state": score if isinstance(score, str) else "ok",
                    "difference": row.difference(model),
                    **{
                        key: " ".join(sorted(values)) if row.kind == "task" or key != "dataset_revision" else None
                        for key, values in known.items()
                    },
                }
            )
    return found


def as_json(summary: Summary, trained: Mapping[str, runs.Run] | None = None) -> str:
    """Everything: the table's cells, the notes, and the records and runs that it can be made again from."""
    rows = [
        {
            "kind": row.kind,
            "name": row.name,
            "type": row.type,
            "metric": row.metric,
            "tasks": list(row.tasks),
            "scores": {
                summary.labels[model]: {
                    "score": None if isinstance(score, str) else score,
                    "state": score if isinstance(score, str) else "ok",
                    "difference": row.difference(model),
                }
                for model, score in row.scores.items()
            },
        }
        for row in summary.rows
    ]
    content = {
        "baseline": summary.labels[summary.models[0]],
        "models": [summary.labels[model] for model in summary.models],
        "rows": rows,
        "notes": list(summary.notes),
        "records": list(summary.records),
        "runs": dict(trained or {}),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
