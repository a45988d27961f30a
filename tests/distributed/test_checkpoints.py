"""Distributed checkpoints: bitwise on as many processes, to rounding on others, whole or in shards."""

import pytest

from tests.distributed.checkpoints import CASES, ways
from tests.distributed.model import distance
from tests.distributed.spawn import run, shards_on_cpu

pytestmark = [pytest.mark.slow, shards_on_cpu]


def test_runs_go_on(tmp_path):
    """Six steps on two processes, saved in every way, and four more: there, and from the files elsewhere."""
    straight = run("checkpoints", 2, "save", str(tmp_path))[0]
    for processes in (2, 1, 3):
        check(run("checkpoints", processes, "load", str(tmp_path)), straight)

    # From two processes to one, which goes on and saves, to three.
    run("checkpoints", 1, "hop", str(tmp_path))
    for found in run("checkpoints", 3, "end", str(tmp_path)):
        assert set(found) == set(CASES)
        for case in CASES:
            assert distance(found[case]["weights"], straight[case]["weights"]) < 1e-12, case


def check(found: list, straight: dict) -> None:
    processes = len(found)
    refused = [each.pop("refused") for each in found]
    unsharded = {"TAM|unsharded", "AdaTAMW|unsharded"} if processes == 1 else set()
    assert set(found[0]) == {f"{case}|{way}" for case in CASES for way in ways(case)} | unsharded
    for key, values in found[0].items():
        expected = straight[key.partition("|")[0]]
        if processes == 2:
            assert values["bits"] == expected["bits"] and values["scalars"] == expected["scalars"], key
        assert distance(values["weights"], expected["weights"]) < 1e-12, key
        for state, wanted in zip(values["scalars"], expected["scalars"], strict=True):
            assert state == pytest.approx(wanted, rel=1e-6), key
        if not key.startswith("AdamW|"):  # torch's own comes back with a list for its betas
            scale, wanted = values["group"].pop("scale"), expected["group"]["scale"]
            assert scale == pytest.approx(wanted), key
            assert {**values["group"], "scale": wanted} == expected["group"], key
        assert all(each[key]["bits"] == values["bits"] for each in found)
    for whole_into_shards, shards_into_whole in refused:
        assert "set_optimizer_state_dict" in whole_into_shards and "the parameters are sharded" in whole_into_shards
        assert "set_optimizer_state_dict" in shards_into_whole and "the parameters are whole" in shards_into_whole
