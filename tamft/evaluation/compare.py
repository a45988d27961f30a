"""Is one optimizer better than another? Tests, sizes and verdicts from differences between runs of the same seed.

Nothing here reads or writes a file. The unit of replication is the training run: d_i is arm minus baseline for seed i,
n the number of seeds. Functions that take `d` take an array whose last axis is the seeds; leading axes are further
comparisons (a simulation has thousands). docs/verdicts.md says in plain words how a verdict comes about.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tamft.errors import InputError

ALPHA, POWER = 0.05, 0.8
MOST_SEEDS = 1000  # beyond it a number of seeds is no advice
EXACT = 16  # seeds up to which all 2^n signs are tried
BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
NOTHING, UNFINISHED = "no inference possible", "not finished"
# The size of what computers round: differences closer together than this are one number.
ROUNDING = 1e-12


def check_scipy() -> None:
    """Raise InputError where scipy, which has the distributions, is not installed."""
    if find_spec("scipy") is None:
        raise InputError('comparing runs needs scipy, which is not installed: pip install "tamft[compare]"')


def _stats() -> Any:
    check_scipy()
    from scipy import stats

    return stats


# --- tests ------------------------------------------------------------------------------------------------------------


def difference_p(d: ArrayLike) -> Any:
    """Two-sided p of the paired t test: t = mean(d) / (sd(d) / sqrt(n)) with n - 1 degrees of freedom."""
    d = np.asarray(d, dtype=float)
    return _stats().ttest_1samp(d, 0.0, axis=-1).pvalue


def equivalence_p(d: ArrayLike, delta: float) -> Any:
    """p of the two one-sided t tests (TOST) against -delta and +delta: the larger of the two."""
    d, stats = np.asarray(d, dtype=float), _stats()
    above = stats.ttest_1samp(d, -delta, axis=-1, alternative="greater").pvalue
    below = stats.ttest_1samp(d, delta, axis=-1, alternative="less").pvalue
    return np.maximum(above, below)


def sign_flip(d: ArrayLike) -> tuple[float, float]:
    """p of the sign-flip test of the mean, and the smallest p that it can reach with so many seeds.

    All 2^n signs up to 16 seeds (smallest p: 2 / 2^n), 65,536 random ones, always the same, beyond.
    """
    d = np.asarray(d, dtype=float)
    n = len(d)
    if n <= EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        extra = 0
    else:
        signs, extra = np.random.default_rng(0).choice([-1, 1], (2**EXACT, n)), 1
    hits = np.abs(signs @ d) >= np.abs(d.sum()) * (1 - ROUNDING)
    total = len(signs) + extra
    return float((hits.sum() + extra) / total), (1 if extra else 2) / total


def holm(p: ArrayLike) -> NDArray[Any]:
    """Holm's adjusted p over the last axis: p_(i) (m - i + 1), made monotone, at most 1. NaN counts as 1."""
    p = np.nan_to_num(np.asarray(p, dtype=float), nan=1.0)
    order = np.argsort(p, axis=-1, kind="stable")
    steps = np.take_along_axis(p, order, -1) * (p.shape[-1] - np.arange(p.shape[-1]))
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, -1), 1.0), -1)
    return adjusted


def decide(mean: ArrayLike, p: ArrayLike, tost_p: ArrayLike, alpha: float = ALPHA) -> NDArray[Any]:
    """Verdicts from means and *adjusted* p, in this order: equivalent, better or worse, undecided."""
    mean, p, tost_p = (np.asarray(a, dtype=float) for a in (mean, p, tost_p))
    different = p < alpha
    return np.select(
        [tost_p < alpha, different & (mean > 0), different & (mean < 0)], [EQUIVALENT, BETTER, WORSE], UNDECIDED
    )


# --- sizes ------------------------------------------------------------------------------------------------------------


def t_power(effect: float, sd: float, n: int, alpha: float = ALPHA) -> float:
    """Probability that the paired t test of n ≥ 2 seeds finds a true mean difference `effect` (noncentral t).

    `sd` is that of the differences. Two-sided; a significant result with the wrong sign does not count.
    """
    stats = _stats()
    return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, n - 1), n - 1, abs(effect) / (sd / np.sqrt(n))))


def tost_power(delta: float, sd: float, n: int, alpha: float = ALPHA, effect: float = 0.0) -> float:
    """Probability that TOST within ±delta succeeds with n ≥ 2 seeds where `effect` is the true mean difference."""
    stats = _stats()
    # Where the spread comes out as s, the mean must be within ±(delta - t s / sqrt(n)); averaged over what s may be.
    s = sd * np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, n - 1) / (n - 1))
    error = sd / np.sqrt(n)
    room = np.maximum(delta - stats.t.ppf(1 - alpha, n - 1) * s / np.sqrt(n), 0.0)
    inside = stats.norm.cdf((room - effect) / error) - stats.norm.cdf((-room - effect) / error)
    return float(inside.mean())


def mde(sd: float, n: int, alpha: float = ALPHA, power: float = POWER, m: int = 1) -> float:
    """Minimum detectable effect: the true difference that n seeds find with probability `power`.

    Args:
        sd: of the differences between paired runs.
        m: number of optimizers; alpha / m is what Holm asks of the first of them.

    Returns infinity for less than two seeds.
    """
    if n < 2:
        return float("inf")
    check_scipy()
    from scipy.optimize import brentq

    def lacks(standard_errors: float) -> float:
        return t_power(standard_errors, np.sqrt(n), n, alpha / m) - power

    upper = 1.0
    while lacks(upper) < 0:
        upper *= 2
    return float(brentq(lacks, 0.0, upper) * sd / np.sqrt(n))


def tost_halfwidth(sd: float, n: int, alpha: float = ALPHA, m: int = 1) -> float:
    """Half the width of the equivalence interval: t(1 - alpha/m, n - 1) sd / sqrt(n).

    A δ at or below it cannot be reached, not even by a mean difference of exactly 0. Infinity for less than two seeds.
    """
    return float("inf") if n < 2 else float(_stats().t.ppf(1 - alpha / m, n - 1) * sd / np.sqrt(n))


def seeds_to_decide(
    sd: float, delta: float, alpha: float = ALPHA, power: float = POWER, m: int = 1, most: int = MOST_SEEDS
) -> int | None:
    """Seeds with which a true difference of 0 is called equivalent, and one of `delta` better or worse, each with
    probability `power`. None: more than `most`.

    The observed mean has no part in it: power computed for an observed effect only repeats its p.
    """

    def enough(n: int) -> bool:
        return min(t_power(delta, sd, n, alpha / m), tost_power(delta, sd, n, alpha / m)) >= power

    if sd < ROUNDING:
        return 2
    low, high = 1, 2
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# --- verdicts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """Mean and sd of n numbers, and the two-sided 1 - alpha t interval of the mean; None where there are too few."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def interval(values: ArrayLike, alpha: float = ALPHA) -> Interval:
    """The mean of at least one number; of at least two the rest."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return Interval(n, float(values[0]) if n else None, None, None, None)
    mean = float(values.mean())
    sd = float(values.std(ddof=1))
    half = float(_stats().t.ppf(1 - alpha / 2, n - 1)) * sd / n**0.5
    return Interval(n, mean, sd, mean - half, mean + half)


@dataclass(frozen=True)
class Verdict:
    """What can be said about one arm.

    Args:
        word: EQUIVALENT, BETTER, WORSE, UNDECIDED, UNFINISHED or NOTHING (no inference possible).
        reason: why it is not more than that, where the numbers alone do not say so; else empty.
        interval: of the differences, 1 - alpha, not adjusted for several optimizers.
        p, tost_p: of the paired t test and of TOST; `p_adjusted`, `tost_adjusted`: after Holm. They decide.
        flip_p, flip_least: of the sign-flip test, and the smallest that it could be. It never decides.
        seeds: where undecided, how many would decide (`seeds_to_decide`); None: not known or more than MOST_SEEDS.
    """

    word: str
    reason: str
    interval: Interval
    p: float | None
    p_adjusted: float | None
    tost_p: float | None
    tost_adjusted: float | None
    flip_p: float | None
    flip_least: float | None
    seeds: int | None
    arm_diverged: int
    baseline_diverged: int
    missing: int


Outcome = float | str  # a difference, or why there is none:
MISSING, BOTH_DIVERGED = "missing", "both diverged"
ARM_DIVERGED, BASELINE_DIVERGED = "arm diverged", "baseline diverged"


def judge(arms: Mapping[str, Sequence[Outcome]], *, delta: float, alpha: float = ALPHA) -> dict[str, Verdict]:
    """A verdict for each optimizer of one study. Holm's family is all of `arms`: judge controls separately.

    A pair with a diverged run has no difference, and leaving it out would favour who diverged. So an arm that diverged
    can only be worse or undecided, and against a baseline that diverged only better or undecided. While runs are
    missing there is no verdict: looking early and going on would decide too often.

    Args:
        arms: for each optimizer one outcome per planned seed.
        delta: the smallest effect of interest, > 0, in units of the scores.
    """
    if not delta > 0:
        raise InputError(f"delta={delta}: the smallest effect of interest must be above 0, for example 0.005")
    numbers = {arm: np.array([o for o in outcomes if not isinstance(o, str)]) for arm, outcomes in arms.items()}
    counts = {arm: Counter(o for o in outcomes if isinstance(o, str)) for arm, outcomes in arms.items()}
    # While runs are missing there is no p, and no p counts as 1 for Holm: the others' verdicts can only be too careful.
    raw = {arm: (None, None) if counts[arm][MISSING] else _raw_p(d, delta) for arm, d in numbers.items()}
    lost = {
        arm: (count[ARM_DIVERGED] + count[BOTH_DIVERGED], count[BASELINE_DIVERGED] + count[BOTH_DIVERGED])
        for arm, count in counts.items()
    }
    usable = {arm: _usable(raw[arm], numbers[arm], *lost[arm]) for arm in arms}
    p, tost_p = (holm([pair[i] for pair in usable.values()]) for i in (0, 1))
    found = {}
    for i, (arm, outcomes) in enumerate(arms.items()):
        d, span, tested = numbers[arm], interval(numbers[arm], alpha), raw[arm][0] is not None
        word = str(decide(span.mean or 0.0, p[i], tost_p[i], alpha))
        word, reason = _allowed(word, span, tested, len(outcomes), *lost[arm], counts[arm][MISSING])
        flip_p, flip_least = sign_flip(d) if tested else (None, None)
        advise = word == UNDECIDED and tested and not any(lost[arm])
        found[arm] = Verdict(
            word,
            reason,
            span,
            p=raw[arm][0],
            p_adjusted=float(p[i]) if tested else None,
            tost_p=raw[arm][1],
            tost_adjusted=float(tost_p[i]) if tested else None,
            flip_p=flip_p,
            flip_least=flip_least,
            seeds=seeds_to_decide(span.sd or 0.0, delta, alpha, m=len(arms)) if advise else None,
            arm_diverged=lost[arm][0],
            baseline_diverged=lost[arm][1],
            missing=counts[arm][MISSING],
        )
    return found


def _raw_p(d: NDArray[Any], delta: float) -> tuple[float | None, float | None]:
    """p of the t test and of TOST; None where there is nothing to test."""
    if len(d) < 2 or np.std(d, ddof=1) < ROUNDING:
        # the same scores for every seed are the same training; any other constant means that seeds change nothing
        same = len(d) > 1 and np.abs(d).max() < ROUNDING
        return (1.0, 0.0) if same else (None, None)
    return float(difference_p(d)), float(equivalence_p(d, delta))


def _usable(
    raw: tuple[float | None, float | None], d: NDArray[Any], arm_lost: int, baseline_lost: int
) -> tuple[float, float]:
    """The p that Holm's family gets: 1 where there is none, and where lost pairs could have made the result."""
    p, tost_p = (1.0 if value is None else value for value in raw)
    mean = d.mean() if len(d) else 0.0
    if (arm_lost and mean > 0) or (baseline_lost and mean < 0):
        p = 1.0
    return p, 1.0 if arm_lost or baseline_lost else tost_p


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _allowed(
    word: str, span: Interval, tested: bool, planned: int, arm_lost: int, baseline_lost: int, missing: int
) -> tuple[str, str]:
    """The verdict that may be given where tests say `word`, and why it is another one."""
    if planned < 2:
        return NOTHING, "one seed shows no spread, and another may turn the order around"
    if missing:
        return UNFINISHED, f"{missing} of {planned} pairs {_is(missing)} not there yet; numbers so far are no verdict"
    if not arm_lost and not baseline_lost:
        if not tested:
            return NOTHING, "all seeds give the same difference, so the seed changes nothing"
        return word, "the scores are the baseline's, seed by seed" if span.sd < ROUNDING else ""
    who = [f"the arm diverged in {arm_lost}"] * (arm_lost > 0)
    who += [f"the baseline diverged in {baseline_lost}"] * (baseline_lost > 0)
    reason = f"{' and '.join(who)} of {planned} pairs, which cannot be averaged away"
    return word, reason
