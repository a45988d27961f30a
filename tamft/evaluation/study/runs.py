"""The runs of a study by arm and seed, and the verdicts.

`plan` is the content of plan.json, a row is a line of study.jsonl. docs/verdicts.md explains every number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tamft.evaluation import compare
from tamft.evaluation.compare import Interval, Outcome, Verdict
from tamft.evaluation.study.trials import Row, Trial, trials

BASE, SCREEN, CONFIRM = "base", "screen", "confirm"
AA, NULL = "aa", "null"


@dataclass(frozen=True)
class Arm:
    """An optimizer, or a control, and its runs. `control`: None, "aa" or "null"."""

    name: str
    control: str | None
    screen: tuple[Row, ...]
    confirm: tuple[Row, ...]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Study:
    """Everything that a report shows. `arms`: the baseline first, controls last.

    `verdicts` are of the optimizers (Holm's family), `controls` of the A/A and the frozen-torque arm, each by itself.
    """

    plan: dict[str, Any]
    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    types: dict[str, str]
    base: Row | None
    arms: dict[str, Arm]
    verdicts: dict[str, Verdict]
    controls: dict[str, Verdict]

    @property
    def baseline(self) -> Arm:
        return self.arms[self.plan["baseline"]]

    @property
    def seeds(self) -> list[int]:
        return list(self.plan["seeds"]["confirm"])

    @property
    def frozen(self) -> Arm | None:
        return next((arm for arm in self.arms.values() if arm.control == NULL), None)

    def means(self, arm: Arm, tasks: Sequence[str] | None = None) -> list[float]:
        """Suite means (or means over `tasks`) of the confirm runs that have them."""
        scores = [suite_mean(row, tasks or self.tasks) for row in arm.confirm]
        return [score for score in scores if score is not None]

    def outcomes(self, arm: Arm, tasks: Sequence[str] | None = None, against: Arm | None = None) -> list[Outcome]:
        """Arm minus baseline (or `against`), one outcome per planned seed, in the plan's order."""
        other = against or self.baseline
        mine, theirs = ({row["seed"]: row for row in a.confirm} for a in (arm, other))
        pairs = zip(planned_seeds(self.plan, arm), planned_seeds(self.plan, other), strict=True)
        return [_outcome(mine.get(a), theirs.get(b), tasks or self.tasks) for a, b in pairs]

    def difference(self, arm: Arm, tasks: Sequence[str] | None = None, against: Arm | None = None) -> Interval:
        """Mean and interval of the differences that there are: description, not evidence."""
        return compare.interval([o for o in self.outcomes(arm, tasks, against) if not isinstance(o, str)])

    def by_type(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for task in self.tasks:
            found.setdefault(self.types[task], []).append(task)
        return found


def make_study(plan: Mapping[str, Any], rows: Sequence[Row]) -> Study:
    """Put the rows of a study together and judge them.

    Args:
        plan: the content of plan.json, complete.
        rows: lines of study.jsonl, in its order, each with at least run, stage, arm, params, seed, status, selection.
    """
    plan, baseline = dict(plan), plan["baseline"]
    tasks = tuple(plan["report"]["tasks"])
    types = {task: entry["type"] for task, entry in (plan.get("tasks") or {}).items()}
    for row in rows:
        types |= row.get("types") or {}
    names = dict.fromkeys([baseline, *plan["optimizers"]])
    controls = {row["arm"]: row["control"] for row in rows if row.get("control")}
    arms = {}
    for name in [*names, *sorted(controls, key=lambda name: controls[name])]:
        mine = [row for row in rows if row["arm"] == name]
        screen = tuple(row for row in mine if row["stage"] == SCREEN)
        confirm = tuple(sorted((row for row in mine if row["stage"] == CONFIRM), key=lambda row: row["seed"]))
        tried = tuple(trials(screen, plan["seeds"]["screen"]))
        arms[name] = Arm(name, controls.get(name), screen, confirm, tried)
    base = next((row for row in rows if row["stage"] == BASE), None)
    types = {task: types.get(task, "other") for task in tasks}
    study = Study(plan, tuple(rows), tasks, types, base, arms, {}, {})

    delta = float(plan["delta"])
    family = {name: _planned_outcomes(study, arms[name]) for name in plan.get("confirm") or names if name != baseline}
    verdicts = compare.judge(family, delta=delta)
    judged = {name: compare.judge({name: study.outcomes(arms[name])}, delta=delta)[name] for name in controls}
    return replace(study, verdicts=verdicts, controls=judged)


# --- runs -------------------------------------------------------------------------------------------------------------


def planned_seeds(plan: Mapping[str, Any], arm: Arm) -> list[int]:
    """The seeds of an arm's confirm runs; those of the A/A control are further ones, the i-th against the i-th."""
    return list(plan["seeds"]["aa"] if arm.control == AA else plan["seeds"]["confirm"])


def suite_mean(row: Row | None, tasks: Sequence[str]) -> float | None:
    """Mean of the main scores over `tasks`; None unless the run has all of them."""
    if row is None or row["status"] != "complete":
        return None
    scores = [(row.get("scores") or {}).get(task) for task in tasks]
    return None if any(s is None or not math.isfinite(s) for s in scores) else math.fsum(scores) / len(scores)


def _outcome(arm: Row | None, baseline: Row | None, tasks: Sequence[str]) -> Outcome:
    mine, theirs = suite_mean(arm, tasks), suite_mean(baseline, tasks)
    if mine is not None and theirs is not None:
        return mine - theirs
    lost = [row is not None and row["status"] == "diverged" for row in (arm, baseline)]
    if any(score is None and not gone for score, gone in zip((mine, theirs), lost, strict=True)):
        return compare.MISSING
    return compare.BOTH_DIVERGED if all(lost) else compare.ARM_DIVERGED if lost[0] else compare.BASELINE_DIVERGED


def _planned_outcomes(study: Study, arm: Arm) -> list[Outcome]:
    """As `Study.outcomes`; an arm whose trials all diverged has nothing to confirm, and counts as diverged."""
    if not arm.confirm and all_diverged(arm, study.plan):
        return [compare.ARM_DIVERGED] * len(study.seeds)
    return study.outcomes(arm)


def all_diverged(arm: Arm, plan: Mapping[str, Any]) -> bool:
    return len(arm.trials) >= plan["trials"] and all(trial.diverged and not trial.missing for trial in arm.trials)
