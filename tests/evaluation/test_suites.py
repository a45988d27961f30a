"""The suites that are shipped: what they mean, pinned, and what an installation with other data says."""

import importlib.util
import re
import shutil
from pathlib import Path

import mteb
import pytest

from tamft.errors import InputError
from tamft.evaluation import suites
from tamft.evaluation.suites import check_revisions, read_suite, revision_of, suite_folder, suite_names
from tamft.evaluation.tasks import get_tasks

ROOT = Path(__file__).resolve().parent.parent.parent
BENCHMARKS = {"nanobeir": "NanoBEIR", "mteb-eng-v2": "MTEB(eng, v2)", "mteb-eng-v1": "MTEB(eng, v1)"}
PINNED = re.search(r"^mteb==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
pinned_mteb = pytest.mark.skipif(mteb.__version__ != PINNED, reason=f"the suites are pinned with mteb {PINNED}")


@pinned_mteb
@pytest.mark.parametrize("suite", BENCHMARKS)
def test_every_task_is_pinned_to_the_revision_of_mtebs_benchmark(suite):
    ours = {entry["name"]: entry["revision"] for entry in read_suite(suite)["tasks"]}
    assert ours == {task.metadata.name: revision_of(task) for task in mteb.get_benchmark(BENCHMARKS[suite]).tasks}
    for revision in ours.values():
        for one in revision.values() if isinstance(revision, dict) else [revision]:
            assert re.fullmatch(r"[0-9a-f]{40}", one)


def test_the_embedded_suite_is_pinned_to_its_own_texts():
    entries = {entry["name"]: entry["revision"] for entry in read_suite("embedded")["tasks"]}
    assert entries == {task.metadata.name: task.metadata.revision for task in get_tasks(suite="embedded")}


@pytest.mark.parametrize(("suite", "name"), [("nanobeir", "NanoNQRetrieval"), ("mteb-eng-v1", "CQADupstackRetrieval")])
def test_another_revision_is_a_warning_in_a_shipped_suite(suite, name, capsys):
    """Nobody can edit it, and the scores say which data they are of; in one's own suite it is an error."""
    (task,) = get_tasks([name], suite=suite)
    capsys.readouterr()
    real = revision_of(task)
    other = dict.fromkeys(real, "0" * 40) if isinstance(real, dict) else "0" * 40
    content = {"shipped": True, "tasks": [{"name": name, "revision": other}]}
    check_revisions(suite, content, {name: task})
    assert f"another revision of the data of 1 tasks ({name})" in capsys.readouterr().err
    with pytest.raises(InputError, match="their scores must not be mixed"):
        check_revisions(suite, content | {"shipped": False}, {name: task})
    check_revisions(suite, content | {"tasks": [{"name": name, "revision": real}]}, {name: task})
    assert capsys.readouterr().err == ""


@pinned_mteb
def test_the_program_that_pins(tmp_path, monkeypatch, capsys):
    """From suites without revisions it makes the shipped ones; from the shipped ones, the same."""
    for path in suite_folder().glob("*.yaml"):
        text = re.sub(r", revision: \w+", "", path.read_text(encoding="utf-8"))
        (tmp_path / path.name).write_text(re.sub(r"Retrieval: [0-9a-f]{40}", "Retrieval: x", text), encoding="utf-8")
    monkeypatch.setattr(suites, "suite_folder", lambda: tmp_path)
    spec = importlib.util.spec_from_file_location("pin_suites", ROOT / "eval" / "pin_suites.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.undo()
    shipped = {path.name: path.read_text(encoding="utf-8") for path in suite_folder().glob("*.yaml")}
    monkeypatch.setattr(suites, "suite_folder", lambda: tmp_path)
    for printed in (4 + 56 + 41 + 13, 0):
        assert program.main() == 0
        assert capsys.readouterr().out.count(" -> ") == printed
        assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.yaml")} == shipped


def test_the_example_is_no_suite_of_its_own_name():
    assert "own_tasks" not in suite_names()
    assert (suite_folder() / "example" / "own_tasks.yaml").is_file()


def test_a_suite_says_where_its_files_start_from(tmp_path):
    shutil.copytree(suite_folder() / "example", tmp_path / "mine")
    assert read_suite(str(tmp_path / "mine" / "own_tasks.yaml"))["folder"] == tmp_path / "mine"
