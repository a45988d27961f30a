"""DTensor parameters on real processes: the numbers of one process, and no collective more than needed."""

import pytest

from tests.distributed.shards import COUNTED, missing
from tests.distributed.spawn import run
from tests.optim.cases import CASES, FEW
from tests.optim.problem import LINE, TIGHT, TORQUE_NAMES

pytestmark = pytest.mark.slow  # the processes' imports alone take seconds
# After 20 steps in bfloat16 a rounding that falls the other way is all that may differ.
LIMITS = {"float64": TIGHT, "float32": LINE, "bfloat16": 2e-3}


def check(found: list, label: str, case: str, limit: float) -> None:
    ours = found[0][label][case]
    assert ours["apart"] < limit, case
    assert ours["telemetry"] < (1e-3 if limit > LINE else 1e-6), case
    for other in found[1:]:  # bitwise: weights that drift apart never meet again
        assert other[label][case]["bits"] == ours["bits"], case
        assert other[label][case]["numbers"] == ours["numbers"], case


def needed(name: str, options: dict, step: int) -> tuple[int, int]:
    """How many collectives train() and step() may cost at step `step`."""
    rho = options.get("rho", 0.3 if "MSAM" in name else 0.0)
    ahead = rho > 0 and step >= max(1, options.get("rho_start", 0))
    torque = name in TORQUE_NAMES and options.get("torque", True) and options.get("gamma", 0.9) < 1
    fewest = sum(not missing(earlier, 1) for earlier in range(step))
    return int(ahead), int(torque and fewest < options.get("torque_steps", step + 1))


# One test per program: two workers of pytest-xdist would start the processes of a fixture twice.


def test_every_option():
    found = run("shards", 2, "all")
    for label, name, options in CASES:
        check(found, "float64", label, TIGHT)
        counted = {step: needed(name, options, step) for step in COUNTED}
        assert found[0]["float64"][label]["collectives"] == counted, label


@pytest.mark.parametrize("processes", [2, 3])
def test_each_dtype_and_path(processes):
    """With 3 processes some hold no element of a tensor, and others fewer than the rest."""
    found = run("shards", processes, "few")
    dtypes = ["float64", "bfloat16"] + (["float32"] if processes == 2 else [])
    assert {label: len(cases) for label, cases in found[0].items()} == dict.fromkeys(dtypes, 2 * len(FEW))
    for label, cases in found[0].items():
        for case, values in cases.items():
            check(found, label, case, LIMITS[label])
            assert values["backend"] == ("foreach" if "foreach" in case or "capturable" in case else "loop")


def test_meshes():
    """HSDP, two sharded dimensions, strided shards, and several meshes and plain tensors in one optimizer."""
    found = run("shards", 4, "meshes")
    groups = {"replicate x shard": 1, "shard x shard": 2, "shards of columns": 2, "several meshes": 3, "strided": 2}
    assert set(found[0]) == set(groups)
    for label, cases in found[0].items():
        assert len(cases) == 3
        for case in cases:
            check(found, label, case, TIGHT)
            ahead, updates = cases[case]["collectives"][COUNTED[-1]]
            assert ahead == (0 if "AdaTAM" in case else groups[label])
            assert updates == (0 if "MSAM" in case else groups[label])
