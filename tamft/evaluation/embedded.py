"""The `embedded` suite: four MTEB tasks on data that the project makes itself (`tamft.support_desk`).

They are ordinary subclasses of mteb's abstract tasks; only `load_data` differs, which makes the texts instead of
fetching them. The revision of a data set is a hash of its content, so a result says which texts it is about. A smoke
test: it shows that training and scoring work, and says nothing about real data.
"""

import hashlib
import json
import random
from functools import cache
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from tamft import support_desk


@cache
def _content(kind: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of a task by part ("train", "test", "queries", "corpus"); plain JSON types only."""
    if kind == "classification":
        names = sorted(intent.name for intent in support_desk.intents())
        return {
            split: [{"text": q.text, "label": names.index(q.intent.name)} for q in questions]
            for split, questions in support_desk.classification_set().items()
        }
    if kind == "sts":
        pairs = support_desk.sts_set()
        return {"test": [{"sentence1": a.text, "sentence2": b.text, "score": score} for a, b, score in pairs]}
    if kind == "clustering":
        return {"test": [{"sentences": q.text, "labels": q.intent.name} for q in support_desk.clustering_set()]}
    queries, passages = support_desk.retrieval_set()
    return {
        "queries": [{"id": f"q{i}", "text": q.text, "about": q.intent.name} for i, q in enumerate(queries)],
        "corpus": [{"id": f"d{i}", "text": text, "about": intent.name} for i, (intent, text) in enumerate(passages)],
    }


def _metadata(kind: str, mteb_type: str, main_score: str, description: str) -> TaskMetadata:
    text = json.dumps(_content(kind), sort_keys=True)
    return TaskMetadata(
        name=f"Embedded{mteb_type}",
        description=f"{description} Synthetic support-desk questions made by tamft: a smoke test, never evidence.",
        dataset={"path": f"tamft/embedded-{kind}", "revision": hashlib.sha256(text.encode()).hexdigest()[:40]},
        type=mteb_type,  # type: ignore[arg-type]
        category="t2c" if kind in ("classification", "clustering") else "t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=("2024-01-01", "2024-12-31"),
        domains=["Constructed", "Written", "E-commerce"],
        license="apache-2.0",
        annotations_creators="algorithmic",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


def _splits(kind: str) -> DatasetDict:
    return DatasetDict({split: Dataset.from_list(rows) for split, rows in _content(kind).items()})


class EmbeddedClassification(AbsTaskClassification):
    """Which of 48 intents is it? A probe is fitted on 8 questions per intent, 5 times; test phrases are new to it."""

    n_experiments = 5
    metadata = _metadata("classification", "Classification", "accuracy", "48 intents of customers, few examples each.")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Make the texts (no network, no files)."""
        self.dataset = _splits("classification")
        self.data_loaded = True


class EmbeddedSTS(AbsTaskSTS):
    """How alike are two questions, from nothing in common (0) to the same intent (5)?"""

    min_score, max_score = 0, 5
    metadata = _metadata("sts", "STS", "cosine_spearman", "Pairs graded by shared intent, feature, topic and product.")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Make the texts (no network, no files)."""
        self.dataset = _splits("sts")
        self.data_loaded = True


class EmbeddedRetrieval(AbsTaskRetrieval):
    """Which passages of the FAQ answer the question? Two of 96 do; siblings of the same feature count as wrong."""

    k_values = (1, 3, 5, 10, 20)
    metadata = _metadata("retrieval", "Retrieval", "ndcg_at_10", "Questions against the shop's FAQ.")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Make the texts (no network, no files)."""
        rows = _content("retrieval")
        answers: dict[str, dict[str, int]] = {}
        for document in rows["corpus"]:
            answers.setdefault(document["about"], {})[document["id"]] = 1
        queries, corpus = (Dataset.from_list(rows[part]).remove_columns("about") for part in ("queries", "corpus"))
        relevant = {query["id"]: answers[query["about"]] for query in rows["queries"]}
        split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class EmbeddedClustering(AbsTaskClustering):
    """Do questions of one intent lie together? 48 clusters, ten samples with replacement."""

    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster = 576
    metadata = _metadata("clustering", "Clustering", "v_measure", "48 intents of customers, 12 questions each.")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Make the texts (no network, no files)."""
        self.dataset = _splits("clustering")
        # mteb draws from a generator that lives as long as the task: without this, the second model that a process
        # scores is clustered on other samples than the first.
        self.rng_state = random.Random(self.seed)
        self.data_loaded = True


TASKS: dict[str, type[AbsTask]] = {
    task.metadata.name: task for task in (EmbeddedClassification, EmbeddedSTS, EmbeddedRetrieval, EmbeddedClustering)
}
