"""What counts as done, as diverged, as failed; and that none of the latter is ever chosen."""

import json
import os
import sys
from dataclasses import replace

import pytest

from tamft.compare import attempts, outcome, runs, study, worker
from tamft.compare.plan import read_plan


def write(folder, run=None, scores=None, failures=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((outcome.RUN, run), (outcome.SCORES, scores), (outcome.FAILURES, failures)):
        if content is not None:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")


SCORES = [{"task": "SmallDev", "main_score": 0.5}]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({}, None),
        ({"run": {"status": "complete"}}, None),  # not scored
        ({"scores": SCORES}, None),
        ({"run": {"status": "running"}, "scores": SCORES}, None),  # trained again
        ({"run": {"status": "complete"}, "scores": SCORES}, "complete"),
        ({"run": {"status": "complete"}, "scores": SCORES, "failures": ["a", "b"]}, "complete"),
        ({"run": {"status": "interrupted"}}, None),
        ({"run": {"status": "failed"}, "failures": ["a"]}, None),
        ({"run": {"status": "failed"}, "failures": ["a", "b"]}, "failed"),
        ({"run": {"status": "diverged", "error": "NaN"}}, "diverged"),
    ],
)
def test_what_a_folder_says(tmp_path, content, status):
    write(tmp_path / "run", **content)
    assert outcome.read(tmp_path / "run").status == status


def test_half_a_file_is_no_file(tmp_path):
    write(tmp_path, run={"status": "complete"}, scores=SCORES)
    path = tmp_path / outcome.SCORES
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    assert outcome.read(tmp_path).status is None


def test_failures_are_counted_and_can_be_forgotten(tmp_path):
    outcome.add_failure(tmp_path, "killed by SIGKILL")
    assert outcome.read(tmp_path).status is None
    outcome.add_failure(tmp_path, "again")
    assert (outcome.read(tmp_path).status, outcome.read(tmp_path).error) == ("failed", "again")
    outcome.forget_failures(tmp_path)
    assert outcome.read(tmp_path).attempts == 0
    outcome.add_failure(tmp_path, "a wrong option", final=True)
    assert outcome.read(tmp_path).status == "failed"


@pytest.fixture
def screened(plan_file, tmp_path):
    """A study whose screening is over: selection 0.5, better for the third rate."""
    plan = read_plan(plan_file)
    for run in runs.screen(plan):
        value = 0.9 if dict(run.params)["learning_rate"] == 1e-2 else 0.5
        write(tmp_path / "runs" / run.key, {"status": "complete"}, [{"task": "SmallDev", "main_score": value}])
    return plan, tmp_path


def test_the_best_mean_is_chosen_and_the_first_of_equal_ones(screened):
    plan, folder = screened
    assert study.chosen(plan, folder) == {name: {"learning_rate": 1e-2} for name in plan.arms}
    for run in runs.screen(plan):
        write(folder / "runs" / run.key, scores=SCORES)
    assert study.chosen(plan, folder) == {name: {"learning_rate": 1e-3} for name in plan.arms}


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_configuration_that_ends_badly_on_one_seed_is_not_chosen(screened, status):
    plan, folder = screened
    worst = next(r for r in runs.screen(plan) if r.arm == "msam" and dict(r.params)["learning_rate"] == 1e-2)
    place = folder / "runs" / worst.key
    (place / outcome.SCORES).unlink()
    write(place, {"status": status, "error": "it went wrong"}, failures=["it went wrong"] * 2)
    chosen = study.chosen(plan, folder)
    assert chosen == {name: {"learning_rate": 1e-3 if name == "msam" else 1e-2} for name in plan.arms}
    one = study.line(plan, worst, study.read_outcome(folder, worst))
    assert (one["status"], one["error"], one["selection"]) == (status, "it went wrong", None)


def test_nothing_is_chosen_where_all_ended_badly(screened):
    plan, folder = screened
    for run in runs.screen(plan):
        if run.arm == "msam":
            write(folder / "runs" / run.key, {"status": "diverged"})
            (folder / "runs" / run.key / outcome.SCORES).unlink()
    assert study.chosen(plan, folder)["msam"] is None
    confirmed = [run for run in study.all_runs(plan, folder) if run.stage == "confirm"]
    assert {run.arm for run in confirmed} == {"adamw_torch", "adamw_torch (A/A)", "adatamw", "adatamw gamma=1"}
    assert len(study.write_lines(plan, folder)) == 18  # neither the base model nor the confirmation has run


def test_the_loss_on_held_out_rows_as_metric(plan_file):
    plan = replace(read_plan(plan_file), select=None)
    found = outcome.Outcome("complete", None, {"eval_loss": [[2, 0.9], [4, 0.7]]}, [])
    assert study.selection(plan, found) == -0.7
    assert study.selection(plan, outcome.Outcome("complete", None, {}, [])) is None


# --- in processes -----------------------------------------------------------------------------------------------------


def job(plan_file, folder, **changes):
    plan = read_plan(plan_file)
    made = runs.job(plan, runs.screen(plan)[0], folder, None)
    return replace(made, **changes)


@pytest.mark.slow
def test_a_run_that_diverges_is_not_tried_again(plan_file, tmp_path):
    made = job(plan_file, tmp_path)
    made = replace(made, words=(*made.words, "--learning_rate=1e30"))
    assert attempts.attempt(made) == "diverged"
    found = outcome.read(made.folder)
    assert "the loss is nan" in found.error or "is not finite" in found.error
    assert found.attempts <= 1
    assert (made.folder / worker.LOG).read_text(encoding="utf-8").count("--- attempt") == 1


@pytest.mark.slow
def test_a_wrong_option_is_not_tried_again(plan_file, tmp_path):
    made = job(plan_file, tmp_path)
    made = replace(made, words=(*made.words, "--max_stepps=3"))
    assert attempts.attempt(made) == "failed"
    assert "--max_stepps is not an option. Did you mean '--max_steps'?" in outcome.read(made.folder).error
    assert (made.folder / worker.LOG).read_text(encoding="utf-8").count("--- attempt") == 1


PROGRAM = """
import json, os, pathlib, sys
env = os.environ
print("threads", env["OMP_NUM_THREADS"], "devices", repr(env["CUDA_VISIBLE_DEVICES"]), "group", os.getpgid(0))
(pathlib.Path(sys.argv[1]) / "run.json").write_text(json.dumps({"status": "complete"}))
"""


@pytest.mark.slow
def test_a_process_group_under_accelerate(plan_file, tmp_path):
    """A recipe of one's own is a program: accelerate starts it, in a process group that can be ended as a whole."""
    recipe = tmp_path / "own.py"
    recipe.write_text(PROGRAM, encoding="utf-8")
    made = job(plan_file, tmp_path, recipe=str(recipe), scored=(), threads=2)
    made = replace(made, words=(str(made.folder),))
    assert attempts.attempt(made) == "complete"
    log = (made.folder / worker.LOG).read_text(encoding="utf-8")
    assert "threads 2 devices ''" in log
    assert int(log.split("group ")[1].split()[0]) != os.getpgid(0)


def test_which_runs_need_the_launcher(plan_file, tmp_path):
    made = job(plan_file, tmp_path)
    assert worker.in_process(made)
    for change in ({"processes": 2}, {"devices": ("0",)}, {"accelerate_config": "ddp"}, {"recipe": "own.py"}):
        assert not worker.in_process(replace(made, **change))


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_run_that_another_command_holds_is_left_alone(plan_file, tmp_path):
    from tamft.train import lock

    made = job(plan_file, tmp_path)
    made.folder.mkdir(parents=True)
    with lock.hold(made.folder, worker.LOCK):
        assert attempts.attempt(made) is None
    assert outcome.read(made.folder).attempts == 0
