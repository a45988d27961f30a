"""Whole studies on a tiny model: killed, continued elsewhere, on Ray, in shares."""

import json
import os
import shutil
import signal

import pytest

from tamft.compare import outcome, study
from tamft.compare.command import main
from tamft.compare.worker import LOG
from tamft.errors import InputError
from tamft.evaluation.study.runs import make_study
from tests.compare.conftest import THREADS, carry_out, kill_node

pytestmark = pytest.mark.slow

# What another machine, or another moment, makes different.
MEASURED = ("seconds", "peak_memory_bytes", "device", "versions")


def lasting(folder):
    """The lines of a study without what is measured."""
    return [{key: value for key, value in one.items() if key not in MEASURED} for one in study.read_lines(folder)]


def judged(folder):
    """What the report says of a study: arm -> verdict, or the comparison of a control."""
    found = make_study(study.read_json(folder / study.CONTENT), study.read_lines(folder))
    return found.verdicts | found.controls


def attempts(folder):
    """How often each run was begun."""
    logs = {path.parent.name: path.read_text(encoding="utf-8") for path in folder.glob(f"runs/*/{LOG}")}
    return {key: text.count("--- attempt") for key, text in logs.items()}


def small_files(folder, target, leave_out=()):
    """What one would commit of a study: no weights, no logs."""
    for path in folder.rglob("*.json*"):
        if path.parent.name not in leave_out:
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(folder))


def test_complete_after_a_worker_was_killed(killed_study):
    folder, code, killed = killed_study
    assert code == 0
    found = study.read_lines(folder)
    assert len(found) == 1 + 3 * 3 * 2 + (3 + 1 + 1) * 2
    assert len({one["run"] for one in found}) == len(found) == len(list((folder / "runs").iterdir()))
    assert {one["status"] for one in found} == {"complete"}
    assert {key: count for key, count in attempts(folder).items() if count != 1} == {killed: 2}
    assert outcome.read(folder / "runs" / killed).attempts == 1
    assert "SIGKILL" in (folder / "runs" / killed / outcome.FAILURES).read_text(encoding="utf-8")


def test_the_small_files_name_no_folder_of_this_machine(killed_study):
    folder = killed_study[0]
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.json*")}
    assert len(texts) > 2 * 28
    assert [path for path, text in texts.items() if str(folder.parent) in text] == []
    one = next(text for path, text in texts.items() if path.name == outcome.RUN)
    assert f'"output_dir": "runs/{json.loads(one)["config"]["output_dir"].split("/")[-1]}"' in one


def test_lines_hold_what_a_report_needs(killed_study):
    found = study.read_lines(killed_study[0])
    stages = [one["stage"] for one in found]
    assert (stages.count("base"), stages.count("screen"), stages.count("confirm")) == (1, 18, 10)
    for one in found:
        assert set(one["scores"]) == (set() if one["stage"] == "screen" else {"SmallTest"})
        assert 0 <= one["selection"] <= 1
        if one["stage"] != "base":
            assert one["steps"] == 4
            assert [step for step, _ in one["loss"]] == [1, 2, 3, 4]
            assert one["params"] == {"learning_rate": one["learning_rate"]}
            assert one["state_bytes"] > 0 and one["seconds"] > 0 and one["peak_memory_bytes"] > 0
    controls = {one["arm"]: one["control"] for one in found if one["control"]}
    assert controls == {"adamw_torch (A/A)": "aa", "adatamw gamma=1": "null"}
    frozen = [one for one in found if one["control"] == "null"]
    assert all(one["optim_args"] == {"gamma": 1.0} for one in frozen)
    assert all(values["damping_mean"] == 0.5 for one in frozen for _, values in one["telemetry"])


def test_the_best_of_the_screening_is_confirmed(killed_study):
    found = study.read_lines(killed_study[0])
    for arm in ("adamw_torch", "adatamw", "msam"):
        means = {}
        for one in found:
            if one["stage"] == "screen" and one["arm"] == arm:
                means.setdefault(one["learning_rate"], []).append(one["selection"])
        best = max(means, key=lambda rate: sum(means[rate]))
        assert {len(values) for values in means.values()} == {2}
        confirmed = [one for one in found if one["stage"] == "confirm" and one["arm"] == arm]
        assert [(one["learning_rate"], one["seed"]) for one in confirmed] == [(best, 11), (best, 12)]


def test_same_seed_same_batches(killed_study):
    found = study.read_lines(killed_study[0])
    assert study.problems(found) == []
    hashes = {one["seed"]: one["first_batches_sha256"] for one in found if one["stage"] != "base"}
    assert set(hashes) == {1, 2, 11, 12, 13, 14}
    assert len(set(hashes.values())) == 6
    found[-1]["first_batches_sha256"] = "other"
    assert "seed 12: not all arms were trained on the same batches" in study.problems(found)[0]


def test_weights_are_not_kept(killed_study):
    folder = killed_study[0]
    assert not [path for path in folder.glob("runs/*/*") if path.is_dir()]
    assert not list(folder.rglob("*.safetensors"))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_goes_on_elsewhere_and_after_interruptions(killed_study, plan_file, tmp_path, number, code):
    """Two runs are lost; the others are not done again, and the results are the same."""
    folder = killed_study[0]
    screened = next(one["run"] for one in study.read_lines(folder) if one["stage"] == "screen")
    confirmed = next(one["run"] for one in study.read_lines(folder) if one["stage"] == "confirm")
    other = tmp_path / "other"
    small_files(folder, other, leave_out=(screened, confirmed))
    words = [str(plan_file), "--output_dir", str(other), *THREADS]
    with pytest.raises((KeyboardInterrupt, SystemExit)) as ending:
        carry_out(plan_file, other, lambda pid: os.kill(os.getpid(), number))
    assert ending.type is KeyboardInterrupt or ending.value.code == code
    assert outcome.read(other / "runs" / screened).status is None
    assert outcome.read(other / "runs" / screened).attempts == 0  # nobody's fault
    assert main(words) == 0
    assert attempts(other) == {screened: 2, confirmed: 1}
    assert lasting(other) == lasting(folder)


def test_shares_wait_for_each_other(killed_study, plan_file, tmp_path, capsys):
    """The first share of two has nothing left to do, but a run of the second is missing."""
    folder = killed_study[0]
    keys = [one["run"] for one in study.read_lines(folder)]  # in the plan's order, the base model first
    other = tmp_path / "other"
    small_files(folder, other, leave_out=(keys[1],))
    assert main([str(plan_file), "--output_dir", str(other), "--shard", "1/2"]) == 0
    out = capsys.readouterr().out
    assert "1 runs of other shares are not, and the confirmation waits for them" in out
    assert attempts(other) == {}


def test_same_results_on_ray_when_a_node_is_lost(killed_study, plan_file, tmp_path):
    pytest.importorskip("ray", reason="extra `ray` is not installed")
    folder, code, killed = carry_out(plan_file, tmp_path / "ray", kill_node, "--engine", "ray")
    assert code == 0
    assert {key: count for key, count in attempts(folder).items() if count != 1} == {killed: 2}
    assert lasting(folder) == lasting(killed_study[0])
    verdicts = judged(folder)
    assert set(verdicts) == {"adatamw", "msam", "adamw_torch (A/A)", "adatamw gamma=1"}
    assert verdicts == judged(killed_study[0])


def test_another_plan_in_the_same_folder(killed_study, plan_file, tmp_path):
    text = plan_file.read_text(encoding="utf-8")
    changed = plan_file.with_name("changed.yaml")
    changed.write_text(text.replace("delta: 0.01", "delta: 0.02"), encoding="utf-8")
    with pytest.raises(InputError, match=r"another plan \(different: delta\)"):
        main([str(changed), "--output_dir", str(killed_study[0])])
