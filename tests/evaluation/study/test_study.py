"""Verdicts, controls, costs and remarks of simulated studies, against computations that share no code with them."""

import numpy as np
import pytest

pytest.importorskip("scipy")
from scipy import stats

from tamft.evaluation.compare import BETTER, EQUIVALENT, NOTHING, UNDECIDED, UNFINISHED, WORSE
from tamft.evaluation.study import costs, remarks
from tamft.evaluation.study.runs import make_study
from tests.evaluation.study.making import CONFIRM, TASKS, a_plan, diverge, some_rows, the_study

FAMILY = ["adatamw", "adamw_msam", "lion"]


@pytest.fixture(scope="module")
def raw():
    return the_study()


@pytest.fixture(scope="module")
def study(raw):
    return make_study(*raw)


def score_of(rows, arm, seed, tasks=TASKS):
    """The suite mean of a confirm run, None if it diverged; straight from the lines."""
    (row,) = [r for r in rows if r["stage"] == "confirm" and r["arm"] == arm and r["seed"] == seed]
    return None if row["status"] == "diverged" else np.mean([row["scores"][task] for task in tasks])


def columns(rows, arm, tasks=TASKS, shift=0):
    pairs = [(score_of(rows, arm, s + shift, tasks), score_of(rows, "adamw_torch", s, tasks)) for s in CONFIRM]
    return np.array([pair for pair in pairs if None not in pair]).T


def adjust(p):
    """Holm, written as it is read: step down from the smallest."""
    result, largest = {}, 0.0
    for i, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, value * (len(p) - i)))
        result[name] = largest
    return result


def test_every_number_of_a_verdict(raw, study):
    plan, rows = raw
    pairs = {arm: columns(rows, arm) for arm in FAMILY}
    p = {arm: stats.ttest_rel(*pairs[arm]).pvalue for arm in FAMILY}
    tost = {}
    for arm, (mine, theirs) in pairs.items():
        above = stats.ttest_rel(mine, theirs - plan["delta"], alternative="greater").pvalue
        below = stats.ttest_rel(mine, theirs + plan["delta"], alternative="less").pvalue
        tost[arm] = max(above, below)
    for arm, verdict in study.verdicts.items():
        d = pairs[arm][0] - pairs[arm][1]
        assert verdict.p == pytest.approx(p[arm])
        assert verdict.p_adjusted == pytest.approx(adjust(p)[arm])
        assert verdict.tost_p == pytest.approx(tost[arm])
        assert verdict.tost_adjusted == pytest.approx(adjust(tost | {"lion": 1.0})[arm])  # lion lost a run
        low, high = stats.t.interval(0.95, len(d) - 1, loc=d.mean(), scale=stats.sem(d))
        assert (verdict.interval.low, verdict.interval.high) == (pytest.approx(low), pytest.approx(high))
        flips = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert verdict.flip_p == pytest.approx(flips.pvalue)
    assert list(study.verdicts) == FAMILY
    words = {arm: EQUIVALENT if adjust(tost)[arm] < 0.05 else None for arm in FAMILY}
    assert words == {"adatamw": EQUIVALENT, "adamw_msam": None, "lion": None}
    assert [v.word for v in study.verdicts.values()] == [EQUIVALENT, UNDECIDED, WORSE]
    assert study.verdicts["lion"].arm_diverged == 1


def test_controls_are_judged_by_themselves(raw, study):
    _, rows = raw
    assert set(study.controls) == {"adamw_torch (A/A)", "adatamw gamma=1"}
    aa = columns(rows, "adamw_torch (A/A)", shift=7)  # the i-th further seed against the i-th
    assert study.controls["adamw_torch (A/A)"].p == pytest.approx(stats.ttest_rel(*aa).pvalue)
    frozen = study.controls["adatamw gamma=1"]
    assert frozen.p == frozen.p_adjusted == pytest.approx(stats.ttest_rel(*columns(rows, "adatamw gamma=1")).pvalue)


def test_description_by_task_and_by_type(raw, study):
    _, rows = raw
    for tasks in (["STS12"], ["STS12", "STS13"]):
        mine, theirs = columns(rows, "adamw_msam", tasks)
        assert study.difference(study.arms["adamw_msam"], tasks).mean == pytest.approx((mine - theirs).mean())
    assert study.by_type() == {
        "STS": ["STS12", "STS13"],
        "Retrieval": ["XQuADRetrieval"],
        "Classification": ["Banking77Classification"],
    }
    against = study.difference(study.arms["adatamw"], against=study.frozen)
    expected = [score_of(rows, "adatamw", s) - score_of(rows, "adatamw gamma=1", s) for s in CONFIRM]
    assert against.mean == pytest.approx(np.mean(expected))


def test_a_study_whose_truth_is_better():
    plan = a_plan()
    found = make_study(plan, some_rows(plan, gains={"adamw_msam": 0.03})).verdicts["adamw_msam"]
    assert found.word == BETTER


def test_the_order_of_the_lines_does_not_matter(raw, study):
    plan, rows = raw
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    again = make_study(plan, shuffled)
    assert again.verdicts == study.verdicts
    assert again.controls == study.controls


# --- what is not there ------------------------------------------------------------------------------------------------


def without(rows, arm, seed):
    return [r for r in rows if (r["stage"], r["arm"], r["seed"]) != ("confirm", arm, seed)]


def test_a_missing_run_leaves_its_own_arm_without_a_verdict(raw, study):
    plan, rows = raw
    found = make_study(plan, without(rows, "adatamw", 12)).verdicts
    assert (found["adatamw"].word, found["adatamw"].missing) == (UNFINISHED, 1)
    assert found["lion"].word == study.verdicts["lion"].word


def test_a_missing_baseline_run_leaves_all_without_a_verdict(raw):
    plan, rows = raw
    found = make_study(plan, without(rows, "adamw_torch", 12)).verdicts
    assert [v.word for v in found.values()] == [UNFINISHED] * 3


@pytest.mark.parametrize("change", [{"status": "failed", "scores": {}}, {"scores": {"STS12": 0.7}}])
def test_failed_runs_and_runs_without_all_scores_are_missing(raw, change):
    plan, rows = raw
    rows = [r | change if (r["arm"], r["seed"]) == ("adatamw", 12) else r for r in rows]
    study = make_study(plan, rows)
    assert study.verdicts["adatamw"].word == UNFINISHED
    assert any("adatamw: 1 " in note for note in remarks.notes(study))


def test_a_study_that_has_only_begun(raw):
    plan, rows = raw
    for count in (1, 5, 26):
        study = make_study(plan, rows[:count])
        assert [v.word for v in study.verdicts.values()] == [UNFINISHED] * 3
        assert "Not there yet: the A/A control." in list(remarks.notes(study))


def test_an_arm_whose_trials_all_diverged_is_not_left_out(raw):
    plan, rows = raw
    rows = [diverge(r) if r["arm"] == "lion" and r["stage"] == "screen" else r for r in rows]
    rows = [r for r in rows if not (r["arm"] == "lion" and r["stage"] == "confirm")]
    study = make_study(plan, rows)
    assert (study.verdicts["lion"].word, study.verdicts["lion"].arm_diverged) == (UNDECIDED, 7)
    assert any("every trial of the search diverged" in note for note in remarks.notes(study))
    p = {arm: stats.ttest_rel(*columns(rows, arm)).pvalue for arm in FAMILY[:2]}
    assert study.verdicts["adamw_msam"].p_adjusted == pytest.approx(adjust(p | {"lion": 1.0})["adamw_msam"])


def test_arms_that_are_not_confirmed_cost_nothing():
    plan = a_plan(confirm=["adamw_torch", "adamw_msam"])
    study = make_study(plan, some_rows(plan))
    assert list(study.verdicts) == ["adamw_msam"]
    assert study.verdicts["adamw_msam"].p_adjusted == study.verdicts["adamw_msam"].p
    assert study.arms["lion"].trials


def test_one_seed():
    plan = a_plan()
    plan["seeds"] |= {"confirm": [11], "aa": [18]}
    study = make_study(plan, some_rows(plan))
    assert {v.word for v in study.verdicts.values()} == {NOTHING}
    assert any(note.startswith("1 seed:") for note in remarks.notes(study))


# --- what has to be said ----------------------------------------------------------------------------------------------


def warnings_of(plan, rows):
    return " ".join(remarks.warnings(make_study(plan, rows)))


def test_what_a_sound_study_says(raw, study):
    warnings = list(remarks.warnings(study))
    assert len(warnings) == 2, warnings
    assert warnings[0].startswith("adatamw: the optimum is on the border")
    assert warnings[1].startswith("lion: the optimum is on the border")
    notes = list(remarks.notes(study))
    assert notes == [
        "adamw_msam: 2 of 6 screen runs diverged (the loss is not finite).",
        "lion: 1 of 7 confirm runs diverged (the loss is not finite).",
    ]


def shifted(rows, arm, by):
    """The confirm runs of an arm with other scores."""
    return [
        r | {"scores": {task: s + by for task, s in r["scores"].items()}}
        if (r["arm"], r["stage"]) == (arm, "confirm")
        else r
        for r in rows
    ]


def test_a_significant_aa_flags_the_study(raw):
    plan, rows = raw
    assert "A/A" not in warnings_of(plan, rows)
    assert "A/A control found a difference" in warnings_of(plan, shifted(rows, "adamw_torch (A/A)", 0.02))


def test_seeds_without_effect_flag_the_study(raw):
    plan, rows = raw
    same = [r | {"scores": dict.fromkeys(TASKS, 0.7)} if r["control"] == "aa" else r for r in rows]
    same = [r | {"scores": dict.fromkeys(TASKS, 0.6)} if r["arm"] == "adamw_torch" and r["scores"] else r for r in same]
    assert "seed has no effect" in warnings_of(plan, same)


def test_a_frozen_torque_that_differs_is_said(raw):
    plan, rows = raw
    notes = " ".join(remarks.notes(make_study(plan, shifted(rows, "adatamw gamma=1", 0.02))))
    assert "adatamw gamma=1 differs from adamw_torch" in notes
    assert "though its torque is constant" in notes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r | {"first_batches_sha256": "0"} if (r["arm"], r["seed"]) == ("lion", 12) else r, "seed 12"),
        (lambda r: r | {"device": "cuda: x"} if (r["arm"], r["seed"]) == ("lion", 12) else r, "differ in their device"),
        (lambda r: r | {"versions": {"torch": "2.6"}} if r["seed"] == 12 else r, "differ in their versions"),
        (
            lambda r: (
                r | {"params": {"learning_rate": 1e-4}} if (r["arm"], r["stage"]) == ("adatamw", "confirm") else r
            ),
            "adatamw: the confirm runs have",
        ),
        (
            lambda r: r | {"status": "failed"} if (r["arm"], r["seed"], r["learning_rate"]) == ("lion", 1, 4e-4) else r,
            "2 of lion",
        ),
    ],
)
def test_what_puts_a_study_in_question_is_said(raw, change, said):
    plan, rows = raw
    assert said not in warnings_of(plan, rows)
    assert said in warnings_of(plan, [change(r) for r in rows])


def notes_of(plan, rows):
    return " ".join(remarks.notes(make_study(plan, rows)))


def test_what_has_to_be_known_is_said(raw):
    plan, rows = raw
    assert "lowered the suite mean" in notes_of(plan, shifted(rows, "adamw_torch", -0.05))
    assert "equivalence within ±0.001 was out of reach" in notes_of(plan | {"delta": 0.001}, rows)
    assert "no such control: the A/A" in notes_of(plan | {"controls": {}}, [r for r in rows if not r["control"]])
    base = {r["seed"]: r["scores"] for r in rows if (r["arm"], r["stage"]) == ("adamw_torch", "confirm")}
    twin = [r | {"scores": base[r["seed"]]} if (r["arm"], r["stage"]) == ("adatamw", "confirm") else r for r in rows]
    assert "It may be the same optimizer" in notes_of(plan, twin)


# --- costs ------------------------------------------------------------------------------------------------------------


def test_costs_are_medians_over_the_runs_that_completed(raw, study):
    _, rows = raw
    mine = [r for r in rows if (r["arm"], r["stage"], r["status"]) == ("lion", "confirm", "complete")]
    found = costs.cost(study, study.arms["lion"])
    assert len(mine) == 6
    assert found.seconds == np.median([r["seconds"] for r in mine])
    assert found.state_bytes == 90 * 2**20


def a_run(*losses, rho=0.0):
    loss = [[10 * (i + 1), value] for i, value in enumerate(losses)]
    return {"loss": loss, "telemetry": [[10, {"rho": rho}]], "status": "complete"}


def test_steps_to_a_loss_are_of_a_mean_over_a_fifth_of_the_run():
    run = a_run(9, 8, 7, 3, 7, 5, 5, 4, 3, 3)  # a fifth is two entries
    assert costs.final_loss(run) == 3
    assert costs.steps_to_loss(run, 5.0) == 40  # mean of 7 and 3
    assert costs.steps_to_loss(run, 4.9) == 80
    assert costs.steps_to_loss(run, 2.9) is None
    assert costs.steps_to_loss(run, None) is None
    assert costs.steps_to_loss(a_run(1, 9, 9, 9, 9, 9, 9, 9, 9, 9), 5.0) == 20  # never before a fifth is over
    assert costs.final_loss(a_run()) is None
    assert costs.final_loss(a_run(2.0, None)) is None


def test_the_baseline_reaches_its_own_loss_at_the_latest_at_the_end(study):
    found = costs.cost(study, study.baseline)
    assert (found.reached, found.compared) == (7, 7)
    assert found.steps <= 60
    assert costs.cost(study, study.arms["adatamw"]).steps < found.steps  # simulated at twice the rate


def test_losses_at_moved_weights_are_not_compared(study):
    assert costs.perturbed(a_run(1, rho=0.3))
    assert not costs.perturbed(a_run(1))
    assert costs.cost(study, study.arms["adamw_msam"]).compared == 0
