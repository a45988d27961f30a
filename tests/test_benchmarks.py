"""The step benchmark measures what it says, on tensors small enough for a test."""

import json
import runpy

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def step():
    return runpy.run_path(str(ROOT / "benchmarks" / "step.py"))


def test_shapes_are_those_of_minilm(step, minilm):
    from safetensors import safe_open

    with safe_open(str(minilm / "model.safetensors"), framework="pt") as file:
        keys = [key for key in file.keys() if not key.endswith("position_ids")]  # noqa: SIM118 - no mapping
        real = sorted(tuple(file.get_slice(key).get_shape()) for key in keys)
    assert sorted(step["minilm_shapes"]()) == real


def test_records(step):
    records = step["measure"]([(8, 4), (8,)], rounds=3)
    by_name = {(record["optimizer"], record["path"]): record for record in records}
    assert len(by_name) == len(records) == 14
    assert {path for _, path in by_name} == {"loop", "foreach", "fused"}
    for record in records:
        assert 0 <= record["min_s"] <= record["median_s"] <= record["max_s"]
    for name in ("torch AdamW", "torch SGD"):
        assert by_name[name, "fused"]["ratio"] == 1.0
    # 40 parameters in two tensors: Adam's two float32 moments and a step count, torque's scalar on top
    assert by_name["torch AdamW", "loop"]["state_bytes_per_parameter"] == pytest.approx((2 * 4 * 40 + 2 * 4) / 40)
    assert by_name["AdaTAMW", "loop"]["state_bytes_per_parameter"] == pytest.approx((2 * 4 * 40 + 2 * 8) / 40)


def test_command_writes_numbers_with_provenance(step, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(step["main"].__globals__, "minilm_shapes", lambda: [(8, 4), (8,)])
    file = tmp_path / "results" / "step.json"
    assert step["main"](["--rounds", "2", "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["command"] == f"python benchmarks/step.py --rounds 2 --json {file}"
    assert (report["rounds"], report["tensors"], report["device"]["threads"]) == (2, 2, 1)
    assert set(report["versions"]) == {"python", "torch", "tamft"}
    assert [row["optimizer"] for row in report["results"]].count("AdaTAMW") == 2
    assert list(file.parent.iterdir()) == [file], "no partial file is left"
    assert "AdaTAMW" in capsys.readouterr().out
