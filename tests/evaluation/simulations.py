"""Thousands of studies whose truth is known, through the same tests and verdicts as a real one.

`python -m tests.evaluation.simulations` prints the table of docs/verdicts.md.
"""

import numpy as np

from tamft.evaluation.compare import EQUIVALENT, decide, difference_p, equivalence_p, holm

TASKS = 4
# Standard deviations of a score: of a seed for all optimizers alike, of one run, and of one run on one task.
SEED, RUN, TASK = 0.01, 0.004, 0.008
SD = (2 * (RUN**2 + TASK**2 / TASKS)) ** 0.5  # of a difference of two suite means


def differences(studies, arms, n, *, effect=0.0, seed=0, tails=None):
    """d of shape (studies, arms, n): suite means of arms minus those of the baseline that they all share.

    `effect`: true difference in standard errors of the mean difference. `tails`: degrees of freedom of Student noise,
    None for normal noise.
    """
    rng = np.random.default_rng(seed)
    scale = 1.0 if tails is None else (tails / (tails - 2)) ** 0.5

    def noise(*shape):
        return rng.standard_normal(shape) if tails is None else rng.standard_t(tails, shape) / scale

    shared = SEED * noise(studies, 1, n, 1)
    scores = 0.6 + shared + RUN * noise(studies, arms + 1, n, 1) + TASK * noise(studies, arms + 1, n, TASKS)
    means = scores.mean(-1)
    return means[:, 1:] - means[:, :1] + effect * SD / n**0.5


def verdicts(d, delta):
    """A verdict for each study and arm, with Holm over the arms."""
    return decide(d.mean(-1), holm(difference_p(d)), holm(equivalence_p(d, delta)))


def any_rate(words, *wanted):
    """The share of studies in which some arm has one of the wanted verdicts, and its standard error."""
    rate = float(np.isin(words, wanted).any(-1).mean())
    return rate, (rate * (1 - rate) / len(words)) ** 0.5


def over_tasks(studies, tasks=40, *, seed=0):
    """p of t tests over the tasks of one training each, where there is no difference: what this project does not do."""
    rng = np.random.default_rng(seed)
    run = 2**0.5 * RUN * rng.standard_normal((studies, 1))
    return difference_p(run + 2**0.5 * TASK * rng.standard_normal((studies, tasks)))


NEVER = 1e-6  # a delta so small that equivalence never comes first


def table():
    """(truth, verdict, rate, standard error) for each line of the documented table."""
    rows = []
    for what, truth, arms, n, effect, delta, tails, wanted in (
        ("better or worse", "no difference", 1, 6, 0, NEVER, None, ("better", "worse")),
        ("better or worse, any of 6", "no difference", 6, 6, 0, NEVER, None, ("better", "worse")),
        ("better or worse, any of 6", "no difference, heavy tails (t, 3)", 6, 6, 0, NEVER, 3, ("better", "worse")),
        ("better", "2 standard errors", 1, 6, 2, NEVER, None, ("better",)),
        ("better", "3 standard errors", 1, 6, 3, NEVER, None, ("better",)),
        ("equivalent", "exactly δ", 1, 6, 6, 6 * SD / 6**0.5, None, (EQUIVALENT,)),
        ("equivalent, any of 6", "exactly δ", 6, 6, 6, 6 * SD / 6**0.5, None, (EQUIVALENT,)),
    ):
        words = verdicts(differences(2000, arms, n, effect=effect, tails=tails), delta)
        rows.append((truth, what, *any_rate(words, *wanted)))
    wrong = over_tasks(2000) < 0.05
    truth, what = "no difference", "different, by a t test over 40 tasks of one training"
    rows.append((truth, what, float(wrong.mean()), float(wrong.std()) / len(wrong) ** 0.5))
    return rows


if __name__ == "__main__":
    for truth, what, rate, error in table():
        print(f"| {truth} | {what} | {100 * rate:.1f} % | ± {100 * error:.1f} |")
