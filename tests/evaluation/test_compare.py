"""Tests, sizes and verdicts against hand-worked examples, direct computations and studies whose truth is known."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
from scipy import integrate, stats

from tamft.errors import InputError
from tamft.evaluation import compare
from tamft.evaluation.compare import (
    ARM_DIVERGED,
    BASELINE_DIVERGED,
    BETTER,
    BOTH_DIVERGED,
    EQUIVALENT,
    MISSING,
    NOTHING,
    UNDECIDED,
    UNFINISHED,
    WORSE,
    judge,
)
from tests.evaluation import simulations
from tests.evaluation.simulations import NEVER, SD, any_rate, differences, verdicts

ROOT = Path(__file__).resolve().parents[2]
D = [0.004, -0.001, 0.0035, 0.0021, 0.0064, 0.0012]


# --- tests against direct computations --------------------------------------------------------------------------------


def test_the_paired_t_test_is_scipys_on_two_columns():
    arm = np.random.default_rng(3).normal(0.6, 0.01, (5, 7))
    base = np.random.default_rng(4).normal(0.6, 0.01, (5, 7))
    assert compare.difference_p(arm - base) == pytest.approx(stats.ttest_rel(arm, base, axis=1).pvalue, rel=1e-12)


def test_tost_and_interval_by_the_textbook():
    n, mean = len(D), sum(D) / len(D)
    sd = (sum((x - mean) ** 2 for x in D) / (n - 1)) ** 0.5
    error, delta = sd / n**0.5, 0.005
    expected = max(1 - stats.t.cdf((mean + delta) / error, n - 1), stats.t.cdf((mean - delta) / error, n - 1))
    assert compare.equivalence_p(D, delta) == pytest.approx(expected, rel=1e-9)
    half = stats.t.ppf(0.975, n - 1) * error
    span = compare.interval(D)
    assert (span.n, span.mean, span.sd) == (6, pytest.approx(mean), pytest.approx(sd))
    assert (span.low, span.high) == (pytest.approx(mean - half), pytest.approx(mean + half))
    # TOST succeeds exactly where the 90 % interval lies within ±delta
    edge = max(abs(mean - stats.t.ppf(0.95, n - 1) * error), abs(mean + stats.t.ppf(0.95, n - 1) * error))
    assert compare.equivalence_p(D, edge * 1.0001) < 0.05 < compare.equivalence_p(D, edge * 0.9999)


def test_few_numbers_have_no_interval():
    assert compare.interval([]) == compare.Interval(0, None, None, None, None)
    assert compare.interval([0.25]) == compare.Interval(1, 0.25, None, None, None)


@pytest.mark.parametrize("n", [2, 6, 9])
def test_sign_flip_is_exact(n):
    d = np.random.default_rng(n).normal(0.5, 1, n)
    p, least = compare.sign_flip(d)
    reference = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf, axis=-1)
    assert p == pytest.approx(reference.pvalue)
    assert least == 2 / 2**n
    assert compare.sign_flip(np.abs(d))[0] == least


def test_sign_flip_with_many_seeds_is_sampled_and_repeats_itself():
    d = np.random.default_rng(0).normal(0.35, 1, 30)
    p, least = compare.sign_flip(d)
    assert p == compare.sign_flip(d)[0]
    assert p == pytest.approx(compare.difference_p(d), abs=0.02)
    assert least == 1 / (2**16 + 1)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and the last may not be below the one before it
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert compare.holm([0.02, float("nan")]) == pytest.approx([0.04, 1.0])
    assert compare.holm([0.03]) == pytest.approx([0.03])
    assert compare.holm([[0.01, 0.04], [0.5, 0.02]]) == pytest.approx(np.array([[0.02, 0.04], [0.5, 0.04]]))


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_power_is_the_noncentral_t():
    assert compare.t_power(2, 6**0.5, 6) == pytest.approx(0.37, abs=0.005)
    assert compare.t_power(3, 6**0.5, 6) == pytest.approx(0.67, abs=0.005)
    # by integration over the spread, without the noncentral t
    n, effect = 6, 2.5
    critical = stats.t.ppf(0.975, n - 1)

    def found(x):
        return stats.norm.sf(critical * (x / (n - 1)) ** 0.5 - effect) * stats.chi2.pdf(x, n - 1)

    assert compare.t_power(effect, n**0.5, n) == pytest.approx(integrate.quad(found, 0, 80)[0], abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 1), (2, 6), (3, 6), (7, 1), (7, 3), (40, 2)])
def test_the_minimum_detectable_effect_has_its_power(n, m):
    effect = compare.mde(0.02, n, m=m)
    assert compare.t_power(effect, 0.02, n, 0.05 / m) == pytest.approx(0.8, abs=1e-6)
    assert compare.mde(0.04, n, m=m) == pytest.approx(2 * effect)


def test_the_equivalence_interval_says_which_delta_can_be_reached():
    half = compare.tost_halfwidth(0.01, 7)
    assert half == pytest.approx(stats.t.ppf(0.95, 6) * 0.01 / 7**0.5)
    d = np.array([1, -1, 1, -1, 1, -1, 0]) * 0.01  # mean 0
    half = compare.tost_halfwidth(d.std(ddof=1), 7, m=3)
    assert compare.equivalence_p(d, half * 1.001) < 0.05 / 3 < compare.equivalence_p(d, half * 0.999)


def test_nothing_can_be_reached_with_one_seed():
    assert compare.mde(0.01, 1) == compare.tost_halfwidth(0.01, 1) == float("inf")


def test_power_of_equivalence_is_that_of_simulations():
    rng = np.random.default_rng(1)
    for effect in (0.0, 0.3):
        d = rng.normal(effect, 1.0, (20_000, 8))
        rate = (compare.equivalence_p(d, 0.9) < 0.05).mean()
        assert compare.tost_power(0.9, 1.0, 8, effect=effect) == pytest.approx(rate, abs=0.012)


@pytest.mark.parametrize("m", [1, 3])
def test_the_number_of_seeds_is_the_smallest_that_decides(m):
    n = compare.seeds_to_decide(0.01, 0.006, m=m)

    def powers(n):
        return compare.t_power(0.006, 0.01, n, 0.05 / m), compare.tost_power(0.006, 0.01, n, 0.05 / m)

    assert min(powers(n)) >= 0.8 > min(powers(n - 1))
    assert compare.seeds_to_decide(0.01, 0.0001) is None
    assert compare.seeds_to_decide(0.0, 0.0001) == 2


# --- verdicts ---------------------------------------------------------------------------------------------------------

UP = [0.012, 0.015, 0.009, 0.014, 0.011, 0.013]
DOWN = [-x for x in UP]
NEAR = [0.0004, -0.0003, 0.0005, -0.0002, 0.0001, -0.0004]
WILD = [0.03, -0.02, 0.01, -0.04, 0.02, 0.015]


@pytest.mark.parametrize(
    ("outcomes", "word", "reason"),
    [
        (UP, BETTER, ""),
        (DOWN, WORSE, ""),
        (NEAR, EQUIVALENT, ""),
        (WILD, UNDECIDED, ""),
        ([0.001 + x / 100 for x in UP], EQUIVALENT, ""),  # different for certain, and too little to matter
        ([0.0] * 6, EQUIVALENT, "the scores are the baseline's"),
        ([0.01] * 6, NOTHING, "the seed changes nothing"),
        ([0.02], NOTHING, "one seed"),
        ([MISSING], NOTHING, "one seed"),
        ([*UP[:5], MISSING], UNFINISHED, "1 of 6 pairs is"),
        ([*UP[:5], ARM_DIVERGED], UNDECIDED, "the arm diverged in 1 of 6 pairs"),
        ([*NEAR[:5], ARM_DIVERGED], UNDECIDED, "the arm diverged in 1"),
        ([*DOWN[:5], ARM_DIVERGED], WORSE, "the arm diverged in 1"),
        ([*DOWN[:5], BASELINE_DIVERGED], UNDECIDED, "the baseline diverged in 1"),
        ([*NEAR[:5], BASELINE_DIVERGED], UNDECIDED, "the baseline diverged in 1"),
        ([*UP[:5], BASELINE_DIVERGED], BETTER, "the baseline diverged in 1"),
        ([*UP[:5], BOTH_DIVERGED], UNDECIDED, "the arm diverged in 1 and the baseline diverged in 1 of 6"),
        ([*DOWN[:5], BOTH_DIVERGED], UNDECIDED, ""),
        ([ARM_DIVERGED] * 6, UNDECIDED, "the arm diverged in 6 of 6"),
    ],
)
def test_every_verdict_can_be_reached(outcomes, word, reason):
    verdict = judge({"arm": outcomes}, delta=0.005)["arm"]
    assert verdict.word == word
    assert reason in verdict.reason
    assert bool(reason) >= bool(verdict.reason) or word == UNDECIDED


def test_too_small_to_matter_is_worse_when_equivalence_is_barred():
    small = [-0.001 - x / 100 for x in UP]
    assert judge({"arm": small}, delta=0.005)["arm"].word == EQUIVALENT
    assert judge({"arm": [*small, ARM_DIVERGED]}, delta=0.005)["arm"].word == WORSE


def test_a_verdict_carries_its_numbers():
    found = judge({"up": UP, "d": D, "lost": [ARM_DIVERGED] * 6}, delta=0.005)
    p = [stats.ttest_1samp(x, 0).pvalue for x in (UP, D)]
    assert found["d"].p == pytest.approx(p[1])
    assert found["up"].p_adjusted == pytest.approx(3 * p[0])  # the arm without a single number still counts
    assert found["d"].p_adjusted == pytest.approx(2 * p[1])
    assert found["d"].tost_adjusted == pytest.approx(min(1, 3 * compare.equivalence_p(D, 0.005)))
    assert (found["d"].flip_p, found["d"].flip_least) == compare.sign_flip(D)
    assert found["d"].seeds == compare.seeds_to_decide(np.std(D, ddof=1), 0.005, m=3)
    assert found["up"].seeds is None
    assert (found["lost"].p, found["lost"].arm_diverged, found["lost"].interval.mean) == (None, 6, None)


def test_a_result_that_lost_pairs_could_have_made_does_not_ease_the_others():
    """Holm asks less of the second p only where the first is a finding."""
    d = [0.002, 0.0065, -0.0005, 0.005, 0.004, 0.003]
    alone = judge({"d": d, "other": WILD}, delta=0.0001)["d"]
    for other in ([*UP, ARM_DIVERGED], [*DOWN, BASELINE_DIVERGED], [*UP, MISSING], [*UP, BOTH_DIVERGED]):
        found = judge({"d": d, "other": other}, delta=0.0001)
        assert found["d"].p_adjusted == alone.p_adjusted == pytest.approx(2 * alone.p)
    found = judge({"d": d, "other": [*DOWN, ARM_DIVERGED]}, delta=0.0001)
    assert found["d"].p_adjusted == pytest.approx(alone.p)
    near = judge({"near": NEAR, "other": [*NEAR, ARM_DIVERGED]}, delta=0.005)["near"]
    assert near.tost_adjusted == pytest.approx(2 * near.tost_p)


def test_there_is_no_p_while_runs_are_missing():
    found = judge({"a": [*UP, MISSING]}, delta=0.005)["a"]
    assert (found.p, found.p_adjusted, found.tost_p, found.flip_p) == (None,) * 4
    assert found.interval.n == 6


def test_holm_costs_a_verdict():
    d = [0.002, 0.0065, -0.0005, 0.005, 0.004, 0.003]
    assert judge({"a": d}, delta=0.0001)["a"].word == BETTER
    assert judge({"a": d, "b": WILD, "c": WILD}, delta=0.0001)["a"].word == UNDECIDED


def test_six_seeds_never_reject_by_sign_flip_with_holm_over_two():
    found = judge({"a": UP, "b": UP}, delta=0.005)
    assert found["a"].word == BETTER
    assert 2 * found["a"].flip_least > 0.05


@pytest.mark.parametrize("delta", [0.0, -0.1, float("nan")])
def test_delta_must_be_positive(delta):
    with pytest.raises(InputError, match="above 0"):
        judge({"a": UP}, delta=delta)


def test_without_scipy_there_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "tamft\[compare\]"'):
        judge({"a": UP}, delta=0.005)


def test_scipy_is_imported_only_when_needed(run_python):
    program = "import sys, tamft.evaluation.compare; print('scipy' in sys.modules)"
    assert run_python("-c", program, check=True).stdout.strip() == "False"


# --- simulations: 2,000 studies whose truth is known ------------------------------------------------------------------

SAME = (BETTER, WORSE)


@pytest.mark.parametrize("seed", range(3))
def test_one_optimizer_without_a_difference_is_called_different_in_5_percent(seed):
    rate, _ = any_rate(verdicts(differences(2000, 1, 6, seed=seed), NEVER), *SAME)
    assert rate == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 2000) ** 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_any_of_six_is_called_different_in_at_most_6_5_percent(seed):
    rate, _ = any_rate(verdicts(differences(2000, 6, 6, seed=seed), NEVER), *SAME)
    assert 0.03 < rate <= 0.065


def test_without_holm_any_of_six_would_be_called_different_far_too_often():
    d = differences(2000, 6, 6)
    assert (compare.difference_p(d) < 0.05).any(-1).mean() > 0.15


@pytest.mark.parametrize(("effect", "expected"), [(2, 0.37), (3, 0.67)])
def test_power_is_within_3_points_of_the_noncentral_t(effect, expected):
    rate, _ = any_rate(verdicts(differences(2000, 1, 6, effect=effect), NEVER), BETTER)
    assert rate == pytest.approx(compare.t_power(effect, 6**0.5, 6), abs=0.03)
    assert rate == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("arms", [1, 6])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_difference_of_delta_is_called_equivalent_in_at_most_5_percent(arms, side):
    error = SD / 6**0.5
    rate, _ = any_rate(verdicts(differences(2000, arms, 6, effect=side * 6), 6 * error), EQUIVALENT)
    assert 0.03 < rate <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_heavy_tails_do_not_make_verdicts():
    rate, _ = any_rate(verdicts(differences(2000, 6, 6, tails=3), NEVER), *SAME)
    assert rate <= 0.065


def test_with_enough_seeds_both_truths_are_found():
    """What `seeds_to_decide` promises, through the verdicts themselves."""
    delta = 1.5 * SD
    n = compare.seeds_to_decide(SD, delta)
    equal, _ = any_rate(verdicts(differences(2000, 1, n), delta), EQUIVALENT)
    better, _ = any_rate(verdicts(differences(2000, 1, n, effect=delta / SD * n**0.5), delta), BETTER)
    assert equal > 0.77
    assert better > 0.74  # up to 5 % of them are called equivalent first


def test_judge_gives_the_verdicts_of_the_simulations():
    d = differences(150, 3, 6, effect=2.5)
    delta = 2 * SD
    single = [list(judge(dict(zip("abc", map(list, study), strict=True)), delta=delta).values()) for study in d]
    words = verdicts(d, delta)
    assert [[v.word for v in study] for study in single] == words.tolist()
    assert len(set(words.ravel())) >= 3


def test_diverging_never_helps():
    """Null studies in which the arm loses a run in ten: never better, worse no more often than 2.5 %."""
    rng = np.random.default_rng(5)
    words = []
    for d in differences(1000, 1, 6, seed=5)[:, 0]:
        lost = rng.random(6) < 0.1
        if lost.any():
            outcomes = [ARM_DIVERGED if gone else float(x) for x, gone in zip(d, lost, strict=True)]
            words.append(judge({"arm": outcomes}, delta=SD)["arm"].word)
    assert len(words) > 400
    assert set(words) == {UNDECIDED, WORSE}
    assert words.count(WORSE) / len(words) <= 0.025 + 3 * (0.025 * 0.975 / len(words)) ** 0.5


def test_the_documented_numbers_are_the_simulations():
    page = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \| ([0-9.]+) % \| ± ([0-9.]+) \|$", page, re.MULTILINE)
    for (truth, what, rate, error), documented in zip(simulations.table(), rows, strict=True):
        assert documented[:2] == (truth, what)
        # numpy may change its generators: then the numbers move within their errors
        assert float(documented[2]) == pytest.approx(100 * rate, abs=400 * error + 0.1)


def test_the_documented_program_runs(capsys):
    page = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(program, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("adatamw undecided 0.0025 ")
    assert second.startswith("lion worse -0.011")
