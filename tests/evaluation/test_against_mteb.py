"""The same numbers as mteb's own API: on every type of task, and on real data."""

import pytest

pytestmark = pytest.mark.slow

TOLERANCE = {"STS": 1e-5, "Retrieval": 1e-4, "Classification": 2e-3, "Clustering": 2e-3}


def by_mteb(model, tasks):
    """{(task, split, subset): main score} from mteb alone."""
    import mteb
    from sentence_transformers import SentenceTransformer

    found = {}
    for task in tasks:
        # mteb's random state goes on from task to task, the scorer's begins anew: one call for each task
        result = mteb.evaluate(
            SentenceTransformer(str(model), device="cpu"),
            task,
            cache=None,
            encode_kwargs={"batch_size": 32, "show_progress_bar": False},
            co2_tracker=False,
            show_progress_bar=False,
        )
        for split, scores in result.task_results[0].scores.items():
            found |= {(task.metadata.name, split, entry["hf_subset"]): entry["main_score"] for entry in scores}
    return found


def by_tamft(model, tasks, folder, **options):
    from tamft.evaluation.score import evaluate

    records = evaluate(str(model), tasks=tasks, results=folder, device="cpu", **options)
    assert {r["status"] for r in records} == {"ok"}, [r["reason"] for r in records]
    return {(r["task"], r["split"], r["subset"]): r["main_score"] for r in records}


def mocks():
    """mteb's offline tasks for text models, each kind in one language and in several."""
    grid = pytest.importorskip("mteb.mocks", reason="this mteb has no offline tasks").MOCK_TASK_TEST_GRID
    return [type(task)() for task in {task.metadata.name: task for task in grid}.values()]


def test_the_offline_tasks_are_of_every_type():
    from mteb import abstasks

    kinds = {name for name in dir(abstasks) if name.startswith("AbsTask")}
    covered = {base.__name__ for task in mocks() for base in type(task).__mro__}
    # pictures; and retrieval that reads its data in an older form (its type, reranking, is among the offline tasks)
    assert kinds - covered <= {"AbsTaskImageTextPairClassification", "AbsTaskReranking"}
    assert {"Reranking", "InstructionReranking", "InstructionRetrieval"} <= {task.metadata.type for task in mocks()}


@pytest.fixture(scope="module")
def wanted(tiny_model):
    return by_mteb(tiny_model, mocks())


@pytest.mark.parametrize("options", [{"batch_size": 32}, {"batch_tokens": 16}], ids=str)
def test_every_type_of_task(tiny_model, tmp_path, wanted, options):
    found = by_tamft(tiny_model, mocks(), tmp_path, **options)
    assert len(found) == len(wanted) >= 44
    assert found == pytest.approx(wanted, abs=1e-6)


def scores(run_python, hf_home, tmp_path, program):
    """What a program prints last: a dictionary of scores. A fresh process: datasets' folders are fixed at import."""
    import ast

    env = {"HF_HOME": str(hf_home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = run_python("-c", program, env=env, check=True, timeout=1800)
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.data
@pytest.mark.model
def test_a_real_model(minilm, hf_home, run_python, tmp_path):
    """The quickest tasks; the others are held against the published scores in test_eval_command.py."""
    names = ["EmbeddedSTS", "EmbeddedRetrieval", "MasakhaNEWSClusteringS2S"]
    program = (
        "from tamft.evaluation.tasks import get_tasks\n"
        "from tests.evaluation.test_against_mteb import by_mteb, by_tamft\n"
        f"names, model = {names!r}, {str(minilm)!r}\n"
        "one = by_mteb(model, get_tasks(names))\n"
        "two = by_tamft(model, get_tasks(names), 'rows', batch_size=32)\n"
        "three = by_tamft(model, get_tasks(names), 'tokens')\n"
        "print({key[0]: (float(one[key]), two[key], three[key]) for key in one})\n"
    )
    found = scores(run_python, hf_home, tmp_path, program)
    assert set(found) == set(names)
    for name, (mteb, rows, tokens) in found.items():
        kind = next(kind for kind in TOLERANCE if kind in name)
        assert rows == pytest.approx(mteb, abs=1e-6), name
        assert tokens == pytest.approx(mteb, abs=TOLERANCE[kind]), name
