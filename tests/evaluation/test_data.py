"""What is on disk, and what happens without a network: the same data, or a word about it within seconds."""

import json
import socket
import time

import datasets
import huggingface_hub
import mteb
import numpy as np
import pytest

from tamft.evaluation import data
from tamft.evaluation.tasks import get_tasks
from tests.evaluation.fake_hub import repository, serve
from tests.evaluation.tiny_tasks import TinySTS

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


# --- on disk or not ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`, and a way to put folders of it there."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def put(folder, *, whole=True):
        target = tmp_path / "hf" / folder
        target.mkdir(parents=True)
        if whole:
            (target / "dataset_info.json").write_text("{}")

    return put


@pytest.mark.parametrize(
    ("task", "folders"),
    [
        ("STS13", ["mteb___sts13-sts/default"]),
        ("STS17", ["mteb___sts17-crosslingual-sts/default"]),  # all languages in one
        ("MTOPDomainClassification", ["mteb___mtop_domain_classification/en"]),
        ("XQuADRetrieval", [f"mteb___x_qu_ad_retrieval/en-{part}" for part in ("corpus", "queries", "qrels")]),
        ("SciFact", [f"mteb___scifact/{part}" for part in ("corpus", "queries", "default")]),
        (RERANKING, [f"mteb___ask_ubuntu_dup_questions/{p}" for p in ("corpus", "queries", "default", "top_ranked")]),
    ],
)
def test_what_a_task_needs_on_disk(task, folders, cache):
    (task,) = get_tasks([task])
    if not data.source(task).sure:
        pytest.skip("this mteb loads it with code of its own")
    for folder in folders:
        assert data.on_disk(task) is False
        cache(f"{folder}/0.0.0/{task.metadata.revision}.incomplete", whole=False)
        assert data.on_disk(task) is False
        cache(f"{folder}/0.0.0/{task.metadata.revision}")
    assert data.on_disk(task) is True
    assert data.missing(task) is None


def test_another_revision_is_not_the_data(cache):
    (task,) = get_tasks(["STS13"])
    cache("mteb___sts13-sts/default/0.0.0/0123456789")
    assert f"mteb/sts13-sts at revision {task.metadata.revision} is not in" in data.missing(task)
    assert data.missing(task).endswith("; it has revision 0123456789")
    with pytest.raises(FileNotFoundError, match="it has revision 0123456789"):
        data.load_data(task)


def test_a_mean_of_tasks_needs_all_of_them(cache):
    (task,) = get_tasks(["CQADupstackRetrieval"])
    assert len(data.parts([task, *task.metadata.tasks])) == 12
    assert data.missing(task).count(" is not in ") == 12
    assert data.on_disk(task) is False


def test_a_task_with_code_of_its_own_is_judged_by_its_metadata_and_tried(cache, monkeypatch):
    class Special(type(get_tasks(["STS13"])[0])):
        def load_data(self, num_proc=None, **kwargs):
            self.data_loaded = True

    Special.__module__ = "mteb.tasks.sts.eng"
    task = Special()
    assert data.on_disk(task) is None
    assert data.missing(task).endswith("(by its metadata; it is loaded with code of its own)")
    data.load_data(task)
    assert task.data_loaded
    cache(f"mteb___sts13-sts/default/0.0.0/{task.metadata.revision}")
    assert data.missing(task) is None


def test_tasks_that_need_nothing_and_those_that_nobody_knows(cache):
    assert data.on_disk(get_tasks(["EmbeddedSTS"])[0]) is True
    assert data.on_disk(TinySTS()) is None  # code of its own loads it


# --- with and without a network ---------------------------------------------------------------------------------------


def test_whether_the_hub_answers(monkeypatch):
    """One that is there, one where nobody listens, and one that takes the call and says nothing."""
    with data.offline(False), socket.socket() as silent:
        with serve({}) as (address, requests):
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
            assert data.hub_answers()
            assert requests == ["HEAD /"]
        assert not data.hub_answers()
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert not data.hub_answers(patience=0.3)
        assert time.monotonic() - start < 5


def test_offline_is_only_for_the_duration():
    assert data.is_offline()  # in these tests
    with data.offline(False):
        assert not data.is_offline()
        with pytest.raises(RuntimeError, match="inside"), data.offline():
            assert data.is_offline()
            raise RuntimeError("inside")
        assert not data.is_offline()
    assert data.is_offline()


def test_missing_data_is_named_before_a_model_is_loaded(cache, score, tiny_model, forbid_loading, capsys):
    """All of it, and what is stored or needs no data is not in the list."""
    forbid_loading()
    records = score(tiny_model, tasks=["STS13", "SciFact"])
    assert [(record["status"], record["main_score"]) for record in records] == [("missing", None)] * 2
    printed = capsys.readouterr().err
    assert "the data of 2 tasks\n  STS13: mteb/sts13-sts at revision 7e90230a" in printed
    assert "\n  SciFact: mteb/scifact at revision" in printed


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
    command = ("-m", "tamft.cli", "eval", tiny_model, "--tasks", *TASKS, "SciFact", "--json", "scores.json")
    done = run_python(*command, env=home | {"HF_ENDPOINT": address})
    assert time.monotonic() - start < 60
    assert done.returncode == 1, done.stderr
    assert f"{address} does not answer: going on offline" in done.stderr
    notice = done.stderr.index("missing, and offline nothing is fetched: the data of 1 tasks\n  SciFact: mteb/")
    assert notice < done.stderr.index(f"{OLD} ·")
    records = {record["task"]: record for record in json.loads((tmp_path / "scores.json").read_text())}
    missing = records.pop("SciFact")
    assert (missing["status"], missing["main_score"]) == ("missing", None)
    assert about("SciFact").revision in missing["reason"]
    scores = {name: record["main_score"] for name, record in records.items()}
    assert scores == pytest.approx(expected(tiny_model), abs=1e-5)
    assert len({round(score, 3) for score in scores.values()}) == 3
