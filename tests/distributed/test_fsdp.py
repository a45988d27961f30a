"""torch's fully_shard with what surrounds an optimizer: clipping, GradScaler, frozen parts; beside torch's AdamW."""

from collections import Counter

import pytest

from tests.distributed.fsdp import STEPS
from tests.distributed.spawn import run, shards_on_cpu
from tests.optim.cases import FEW

pytestmark = [pytest.mark.slow, shards_on_cpu]


def test_a_model_in_shards():
    """One test, because two workers of pytest-xdist would start the processes of a fixture twice."""
    found = run("fsdp", 2)
    refused = [each.pop("refused") for each in found]
    counts = Counter(key.partition("-")[0] for key in found[0])
    assert counts == {"clipping": len(FEW) + 1, "frozen": 4, "scaled": 4, "swapped": 2, "compiled": 1}
    for case, ours in found[0].items():
        assert ours["apart"] < 1e-12, case
        assert found[1][case]["bits"] == ours["bits"], case
        # An overflow in one shard skips the step everywhere.
        for each in found:
            skipped = [i for i, skipped in enumerate(each[case].get("skipped", ())) if skipped]
            assert skipped == ([4, 4 + STEPS] if case.startswith("scaled") else []), case
        # The path is chosen anew when shards take the place of tensors.
        assert ours.get("backends", ("fused", "loop")) == ("fused", "loop")

    for reasons in refused:
        assert "fused=True is not available: a parameter is a DTensor" in reasons["fused"]
        assert "fused=True is not available: a parameter is a DTensor" in reasons["fused, swapped"]
        assert "differentiable=True does not work with sharded" in reasons["differentiable"]
        assert "Partial" in reasons["partial"] and "redistribute()" in reasons["partial"]
        assert "is a plain tensor" in reasons["plain gradient"]
        assert reasons["parts"] == "[1.0, 2.0, 3.0]"  # gradients in parts are added up
