"""Alignment is the optimizer's own, and its means are what they say."""

import json
import re

import pytest
import torch

from tamft.errors import InputError

CPU = torch.device("cpu")


def test_single_steps_undo_the_smoothing(bench):
    s = torch.tensor([[0.0, 0.0], [0.3, -0.2], [1.0, 0.5]], dtype=torch.float64)
    smoothed, last = [], torch.zeros(2, dtype=torch.float64)
    for row in s:
        last = 0.9 * last + 0.1 * row
        smoothed.append(last)
    torch.testing.assert_close(bench.alignment.single_steps(torch.stack(smoothed)), s)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("0.auto_model.embeddings.LayerNorm.weight", "embeddings"),
        ("0.auto_model.encoder.layer.3.output.dense.bias", "3"),
        ("model.layers.11.mlp.up_proj.weight", "11"),
        ("0.auto_model.pooler.dense.weight", "dense"),
    ],
)
def test_layers_by_name(bench, name, layer):
    assert bench.alignment.layer_of(name) == layer


def test_statistics_of_known_alignment(bench):
    smoothed = torch.tensor([[0.0, 0.0], [0.2, -0.4], [0.2, -0.4]], dtype=torch.float64)
    found = bench.alignment.statistics(["a.embeddings.x", "a.layer.0.x"], smoothed, settled=1)
    assert found["steps"]["s_hat_mean"] == [0.0, -0.1, -0.1]
    assert found["steps"]["d_mean"] == [0.5, 0.45, 0.45]
    assert found["layers"]["embeddings"][bench.alignment.S_HAT] == 0.2
    assert found["tensors"]["a.layer.0.x"] == [-2.2, 1.8, -0.4, 0.0, 0.3]  # s is -4 (no cosine), then -0.4
    share = found["histogram"]["share"]
    assert sum(share) == 1.0 and share[60] == share[30] == 0.5


def test_alignment_of_a_real_model(bench, tiny_model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["--short", "--model", str(tiny_model), "--steps", "4", "--batch_sizes", "2", "5"]
    words += ["--json", str(tmp_path / "a.json"), "--figure", str(tmp_path / "a.svg")]
    assert bench.alignment.main(words) == 0
    report = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [run["batch_size"] for run in report["results"]] == [2, 5]
    for run in report["results"]:
        assert set(run["layers"]) == {"embeddings", "0", "1"}
        assert len(run["tensors"]) == sum(run["tensors_in_layer"].values()) > 30
        assert not any("pooler" in name for name in run["tensors"]), "nothing reads the pooler: it has no gradient"
        assert run["steps"]["s_mean"][0] == 0.0, "there is no momentum in the first step"
        assert any(run["steps"]["s_mean"][1:])
        assert all(abs(value) <= 1 for value in run["steps"]["s_mean"])
        assert len(run["loss"]) == 4
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert re.search(r"│ 5 +│", capsys.readouterr().out), "a line for each batch size"


def test_batches_are_distinct_and_start_over(bench):
    from datasets import Dataset

    rows = Dataset.from_list([{"anchor": f"a{i}", "positive": f"p{i // 2}"} for i in range(6)])
    found = bench.alignment.batches(rows, 2, 7, seed=0)
    assert len(found) == 7
    for batch in found:
        texts = [text for row in batch for text in row.values()]
        assert len(batch) == 2 and len(set(texts)) == 4
    with pytest.raises(InputError, match="--batch_sizes 4: the data do not fill one batch"):
        bench.alignment.batches(rows, 4, 1, seed=0)
