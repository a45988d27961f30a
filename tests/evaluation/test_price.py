"""What `--dry_run` says: exact where the data is here, honest where it is not, and nothing written."""

import json

import datasets
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tamft.cli import main as tamft
from tamft.evaluation import calibration
from tamft.evaluation.calibration import Speed, measure
from tamft.evaluation.encoder import Batch
from tamft.evaluation.price import prices
from tamft.evaluation.score import evaluate, prepare
from tamft.evaluation.sizes import size
from tamft.evaluation.suites import suite_folder
from tamft.evaluation.tasks import get_tasks

EXAMPLE = str(suite_folder() / "example" / "own_tasks.yaml")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(calibration, "ENOUGH", 0.02)  # a rough time is enough here


def plan(model, tmp_path, *, tasks=None, suite=None, **options):
    source = {"tasks": tasks, "suite": suite, "languages": None, "task_types": None}
    return prepare([str(model)], source, tmp_path / "results", **({"devices": ("cpu",)} | options))


@pytest.fixture
def encoded(monkeypatch):
    """The texts that are given to SentenceTransformer.encode from now on."""
    texts = []
    real = SentenceTransformer.encode

    def encode(self, inputs, *args, **kwargs):
        texts.extend([inputs] if isinstance(inputs, str) else inputs)
        return real(self, inputs, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", encode)
    return texts


@pytest.mark.parametrize("options", [{"batch_size": 32}, {}])
def test_the_texts_are_those_that_will_be_encoded(tiny_model, tmp_path, encoded, options):
    """Also what several tasks share: with the cache it is encoded once, in mteb's own batches each time."""
    found, _ = prices(*plan(tiny_model, tmp_path, suite=EXAMPLE, **options))
    assert {price.how for price in found} == {"counted"}
    encoded.clear()
    evaluate([str(tiny_model)], suite=EXAMPLE, results=tmp_path / "results", device="cpu", **options)
    assert sum(price.texts for price in found) == len(encoded)
    assert (len(encoded) == len(set(encoded))) == (not options)


def test_tokens_are_the_tokenizers_and_are_cut_off(tiny_model, tmp_path):
    (price,), _ = prices(*plan(tiny_model, tmp_path, tasks=["ShopSimilarity"], suite=EXAMPLE))
    lines = (suite_folder() / "example" / "pairs.jsonl").read_text().splitlines()
    texts = {text for line in lines for text in (json.loads(line)["a"], json.loads(line)["b"])}
    model = SentenceTransformer(str(tiny_model), device="cpu")
    lengths = [min(model.max_seq_length, len(model.tokenizer(text)["input_ids"])) for text in texts]
    assert max(lengths) == model.max_seq_length == 32
    assert price.tokens == [pytest.approx(sum(lengths))]
    assert price.seconds[0] > 0


def test_what_is_not_here_is_estimated_and_nothing_is_written(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = ["STS13", "MSMARCO", "EmbeddedSTS"]
    found, _ = prices(*plan(tiny_model, tmp_path / "here", tasks=names))
    sts, msmarco, embedded = found
    assert [price.how for price in found] == ["estimated", "estimated", "counted"]
    assert (sts.texts, sts.here, embedded.bytes) == (2669, False, 0)
    assert sts.bytes == pytest.approx(1.8 * size(get_tasks(["STS13"])[0]).loaded)
    (again,), _ = prices(*plan(tiny_model, tmp_path / "here", tasks=["STS13"], batch_size=32))
    assert (again.texts, again.tokens[0]) == (3000, pytest.approx(sts.tokens[0] * 3000 / 2669))
    assert msmarco.seconds[0] > 1000 * sts.seconds[0] > 0
    assert list((tmp_path / "here").iterdir()) == []


def test_what_is_scored_costs_nothing(tiny_model, tmp_path):
    evaluate([str(tiny_model)], suite=EXAMPLE, tasks=["ShopTopics"], results=tmp_path / "results", device="cpu")
    found, _ = prices(*plan(tiny_model, tmp_path, suite=EXAMPLE, tasks=["ShopTopics", "ShopDuplicates"]))
    assert [(price.how, price.seconds[0] > 0) for price in found] == [("scored already", False), ("counted", True)]


def test_a_model_that_cannot_be_loaded_has_no_time_but_the_texts_are_told(model, tmp_path, capsys):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "no-such-model"}))
    assert tamft(["eval", str(model), "--tasks", "STS13", "--dry_run", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "STS13\t2,669\t" in printed
    assert "\t?\t" in printed
    assert "cannot be loaded here without a network, so its time is unknown (" in printed


def test_the_command(tiny_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    arguments = ["eval", str(tiny_model), "--tasks", EXAMPLE, "STS13", "--dry_run", "--device", "cpu"]
    assert tamft(arguments) == 0
    printed = capsys.readouterr().out
    head, *rows = [line.split("\t") for line in printed.splitlines() if "\t" in line]
    assert head == ["task", "texts", "tokens", "time bert/model", "fetch", "how"]
    assert [row[-1] for row in rows] == ["counted"] * 6 + ["estimated", ""]
    assert "estimated: from mteb's statistics" in printed
    assert "nothing was downloaded, and no result was written" in printed
    assert list((tmp_path / "here").iterdir()) == []


def test_a_task_that_cannot_run_is_told_and_the_others_have_a_price(tiny_model, tmp_path, monkeypatch):
    _, chosen = both = plan(tiny_model, tmp_path, tasks=["EmbeddedSTS", "EmbeddedClustering"])
    monkeypatch.setattr(type(chosen[0]), "column_names", ("sentence1", "sentence3"))
    sts, clustering = prices(*both)[0]
    assert (sts.how, clustering.how) == ("estimated", "counted")
    assert "sentence3" in sts.problem


def test_a_price_is_no_score(tiny_model, capsys):
    assert tamft(["eval", str(tiny_model), "--tasks", "EmbeddedSTS", "--dry_run", "--json", "x.json"]) == 2
    assert "--dry_run writes nothing" in capsys.readouterr().err


# --- sizes from statistics --------------------------------------------------------------------------------------------


def test_sizes_follow_from_the_type():
    def texts(name):
        return size(get_tasks([name])[0]).texts

    assert texts("STS13") == 1314 + 1355
    assert texts("ArguAna") == 8626 + 1298
    assert texts("BiorxivClusteringP2P.v2") == int(0.04 * 53784)
    # ten draws of 8 of each of 77 labels: 4,616 different rows when they were counted
    assert texts("Banking77Classification") == pytest.approx(3080 + 4616, rel=0.01)
    # 2.4 million rows of 42,439 texts: what occurs again is encoded again only where no embeddings are kept
    assert size(get_tasks(["MindSmallReranking"])[0])[:2] == (42_439, 2_367_791)
    # one language of the 51 that are fetched together
    massive = size(get_tasks(["MassiveIntentClassification"])[0])
    assert massive.loaded > 20 * massive.characters
    parts = get_tasks(["CQADupstackRetrieval"])[0].metadata.tasks
    assert texts("CQADupstackRetrieval") == sum(size(part).texts for part in parts)


def test_nothing_is_known_of_a_task_without_statistics():
    from tests.evaluation.tiny_tasks import TinySTS

    assert size(TinySTS()) is None


# --- speed ------------------------------------------------------------------------------------------------------------


def test_speed_between_and_beyond_what_was_measured():
    speed = Speed([10, 100], [1, 4])
    assert speed.seconds(np.array([5.0, 10.0, 55.0, 100.0, 200.0])) == pytest.approx([1, 1, 2.5, 4, 8])


@pytest.mark.parametrize("batch", [Batch(512, "tokens"), Batch(4, "texts")])
def test_speed_is_measured_up_to_what_the_model_reads(tiny_model, batch):
    speed = measure(SentenceTransformer(str(tiny_model), device="cpu"), batch)
    assert speed.lengths == sorted(speed.lengths)
    assert 4 <= speed.lengths[0] <= 16
    assert speed.lengths[-1] == 32  # the model reads no more
    assert min(speed.seconds_at) > 0  # which of them is longer is for a quiet machine to say
