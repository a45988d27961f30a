"""SIGKILL at any moment, in the middle of a save as well: the run goes on and ends with the same bits."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills", "in_save"), [("trainer", 30, 3), ("recipe", 6, 0)])
def test_killed_and_resumed_is_the_run_that_nobody_killed(run_python, tmp_path, kind, kills, in_save):
    result = run_python("-m", "tests.hf.killing", kind, tmp_path, kills, 1, check=True)
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["kills"] >= kills
    assert told["in_save"] >= in_save, told  # otherwise the moments were not what this test is for
    assert told["differing"] == []
