"""Task names, languages and suites."""

import re
from pathlib import Path

import pytest

from tamft.errors import InputError
from tamft.evaluation.suites import read_suite, suite_names
from tamft.evaluation.tasks import get_tasks
from tests.evaluation.tiny_tasks import TinySTS


def names(tasks):
    return [task.metadata.name for task in tasks]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("STS133", "STS13"),
        ("sick-r", "SICK-R"),
        ("Banking77Clasification", "Banking77Classification"),
        ("XQUADRetrieval", "XQuADRetrieval"),
        ("EmbededSTS", "EmbeddedSTS"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(wrong, right):
    with pytest.raises(InputError, match=re.escape(f"unknown task {wrong!r}; did you mean {right}")):
        get_tasks([wrong])


def test_a_name_like_no_other_says_where_the_names_are():
    with pytest.raises(InputError, match="the names are mteb's"):
        get_tasks(["0000000000"])


def test_a_path_among_the_tasks_is_explained(tmp_path):
    with pytest.raises(InputError, match="models come before --tasks"):
        get_tasks(["STS13", str(tmp_path)])


def test_a_suite_file_that_is_not_there():
    with pytest.raises(InputError, match=r"unknown task 'mine.yaml'; there is no such file"):
        get_tasks(["mine.yaml"])
    with pytest.raises(InputError, match=r"suite 'mine.yaml': there is no such file"):
        get_tasks(suite="mine.yaml")


def test_order_is_kept_and_doubles_are_dropped():
    assert names(get_tasks(["STS13", "Banking77Classification", "STS13"])) == ["STS13", "Banking77Classification"]


@pytest.mark.parametrize(
    ("task", "languages", "subsets"),
    [
        ("XQuADRetrieval", None, {"en"}),
        ("STS17", None, {"en-en"}),  # not en-de: English only means both sides
        ("STS17", ["eng", "deu"], {"en-en", "en-de"}),
        ("XQuADRetrieval", ["deu"], {"de"}),
        ("XQuADRetrieval", ["all"], {"ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"}),
        ("AllegroReviews", None, {"default"}),  # Polish only, and named on purpose
        ("STS13", ["all"], {"default"}),
    ],
)
def test_languages(task, languages, subsets):
    assert set(get_tasks([task], languages=languages)[0].hf_subsets) == subsets


@pytest.mark.parametrize(("task", "language"), [("AllegroReviews", "eng"), ("XQuADRetrieval", "klingon")])
def test_languages_that_a_task_does_not_have(task, language):
    with pytest.raises(InputError, match=f"{task}.*--languages {language}.*It has: "):
        get_tasks([task], languages=[language])


def test_something_must_be_chosen():
    with pytest.raises(InputError, match="say what to score: --tasks NAME"):
        get_tasks()
    with pytest.raises(InputError, match="no task given"):
        get_tasks([])


def test_some_tasks_of_a_suite_as_the_suite_means_them():
    (task,) = get_tasks(["STS17"], suite="mteb-eng-v2")
    assert task.hf_subsets == ["en-en"]
    with pytest.raises(InputError, match="suite 'nanobeir' has no task 'NanoNQ'; did you mean NanoNQRetrieval"):
        get_tasks(["NanoNQ"], suite="nanobeir")


def test_languages_narrow_a_suite(tmp_path):
    text = "tasks: [{name: STS13}, {name: XQuADRetrieval, languages: [eng, deu]}, {name: STS17, subsets: [en-de]}]"
    suite = write(tmp_path, text)
    kept = {task.metadata.name: task.hf_subsets for task in get_tasks(suite=suite, languages=["deu"])}
    assert kept == {"XQuADRetrieval": ["de"]}
    kept = {task.metadata.name: task.hf_subsets for task in get_tasks(suite=suite, languages=["deu", "eng"])}
    assert kept == {"STS13": ["default"], "XQuADRetrieval": ["de", "en"], "STS17": ["en-de"]}
    assert len(get_tasks(suite=suite, languages=["all"])) == 3
    with pytest.raises(InputError, match=r"--languages fra: nothing is left; it has .*'deu', 'eng'"):
        get_tasks(suite=suite, languages=["fra"])


def test_types_narrow_what_was_chosen():
    assert names(get_tasks(["STS13", "Banking77Classification"], task_types=["sts"])) == ["STS13"]
    kept = get_tasks(suite="mteb-eng-v2", task_types=["STS", "Summarization"])
    assert {task.metadata.type for task in kept} == {"STS", "Summarization"}
    assert len(kept) == 10
    with pytest.raises(InputError, match="--task_types Reranking: there is no such task; there are STS"):
        get_tasks(["STS13"], task_types=["Reranking"])
    with pytest.raises(InputError, match="unknown type 'Classificaton'; did you mean Classification"):
        get_tasks(["STS13"], task_types=["Classificaton"])


def test_types_alone_are_all_that_mteb_has_of_them():
    english = get_tasks(task_types=["STS"])
    assert {"STS13", "SICK-R"} <= set(names(english))
    assert all(task.languages == ["eng"] and task.modalities == ["text"] for task in english)
    german = get_tasks(task_types=["STS", "Reranking"], languages=["deu"])
    assert {task.metadata.type for task in german} == {"STS", "Reranking"}
    assert all(task.languages == ["deu"] for task in german)
    with pytest.raises(InputError, match="mteb has none with --languages klingon"):
        get_tasks(task_types=["STS"], languages=["klingon"])


def test_task_objects_pass_through():
    task = TinySTS()
    assert get_tasks([task]) == [task]


@pytest.mark.parametrize(
    ("suite", "benchmark", "count"),
    [("nanobeir", "NanoBEIR", 13), ("mteb-eng-v2", "MTEB(eng, v2)", 41), ("mteb-eng-v1", "MTEB(eng, v1)", 56)],
)
def test_suites_are_mtebs_benchmarks(suite, benchmark, count):
    import mteb

    def content(tasks):
        return {(t.metadata.name, tuple(sorted(t.hf_subsets)), tuple(sorted(t.eval_splits))) for t in tasks}

    ours = get_tasks(suite=suite)
    assert len(ours) == count
    assert content(ours) == content(mteb.get_benchmark(benchmark).tasks)


def test_embedded_suite():
    expected = ["EmbeddedClassification", "EmbeddedSTS", "EmbeddedRetrieval", "EmbeddedClustering"]
    assert sorted(names(get_tasks(suite="embedded"))) == sorted(expected)


@pytest.mark.parametrize("name", ["embedded", "nanobeir", "mteb-eng-v2", "mteb-eng-v1"])
def test_every_suite_says_what_it_is(name):
    content = read_suite(name)
    assert content["name"] == name
    assert content["description"]
    assert name in suite_names()


def test_an_unknown_suite_lists_what_there_is():
    with pytest.raises(InputError, match=r"unknown suite '\.\./suites/embedded'; there are embedded, mteb-eng-v1"):
        get_tasks(suite="../suites/embedded")


def write(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def test_a_suite_of_ones_own(tmp_path):
    suite = write(tmp_path, "name: mine\ndescription: two\ntasks:\n- name: STS13\n- {name: STS17, languages: [eng]}\n")
    assert names(get_tasks(suite=suite)) == ["STS13", "STS17"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- STS13", "it needs `name`"),
        ("tasks: []", "it needs `name`"),
        ("tasks: [STS13]", "entry 'STS13' needs `name`"),
        ("tasks: [{name: STS13, lang: eng}]", "needs `name` and may have languages, revision, splits, subsets"),
        ("tasks: [{name: STS13}, {name: STS13}]", "the task 'STS13' is there twice"),
        ("tasks: [{name: STS13}]\nextra: 1", "unknown key 'extra'"),
        ("tasks: [{name: STS133}]", "did you mean STS13"),
        ("tasks: [{name: STS13, revision: abc}]", "means revision 'abc'"),
        ("tasks: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_wrong_suites(tmp_path, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        get_tasks(suite=write(tmp_path, text))
