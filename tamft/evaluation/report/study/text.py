"""A study as Markdown, as CSV, and in the terminal."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tamft.evaluation import compare
from tamft.evaluation.compare import Verdict
from tamft.evaluation.report.study import table
from tamft.evaluation.report.text import plain
from tamft.evaluation.study import remarks
from tamft.evaluation.study.runs import Study, suite_mean

COLUMNS = (
    *(
        "part",
        "tasks",
        "type",
        "arm",
        "role",
        "seeds",
        "diverged",
        "missing",
        "mean",
        "difference",
        "sd",
        "low",
        "high",
    ),
    *("p", "p_adjusted", "tost_p", "tost_adjusted", "sign_flip_p", "sign_flip_least", "verdict", "seeds_to_decide"),
    *("seconds", "peak_memory_bytes", "state_bytes", "steps_to_baseline_loss"),
)


def markdown(study: Study) -> str:
    """For GitHub: verdicts, tables, what to know, provenance."""
    compared = [{"arm": line.name, **table.cells(line)} for line in table.lines(study)]
    by_task = [
        [name + (f" ({kind})" if kind else ""), *(_span(study, arm, tasks) for arm in study.verdicts)]
        for name, kind, tasks in table.parts(study)
    ]
    searched = [[name, *cells] for name, _, *cells in table.searches(study)]
    base = study.baseline.name
    parts = [
        f"# {plain(table.title(study))}",
        plain(table.question(study)),
        _list(list(table.sentences(study).values())),
        _list([f"WARNING {line}" for line in remarks.warnings(study)]),
        "## Comparison",
        _grid(list(compared[0]), [list(cells.values()) for cells in compared]),
        "## Difference by task and by type: description, without verdicts",
        _grid([f"from {base}", *study.verdicts], by_task),
        *(["## Controls", _list(table.controls(study))] if study.controls else []),
        "## Tests",
        _grid(table.TESTS, table.tests(study)),
        plain(table.SIGN_FLIP),
        "## Search",
        plain(f"Chosen by: {table.selected_by(study)}, mean over the screening seeds."),
        _grid(["arm", "finished trials", "chosen", "selection score"], searched),
        "## What to know",
        _list([*remarks.notes(study), *table.LIMITS]),
        "## Provenance",
        _list([f"{name}: {value}" for name, value in table.provenance(study)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _span(study: Study, arm: str, tasks: Sequence[str]) -> str:
    found = study.difference(study.arms[arm], tasks)
    if found.mean is None:
        return table.DASH
    return f"{found.mean:+.4f}" + ("" if found.low is None else f" ({found.low:+.4f} to {found.high:+.4f})")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    made = [f"| {' | '.join(map(plain, row))} |" for row in (head, *rows)]
    made.insert(1, "|---" * len(head) + "|")
    return "\n".join(made)


def as_csv(study: Study) -> str:
    """One line for each arm and each part: the suite, which alone has verdicts, then types and tasks."""
    stream = io.StringIO()
    out = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
    out.writeheader()
    for name, kind, tasks in table.parts(study)[::-1]:
        part = "suite" if tasks == list(study.tasks) and not kind and name.startswith("mean over") else "type"
        for line in table.lines(study):
            row: dict[str, Any] = {"part": "task" if kind else part, "tasks": " ".join(tasks), "arm": line.name}
            row |= {"type": study.types[tasks[0]] if part == "type" or kind else None, "role": line.role}
            if line.arm is None:
                row["mean"] = suite_mean(study.base, tasks)
            else:
                row |= _numbers(study, line, tasks)
                row |= _judgement(line) if row["part"] == "suite" else {}
            out.writerow({key: value for key, value in row.items() if value is not None})
    return stream.getvalue()


def _numbers(study: Study, line: table.Line, tasks: Sequence[str]) -> dict[str, Any]:
    means = compare.interval(study.means(line.arm, tasks)) if line.arm else None
    found = {"mean": means.mean if means else None, "seeds": means.n if means else None}
    if line.verdict is not None and line.arm is not None:
        d = study.difference(line.arm, tasks)
        found |= {"seeds": d.n, "difference": d.mean, "sd": d.sd, "low": d.low, "high": d.high}
    return found


def _judgement(line: table.Line) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if line.verdict is not None:
        v: Verdict = line.verdict
        found = {"p": v.p, "tost_p": v.tost_p, "sign_flip_p": v.flip_p, "sign_flip_least": v.flip_least}
        found |= {"diverged": v.arm_diverged, "missing": v.missing}
        if line.role == "optimizer":  # a control has no verdict: it says whether those of the others can be believed
            found |= {"p_adjusted": v.p_adjusted, "tost_adjusted": v.tost_adjusted, "verdict": v.word}
            found |= {"seeds_to_decide": v.seeds}
    if line.cost is not None:
        found |= {key: getattr(line.cost, key) for key in ("seconds", "peak_memory_bytes", "state_bytes")}
        found |= {"steps_to_baseline_loss": line.cost.steps}
    return found


def print_study(study: Study, console: Console | None = None) -> None:
    """Verdicts, the comparison and what puts it in question, in the terminal."""
    console = console or Console()
    console.print(Text(table.title(study), style="bold"), Text(table.question(study), style="dim"), sep="\n")
    for text in table.sentences(study).values():
        console.print(Text(f"• {text}"))
    grid = Table(title=f"suite means, and differences from {study.baseline.name}")
    # what fits into 80 columns; the sentences have the intervals and p
    shown = ("verdict", "suite mean", "difference", "seeds", "seconds")
    for i, name in enumerate(("arm", *shown)):
        grid.add_column(name, justify="right" if i else "left", overflow="fold")
    for line in table.lines(study):
        cells = table.cells(line)
        grid.add_row(Text(line.name), *(Text(cells[name]) for name in shown))
    console.print(grid)
    for text in table.controls(study):
        console.print(Text(text, style="dim"))
    for text in remarks.warnings(study):
        console.print(Text(f"WARNING {text}", style="bold red"))
    for text in remarks.notes(study):
        console.print(Text(text, style="yellow"))
