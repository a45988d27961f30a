"""Scores as a table in the terminal: tasks in rows, models side by side."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tamft.evaluation.summary import FAILED, Record, Row, Summary, summarize


def make_table(summary: Summary, *, transposed: bool = False) -> Table:
    """The table: best score of a row in bold, differences from the first model, types and means below the tasks.

    Tasks in rows and models side by side; `transposed`: models in rows, for many models and few tasks.
    """
    revisions = {r["model"]: r["revision"] for r in summary.records}
    separator = " @" if transposed else "\n@"
    grid = [[Text("model" if transposed else "task")]]
    for model in summary.models:
        revision = str(revisions.get(model) or "?")[:16]
        grid[0].append(Text(f"{summary.labels[model]}{separator}{revision}"))
    grid += [[Text(row.name), *(_cell(row, model) for model in row.scores)] for row in summary.rows]

    several = len(summary.models) > 1
    table = Table(title="main scores" + (" (difference from the first model)" if several else ""))
    if transposed:
        grid = [list(column) for column in zip(*grid, strict=True)]
    for i, title in enumerate(grid[0]):
        table.add_column(title, justify="right" if i else "left", overflow="fold")
    tasks = len(summary.of("task"))
    for i, row in enumerate(grid[1:]):
        if i == tasks and not transposed:
            table.add_section()
        table.add_row(*row)
    return table


def _cell(row: Row, model: str) -> Text:
    score = row.scores[model]
    if isinstance(score, str):
        return Text(score, style="red" if score == FAILED else "dim")
    cell = Text(f"{score:.4f}", style="bold" if row.is_best(model) else "")
    difference = row.difference(model)
    if difference is not None:
        cell.append(f" ({difference:+.4f})", style="not bold dim")
    return cell


def print_table(scores: Summary | Sequence[Record], console: Console | None = None) -> None:
    """Print the table of a summary, or of records, and below it what the reader must know."""
    summary = scores if isinstance(scores, Summary) else summarize(scores)
    console = console or Console()
    # Two models fit side by side into 80 columns; nine would be a column of single letters each.
    tables = [make_table(summary), make_table(summary, transposed=True)]
    boundless = console.options.update(max_width=10_000)
    widths = [console.measure(table, options=boundless).maximum for table in tables]
    console.print(tables[widths[0] > console.width and widths[1] < widths[0]])
    for line in summary.notes:
        style = "bold red" if line.startswith("WARNING") else "red" if line.startswith("failed") else "yellow"
        console.print(Text(line, style=style), soft_wrap=True)
