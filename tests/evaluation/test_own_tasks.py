"""Tasks of one's own: what is read, and what mteb makes of it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tamft.errors import InputError
from tamft.evaluation.own_tasks import KINDS
from tamft.evaluation.tasks import get_tasks
from tests.evaluation.shop import EXAMPLE, altered

NAMES = {
    "Classification": "ShopIntents",
    "Clustering": "ShopTopics",
    "STS": "ShopSimilarity",
    "PairClassification": "ShopDuplicates",
    "Retrieval": "ShopAnswers",
    "Reranking": "ShopCandidates",
}


def rows(name: str) -> list[dict]:
    path = EXAMPLE.parent / name
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            return list(csv.DictReader(stream))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def encode(tiny_model):
    """Unit vectors of texts, by sentence-transformers alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    return lambda texts: model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True)


@pytest.fixture(scope="module")
def scores(tiny_model, tmp_path_factory):
    """The example's scores by `tamft eval`, one per task."""
    from tamft.evaluation.score import evaluate

    folder = tmp_path_factory.mktemp("own")
    records = evaluate([str(tiny_model)], suite=str(EXAMPLE), results=folder, device="cpu")
    assert {record["status"] for record in records} == {"ok"}
    return {record["task"]: record["main_score"] for record in records}


def test_the_example_has_one_task_of_each_type():
    tasks = get_tasks(suite=str(EXAMPLE))
    assert {task.metadata.type: task.metadata.name for task in tasks} == NAMES
    assert set(NAMES) == set(KINDS)


# --- values, without mteb's evaluators --------------------------------------------------------------------------------


def test_classification_is_a_probe_on_the_training_rows(tmp_path, tiny_model, encode):
    """With as many samples as there are rows, nothing is drawn: mteb's score is scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    from tamft.evaluation.score import evaluate

    suite = altered(tmp_path, "options: {samples_per_label: 4, n_experiments: 5}", "options: {samples_per_label: 99}")
    (record,) = evaluate([str(tiny_model)], tasks=["ShopIntents"], suite=suite, results=tmp_path / "r", device="cpu")
    train, test = rows("intents_train.csv"), rows("intents_test.csv")
    probe = LogisticRegression(max_iter=100, random_state=42)
    probe.fit(raw(tiny_model, [r["question"] for r in train]), [r["intent"] for r in train])
    expected = probe.score(raw(tiny_model, [r["question"] for r in test]), [r["intent"] for r in test])
    assert 0 < expected < 1
    assert record["main_score"] == pytest.approx(expected, abs=1e-6)


def raw(folder, texts):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_numpy=True)


def test_sts_is_spearman_of_cosine_and_grade(scores, encode):
    from scipy.stats import spearmanr

    pairs = rows("pairs.jsonl")
    cosine = (encode(p["a"] for p in pairs) * encode(p["b"] for p in pairs)).sum(1)
    expected = spearmanr(cosine, [p["grade"] for p in pairs]).statistic
    assert scores["ShopSimilarity"] == pytest.approx(expected, abs=1e-6)


def test_pair_classification_is_the_best_average_precision(tiny_model, scores):
    from sklearn.metrics import average_precision_score

    pairs = rows("duplicates.csv")
    one, two = (raw(tiny_model, [p[f"sentence{i}"] for p in pairs]) for i in (1, 2))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (one, two)]
    similarities = [(unit[0] * unit[1]).sum(1), (one * two).sum(1), -abs(one - two).sum(1), -((one - two) ** 2).sum(1)]
    expected = max(average_precision_score([int(p["label"]) for p in pairs], s) for s in similarities)
    assert scores["ShopDuplicates"] == pytest.approx(expected, abs=1e-6)


def test_retrieval_is_ndcg_over_titles_and_texts(scores, encode):
    from sklearn.metrics import ndcg_score

    queries, corpus = rows("queries.jsonl"), rows("corpus.jsonl")
    relevant = {(r["query-id"], r["corpus-id"]) for r in rows("qrels.csv")}
    similarity = encode(q["question"] for q in queries) @ encode(f"{d['title']} {d['text']}" for d in corpus).T
    truth = [[int((q["id"], d["id"]) in relevant) for d in corpus] for q in queries]
    assert scores["ShopAnswers"] == pytest.approx(ndcg_score(truth, similarity, k=10), abs=1e-5)


def test_reranking_is_mean_average_precision_over_the_candidates(scores, encode):
    from sklearn.metrics import average_precision_score

    precisions = []
    for row in rows("candidates.jsonl"):
        candidates = [*row["positive"], *row["negative"]]
        truth = [1] * len(row["positive"]) + [0] * len(row["negative"])
        precisions.append(average_precision_score(truth, encode(candidates) @ encode([row["query"]])[0]))
    assert 0.2 < np.mean(precisions) < 1
    assert scores["ShopCandidates"] == pytest.approx(np.mean(precisions), abs=1e-5)


def test_clustering_is_mtebs(tiny_model, scores):
    """Against a task written by hand for mteb's API."""
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.clustering import AbsTaskClustering
    from sentence_transformers import SentenceTransformer

    from tests.evaluation.tiny_tasks import metadata as about

    test = rows("intents_test.csv")

    class ByHand(AbsTaskClustering):
        metadata = about("ByHand", type="Clustering", category="t2c", main_score="v_measure")
        max_fraction_of_documents_to_embed = None
        max_documents_per_cluster = len(test)

        def load_data(self, num_proc=None, **kwargs):
            columns = {"sentences": [r["question"] for r in test], "labels": [r["intent"] for r in test]}
            self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
            self.data_loaded = True

    model = SentenceTransformer(str(tiny_model), device="cpu")
    result = mteb.evaluate(model, ByHand(), cache=None, show_progress_bar=False, co2_tracker=False)
    assert 0 < scores["ShopTopics"] < 1
    assert scores["ShopTopics"] == pytest.approx(result.task_results[0].get_score(), abs=1e-6)


# --- kinds of files, columns, revisions -------------------------------------------------------------------------------


def content(task):
    task.load_data()
    return task.dataset


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv", ".parquet"])
def test_the_same_rows_in_another_kind_of_file_are_the_same_task(tmp_path, suffix):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ours, name = rows("intents_test.csv"), f"intents_test{suffix}"
    suite = altered(tmp_path, "test: intents_test.csv", f"test: {name}")
    target = Path(suite).parent / name
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ours), target)
    elif suffix == ".tsv":
        target.write_text("question\tintent\n" + "".join(f"{r['question']}\t{r['intent']}\n" for r in ours))
    else:
        target.write_text("".join(json.dumps(r) + "\n" for r in ours))
    for task, other in zip(get_tasks(suite=str(EXAMPLE)), get_tasks(suite=suite), strict=True):
        if "intents" in str(task.paths):
            assert content(task)["test"].to_list() == content(other)["test"].to_list()
            assert task.metadata.revision != other.metadata.revision


def test_classes_are_numbered_in_the_order_of_their_numbers(tmp_path):
    train = "question,intent\n" + "".join(f"text {i},{i}\n" for i in range(12))
    task = get_tasks(
        ["ShopIntents"], suite=altered(tmp_path, **{"intents_train.csv": train, "intents_test.csv": train})
    )
    assert content(task[0])["train"]["label"][:] == list(range(12))


def test_queries_without_a_judgment_are_left_out_and_grades_are_kept(tmp_path):
    qrels = "query-id,corpus-id,score\nrepair1,brakes,2\nrepair1,wheel,0\n"
    (task,) = get_tasks(["ShopAnswers"], suite=altered(tmp_path, **{"qrels.csv": qrels}))
    split = content(task)["default"]["test"]
    assert split["relevant_docs"] == {"repair1": {"brakes": 2, "wheel": 0}}
    assert split["queries"]["id"][:] == ["repair1"]
    assert len(split["corpus"]) == 12


def test_rerankings_rows_of_one_query_are_put_together_and_a_text_is_one_document(tmp_path):
    table = "query,positive,negative\nwhere?,here,there\nwhere?,,nowhere\nwhen?,now,here\n"
    suite = altered(tmp_path, "test: candidates.jsonl", "test: c.csv", **{"c.csv": table})
    split = content(get_tasks(["ShopCandidates"], suite=suite)[0])["default"]["test"]
    text = dict(zip(split["corpus"]["id"][:], split["corpus"]["text"][:], strict=True))
    assert sorted(text.values()) == ["here", "now", "nowhere", "there"]
    relevant = {query: {text[d]: grade for d, grade in row.items()} for query, row in split["relevant_docs"].items()}
    assert relevant == {"q0": {"here": 1, "there": 0, "nowhere": 0}, "q1": {"now": 1, "here": 0}}
    assert {q: sorted(text[d] for d in row) for q, row in split["top_ranked"].items()} == {
        "q0": ["here", "nowhere", "there"],
        "q1": ["here", "now"],
    }


def test_a_model_that_tells_nothing_apart_ranks_nothing_well():
    """All candidates have the same score; the file lists the positive ones first."""
    import mteb
    import torch
    from mteb.models import ModelMeta

    class Constant:
        mteb_model_meta = ModelMeta.create_empty({"name": "tests/constant", "revision": "1"})

        def encode(self, inputs, **kwargs):
            return np.ones((sum(len(batch["text"]) for batch in inputs), 4), dtype=np.float32)

        def similarity(self, a, b):
            return torch.ones(len(a), len(b))

        def similarity_pairwise(self, a, b):
            return torch.ones(len(a))

    (task,) = get_tasks(["ShopCandidates"], suite=str(EXAMPLE))
    result = mteb.evaluate(Constant(), task, cache=None, show_progress_bar=False, co2_tracker=False)
    assert 0.25 < result.task_results[0].get_score() < 0.75  # by chance it is 0.41: one of six


def test_the_revision_follows_content_and_definition(tmp_path):
    def revision(name, *change, **files):
        return get_tasks([name], suite=altered(tmp_path, *change, **files))[0].metadata.revision

    first = revision("ShopTopics")
    assert re.fullmatch(r"[0-9a-f]{40}", first)
    assert revision("ShopTopics", "description: Which of four", "description: What") == first
    assert revision("ShopIntents", "samples_per_label: 4", "samples_per_label: 8") != revision("ShopIntents")
    changed = (EXAMPLE.parent / "intents_test.csv").read_text().replace("terrible", "awful")
    assert revision("ShopTopics", **{"intents_test.csv": changed}) != first


def test_scores_of_changed_data_are_not_taken_for_the_old_ones(tmp_path, tiny_model):
    from tamft.evaluation.score import evaluate

    def score(**files):
        suite = altered(tmp_path, **files)
        return evaluate([str(tiny_model)], tasks=["ShopSimilarity"], suite=suite, results=tmp_path / "r", device="cpu")[
            0
        ]

    first = score()
    turned = "".join(json.dumps({**row, "grade": 5 - row["grade"]}) + "\n" for row in rows("pairs.jsonl"))
    assert score(**{"pairs.jsonl": turned})["main_score"] == pytest.approx(-first["main_score"], abs=1e-6)


def test_files_that_change_between_check_and_use_are_noticed(tmp_path):
    suite = altered(tmp_path)
    (task,) = get_tasks(["ShopTopics"], suite=suite)
    file = Path(suite).parent / "intents_test.csv"
    file.write_text(file.read_text().replace("terrible", "awful"))
    with pytest.raises(InputError, match="its files changed while it waited"):
        task.load_data()


def test_a_suite_file_among_the_tasks(tmp_path):
    tasks = get_tasks(["STS13", str(EXAMPLE)], task_types=["STS"])
    assert [task.metadata.name for task in tasks] == ["STS13", "ShopSimilarity"]
