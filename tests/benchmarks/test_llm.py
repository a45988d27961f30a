"""The LoRA benchmark on a tiny decoder."""

import json

import pytest
import torch

from tamft.errors import InputError


def test_short_form_on_a_cpu(bench, tmp_path, capsys):
    file = tmp_path / "llm.json"
    assert bench.llm.main(["--short", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["schema"], report["benchmark"], report["work"]["pairs"]) == (2, "LoRA step", 16)
    results = report["results"]
    assert [r["optimizer"] for r in results] == ["adamw_torch_fused", "adatamw", "adamw_msam"]
    assert results[0]["ratio"] == 1.0
    adapters = sum(
        p.numel() for p in bench.llm.decoder(bench.llm.SHORT, torch.device("cpu")).parameters() if p.requires_grad
    )
    for record in results:
        assert record["samples_per_second"] == pytest.approx(16 / record["median_s"])
        assert 8 * adapters <= record["state_bytes"] < 8.2 * adapters
        assert record["peak_memory_bytes"] is None  # a process's peak is not one optimizer's
    assert "adamw_msam" in capsys.readouterr().out


def test_adapters_are_float32_over_bf16(bench):
    model = bench.llm.decoder(bench.llm.SHORT, torch.device("cpu"))
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_the_whole_model_needs_a_gpu(bench):
    with pytest.raises(InputError, match="needs a GPU: add --device cuda"):
        bench.llm.main([])
