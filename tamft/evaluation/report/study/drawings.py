"""The figures of a study's report."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tamft.evaluation import figures
from tamft.evaluation.report import page
from tamft.evaluation.report.study.table import numbers, selected_by
from tamft.evaluation.study.costs import perturbed
from tamft.evaluation.study.runs import Arm, Study
from tamft.evaluation.study.trials import Row, best, budget_curves

MOST = 30  # tasks in one picture; the table has all of them


class Drawing(NamedTuple):
    """A figure: its SVG, the caption as HTML, and the arms that only the caption tells apart."""

    svg: str
    caption: str
    arms: Sequence[str] = ()


def drawings(study: Study) -> dict[str, Drawing]:
    """All figures for which there is something to draw, by name."""
    makers: dict[str, Callable[[Study], Drawing | None]] = {
        "forest": _forest,
        "tasks": _tasks,
        "sensitivity": _sensitivity,
        "best_of_k": _best_of_k,
        "loss": _loss,
        "alignment": lambda study: _torque(study, "alignment"),
        "damping": lambda study: _torque(study, "damping"),
    }
    return {name: made for name, make in makers.items() if (made := make(study)) is not None}


def files(study: Study) -> dict[str, str]:
    """All figures as files of their own, by the files' names."""
    number = numbers(study)
    return {
        f"{name}.svg": page.standalone(one.svg, {arm: number[arm] for arm in one.arms})
        for name, one in drawings(study).items()
    }


def key(study: Study, names: Iterable[str]) -> str:
    """Which colour and symbol is which arm's."""
    number = numbers(study)
    return " · ".join(page.key(number[name]) + page.text(name) for name in names)


def _judged(study: Study) -> list[Arm]:
    return [study.arms[name] for name in (*study.verdicts, *study.controls)]


def _estimates(study: Study, arms: Sequence[Arm], tasks: Sequence[str]) -> list[figures.Estimate]:
    found = [(arm, study.difference(arm, tasks)) for arm in arms]
    return [figures.Estimate(numbers(study)[arm.name], d.mean, d.low, d.high) for arm, d in found if d.mean is not None]


def _forest(study: Study) -> Drawing | None:
    groups = [(arm.name, made) for arm in _judged(study) if (made := _estimates(study, [arm], study.tasks))]
    if not groups:
        return None
    base = study.baseline.name
    title = f"Difference of the suite mean from {base}"
    drawn = figures.forest("forest", groups, title=title, xlabel=title, band=float(study.plan["delta"]))
    return Drawing(
        drawn,
        f"Difference of the suite mean from {page.text(base)}, with 95 % intervals over seeds. The band is ±δ = "
        f"±{study.plan['delta']:g}.",
    )


def _tasks(study: Study) -> Drawing | None:
    arms = [study.arms[name] for name in study.verdicts]
    groups = [(task, made) for task in study.tasks[:MOST] if (made := _estimates(study, arms, [task]))]
    if not groups or len(study.tasks) < 2:
        return None
    title = f"Difference from {study.baseline.name} by task"
    drawn = figures.forest("tasks", groups, title=title, xlabel=f"main score, difference from {study.baseline.name}")
    more = f" {len(study.tasks) - MOST} more tasks are in the table." if len(study.tasks) > MOST else ""
    return Drawing(
        drawn,
        f"By task, with 95 % intervals over seeds: description, not adjusted for the number of tasks.{more} "
        + key(study, study.verdicts),
        list(study.verdicts),
    )


def _sensitivity(study: Study) -> Drawing | None:
    found, names, free = [], [], set()
    for name, arm in study.arms.items():
        tried = [t for t in arm.trials if "learning_rate" in t.params]
        scored = [(t.params["learning_rate"], t.score) for t in tried if t.score is not None]
        lost = [t.params["learning_rate"] for t in tried if t.diverged]
        if scored or lost:
            winner = best([t for t in tried if t.score is not None])
            place = next((i for i, t in enumerate(t for t in tried if t.score is not None) if t is winner), None)
            rates, scores = [list(column) for column in zip(*scored, strict=True)] or [[], []]
            found.append(figures.Search(numbers(study)[name], rates, scores, place, lost))
            names.append(name)
            free |= {key for t in tried for key in t.params}
    if not found:
        return None
    connect = free == {"learning_rate"}
    title = "Selection score over the learning rate"
    drawn = figures.sensitivity("sensitivity", found, title=title, ylabel="selection score", connect=connect)
    also = "" if connect else " Other values change with the rate, so that points of one arm are not joined."
    return Drawing(
        drawn,
        f"How much the learning rate matters: selection score ({page.text(selected_by(study))}), mean over the "
        f"screening seeds. Ring: chosen. Cross: diverged.{also} " + key(study, names),
        names,
    )


def _best_of_k(study: Study) -> Drawing | None:
    arms = {name: arm.trials for name, arm in study.arms.items() if arm.trials}
    curves = budget_curves(arms)
    if max((len(curve) for curve in curves.values()), default=0) < 2:
        return None
    made = [figures.Line(name, numbers(study)[name], range(1, len(curve) + 1), curve) for name, curve in curves.items()]
    drawn = figures.lines(
        "best_of_k",
        made,
        title="Expected selection score of the best of k trials",
        ylabel="selection score",
        xlabel="trials k",
        legend=False,
    )
    return Drawing(
        drawn,
        "What tuning buys: expected selection score of the best of k trials. A trial that diverged counts as the "
        "study's lowest score. " + key(study, curves),
        list(curves),
    )


def _loss(study: Study) -> Drawing | None:
    made, names = [], []
    for arm in _shown(study):
        rows = [row for row in arm.confirm if row["status"] == "complete" and row.get("loss")]
        line = _over_seeds(
            study, arm, [[(step, (v, v, v)) for step, v in row["loss"] if v is not None] for row in rows]
        )
        if line is not None:
            made.append(line)
            names.append(arm.name)
    if not made:
        return None
    drawn = figures.lines("loss", made, title="Training loss over steps", ylabel="training loss", legend=False)
    moved = ", ".join(arm.name for arm in _shown(study) if any(map(perturbed, arm.confirm)))
    note = f" The loss of {page.text(moved)} is that of weights moved by ρ: it does not compare." if moved else ""
    return Drawing(
        drawn,
        f"Training loss of the confirm runs: mean and range over seeds that completed.{note} " + key(study, names),
        names,
    )


def _torque(study: Study, what: str) -> Drawing | None:
    made, names = [], []
    for arm in _shown(study):
        series = [_quantiles(row, what) for row in arm.confirm if row["status"] == "complete"]
        line = _over_seeds(study, arm, [one for one in series if one])
        if line is not None:
            made.append(line)
            names.append(arm.name)
    if not made:
        return None
    title, ylabel, level, caption = {
        "alignment": (
            "Alignment over steps",
            "ŝ",
            0.0,
            "Alignment ŝ: smoothed cosine of gradient and momentum. Line: mean over tensors and seeds; band: 10 % to "
            "90 % of the tensors, widest over the seeds.",
        ),
        "damping": (
            "Damping over steps",
            "d",
            0.5,
            "Damping d = (1 + ŝ)/2: the factor on each gradient. At a steady ½, torque is AdamW at half the rate.",
        ),
    }[what]
    drawn = figures.lines(what, made, title=title, ylabel=ylabel, level=level, legend=False)
    return Drawing(drawn, f"{caption} " + key(study, names), names)


def _shown(study: Study) -> list[Arm]:
    """The baseline, the optimizers and the frozen torque; a second baseline would only hide the first."""
    return [study.baseline, *(arm for arm in _judged(study) if arm.control != "aa")]


def _quantiles(row: Row, what: str) -> list[tuple[int, tuple[float, float, float]]]:
    wanted = [f"{what}_{part}" for part in ("mean", "q10", "q90")]
    return [
        (step, (values[wanted[0]], values[wanted[1]], values[wanted[2]]))
        for step, values in row.get("telemetry") or ()
        if all(values.get(name) is not None for name in wanted)
    ]


def _over_seeds(
    study: Study, arm: Arm, series: Sequence[Sequence[tuple[int, tuple[float, float, float]]]]
) -> figures.Line | None:
    """One curve for several runs, at the steps that all of them have: mean of means, least low, greatest high."""
    if not series:
        return None
    by_step = [dict(one) for one in series]
    steps = sorted(set.intersection(*(set(one) for one in by_step)))
    if not steps:
        return None
    mean = [sum(one[step][0] for one in by_step) / len(by_step) for step in steps]
    low = [min(one[step][1] for one in by_step) for step in steps]
    high = [max(one[step][2] for one in by_step) for step in steps]
    return figures.Line(arm.name, numbers(study)[arm.name], steps, mean, low, high)
