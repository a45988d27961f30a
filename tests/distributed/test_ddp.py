"""Plain torch: DDP and ZeroRedundancyOptimizer; and FSDP1, which is refused."""

import pytest

from tests.distributed.spawn import run
from tests.optim.cases import FEW

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_that_see_a_share_of_the_batch(processes):
    found = run("ddp", processes)
    names = [f"{name}-{','.join(options) or 'default'}" for name, options in FEW]
    for case in [*names, "AdamW-default"]:
        for label, limit in ((case, 1e-9), (f"{case}, float32", 5e-5)):
            ours = found[0][label]
            assert ours["apart"] < limit, label
            assert (ours["verbs"], ours["collectives"]) == (40, 0), label
            assert all(each[label]["bits"] == ours["bits"] for each in found), label

    # torch's ZeroRedundancyOptimizer: whole tensors, but not all of them.
    whole = {"TAM-default", "AdaTAMW-default", "AdamWMSAM-rho", "MSAM-rho"}
    for case in [*names, "AdamWMSAM-rho", "MSAM-rho"]:
        for each in found:
            result = each[f"zero|{case}"]
            if case in whole:
                assert result["apart"] < 1e-9 and result["bits"] == found[0][f"zero|{case}"]["bits"], case
            else:
                reason = 'alignment="global"' if "alignment" in case else "rho="
                assert reason in result and "ZeroRedundancyOptimizer" in result and "fsdp_version: 2" in result, case

    for each in found:
        for kind in ("flat", "original"):
            assert "FSDP1" in each[f"fsdp1|{kind}"] and "fsdp_version: 2" in each[f"fsdp1|{kind}"]
        assert each["fsdp1|AdamW"] == "nothing"
