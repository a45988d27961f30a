"""The evaluation benchmark on a few texts: everybody does the same work, and the numbers are what they say."""

import json
import re

import pytest

pytestmark = pytest.mark.slow


def test_short_form(bench, tmp_path, capsys, monkeypatch, tiny_model):
    monkeypatch.setattr(bench.evaluation, "model_folder", lambda work, folder: (str(tiny_model), "random"))
    file = tmp_path / "out.json"
    parts = ["mteb", "batches", "cache"]
    assert bench.evaluation.main(["--short", "--parts", *parts, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["benchmark"], report["tasks"], report["rounds"]) == ("evaluation", ["EmbeddedSTS"], 1)
    assert re.fullmatch(r"\d+\.\d+.*", report["versions"]["mteb"])
    names = [(r["part"], r["contender"]) for r in report["records"]]
    assert names == [
        *(("mteb", "mteb"), ("mteb", "tamft")),
        *(("batches", "rows of 32"), ("batches", "tokens"), ("batches", "tokens and cache")),
        *(("cache", "without"), ("cache", "with")),
    ]
    for record in report["records"]:
        assert record["cpu_s"] > 0
        assert record["ratio"] * record["speedup"] == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "speed-up" in printed
    assert "tokens and cache" in printed


def test_shared_texts_are_encoded_once(bench, tmp_path, tiny_model, monkeypatch):
    """The ratio of times depends on the machine; how many texts go through the model does not."""
    from sentence_transformers import SentenceTransformer

    from tamft.evaluation.score import evaluate

    rows = bench.work.texts(SentenceTransformer(str(tiny_model)).tokenizer, 64, 12)
    suite = str(bench.evaluation.shared_texts(tmp_path / "suite", rows))
    encoded = []
    real = SentenceTransformer.preprocess

    def preprocess(self, inputs, *args, **options):
        encoded.extend(inputs)
        return real(self, inputs, *args, **options)

    monkeypatch.setattr(SentenceTransformer, "preprocess", preprocess)
    found = {}
    for megabytes in (0, 10):
        encoded.clear()
        records = evaluate(str(tiny_model), suite=suite, results=tmp_path / str(megabytes), cache_mb=megabytes)
        assert [r["status"] for r in records] == ["ok"] * 4
        found[megabytes] = len(encoded)
    assert found[10] == len(set(rows)) == 64
    assert found[0] / found[10] > 3


def test_time_and_folders_of_a_turn(bench):
    import os

    seen = []

    def work(folder):
        seen.append((folder, os.environ["XDG_CACHE_HOME"]))
        sum(range(2_000_000))

    before = os.environ.get("XDG_CACHE_HOME")
    one, two = (bench.evaluation.timed(work) for _ in range(2))
    assert os.environ.get("XDG_CACHE_HOME") == before
    assert len({folder for folder, _ in seen}) == len({cache for _, cache in seen}) == 2
    assert all(measures["seconds"] > 0 and measures["cpu_s"] > 0 for measures in (one, two))
