"""What is on disk, and what happens without a network: the same data, or a word about it within seconds."""

import json
import time

import mteb
import numpy as np
import pytest

from tests.evaluation.fake_hub import repository, serve

RERANKING = "AskUbuntuDupQuestions"
# Two of mteb's tasks that are two revisions of one data set: offline, `datasets` would take the newest for both.
OLD, NEW = "STS22", "STS22.v2"
TASKS = [RERANKING, OLD, NEW]

QUERIES = {"q1": "how do i top up my card", "q2": "the cat sits on the mat", "q3": "refund the fee"}
CORPUS = {
    "d1": "top up the card where",
    "d2": "a dog runs in the park",
    "d3": "my card is lost",
    "d4": "the cat sits",
    "d5": "music plays loud today",
    "d6": "refund",
    "d7": "how do i top up my card",
}
RELEVANT = {"q1": {"d1": 1, "d3": 0, "d5": 0}, "q2": {"d4": 1, "d2": 0, "d5": 0}, "q3": {"d6": 1, "d1": 0, "d3": 0}}
GRADES = {
    OLD: [("how do i top up", "top up where", 4.0), ("red green", "blue", 1.0), ("slow rain", "fast sun", 2.0)],
    NEW: [
        ("my card", "a dog runs", 1.0),
        ("my pin", "the pin", 4.0),
        ("cat", "dog", 2.0),
        ("lost phone", "phone", 3.0),
    ],
}


def about(name):
    return mteb.get_task(name).metadata


def hub():
    """The three tasks' repositories at the revisions that mteb means."""
    reranking = repository(
        {
            "corpus": {"test": [{"_id": i, "title": "", "text": text} for i, text in CORPUS.items()]},
            "queries": {"test": [{"_id": i, "text": text} for i, text in QUERIES.items()]},
            "default": {
                "test": [
                    {"query-id": q, "corpus-id": d, "score": s} for q, row in RELEVANT.items() for d, s in row.items()
                ]
            },
            "top_ranked": {"test": [{"query-id": q, "corpus-ids": list(row)} for q, row in RELEVANT.items()]},
        }
    )
    repositories = {(about(RERANKING).dataset["path"], about(RERANKING).revision): reranking}
    for name, pairs in GRADES.items():
        rows = [{"lang": "en", "sentence1": a, "sentence2": b, "score": s} for a, b, s in pairs]
        repositories[about(name).dataset["path"], about(name).revision] = repository({"default": {"test": rows}})
    return repositories


@pytest.fixture
def home(tmp_path):
    """Environment of a process that has an own, empty cache."""
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    return environment | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def expected(tiny_model):
    """The scores, by scikit-learn and scipy: candidates alone are ranked, and each task has its own pairs."""
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer
    from sklearn.metrics import average_precision_score

    model = SentenceTransformer(str(tiny_model), device="cpu")

    def encode(texts):
        return model.encode(list(texts), normalize_embeddings=True)

    found = {}
    precisions = [
        average_precision_score(list(row.values()), encode(CORPUS[d] for d in row) @ encode([QUERIES[q]])[0])
        for q, row in RELEVANT.items()
    ]
    found[RERANKING] = float(np.mean(precisions))
    for name, pairs in GRADES.items():
        cosine = (encode(a for a, _, _ in pairs) * encode(b for _, b, _ in pairs)).sum(1)
        found[name] = float(spearmanr(cosine, [score for *_, score in pairs]).statistic)
    return found


@pytest.mark.slow
def test_prefetch_then_offline(home, run_python, tiny_model, tmp_path):
    """What is fetched stays, what failed is said and fetched next time; then the same data without a network."""
    prefetch = ("-m", "tamft.cli", "suites", "prefetch", "--tasks", *TASKS, "--languages", "eng")
    whole = hub()
    name = (about(RERANKING).dataset["path"], about(RERANKING).revision)
    broken = {path: text for path, text in whole[name].items() if not path.startswith("top_ranked")}
    with serve({**whole, name: broken}) as (address, _):
        done = run_python(*prefetch, env=home | {"HF_ENDPOINT": address})
    assert done.returncode == 1
    assert f"failed  {RERANKING}: " in done.stdout
    assert "2 of 3 data sets are here and load offline" in done.stdout

    with serve(whole) as (address, requests):
        done = run_python(*prefetch, env=home | {"HF_ENDPOINT": address})
    assert done.returncode == 0, done.stderr
    assert "2 of 3 data sets are here; fetching 1" in done.stderr
    assert "3 of 3 data sets are here and load offline" in done.stdout
    assert not [request for request in requests if about(OLD).dataset["path"] in request]

    # the Hub is gone, and no variable says so
    start = time.monotonic()
    command = ("-m", "tamft.cli", "eval", tiny_model, "--tasks", *TASKS, "NanoNQRetrieval", "--json", "scores.json")
    done = run_python(*command, env=home | {"HF_ENDPOINT": address})
    assert time.monotonic() - start < 60
    assert done.returncode == 1, done.stderr
    assert f"{address} does not answer: going on offline" in done.stderr
    notice = done.stderr.index("missing, and offline nothing is fetched: the data of 1 tasks\n  NanoNQRetrieval: mteb/")
    assert notice < done.stderr.index(f"{OLD} ·")
    records = {record["task"]: record for record in json.loads((tmp_path / "scores.json").read_text())}
    missing = records.pop("NanoNQRetrieval")
    assert (missing["status"], missing["main_score"]) == ("missing", None)
    assert about("NanoNQRetrieval").revision in missing["reason"]
    scores = {name: record["main_score"] for name, record in records.items()}
    assert scores == pytest.approx(expected(tiny_model), abs=1e-5)
    assert len({round(score, 3) for score in scores.values()}) == 3
