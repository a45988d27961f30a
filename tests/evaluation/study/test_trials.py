"""The search of a study: trials, what is chosen, best of k, optima on the border."""

import itertools
from statistics import mean

import pytest

from tamft.evaluation.study.trials import Trial, best, best_of_k, budget_curves, on_border, trials


def row(rate, seed, value, status="complete", **params):
    return {"params": {"learning_rate": rate, **params}, "seed": seed, "selection": value, "status": status}


def trial(rate, score, **changes):
    values = {"params": {"learning_rate": rate}, "scores": (score,), "diverged": 0, "missing": 0}
    return Trial(**(values | changes))


def test_a_trial_is_one_setting_over_all_seeds():
    rows = [row(1e-4, 1, 0.5), row(2e-4, 1, 0.6), row(1e-4, 2, 0.75), row(2e-4, 2, None, "diverged")]
    rows += [row(4e-4, 1, 0.9), row(8e-4, 1, None, "failed"), row(8e-4, 2, 0.9)]
    found = trials(rows, [1, 2])
    assert [t.params["learning_rate"] for t in found] == [1e-4, 2e-4, 4e-4, 8e-4]
    assert [t.score for t in found] == [0.625, None, None, None]
    assert [(t.diverged, t.missing) for t in found] == [(0, 0), (1, 0), (0, 1), (0, 1)]


def test_the_same_settings_in_another_order_are_one_trial():
    rows = [row(1e-4, 1, 0.5, rho=0.1), {**row(1e-4, 2, 0.7), "params": {"rho": 0.1, "learning_rate": 1e-4}}]
    assert [t.scores for t in trials(rows, [1, 2])] == [(0.5, 0.7)]


def test_what_diverged_is_never_chosen_and_the_first_of_equals_is():
    tried = [trial(1e-4, 0.5), trial(2e-4, 0.9, diverged=1), trial(4e-4, 0.7), trial(8e-4, 0.7)]
    assert best(tried) is tried[2]
    assert best([tried[1]]) is None
    assert best([]) is None


@pytest.mark.parametrize("scores", [[0.5], [0.2, 0.9, 0.4], [0.3, 0.3, 0.1, 0.8, 0.5, 0.6]])
def test_best_of_k_is_the_mean_over_all_choices_of_k(scores):
    expected = [mean(map(max, itertools.combinations(scores, k))) for k in range(1, len(scores) + 1)]
    assert best_of_k(scores) == pytest.approx(expected)


def test_best_of_many_trials_does_not_overflow():
    curve = best_of_k([i / 1200 for i in range(1200)])
    assert curve[0] == pytest.approx(1199 / 2400)
    assert curve[-1] == pytest.approx(1199 / 1200)
    assert curve == sorted(curve)


def test_a_diverged_trial_counts_as_the_lowest_score_of_the_study():
    arms = {
        "a": [trial(1e-4, 0.6), trial(2e-4, 0, scores=(), diverged=1), trial(4e-4, 0, scores=(), missing=1)],
        "b": [trial(1e-4, 0.2), trial(2e-4, 0.8)],
        "c": [trial(1e-4, 0, scores=(), missing=1)],
    }
    curves = budget_curves(arms)
    assert curves == {"a": pytest.approx([0.4, 0.6]), "b": pytest.approx([0.5, 0.8])}
    assert budget_curves({"a": arms["c"]}) == {}


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.9, 0.5, 0.4), "learning_rate 0.0001 is the lowest of 3 tried, 0.0001 to 0.0004"),
        ((0.4, 0.5, 0.9), "learning_rate 0.0004 is the highest of 3 tried"),
        ((0.4, 0.9, 0.5), None),
    ],
)
def test_an_optimum_on_the_border_is_said(scores, said):
    found = on_border([trial(rate, score) for rate, score in zip((1e-4, 2e-4, 4e-4), scores, strict=True)])
    assert found == [] if said is None else said in found[0]


def test_words_and_single_values_have_no_border():
    params = {"learning_rate": 1e-4, "alignment": "global", "rescale": True}
    tried = [trial(0, 0.5, params=params), trial(0, 0.6, params=params | {"alignment": "tensor", "rescale": False})]
    assert on_border(tried) == []
    assert on_border([]) == []


def test_the_highest_rate_that_did_not_diverge_is_no_border():
    """The range was wide enough: above the optimum the training breaks."""
    tried = [trial(1e-4, 0.5), trial(2e-4, 0.9), trial(4e-4, 0, scores=(), diverged=2)]
    assert on_border(tried) == []
