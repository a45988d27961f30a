"""The page of a study: verdicts in plain words, then the table, then figures, then where all of it is from."""

from collections.abc import Callable, Mapping, Sequence

from tamft.evaluation.report import page
from tamft.evaluation.report.study import table
from tamft.evaluation.report.study.drawings import drawings, key
from tamft.evaluation.study import remarks
from tamft.evaluation.study.runs import Study


def make_page(study: Study, *, command: str | None = None) -> str:
    """The whole page. `command`: what made it."""
    drawn = {name: page.figure(one.svg, one.caption) for name, one in drawings(study).items()}

    def plots(*names: str) -> str:
        return page.plots([drawn[name] for name in names if name in drawn])

    sections = {
        "Verdicts": _verdicts(study),
        "Comparison": _comparison(study) + plots("forest", "tasks") + _by_task(study),
        "Costs": _costs(study),
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
    head = ("arm", "verdict", "suite mean", "difference", "p: different", "p: equivalent", "seeds", "seconds")
    rows, classes = _lines(study, lambda line: _judged(table.cells(line)))
    base = study.baseline.name
    return page.table(
        f"Suite means; differences from {base} with 95 % intervals; p adjusted by Holm. Controls: p as it is, and no "
        "verdict.",
        page.words(head),
        rows,
        classes,
    )


def _judged(cells: Mapping[str, str]) -> list[str]:
    interval = cells["95 % interval"]
    under = "" if interval == table.DASH else f"<small>{page.text(interval)}</small>"
    names = ("verdict", "suite mean", "difference", "adjusted p: different", "equivalent", "seeds", "seconds")
    made = {name: page.text(cells[name]) for name in names}
    made["verdict"] = f"<b>{made['verdict']}</b>"
    made["difference"] = f"<td>{made['difference']}{under}</td>"
    return list(made.values())


def _costs(study: Study) -> str:
    names = table.COSTS
    rows, _ = _lines(study, lambda line: [page.text(table.cells(line)[name]) for name in names])
    caption = (
        "What was chosen and what it costs: medians over the confirm runs that completed. Steps: until the training "
        "loss is at or below the baseline's final one; with ρ > 0 it does not compare."
    )
    return page.table(caption, page.words(("arm", *names)), rows[study.base is not None :])


def _lines(study: Study, cells: Callable[[table.Line], list[str]]) -> tuple[list[list[str]], dict[int, str]]:
    """Rows of a table with a line for each arm, and which of them has a rule above: the first control."""
    lines = table.lines(study)
    rows = [
        [
            f"{page.key(line.number) * (line.arm is not None)}{page.text(line.name)}<small>{line.role}</small>",
            *cells(line),
        ]
        for line in lines
    ]
    first = next((i for i, line in enumerate(lines) if line.role == "control"), None)
    return rows, {} if first is None else {first: "line"}


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
    made = page.table("The tests behind the verdicts; controls are not adjusted", page.words(table.TESTS), rows)
    return f'{made}<p class="dim">{page.text(table.SIGN_FLIP)}</p>'


def _search(study: Study) -> str:
    rows = [
        [key(study, [name]), *map(page.text, (done, chosen, score))]
        for name, _, done, chosen, score in table.searches(study)
    ]
    head = ["arm", "finished trials", "chosen", "selection score"]
    return page.table(f"Chosen by: {table.selected_by(study)}, mean over the screening seeds", page.words(head), rows)
