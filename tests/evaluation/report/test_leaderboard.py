"""The means are those of mteb's own leaderboard, computed by mteb from the same result files."""

import random

import mteb
import pytest
from mteb.benchmarks import Benchmark
from packaging.version import Version

from tamft.evaluation.report import files
from tamft.evaluation.summary import summarize
from tests.evaluation.report.making import write_results

# The leaderboard shows models that mteb knows, and no others.
MODELS = ["sentence-transformers/all-MiniLM-L6-v2", "intfloat/e5-small", "sentence-transformers/all-mpnet-base-v2"]
TASKS = ["STS12", "STS13", "STS22.v2", "NFCorpus", "SciFact", "Banking77Classification", "BUCC.v2"]
pytestmark = pytest.mark.filterwarnings("ignore:.*Missing s:UserWarning")  # mteb says what the test leaves out
# Older versions average a type over what is there, and know no incomplete task.
SINCE = Version("2.26")


def revision(name):
    return mteb.get_model_meta(name).revision


def make(folder, rng, *, skip_tasks=0.0, skip_parts=0.0):
    """Random results; every task has at least one complete model, so that all tasks are on the leaderboard."""
    scores = {(name, revision(name)): {} for name in MODELS}
    for task_name in TASKS:
        task = mteb.get_task(task_name)
        whole = rng.choice(list(scores))
        for model in scores:
            if model != whole and rng.random() < skip_tasks:
                continue
            lost = skip_parts if model != whole else 0.0
            values = {
                split: {subset: rng.random() for subset in task.hf_subsets if rng.random() >= lost}
                for split in task.eval_splits
            }
            scores[model][task_name] = {split: subsets for split, subsets in values.items() if subsets}
    scores = {model: {t: v for t, v in by_task.items() if v} for model, by_task in scores.items()}
    return write_results(folder, scores)


def ours(folder, tasks=None):
    records = list(files.as_records(files.read_results(files.result_root(folder))))
    summary = summarize([r | {"model": r["name"]} for r in records], tasks=tasks)
    found = {}
    for row in summary.rows:
        name = {"mean_task": "Mean (Task)", "mean_task_type": "Mean (TaskType)"}.get(row.kind) or row.type
        if row.kind != "task" and row.kind != "mean_shared":
            found[name] = {m: None if isinstance(s, str) else s for m, s in row.scores.items()}
    return found


def theirs(table):
    """The leaderboard's summary by column and model; None where it is empty."""
    columns = [c for c in table.columns if c.startswith("Mean (") or c.replace(" ", "") in {"STS", *TYPES}]
    models = [next(m for m in MODELS if m.rpartition("/")[2] in shown) for shown in table["Model"]]
    return {
        c.replace(" (", "(").replace(" ", "").replace("(", " ("): {
            m: None if value is None or value != value else float(value)
            for m, value in zip(models, table[c], strict=True)
        }
        for c in columns
    }


TYPES = {"Retrieval", "Classification", "BitextMining"}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, by_model in wanted.items():
        for model, value in by_model.items():
            assert found[name][model] == (None if value is None else pytest.approx(value, abs=1e-12)), (name, model)


def test_complete_results(tmp_path):
    folder = make(tmp_path, random.Random(0))
    results = mteb.ResultCache(folder).load_results(tasks=Benchmark(name="ours", tasks=mteb.get_tasks(tasks=TASKS)))
    wanted = theirs(results.get_benchmark_result())
    assert {"Mean (Task)", "Mean (TaskType)", "STS", *TYPES} == wanted.keys()
    assert all(len(by_model) == 3 and None not in by_model.values() for by_model in wanted.values())
    same(ours(folder), wanted)


@pytest.mark.skipif(Version(mteb.__version__) < SINCE, reason=f"the leaderboard of mteb < {SINCE} has other rules")
@pytest.mark.parametrize("seed", range(12))
def test_missing_tasks_splits_and_subsets(tmp_path, seed):
    from mteb.benchmarks._create_table import _create_summary_table

    rng = random.Random(seed)
    folder = make(tmp_path, rng, skip_tasks=0.15, skip_parts=0.1 * (seed % 3))
    cache, tasks = mteb.ResultCache(folder), mteb.get_tasks(tasks=TASKS)
    for suite in (None, tasks):
        frame = cache.load_results()._to_results_df(suite)
        wanted = theirs(_create_summary_table(frame).df.to_pandas())
        same(ours(folder, tasks=suite), wanted)


@pytest.mark.skipif(Version(mteb.__version__) < SINCE, reason=f"the leaderboard of mteb < {SINCE} has other rules")
def test_some_of_these_are_missing_on_the_leaderboard(tmp_path):
    """The comparison above would be empty if nothing were ever missing."""
    found = [ours(make(tmp_path / str(seed), random.Random(seed), skip_tasks=0.15)) for seed in range(3)]
    values = [value for one in found for by_model in one.values() for value in by_model.values()]
    assert None in values
    assert len([value for value in values if value is not None]) > 20


def test_of_several_revisions_the_leaderboard_s_is_taken(tmp_path):
    name = MODELS[0]
    write_results(tmp_path, {(name, revision(name)): {"STS12": 0.5}, (name, "other"): {"STS12": 0.9, "STS13": 0.7}})
    stored = files.join_revisions(files.read_results(files.result_root(tmp_path)))
    found = {(one.result.task_name, one.revision) for one in stored}
    assert found == {("STS12", revision(name)), ("STS13", "other")}
    joined = mteb.ResultCache(tmp_path).load_results().join_revisions()
    assert {(t.task_name, m.model_revision) for m in joined for t in m.task_results} == found
