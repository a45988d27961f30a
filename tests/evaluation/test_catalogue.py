"""`tamft suites ls|show|prefetch` as people call it."""

import datasets
import pytest

from tamft.cli import main as tamft
from tamft.evaluation.suites import suite_folder, suite_names

EXAMPLE = str(suite_folder() / "example" / "own_tasks.yaml")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("TQDM_DISABLE", "0")


def lines(capsys):
    """Cells of what was printed; not on a terminal, so tab-separated."""
    head, *rest = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rest]


def test_ls(capsys):
    assert tamft(["suites", "ls"]) == 0
    rows = {row["suite"]: row for row in lines(capsys)}
    assert sorted(rows) == suite_names()
    assert (rows["embedded"]["tasks"], rows["embedded"]["on disk"]) == ("4", "4 of 4")
    assert (rows["mteb-eng-v1"]["tasks"], rows["mteb-eng-v1"]["on disk"]) == ("56", "0 of 56")
    assert rows["mteb-eng-v2"]["types"].startswith("10 Retrieval, 9 STS")


def test_show(capsys):
    arguments = ["suites", "show", "mteb-eng-v1", "--tasks", "STS13", "MSMARCO", "CQADupstackRetrieval"]
    assert tamft(arguments) == 0
    sts, msmarco, cqa = lines(capsys)
    assert sts == {
        "task": "STS13",
        "type": "STS",
        "languages": "eng",
        "splits": "test",
        "revision": "7e90230a",
        "texts": "2,669",  # distinct ones: 1314 and 1355 by mteb's statistics
        "on disk": "no",
    }
    assert msmarco["splits"] == "dev"
    assert cqa["revision"] == "12 parts"


def test_show_tasks_of_ones_own(capsys):
    assert tamft(["suites", "show", EXAMPLE, "--task_types", "STS", "Retrieval"]) == 0
    rows = lines(capsys)
    assert [(row["task"], row["texts"], row["on disk"]) for row in rows] == [
        ("ShopSimilarity", "28", "yes"),
        ("ShopAnswers", "26", "yes"),
    ]


def test_prefetch_of_what_needs_no_data(capsys):
    assert tamft(["suites", "prefetch", EXAMPLE]) == 0
    assert capsys.readouterr().out == "6 of 6 data sets are here and load offline\n"


def test_cp(tmp_path, capsys):
    """The copy is complete, is mine to change, and is not overwritten."""
    for name, file in (("example", "example/own_tasks.yaml"), ("nanobeir", "nanobeir.yaml")):
        assert tamft(["suites", "cp", name, str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / file}\n"
        assert tamft(["suites", "cp", name, str(tmp_path)]) == 2
        assert "is there already" in capsys.readouterr().err
    assert tamft(["suites", "prefetch", str(tmp_path / "example" / "own_tasks.yaml")]) == 0
    assert (tmp_path / "nanobeir.yaml").read_text() == (suite_folder() / "nanobeir.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prefetch mteb-eng-v2", "(HF_HUB_OFFLINE, HF_DATASETS_OFFLINE) is on, so AmazonCounterfactualClassification,"),
        ("show", "which suite? `tamft suites show NAME`"),
        ("prefetch", "which suite? `tamft suites prefetch NAME`"),
        ("ls nanobeir", "takes nothing more"),
        ("show nanobier", "unknown suite 'nanobier'; there are embedded"),
        ("show mteb-eng-v2 --task_types Regression", "there is no such task; there are Classification"),
        ("show nanobeir mteb-eng-v2", "'mteb-eng-v2': one suite at a time"),
        ("cp", "copies a whole suite, or `example`"),
        ("cp example --tasks ShopTopics", "copies a whole suite, or `example`"),
        ("cp exampel", "nothing to copy is called 'exampel'; there are example, embedded"),
        ("cp example nowhere/at/all", "there is no such folder"),
        ("list", "invalid choice: 'list'"),
        ("show nanobeir --type STS", "unrecognized arguments: --type"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert tamft(["suites", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("tamft suites: error: ")
    assert printed.out == ""


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        tamft(["suites", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in ("tamft suites ls", "prefetch nanobeir", "--task_types", "Exit code"):
        assert word in printed
