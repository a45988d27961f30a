"""Slots, shares, progress: what is dealt out to whom."""

import argparse

import pytest
from rich.console import Console

from tamft.compare import engines, outcome, runs
from tamft.compare.command import _shard, _share
from tamft.compare.plan import read_plan
from tamft.compare.progress import Board, clock


def test_devices_are_dealt_out_in_turn():
    found = engines.slots(5, ("0", "1", "2", "3"), 2, 4)
    assert [slot.devices for slot in found] == [("0", "1"), ("2", "3"), ("0", "1"), ("2", "3"), ("0", "1")]
    assert {slot.threads for slot in found} == {4}
    assert [slot.devices for slot in engines.slots(2, (), 1, 1)] == [(), ()]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_all_of_it_and_do_not_overlap(count):
    planned = list(range(20))
    shares = [_share(planned, (i, count)) for i in range(1, count + 1)]
    assert sorted(one for share in shares for one in share) == planned
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_wrong_shares(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no share: write I/N"):
        _shard(text)


def test_clock():
    assert clock(3723.4) == "1:02:03"


def test_lines_of_progress_in_a_pipe(plan_file, tmp_path, capsys):
    plan = read_plan(plan_file)
    planned = runs.screen(plan)[:3]
    jobs = [runs.job(plan, run, tmp_path, None) for run in planned]
    with Board(planned, {planned[0].key: "complete"}, 2, {planned[0].key: 0.25}) as board:
        board.told(jobs[1], None)
        board.told(jobs[1], "held")
        board.told(jobs[1], "complete", 0.5)
        outcome.add_failure(make(jobs[2].folder), "out of memory", final=True)
        board.told(jobs[2], "failed")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "screen adatamw, learning_rate 0.001, seed 1: another command is at it"
    assert second.startswith("[2/3] screen adatamw, learning_rate 0.001, seed 1: complete 0.5000, 0:00:0")
    assert third == "[3/3] screen msam, learning_rate 0.001, seed 1: failed (out of memory)"


def make(folder):
    folder.mkdir(parents=True)
    return folder


def test_the_live_table(plan_file, tmp_path):
    plan = read_plan(plan_file)
    planned = runs.screen(plan)[:6]
    board = Board(planned, {planned[0].key: "complete", planned[3].key: "diverged"}, 2, {planned[0].key: 0.25})
    board.told(runs.job(plan, planned[1], tmp_path, None), None)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(board._table())
    rows = [line.split() for line in captured.get().splitlines() if line.strip()]
    assert rows[0][:5] == ["screen:", "2", "of", "6", "runs"]
    assert ["adamw_torch", "2/2", "1", "0.2500"] in rows
    assert ["adatamw", "0/2", "1"] in rows
    assert ["msam", "0/2"] in rows
