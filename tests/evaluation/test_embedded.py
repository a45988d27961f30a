"""The embedded suite runs through mteb, offline, and leaves room above the base model."""

import subprocess
import sys

import pytest

from tamft.evaluation.embedded import TASKS
from tamft.evaluation.suites import read_suite
from tamft.evaluation.tasks import get_tasks

mteb = pytest.importorskip("mteb")

# Hashes of the texts: a change of the phrases changes the tasks, and scores before and after must not be mixed.
REVISIONS = {
    "EmbeddedClassification": "8e08b50f954896935299fc3a7298ecb8b9e1ab93",
    "EmbeddedSTS": "6dc612d81b5cdb613e154d1a7755632e23f5fc73",
    "EmbeddedRetrieval": "bca921770808bb2ccaf735007e1446d204b53e4c",
    "EmbeddedClustering": "85249d521b23227ed019109a550b84c767a2c4f4",
}


def run(task, model):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return result.task_results[0]


@pytest.fixture
def tiny(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


def test_the_suite_is_these_four_tasks():
    assert [entry["name"] for entry in read_suite("embedded")["tasks"]] == list(TASKS) == list(REVISIONS)
    assert [type(task) for task in get_tasks(suite="embedded")] == list(TASKS.values())
    assert {name: task.metadata.type for name, task in TASKS.items()} == {n: n.removeprefix("Embedded") for n in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_the_data_has_a_fixed_revision(name):
    assert TASKS[name].metadata.revision == REVISIONS[name]


def test_the_data_is_the_same_in_another_process():
    program = "from tamft.evaluation.embedded import TASKS; print(*(t.metadata.revision for t in TASKS.values()))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == list(REVISIONS.values())


@pytest.mark.parametrize("name", TASKS)
def test_metadata_is_complete_and_says_what_it_is(name):
    metadata = TASKS[name].metadata
    assert "never evidence" in metadata.description
    assert (metadata.eval_splits, metadata.languages) == (["test"], ["eng"])
    assert metadata.license == "apache-2.0"
    metadata._validate_metadata()  # what mteb's own registry asks of its tasks


def test_classification_data():
    task = TASKS["EmbeddedClassification"]()
    task.load_data()
    train, test = task.dataset["train"], task.dataset["test"]
    assert (len(train), len(test)) == (576, 384)
    assert set(train["label"]) == set(test["label"]) == set(range(48))
    assert not set(train["text"]) & set(test["text"])


def test_sts_data():
    task = TASKS["EmbeddedSTS"]()
    task.load_data()
    rows = task.dataset["test"]
    assert {task.min_score, task.max_score} == {min(rows["score"]), max(rows["score"])} == {0, 5}
    assert sum(one == two for one, two in zip(rows["sentence1"], rows["sentence2"], strict=True)) == 0


def test_retrieval_data():
    task = TASKS["EmbeddedRetrieval"]()
    task.load_data()
    data = task.dataset["default"]["test"]
    assert (len(data["queries"]), len(data["corpus"])) == (288, 96)
    assert set(data["relevant_docs"]) == set(data["queries"]["id"])
    assert {len(documents) for documents in data["relevant_docs"].values()} == {2}
    passages = dict(zip(data["corpus"]["id"], data["corpus"]["text"], strict=True))
    questions = dict(zip(data["queries"]["id"], data["queries"]["text"], strict=True))
    thimble = [query for query, text in questions.items() if "Thimble" in text]
    found = {passages[d] for query in thimble for d in data["relevant_docs"][query]}
    assert len(thimble) >= 6
    assert len(found) == 4  # two intents are about the Thimble
    assert sum("purse" in text for text in found) >= 2


def test_clustering_data():
    task = TASKS["EmbeddedClustering"]()
    task.load_data()
    rows = task.dataset["test"]
    assert len(rows) == task.max_documents_per_cluster == 576
    assert len(set(rows["labels"])) == 48


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_mteb_runs_it_and_the_same_model_gets_the_same_score(name, tiny):
    task = TASKS[name]()
    first, second = run(task, tiny), run(task, tiny)
    fresh = run(TASKS[name](), tiny)
    assert first.dataset_revision == REVISIONS[name]
    assert first.get_score() == second.get_score() == fresh.get_score()
    assert -1 <= first.get_score() < 0.9
    assert first.scores["test"][0]["main_score"] == first.scores["test"][0][task.metadata.main_score]


@pytest.mark.slow
@pytest.mark.model
def test_the_base_model_leaves_room(minilm):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu")
    scores = {name: run(task(), model).get_score() for name, task in TASKS.items()}
    assert scores == pytest.approx(
        {
            "EmbeddedClassification": 0.3177,
            "EmbeddedSTS": 0.4003,
            "EmbeddedRetrieval": 0.4032,
            "EmbeddedClustering": 0.6594,
        },
        abs=0.01,  # other versions of BLAS and scikit-learn round and split ties differently
    )
    assert max(scores.values()) < 0.9
