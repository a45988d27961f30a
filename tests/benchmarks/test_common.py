"""Turns, ratios, reports, tensors and contenders, and the memory that is seen."""

import json
import re
from functools import partial

import pytest
import torch

CPU = torch.device("cpu")


def test_summary_of_known_times(bench):
    own = [{"seconds": s, "wall_s": 10 * s} for s in (3.0, 4.0, 8.0)]
    base = [{"seconds": s, "wall_s": 5 * s} for s in (1.0, 2.0, 8.0)]
    found = bench.common.summary(own, base)
    assert (found["median_s"], found["min_s"], found["max_s"]) == (4.0, 3.0, 8.0)
    assert found["ratio"] == 2.0
    assert (found["ratio_q25"], found["ratio_q75"]) == (1.5, 2.5)  # of 3, 2, 1
    assert (found["wall_s"], found["wall_ratio"]) == (40.0, 4.0)
    one = bench.common.summary(own[:1], base[:1])
    assert one["ratio"] == one["ratio_q25"] == one["ratio_q75"] == 3.0


def test_all_take_turns_in_rotating_order(bench):
    seen = []

    def turn(name):
        seen.append(name)
        return {"seconds": float(len(seen))}

    measured = bench.common.alternate(
        [partial(turn, name) for name in "abc"], rounds=2, warmup=1, before=partial(seen.append, "|")
    )
    assert "".join(seen) == "|abc|bca|cab"
    # the warm-up round (1 to 4 things seen) is not among them
    assert measured == [[{"seconds": 8.0}, {"seconds": 11.0}], [{"seconds": 6.0}, {"seconds": 12.0}],
                        [{"seconds": 7.0}, {"seconds": 10.0}]]  # fmt: skip


def test_cpu_time_counts_work_and_not_waiting(bench):
    import time

    asleep = bench.common.cpu_time(lambda: time.sleep(0.05))
    assert asleep["wall_s"] >= 0.05 > asleep["seconds"] + 0.02


def test_report_is_whole_and_short(bench, tmp_path, capsys):
    file = tmp_path / "a" / "report.json"
    report = bench.common.provenance("x", "step.py", ["--json", "a b"], CPU, 3) | {"results": [{"s": [0.5, 1e-9]}]}
    bench.common.write(file, report)
    text = file.read_text(encoding="utf-8")
    assert json.loads(text) == report
    assert '"s": [0.5, 1e-09]' in text
    assert report["command"] == "python benchmarks/step.py --json 'a b'"
    assert {"python", "torch", "tamft"} <= set(report["versions"])
    assert report["threads"] == torch.get_num_threads()
    assert report["device"].startswith("cpu: ")
    assert (report["schema"], report["seed"]) == (2, 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["date"])
    assert list(file.parent.iterdir()) == [file], "no partial file is left"
    with pytest.raises(ValueError, match="JSON"):
        bench.common.write(file, {"results": float("nan")})
    assert file.read_text(encoding="utf-8") == text


# ---- tensors and contenders


def test_shapes_are_those_of_minilm(bench, minilm):
    from safetensors import safe_open

    with safe_open(str(minilm / "model.safetensors"), framework="pt") as file:
        keys = [key for key in file.keys() if not key.endswith("position_ids")]  # noqa: SIM118 - no mapping
        real = sorted(tuple(file.get_slice(key).get_shape()) for key in keys)
    assert sorted(bench.tensors.SETS["minilm"].shapes) == real


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("minilm", 103, 22_713_216),
        ("bert", 199, 109_482_240),
        ("lora", 448, 41_943_040),
        ("1b", 146, 1_235_814_400),
        ("1b-bf16", 146, 1_235_814_400),
    ],
)
def test_sizes_of_sets(bench, name, tensors, parameters):
    found = bench.tensors.SETS[name]
    assert (len(found.shapes), found.parameters) == (tensors, parameters)


def test_gradients_are_fresh_noise(bench):
    params = [torch.zeros(300, 100, requires_grad=True), torch.zeros(7, requires_grad=True)]
    noise = bench.tensors.Noise(params, torch.Generator().manual_seed(0))
    first = [p.grad.clone() for p in params]
    noise.move()
    for p, before in zip(params, first, strict=True):
        assert p.grad.shape == p.shape
        assert not torch.equal(p.grad, before)
    assert first[0].std().item() == pytest.approx(1e-3, rel=0.02)
    assert abs(torch.cosine_similarity(params[0].grad.flatten(), first[0].flatten(), dim=0)) < 0.03
    assert params[0].grad.data_ptr() % 64 == params[1].grad.data_ptr() % 64  # nobody is less aligned than others


def test_every_family_has_one_baseline(bench):
    rows = bench.contenders.contenders()
    assert [c.label for c in rows if c.baseline] == ["torch AdamW fused", "torch SGD fused"]
    assert len({c.label for c in rows}) == len(rows)
    for name in ("AdaTAMW", "AdamW-MSAM", "AdaTAMW+MSAM", "TAM", "MSAM"):
        assert {c.path for c in rows if c.name == name} == {"loop", "foreach", "fused", "default"}


def test_rivals_that_are_not_installed_are_named(bench, monkeypatch):
    rows = [
        ("torch", "torch.optim", "NAdam", "loop", 8, {"foreach": False}),
        ("no-such", "no_such", "Adam", "x", 8, {}),
    ]
    monkeypatch.setattr(bench.contenders, "RIVALS", rows)
    found, notes = bench.contenders.rivals()
    assert [c.label for c in found] == ["torch NAdam loop"]
    assert isinstance(found[0].make([torch.zeros(1)]), torch.optim.NAdam)
    assert notes == ["no-such Adam: not installed (pip install no-such)"]


# ---- memory


class Wasteful(torch.optim.Optimizer):
    """Needs two temporaries of 4000 and 8000 bytes at once, then one of 2000, and keeps 1200."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self):
        a = torch.empty(1000)
        b = torch.empty(1000, dtype=torch.float64)
        del a, b
        torch.empty(500)
        for p in self.param_groups[0]["params"]:
            self.state[p] |= {"kept": torch.empty(p.shape), "count": torch.tensor(1.0), "number": 3, "name": "x"}


def test_allocations_are_seen(bench):
    params = [torch.zeros(100, 2), torch.zeros(100)]
    optimizer = Wasteful(params)
    found = bench.memory.allocations(optimizer.step, CPU)
    assert found["largest_bytes"] == 8000
    assert found["peak_bytes"] == 12000
    assert 1200 + 2 * 4 <= found["kept_bytes"] < 1300
    assert bench.memory.state(optimizer, params) == {"state_bytes_per_parameter": 4, "state_scalars_per_tensor": 2}


def test_allocations_inside_a_kernel_are_seen(bench):
    """foreach on a CPU runs a loop in C++, whose temporaries no Python hook could see."""
    a = [torch.ones(1000)]
    assert bench.memory.allocations(lambda: torch._foreach_add(a, 1.0), CPU)["largest_bytes"] == 4000
