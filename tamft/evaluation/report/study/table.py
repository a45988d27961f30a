"""What every form of a study's report says: verdicts in words, lines of tables, limits, where all of it is from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from tamft.evaluation import compare
from tamft.evaluation.compare import Interval, Verdict
from tamft.evaluation.study import costs
from tamft.evaluation.study.runs import BASE, CONFIRM, NULL, Arm, Study, suite_mean
from tamft.evaluation.study.trials import best

DASH = "–"
WORDS = {
    compare.BETTER: "is better than",
    compare.WORSE: "is worse than",
    compare.EQUIVALENT: "is equivalent to",
}


@dataclass(frozen=True)
class Line:
    """One line of the comparison. `number` is the arm's colour: None for the baseline and the base model."""

    name: str
    role: str  # "base model", "baseline", "optimizer", "control"
    number: int | None
    arm: Arm | None
    means: Interval
    difference: Interval | None
    verdict: Verdict | None
    cost: costs.Cost | None


def lines(study: Study) -> list[Line]:
    """Base model, baseline, confirmed optimizers, controls."""
    found = []
    if study.base is not None:
        score = suite_mean(study.base, study.tasks)
        alone = compare.interval([] if score is None else [score])
        found.append(Line("base model", "base model", None, None, alone, None, None, None))
    for name, number in numbers(study).items():
        arm = study.arms[name]
        verdict = study.verdicts.get(name) or study.controls.get(name)
        if verdict is None and arm is not study.baseline:
            continue  # was searched, and is not part of the comparison
        role = "control" if arm.control else "optimizer" if verdict else "baseline"
        difference = verdict.interval if verdict else None
        means = compare.interval(study.means(arm))
        found.append(Line(name, role, number, arm, means, difference, verdict, costs.cost(study, arm)))
    return found


def numbers(study: Study) -> dict[str, int | None]:
    """The colour of each arm: the same in all tables and figures, None for the baseline.

    Those that are compared come first: there are eight colours, and arms that were only screened may have to share.
    """
    judged = [*study.verdicts, *study.controls]
    others = [*judged, *(name for name in study.arms if name not in judged and name != study.baseline.name)]
    return {study.baseline.name: None, **{name: i for i, name in enumerate(others)}}


COSTS = ("chosen", "seconds", "peak memory, MiB", "state, MiB", "steps to the baseline's loss")


def cells(line: Line) -> dict[str, str]:
    """What the tables show about an arm, by the names of their columns."""
    verdict, span, cost = line.verdict, line.difference, line.cost
    judged = verdict is not None and line.role == "optimizer"
    decided = verdict is not None and verdict.word != compare.UNFINISHED

    def number(value: Any, form: str, unit: float = 1) -> str:
        return DASH if value is None else format(value / unit, form)

    settings = DASH if line.arm is None or not line.arm.confirm else values_text(line.arm.confirm[0]["params"])
    interval = DASH if span is None or span.low is None else f"{span.low:+.4f} to {span.high:+.4f}"
    steps = DASH
    if cost is not None and cost.compared:
        steps = "never" if cost.steps is None else f"{cost.steps:g}"
        if 0 < cost.reached < cost.compared:
            steps += f" ({cost.reached} of {cost.compared} runs)"
    return {
        "role": line.role,
        "verdict": (verdict.word if judged else f"p {p_text(verdict.p)}") if verdict else DASH,
        "suite mean": number(line.means.mean, ".4f"),
        "difference": number(span.mean if span else None, "+.4f"),
        "95 % interval": interval,
        "adjusted p: different": p_text(verdict.p_adjusted) if verdict and judged and decided else DASH,
        "equivalent": p_text(verdict.tost_adjusted) if verdict and judged and decided else DASH,
        "seeds": _seeds(line),
        "chosen": settings,
        "seconds": number(cost and cost.seconds, ".1f"),
        "peak memory, MiB": number(cost and cost.peak_memory_bytes, ".1f", 2**20),
        "state, MiB": number(cost and cost.state_bytes, ".1f", 2**20),
        "steps to the baseline's loss": steps,
    }


def _seeds(line: Line) -> str:
    verdict = line.verdict
    if verdict is None:
        return str(line.means.n) if line.arm else DASH
    lost = [f"{verdict.arm_diverged} diverged"] * (verdict.arm_diverged > 0)
    lost += [f"{verdict.missing} missing"] * (verdict.missing > 0)
    return f"{verdict.interval.n}" + (f" ({', '.join(lost)})" if lost else "")


def parts(study: Study) -> list[tuple[str, str, list[str]]]:
    """What differences are described for: (name, type, tasks) for each task, then, without a type, for each type."""
    found = [(task, study.types[task], [task]) for task in study.tasks]
    types = study.by_type()
    if len(types) > 1:  # the only task of its type is there already
        found += [(f"{kind}, mean of {len(tasks)}", "", tasks) for kind, tasks in types.items() if len(tasks) > 1]
    return [*found, (f"mean over {len(study.tasks)} tasks", "", list(study.tasks))]


TESTS = ("arm", "seeds", "sd over seeds", "t: p", "adjusted", "TOST: p", "adjusted", "sign-flip: p", "its smallest p")
SIGN_FLIP = (
    "The adjusted p of t and of TOST decide. The sign-flip test never does: with few seeds its smallest p is too large."
)


def tests(study: Study) -> list[list[str]]:
    """The lines of the table of tests, in the order of TESTS."""
    return [
        [
            *(name, str(v.interval.n), DASH if v.interval.sd is None else f"{v.interval.sd:.4f}"),
            *(p_text(v.p), p_text(v.p_adjusted if name in study.verdicts else None)),
            *(p_text(v.tost_p), p_text(v.tost_adjusted if name in study.verdicts else None)),
            *(p_text(v.flip_p), p_text(v.flip_least)),
        ]
        for name, v in {**study.verdicts, **study.controls}.items()
    ]


# --- sentences --------------------------------------------------------------------------------------------------------


def title(study: Study) -> str:
    return f"{study.plan['name']}: {listing(list(study.verdicts))} against {study.baseline.name}"


def question(study: Study) -> str:
    """What was asked, in a sentence."""
    m, count, trials = len(study.verdicts), len(study.tasks), study.plan["trials"]
    tuned = f"tuned with the same {trials} trials" if trials > 1 else "with one configuration each, so nothing tuned"
    return (
        f"Which optimizer differs from {study.baseline.name}, {tuned}, in "
        f"the mean main score of {count} task{'s' * (count > 1)}? {len(study.seeds)} trainings of each, paired t tests "
        f"over seeds{f' with Holm for {m} optimizers' * (m > 1)}; the smallest effect of interest is "
        f"±{study.plan['delta']:g}."
    )


def sentences(study: Study) -> dict[str, str]:
    """The verdict on each optimizer in plain words."""
    return {name: sentence(study, name) for name in study.verdicts}


def sentence(study: Study, name: str) -> str:
    """One verdict in plain words."""
    verdict, base, delta = study.verdicts[name], study.baseline.name, f"±{study.plan['delta']:g}"
    because = f" {verdict.reason[0].upper()}{verdict.reason[1:]}." if verdict.reason else ""
    word, seen = verdict.word, span(verdict.interval)
    if word in WORDS:
        p = verdict.tost_adjusted if word == compare.EQUIVALENT else verdict.p_adjusted
        within = f", so within {delta}" if word == compare.EQUIVALENT else ""
        return f"{name} {WORDS[word]} {base}: {seen}{within}; adjusted p {p_text(p)}.{because}"
    if word == compare.UNFINISHED:
        return f"{name}: not finished.{because} So far {seen}." if seen else f"{name}: not finished.{because}"
    if word == compare.NOTHING:
        return f"{name}: no inference possible.{because}" + (f" Observed: {seen}." if seen else "")
    if verdict.reason:
        return f"{name}: undecided against {base}.{f' {seen}.' if seen else ''}{because}"
    p = f"adjusted p {p_text(verdict.p_adjusted)} for a difference and {p_text(verdict.tost_adjusted)} for equivalence"
    return f"{name}: undecided against {base}. {seen}, {p} within {delta}. {_advice(study, verdict)}"


def _advice(study: Study, verdict: Verdict) -> str:
    ends = f"a true difference of 0 or of ±{study.plan['delta']:g}"
    if verdict.seeds is None:
        return f"With this spread, more than {compare.MOST_SEEDS:,} seeds would be needed to recognise {ends}."
    if verdict.seeds <= len(study.seeds):
        return f"{len(study.seeds)} seeds are enough for {ends} in four of five studies; the truth may lie between."
    return f"With this spread, about {verdict.seeds} fresh seeds would recognise {ends} in four of five studies."


def span(interval: Interval | None) -> str:
    """`+0.0042 (95 % interval +0.0011 to +0.0073, 7 seeds)`; empty without a number."""
    if interval is None or interval.mean is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.4f} (one seed)"
    return f"{interval.mean:+.4f} (95 % interval {interval.low:+.4f} to {interval.high:+.4f}, {interval.n} seeds)"


def p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def controls(study: Study) -> list[str]:
    """What the controls showed, a sentence each."""
    found = []
    for name, verdict in study.controls.items():
        arm = study.arms[name]
        what = "the frozen torque" if arm.control == NULL else "the baseline against itself, on further seeds"
        said = f"p {p_text(verdict.p)}, not adjusted" if verdict.p is not None else verdict.reason or verdict.word
        found.append(f"{name} ({what}): {span(verdict.interval) or 'no numbers'}; {said}.")
    frozen = study.frozen
    moving = study.arms.get(str((study.plan.get("controls") or {}).get("frozen_torque")))
    if frozen is not None and moving is not None:
        seen = span(study.difference(moving, against=frozen))
        if seen:
            found.append(
                f"{moving.name} against {frozen.name}, so what a torque that moves changes: {seen} (description)."
            )
    return found


LIMITS = (
    "The verdicts are about this model, these training data, this recipe and these tasks, and about no others.",
    "Undecided is a result: it does not say that there is no difference, nor that there is one.",
    "Numbers by task and by type, costs and curves are description: nothing is adjusted for how many they are.",
    "Every arm had the same number of trials in the space written below. With more trials, or another space, the order "
    "may change (see best of k).",
    "Seconds are those of the machine as it was, with whatever else it did.",
)


# --- the search -------------------------------------------------------------------------------------------------------


def selected_by(study: Study) -> str:
    """What the selection score is."""
    select = study.plan["select"]
    if select.get("metric"):
        return f"{select['metric']}, negated" if "loss" in select["metric"] else str(select["metric"])
    return f"mean main score of {listing(select['tasks'])}"


def searches(study: Study) -> Iterator[tuple[str, Arm, str, str, str]]:
    """For each searched arm: name, arm, finished trials, what was chosen, its selection score."""
    for name, arm in study.arms.items():
        if arm.control is None:
            chosen, lost = best(arm.trials), sum(bool(trial.diverged) for trial in arm.trials)
            done = f"{sum(not trial.missing for trial in arm.trials)} of {study.plan['trials']}"
            done += f", {lost} diverged" if lost else ""
            values = values_text(chosen.params) if chosen else "nothing"
            yield name, arm, done, values, f"{chosen.score:.4f}" if chosen and chosen.score is not None else DASH


def values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


# --- provenance -------------------------------------------------------------------------------------------------------


def provenance(study: Study) -> list[tuple[str, Any]]:
    """Where the study is from: the plan, what was chosen on what, runs, versions, devices."""
    plan = study.plan
    tasks = plan.get("tasks") or {}

    def with_revision(names: Sequence[str]) -> str:
        return ", ".join(f"{name} @ {tasks[name]['revision']}" if name in tasks else name for name in names)

    pairs: list[tuple[str, Any]] = [
        ("plan", plan["name"] + (f": {plan['description']}" if plan.get("description") else "")),
        ("hash of the plan", plan["hash"]),
        ("model", f"{plan['model']} @ {plan.get('model_revision') or 'not known'}"),
        ("recipe", plan["recipe"]),
        ("training", json.dumps(plan["train"], ensure_ascii=False)),
        ("selected on", with_revision(plan["select"].get("tasks") or []) or selected_by(study)),
        ("reported", with_revision(study.tasks)),
        ("δ", plan["delta"]),
        *((f"space of {name}", json.dumps(entry, ensure_ascii=False)) for name, entry in plan["optimizers"].items()),
        *((f"seeds, {key}", ", ".join(map(str, seeds))) for key, seeds in plan["seeds"].items() if seeds),
        ("runs", _counted(study)),
    ]
    for key, name in (("device", "device"), ("versions", "versions")):
        values = dict.fromkeys(_flat(row.get(key)) for row in study.rows if row.get(key))
        pairs += [(name, value) for value in values]
    return [*pairs, ("statistics", f"scipy {metadata.version('scipy')}")]


def _counted(study: Study) -> str:
    counts: dict[str, int] = {}
    for row in study.rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    hours = sum(row.get("seconds") or 0 for row in study.rows) / 3600
    stages = {stage: sum(row["stage"] == stage for row in study.rows) for stage in (BASE, "screen", CONFIRM)}
    return (
        f"{', '.join(f'{count} {stage}' for stage, count in stages.items())}; "
        f"{', '.join(f'{count} {status}' for status, count in counts.items())}; {hours:.2f} hours of training"
    )


def _flat(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def listing(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
