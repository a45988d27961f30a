"""Scores, means and differences: what is shown, what is refused, and that nothing missing ever counts as a number."""

import mteb
import pytest

from tamft.evaluation.summary import labels, summarize
from tests.evaluation.making import record


def scores(summary, kind):
    return {row.name: row.scores for row in summary.of(kind)}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["/x/bert", "/x/minilm"], ["bert", "minilm"]),
        (["runs/a/model", "runs/b/model"], ["a/model", "b/model"]),
        (["org/bert", "runs/a/model"], ["org/bert", "a/model"]),
        (["x/a/m", "y/a/m"], ["x/a/m", "y/a/m"]),
        (["a/m", "./a/m"], ["a/m", "./a/m"]),
        (["."], ["."]),
    ],
)
def test_labels_are_short_and_distinct(models, expected):
    assert list(labels(models).values()) == expected


def test_the_score_of_a_task_is_the_mean_of_its_subsets_and_splits():
    parts = [(split, subset) for split in ("dev", "test") for subset in ("en", "de")]
    values = (0.1, 0.2, 0.4, 0.7)
    rows = [record("m", "A", v, split=s, subset=u) for (s, u), v in zip(parts, values, strict=True)]
    assert scores(summarize(rows), "task") == {"A": {"m": pytest.approx(0.35)}}


def test_missing_is_never_zero_and_takes_every_mean_with_it():
    rows = [
        *(record("a", task, v) for task, v in (("STS12", 0.5), ("STS13", 0.7), ("NFCorpus", 0.3))),
        *(record("b", task, v) for task, v in (("STS12", 0.6), ("NFCorpus", 0.4))),
        record("b", "STS13", None, status="missing", reason="not here"),
    ]
    summary = summarize(rows)
    assert scores(summary, "task")["STS13"] == {"a": 0.7, "b": "missing"}
    assert scores(summary, "type") == {
        "STS, mean of 2": {"a": pytest.approx(0.6), "b": "missing"},
        "Retrieval, mean of 1": {"a": 0.3, "b": 0.4},
    }
    assert scores(summary, "mean_task") == {"mean over 3 tasks": {"a": pytest.approx(0.5), "b": "missing"}}
    assert scores(summary, "mean_task_type") == {"mean over 2 task types": {"a": pytest.approx(0.45), "b": "missing"}}
    shared = summary.of("mean_shared")[0]
    assert shared.name == "mean over the 2 of 3 tasks that all have"
    assert shared.scores == pytest.approx({"a": 0.4, "b": 0.5})
    assert shared.difference("b") == pytest.approx(0.1)
    assert "missing STS13: not here" in summary.notes


def test_a_task_that_only_some_models_were_scored_on_is_missing_for_the_others():
    summary = summarize([record("a", "A", 0.5), record("a", "B", 0.7), record("b", "A", 0.6)])
    assert scores(summary, "task")["B"] == {"a": 0.7, "b": "missing"}
    assert summary.notes == ("missing B with b: no result",)


def test_a_model_without_some_subsets_is_incomplete_and_not_the_mean_of_the_rest():
    rows = [record("a", "A", 0.2, subset=s) for s in ("en", "de")] + [record("b", "A", 0.9, subset="en")]
    summary = summarize(rows)
    assert scores(summary, "task")["A"] == {"a": pytest.approx(0.2), "b": "incomplete"}
    assert summary.notes == ("incomplete A with b: 1 of 2 combinations of split and subset",)


def test_failed_beats_missing_and_has_its_reason():
    rows = [record("m", "A", None, reason="boom", subset="en"), record("m", "A", None, status="missing", subset="de")]
    summary = summarize(rows)
    assert scores(summary, "task")["A"] == {"m": "failed"}
    assert "failed  A with m: boom" in summary.notes


def test_one_task_has_no_mean_and_one_type_no_mean_over_types():
    assert [row.kind for row in summarize([record("m", "STS12", 0.5)]).rows] == ["task"]
    two = summarize([record("m", task, 0.5) for task in ("STS12", "STS13")])
    assert [row.kind for row in two.rows] == ["task", "task", "mean_task"]


def test_tasks_stand_with_their_type_in_the_order_given():
    names = ["STS13", "NFCorpus", "STS12", "Mine"]
    rows = summarize([record("m", name, 0.5) for name in names]).of("task")
    assert [(row.name, row.type) for row in rows] == [
        ("STS13", "STS"),
        ("STS12", "STS"),
        ("NFCorpus", "Retrieval"),
        ("Mine", "other"),
    ]
    assert summarize([record("m", "Mine", 0.5, type="Clustering")]).rows[0].type == "Clustering"


def test_differences_are_from_the_baseline_which_comes_first():
    rows = [record(m, "A", v) for m, v in (("a", 0.5), ("b", 0.75), ("c", 0.25))]
    summary = summarize(rows, baseline="b")
    assert summary.models == ("b", "a", "c")
    assert [summary.rows[0].difference(m) for m in "bac"] == [None, -0.25, -0.5]


def test_equal_at_four_digits_has_no_winner():
    rows = [record("a", "A", 0.80041), record("b", "A", 0.80042), record("a", "B", 0.8), record("b", "B", 0.8002)]
    first, second, _ = summarize(rows).rows
    assert [first.is_best(m) for m in "ab"] == [False, False]
    assert [second.is_best(m) for m in "ab"] == [False, True]


def test_test_texts_that_were_trained_on_are_said_once():
    rows = [record("a", "A", 0.5, subset=s, overlap={"texts": n, "of": 20}) for s, n in (("en", 3), ("de", 0))]
    rows += [record("b", "A", 0.5, subset=s, overlap={"texts": 0, "of": 20}) for s in ("en", "de")]
    assert summarize(rows).notes == ("overlap A: 3 of 40 test texts are in the training data of a",)


VERSIONS = [
    {"mteb_version": "2.10.0"},
    {"dataset_revision": "another"},
]


@pytest.mark.parametrize("change", VERSIONS, ids=["mteb", "data"])
def test_other_versions_are_said_and_neither_compared_nor_averaged(change):
    rows = [record("a", t, v) for t, v in (("STS12", 0.5), ("STS13", 0.75), ("NFCorpus", 0.25))]
    rows += [record("b", "STS12", 0.6, **change), record("b", "STS13", 0.8), record("b", "NFCorpus", 0.5)]
    summary = summarize(rows)
    sts12, sts13 = summary.of("task")[:2]
    assert sts12.scores == {"a": 0.5, "b": 0.6}
    assert (sts12.difference("b"), sts12.is_best("b")) == (None, False)
    assert sts13.difference("b") == pytest.approx(0.05)
    assert scores(summary, "type")["STS, mean of 2"] == {"a": "mixed", "b": "mixed"}
    assert scores(summary, "type")["Retrieval, mean of 1"] == {"a": 0.25, "b": 0.5}
    assert scores(summary, "mean_task")["mean over 3 tasks"] == {"a": "mixed", "b": "mixed"}
    assert scores(summary, "mean_task_type")["mean over 2 task types"] == {"a": "mixed", "b": "mixed"}
    assert any("differ" in note and "--mix_versions" in note for note in summary.notes)

    asked = summarize(rows, mix_versions=True)
    assert asked.of("task")[0].difference("b") == pytest.approx(0.1)
    assert scores(asked, "mean_task")["mean over 3 tasks"] == {"a": 0.5, "b": pytest.approx(1.9 / 3)}
    assert any("differ" in note and "as asked" in note for note in asked.notes)


def test_one_model_over_two_versions_of_mteb_has_no_mean_either():
    rows = [record("a", "STS12", 0.5), record("a", "STS13", 0.7, mteb_version="2.10.0")]
    assert scores(summarize(rows), "mean_task") == {"mean over 2 tasks": {"a": "mixed"}}


def test_what_failed_has_no_version_to_differ():
    rows = [record("a", "A", 0.5), record("b", "A", None, mteb_version=None, dataset_revision=None)]
    assert not any("differ" in note for note in summarize(rows).notes)


def test_a_suite_says_what_is_shown_and_what_is_missing():
    tasks = [mteb.get_task("STS12"), mteb.get_task("STS22", hf_subsets=["en"])]
    revisions = {t.metadata.name: t.metadata.revision for t in tasks}
    rows = [
        record("a", "STS22", 0.5, subset="en", dataset_revision=revisions["STS22"]),
        record("a", "STS22", 0.9, subset="de", dataset_revision=revisions["STS22"]),
        record("a", "STS13", 0.9),
    ]
    summary = summarize(rows, tasks=tasks)
    assert scores(summary, "task") == {"STS12": {"a": "missing"}, "STS22": {"a": 0.5}}
    assert scores(summary, "mean_task") == {"mean over 2 tasks": {"a": "missing"}}
    old = summarize([rows[0] | {"dataset_revision": "old"}], tasks=tasks)
    assert any("the suite" in note and "old (a)" in note for note in old.notes)
    assert not old.of("task")[1].comparable
