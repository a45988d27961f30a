"""Score records as a table: tasks in rows, models side by side."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tamft.evaluation import overlap

Record = dict[str, Any]


def labels(models: Sequence[str]) -> dict[str, str]:
    """A short, distinct name for each model as typed: as few parts of the end of its path as tell them apart."""
    parts = {model: [p for p in PurePath(model).parts if p not in ("/", ".", "..", "~")] or [model] for model in models}
    # every tamft run calls its model folder "model": one part more says whose
    length = 2 if any(p[-1] == "model" for p in parts.values()) else 1
    longest = max((len(p) for p in parts.values()), default=1)
    short = {model: "/".join(p[-length:]) for model, p in parts.items()}
    while len(set(short.values())) < len(short) and length < longest:
        length += 1
        short = {model: "/".join(p[-length:]) for model, p in parts.items()}
    return short if len(set(short.values())) == len(short) else {model: model for model in models}


def task_score(records: Sequence[Record], model: str, task: str) -> float | str:
    """Mean main score (0 to 1 in most tasks) over a task's splits and subsets, or "missing" / "failed"."""
    mine = [r for r in records if r["model"] == model and r["task"] == task]
    states = {r["status"] for r in mine}
    if states != {"ok"}:
        return "failed" if "failed" in states else "missing"
    return float(sum(r["main_score"] for r in mine) / len(mine))


def mean_scores(records: Sequence[Record]) -> tuple[dict[str, float], list[str]]:
    """Mean over tasks for each model, and the tasks it is over: those that every model has a score for."""
    models = list(dict.fromkeys(r["model"] for r in records))
    tasks = list(dict.fromkeys(r["task"] for r in records))
    scores = {(m, t): task_score(records, m, t) for m in models for t in tasks}
    shared = [t for t in tasks if not any(isinstance(scores[m, t], str) for m in models)]
    if not shared:
        return {}, []
    return {m: sum(float(scores[m, t]) for t in shared) / len(shared) for m in models}, shared


def _row(name: str, scores: list[float | str]) -> list[Text]:
    numbers = [s for s in scores if not isinstance(s, str)]
    # equal at the four digits that are shown is equal: nobody should see a winner between two 0.8004
    best = round(max(numbers), 4) if len(numbers) > 1 and round(min(numbers), 4) < round(max(numbers), 4) else None
    cells = [Text(name)]
    for column, score in enumerate(scores):
        if isinstance(score, str):
            cells.append(Text(score, style="red" if score == "failed" else "dim"))
            continue
        cell = Text(f"{score:.4f}", style="bold" if round(score, 4) == best else "")
        if column and not isinstance(scores[0], str):
            cell.append(f" ({score - scores[0]:+.4f})", style="not bold dim")
        cells.append(cell)
    return cells


def make_table(records: Sequence[Record], *, transposed: bool = False) -> Table:
    """The table: best score of a task in bold, differences from the first model, a mean over the tasks all models have.

    Tasks in rows and models side by side; `transposed`: models in rows, for many models and few tasks.
    """
    models = list(dict.fromkeys(r["model"] for r in records))
    tasks = list(dict.fromkeys(r["task"] for r in records))
    revisions = {r["model"]: r["revision"] for r in records}
    short = labels(models)
    separator = " @" if transposed else "\n@"
    head = [Text("model" if transposed else "task")]
    head += [Text(f"{short[model]}{separator}{revisions[model][:16]}") for model in models]
    grid = [head, *(_row(task, [task_score(records, model, task) for model in models]) for task in tasks)]
    means, shared = mean_scores(records)
    if len(shared) > 1:
        over = f"{len(shared)}" if len(shared) == len(tasks) else f"the {len(shared)} of {len(tasks)} all have"
        grid.append(_row(f"mean over {over} tasks", [means[model] for model in models]))

    table = Table(title="main scores" + (" (difference from the first model)" if len(models) > 1 else ""))
    if transposed:
        grid = [list(column) for column in zip(*grid, strict=True)]
    for i, title in enumerate(grid[0]):
        table.add_column(title, justify="right" if i else "left", overflow="fold")
    for i, row in enumerate(grid[1:]):
        if i == len(tasks) and not transposed:
            table.add_section()
        table.add_row(*row)
    return table


def notes(records: Sequence[Record]) -> list[str]:
    """One line for each thing the reader must know: what failed, what is missing, adapters that change nothing, overlap
    with training data."""
    short = labels(list(dict.fromkeys(r["model"] for r in records)))
    lines: dict[str, None] = {}
    for r in records:
        if r["reason"] is None:
            continue
        if r["status"] == "ok":
            lines[f"WARNING {short[r['model']]}: {r['reason']}"] = None
        elif r["status"] == "missing":
            lines[f"missing {r['task']}: {r['reason']}"] = None
        else:
            lines[f"failed  {r['task']} with {short[r['model']]}: {r['reason']}"] = None
    return [*lines, *overlap.notes(records, short)]


def print_table(records: Sequence[Record], console: Console | None = None) -> None:
    """Print the table and, below it, the notes."""
    console = console or Console()
    # Two models fit side by side into 80 columns; nine would be a column of single letters each.
    tables = [make_table(records), make_table(records, transposed=True)]
    boundless = console.options.update(max_width=10_000)
    widths = [console.measure(table, options=boundless).maximum for table in tables]
    console.print(tables[widths[0] > console.width and widths[1] < widths[0]])
    for line in notes(records):
        style = "bold red" if line.startswith("WARNING") else "red" if line.startswith("failed") else "yellow"
        console.print(Text(line, style=style), soft_wrap=True)
