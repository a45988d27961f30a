"""Sections of a report about scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from tamft.evaluation import figures
from tamft.evaluation.report import page
from tamft.evaluation.summary import MISSING, SYNTHETIC, Row, Summary

# More series than there are colours would be told apart by nobody; the table has all of them.
DRAWN = 8
# So many tasks at most as bars and as dots: longer pictures would not sum anything up.
BARS, DOTS = 12, 120
SMOKE_TEST = "The data is synthetic: this is a smoke test, never evidence about an optimizer."
SHOWS = (
    "Main scores as mteb computes them; the score of a task is the mean over its splits and subsets. Means are mteb's "
    "leaderboard's: over tasks, and over the means of the task types. A mean of which a part is missing is missing; "
    "nothing that is missing counts as 0.",
)
DOES_NOT_SHOW = (
    "A difference is a difference, not evidence: each tuned model comes from one training run, and another seed may "
    "turn the order around.",
    "A score on a task whose texts, or whose training texts, a model has seen says little about texts it has not seen.",
    "Scores of different versions of mteb or of a task's data do not compare.",
)


def colours(summary: Summary, runs: Sequence[str]) -> dict[str, int | None]:
    """The number of each model's colour: that of its run; None (the text's colour) for the first that is no run."""
    numbers: dict[str, int | None] = {}
    following = len(runs)
    for model in summary.models:
        if model in runs:
            numbers[model] = list(runs).index(model)
        elif None not in numbers.values():
            numbers[model] = None
        else:
            numbers[model], following = following, following + 1
    return numbers


def score_table(summary: Summary, numbers: Mapping[str, int | None]) -> str:
    """Tasks, types and means in rows, models side by side."""
    head = ["task", *(page.key(numbers[m]) + page.text(summary.labels[m]) for m in summary.models)]
    rows, classes = [], {}
    for i, row in enumerate(summary.rows):
        below = row.metric if row.kind == "task" else None
        rows.append(
            [
                page.text(row.name) + (f"<small>{page.text(below)}</small>" if below else ""),
                *(_cell(row, model) for model in summary.models),
            ]
        )
        if row.kind != "task":
            classes[i] = "mean line" if summary.rows[i - 1].kind == "task" else "mean"
    several = len(summary.models) > 1
    caption = "Main scores" + (f"; below them the difference from {summary.labels[summary.models[0]]}" * several)
    return page.table(caption, head, rows, classes)


def _cell(row: Row, model: str) -> str:
    score = row.scores[model]
    if isinstance(score, str):
        return f'<td class="word">{page.text(score)}</td>'
    difference = row.difference(model)
    change = "" if difference is None else f"<small>{difference:+.4f}</small>"
    best = ' class="best"' if row.is_best(model) else ""
    return f"<td{best}>{score:.4f}{change}</td>"


def score_plots(summary: Summary, numbers: Mapping[str, int | None]) -> str:
    """Bars for each type and dots for each task; bars for each task where no type has several of them."""
    shown = summary.models[:DRAWN]
    tasks, types = summary.of("task"), summary.of("type")
    legend = " · ".join(page.key(numbers[m]) + page.text(summary.labels[m]) for m in shown)
    if len(shown) < len(summary.models):
        legend += f" · {len(summary.models) - len(shown)} more models in the table"

    def series(rows: Sequence[Row]) -> list[figures.Series]:
        values = {m: [None if isinstance(row.scores[m], str) else row.scores[m] for row in rows] for m in shown}
        return [figures.Series(summary.labels[m], numbers[m], values[m]) for m in shown]

    drawn = []
    if types:
        names = [f"{row.type} ({len(row.tasks)})" if len(row.tasks) > 1 else str(row.type) for row in types]
        bars = figures.bars("types", names, series(types), title="Mean main score of each task type")
        drawn.append(page.figure(bars, f"Mean of each task type. {legend}"))
    if len(tasks) <= DOTS:
        draw = figures.dots if types or len(tasks) > BARS else figures.bars
        picture = draw("tasks", [row.name for row in tasks], series(tasks), title="Main score of each task")
        drawn.append(page.figure(picture, f"Main score of each task. {legend}"))
    return page.plots(drawn)


def warnings(summary: Summary) -> list[str]:
    synthetic = any(task.startswith(SYNTHETIC) for row in summary.rows for task in row.tasks)
    return ([SMOKE_TEST] if synthetic else []) + [note for note in summary.notes if note.startswith("WARNING")]


def remarks(summary: Summary) -> str:
    """What failed and what is missing, with the reasons, and what a score hides."""
    lines = [note for note in summary.notes if not note.startswith("WARNING")]
    return "<ul>" + "".join(f"<li>{page.text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def reading() -> str:
    """What the scores show and what they do not."""
    return "".join(f"<p>{page.text(line)}</p>" for line in (*SHOWS, *DOES_NOT_SHOW))


def provenance(summary: Summary) -> list[tuple[str, Any]]:
    """What the scores depend on: identities, versions, devices, commands."""
    by_model: dict[str, list[dict[str, Any]]] = {m: [] for m in summary.models}
    for record in summary.records:
        by_model[record["model"]].append(record)

    def values(key: str) -> Any:
        def read(records: Sequence[dict[str, Any]]) -> str:
            found = {
                f"{r[key]} {r.get('batch_unit') or 'texts'}" if key == "batch" else str(r[key])
                for r in records
                if r.get(key) is not None and r["status"] != MISSING
            }
            return ", ".join(sorted(found)) or "not known"

        return read

    def identity(records: Sequence[dict[str, Any]]) -> str:
        return f"{records[0]['name']} @ {records[0]['revision']}" if records else "not scored"

    labelled = {summary.labels[m]: records for m, records in by_model.items()}
    pairs: list[tuple[str, Any]] = [(f"scored {label}", identity(records)) for label, records in labelled.items()]
    keys = {"mteb_version": "mteb", "device": "scored on", "dtype": "scored in", "batch": "batch"}
    pairs += page.shared_facts({name: values(key) for key, name in keys.items()}, labelled, "all models")
    commands = dict.fromkeys(r["command"] for r in summary.records if r.get("command"))
    return [*(("command", command) for command in commands), *pairs]


def data(summary: Summary) -> list[tuple[str, str]]:
    """The revisions of the tasks' data."""
    revisions: dict[str, dict[str, None]] = {}
    for record in summary.records:
        if record["status"] != MISSING and record["dataset_revision"] is not None:
            revisions.setdefault(record["task"], {})[str(record["dataset_revision"])] = None
    return [(f"data of {task}", f"revision {', '.join(found)}") for task, found in revisions.items()]
