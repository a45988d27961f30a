"""The training benchmark on a model of one narrow layer."""

import os

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(bench, tmp_path_factory):
    """(work, model folder) of a BERT with one narrow layer, made as the program makes it without the package."""
    work = bench.work.Work("tiny", 1, 32, 2, 64, texts=4, tokens=12, bf16=False)
    folder, weights = bench.work.model_folder(work, tmp_path_factory.mktemp("bench"))
    assert weights == "random"
    return work, folder


def test_plain_loop(bench, small):
    work, folder = small
    records = bench.train.plain_loop(work, folder, rounds=2, steps=1, device=CPU)
    assert [r["optimizer"] for r in records] == ["torch AdamW", "AdaTAMW", "AdamW-MSAM", "AdaTAMW+MSAM"]
    assert records[0]["ratio"] == records[0]["ratio_by_parts"] == records[0]["throughput_ratio"] == 1.0
    for record in records:
        assert 0 < record["optimizer_s"] < record["median_s"]
        assert record["texts_per_second"] == pytest.approx(4 / record["median_s"])
        assert record["throughput_ratio"] * record["ratio"] == pytest.approx(1.0)
    bench.train.show(work, "random", records)


def test_ratio_by_parts_of_known_times(bench):
    numbers, baseline = {"optimizer_s": 0.03, "median_s": 9.9}, {"optimizer_s": 0.02, "median_s": 1.0}
    assert bench.train.by_parts(numbers, baseline) == pytest.approx(1.01)
    assert bench.train.by_parts(baseline, baseline) == 1.0


def test_run_through_trainer(bench, small, monkeypatch):
    """The real Trainer, with our optimizer chosen by its name."""
    from sentence_transformers import SentenceTransformer

    work, folder = small
    found = bench.train.trainer_run(work, folder, "adamw_msam", steps=3, device="cpu", threads=1)
    assert found["optim"] == "adamw_msam"
    assert found["texts_per_second"] > 0
    assert found["peak_memory_bytes"] > 10e6
    parameters = sum(p.numel() for p in SentenceTransformer(folder).parameters())
    assert 6 * parameters < found["state_bytes"] <= 8 * parameters + 6 * 8 * 30  # the pooler is not trained

    calls = []
    monkeypatch.setattr(bench.train, "in_fresh_process", lambda call: calls.append(call) or found | {"n": len(calls)})
    records = bench.train.through_trainer(work, folder, rounds=2, steps=3, device=CPU)
    names = ["adamw_torch_fused", "adatamw", "adamw_msam", "adatamw_msam"]
    assert [call.args[2] for call in calls] == [*names, *names[1:], names[0]]
    assert [record["optimizer"] for record in records] == names
    assert all(record["throughput_ratio"] == 1.0 for record in records)


def test_fresh_process_is_another_process(bench):
    pid = bench.train.in_fresh_process(os.getpid)
    assert pid != os.getpid()
