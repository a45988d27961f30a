"""Slots, shares, progress: what is dealt out to whom."""

import pytest

from tamft.compare import engines
from tamft.compare.command import _shard, _share
from tamft.compare.progress import clock


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
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="is no share: write I/N"):
        _shard(text)


def test_clock():
    assert clock(3723.4) == "1:02:03"
