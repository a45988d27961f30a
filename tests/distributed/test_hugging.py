"""accelerate's FSDP2, and Trainer under DDP and FSDP2: the numbers of one process; torch's AdamW as the control."""

import pytest

from tests.distributed.model import distance
from tests.distributed.spawn import run, shards_on_cpu
from tests.optim.cases import FEW

pytestmark = [pytest.mark.slow, shards_on_cpu]
OPTIMS = ("adatamw_msam", "tam", "adamw_torch")


def test_accelerate_shards():
    found = run("hugging", 2, "accelerate")
    assert len(found[0]) == len(FEW) + 1
    for case, ours in found[0].items():
        assert ours["apart"] < 1e-12, case
        assert found[1][case]["bits"] == ours["bits"], case


def test_trainer():
    alone = run("hugging", 1, "ddp", *OPTIMS)[0]
    for kind, processes in (("ddp", 2), ("ddp", 3), ("fsdp2", 2)):
        found = run("hugging", processes, kind, *OPTIMS)
        for optim in OPTIMS:
            ours, expected, where = found[0][optim], alone[optim], f"{kind} {processes} {optim}"
            assert ours["sharded"] is (kind == "fsdp2"), where
            # 20 float32 steps; the key bias has no gradient but rounding, which AdamW divides by its own size.
            limit = 1e-3 if optim == "adamw_torch" else 2e-5
            assert distance(ours["weights"], expected["weights"]) < limit, where
            assert ours["losses"] == pytest.approx(expected["losses"], rel=1e-4), where
            assert ours["straight"] == ours["resumed"], where
            assert len(ours["telemetry"]) == 4
            norm, wanted = (x["telemetry"][-1].get("tamft/momentum_norm") for x in (ours, expected))
            assert norm is wanted is None if optim == "adamw_torch" else norm == pytest.approx(wanted, rel=1e-4), where
            for each in found:  # every process logs and ends with the same numbers, with a checkpoint or without
                for key in ("bits", "telemetry", "straight", "resumed"):
                    assert each[optim][key] == ours[key], f"{where}: {key}"
