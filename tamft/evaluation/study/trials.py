"""The search of a study: trials and what was chosen, best-of-k curves, optima on the border of their range."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]  # a line of study.jsonl


@dataclass(frozen=True)
class Trial:
    """One setting of the searched values, over the screening seeds; of selection scores, more is better.

    `scores`: by seed, of the runs that completed. `diverged` and `missing`: how many of the others there are.
    """

    params: dict[str, Any]
    scores: tuple[float, ...]
    diverged: int
    missing: int

    @property
    def score(self) -> float | None:
        """The mean selection score; None unless all runs of the trial completed."""
        return sum(self.scores) / len(self.scores) if self.scores and not self.diverged + self.missing else None


def trials(rows: Iterable[Row], seeds: Sequence[int]) -> list[Trial]:
    """The trials of one arm, in the order of its rows; a seed without a row is missing."""
    by_params: dict[str, list[Row]] = {}
    for row in rows:
        by_params.setdefault(json.dumps(row["params"], sort_keys=True), []).append(row)
    found = []
    for mine in by_params.values():
        scores = tuple(float(r["selection"]) for r in mine if r["status"] == "complete" and r["selection"] is not None)
        diverged = sum(r["status"] == "diverged" for r in mine)
        found.append(Trial(mine[0]["params"], scores, diverged, len(seeds) - len(scores) - diverged))
    return found


def best(tried: Sequence[Trial]) -> Trial | None:
    """The trial that is chosen: the best mean selection score, the first of equal ones; None where no trial has one."""
    scored = [trial for trial in tried if trial.score is not None]
    return max(scored, key=lambda trial: trial.score, default=None)


def best_of_k(scores: Sequence[float]) -> list[float]:
    """Expected score of the best of k = 1 … N trials that are drawn without replacement from N.

    With x_(1) ≤ … ≤ x_(N):  E_k = Σ_i x_(i) C(i-1, k-1) / C(N, k), the unbiased estimator for the best of k.
    """
    x, n = sorted(scores), len(scores)
    curve = []
    for k in range(1, n + 1):
        # from the largest down: its weight is k / N, and C(i-1, k-1) = C(i, k-1) (i-k+1) / i (whole binomials overflow)
        weight, terms = k / n, []
        for i in range(n - 1, k - 2, -1):
            terms.append(weight * x[i])
            weight *= (i - k + 1) / i if i else 0.0
        curve.append(math.fsum(terms))
    return curve


def budget_curves(arms: Mapping[str, Sequence[Trial]]) -> dict[str, list[float]]:
    """Best-of-k for each arm. A trial that diverged counts as the study's lowest score; missing ones are left out."""
    known = [trial.score for tried in arms.values() for trial in tried if trial.score is not None]
    if not known:
        return {}
    worst = min(known)
    scores = {
        arm: [
            worst if trial.score is None else trial.score
            for trial in tried
            if trial.score is not None or trial.diverged
        ]
        for arm, tried in arms.items()
    }
    return {arm: best_of_k(values) for arm, values in scores.items() if values}


def on_border(tried: Sequence[Trial]) -> list[str]:
    """The searched numbers of which the best trial has the lowest or the highest that was tried, in words."""
    chosen = best(tried)
    found = []
    for name, value in chosen.params.items() if chosen is not None else ():
        values = sorted({t.params[name] for t in tried if _is_number(t.params.get(name))})
        if _is_number(value) and len(values) > 1 and value in (values[0], values[-1]):
            which = "lowest" if value == values[0] else "highest"
            found.append(f"{name} {value:g} is the {which} of {len(values)} tried, {values[0]:g} to {values[-1]:g}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
