"""The page of a study: verdicts in plain words, then the table, then figures, then where all of it is from."""

from collections.abc import Sequence

from tamft.evaluation.report import page
from tamft.evaluation.report.study import table
from tamft.evaluation.report.study.drawings import drawings, key
from tamft.evaluation.study import remarks
from tamft.evaluation.study.runs import Study


def make_page(study: Study, *, command: str | None = None) -> str:
    """The whole page. `command`: what made it."""
    drawn = {name: page.figure(*one) for name, one in drawings(study).items()}

    def plots(*names: str) -> str:
        return page.plots([drawn[name] for name in names if name in drawn])

    sections = {
        "Verdicts": _verdicts(study),
        "Comparison": _comparison(study) + plots("forest", "tasks") + _by_task(study),
        "Controls": _paragraphs(table.controls(study)),
        "Tests": _tests(study),
        "Search": _search(study) + plots("sensitivity", "best_of_k"),
        "Training": plots("loss", "alignment", "damping"),
        "What to know": _list([*remarks.notes(study), *table.LIMITS]),
        "Provenance": page.facts(
            [*table.provenance(study), *([("report", command)] if command else []), page.written()]
        ),
    }
    below = f"{study.plan['model']} · {len(study.tasks)} tasks · {len(study.seeds)} seeds"
    return page.page(table.title(study), below, sections)


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{page.text(line)}</p>" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{page.text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _verdicts(study: Study) -> str:
    said = table.sentences(study)
    keyed = [f"<li>{key(study, [name])[: -len(page.text(name))]}{page.text(text)}</li>" for name, text in said.items()]
    return (
        f'<p class="dim">{page.text(table.question(study))}</p><ul>{"".join(keyed)}</ul>'
        f"{page.warning(list(remarks.warnings(study)))}"
    )


def _comparison(study: Study) -> str:
    head = [
        *("arm", "verdict", "suite mean", "difference", "95 % interval", "adjusted p: different", "equivalent"),
        *("seeds", "chosen", "seconds", "peak memory, MiB", "state, MiB", "steps to the baseline's loss"),
    ]
    rows, classes = [], {}
    for i, line in enumerate(table.lines(study)):
        name = page.key(line.number) * (line.arm is not None) + page.text(line.name)
        rows.append([f"{name}<small>{page.text(line.role)}</small>", *map(page.text, table.cells(line))])
        if line.role == "control" and "line" not in classes.values():
            classes[i] = "line"
    return page.table(f"Suite means, and differences from {study.baseline.name}", head, rows, classes)


def _by_task(study: Study) -> str:
    head = ["task", *(key(study, [name]) for name in study.verdicts)]
    rows, classes = [], {}
    for name, kind, tasks in table.parts(study):
        spans = [study.difference(study.arms[arm], tasks) for arm in study.verdicts]
        cells = [f"<td>{table.DASH}</td>" if s.mean is None else _span(s.mean, s.low, s.high) for s in spans]
        if not kind:
            classes[len(rows)] = "mean" if rows and len(rows) - 1 in classes else "mean line"
        rows.append([page.text(name) + (f"<small>{page.text(kind)}</small>" if kind else ""), *cells])
    caption = f"Difference from {study.baseline.name} by task and by type, 95 % interval: description, without verdicts"
    return page.table(caption, head, rows, classes)


def _span(mean: float, low: float | None, high: float | None) -> str:
    under = "" if low is None else f"<small>{low:+.4f} to {high:+.4f}</small>"
    return f"<td>{mean:+.4f}{under}</td>"


def _tests(study: Study) -> str:
    rows = [[page.text(cell) for cell in row] for row in table.tests(study)]
    made = page.table("The tests behind the verdicts; controls are not adjusted", table.TESTS, rows)
    return f'{made}<p class="dim">{page.text(table.SIGN_FLIP)}</p>'


def _search(study: Study) -> str:
    rows = [
        [key(study, [name]), *map(page.text, (done, chosen, score))]
        for name, _, done, chosen, score in table.searches(study)
    ]
    head = ["arm", "finished trials", "chosen", "selection score"]
    return page.table(f"Chosen by: {table.selected_by(study)}, mean over the screening seeds", head, rows)
