"""What the runs of a study cost, and how soon they reach the baseline's loss."""

import math
from dataclasses import dataclass
from statistics import median

from tamft.evaluation.study.runs import Arm, Study, planned_seeds
from tamft.evaluation.study.trials import Row


@dataclass(frozen=True)
class Cost:
    """Medians over an arm's complete confirm runs; None where nothing was measured.

    Args:
        steps: to the baseline's final loss on the same seed, median over those that reach it. `reached` of `compared`
            do. None of it with ρ > 0: such a loss is that of other weights.
    """

    seconds: float | None
    peak_memory_bytes: float | None
    state_bytes: float | None
    steps: float | None
    reached: int
    compared: int


def cost(study: Study, arm: Arm) -> Cost:
    """What the arm's confirm runs cost, and how soon they reach the baseline's loss."""
    complete = [row for row in arm.confirm if row["status"] == "complete"]

    def middle(key: str) -> float | None:
        values = [row[key] for row in complete if row.get(key) is not None]
        return median(values) if values else None

    theirs = {row["seed"]: row for row in study.baseline.confirm if row["status"] == "complete"}
    pairs = zip(planned_seeds(study.plan, arm), study.seeds, strict=True)
    other = dict(pairs)
    found = [
        steps_to_loss(row, final_loss(theirs[other[row["seed"]]]))
        for row in complete
        if other.get(row["seed"]) in theirs and not perturbed(row) and row.get("loss")
    ]
    reached = [steps for steps in found if steps is not None]
    return Cost(
        seconds=middle("seconds"),
        peak_memory_bytes=middle("peak_memory_bytes"),
        state_bytes=middle("state_bytes"),
        steps=median(reached) if reached else None,
        reached=len(reached),
        compared=len(found),
    )


def final_loss(row: Row) -> float | None:
    """Mean of the losses that were logged in the last fifth of the steps."""
    return _window_mean(row, row["loss"][-1][0]) if row.get("loss") else None


def steps_to_loss(row: Row, target: float | None) -> int | None:
    """The first step at which the mean loss of the fifth of the run before it is at most `target`; None if never."""
    last = row["loss"][-1][0]
    for step, _ in row["loss"]:
        if step >= 0.2 * last and target is not None:
            value = _window_mean(row, step)
            if value is not None and value <= target:
                return int(step)
    return None


def _window_mean(row: Row, step: float) -> float | None:
    width = 0.2 * row["loss"][-1][0]
    values = [value for at, value in row["loss"] if step - width < at <= step]
    return math.fsum(values) / len(values) if values and None not in values else None


def perturbed(row: Row) -> bool:
    """Whether the run's losses were taken at weights moved by ρ."""
    return any((values.get("rho") or 0) > 0 for _, values in row.get("telemetry") or ())
