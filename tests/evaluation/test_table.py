"""The table says what the records say, and no more."""

import pytest
from rich.console import Console

from tamft.evaluation.table import labels, make_table, mean_scores, notes, print_table, task_score


def record(model, task, score, *, status=None, reason=None, subset="default"):
    return {
        "model": model,
        "revision": "0123456789abcdef",
        "task": task,
        "split": "test",
        "subset": subset,
        "main_score": score,
        "status": status or ("ok" if score is not None else "failed"),
        "reason": reason,
    }


RECORDS = [
    record("base", "A", 0.5),
    record("base", "B", 0.75),
    record("base", "C", 0.9),
    record("tuned", "A", 0.6, subset="en"),
    record("tuned", "A", 0.8, subset="de"),
    record("tuned", "B", 0.70),
    record("tuned", "C", None, reason="RuntimeError: boom"),
]


def cells(table):
    return [[str(cell) for cell in column.cells] for column in table.columns]


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


def test_the_score_of_a_task_is_the_mean_of_its_subsets():
    assert task_score(RECORDS, "tuned", "A") == pytest.approx(0.7)
    assert task_score(RECORDS, "tuned", "C") == "failed"
    assert task_score(RECORDS, "tuned", "nothing") == "missing"


def test_the_mean_is_over_tasks_that_all_models_have():
    means, shared = mean_scores(RECORDS)
    assert shared == ["A", "B"]
    assert means == pytest.approx({"base": 0.625, "tuned": 0.7})


def test_missing_is_never_zero():
    records = [record("m", "A", 0.5), record("m", "B", None, status="missing", reason="not here")]
    assert mean_scores(records) == ({"m": 0.5}, ["A"])
    assert cells(make_table(records))[1] == ["0.5000", "missing"]


def test_best_is_bold_and_the_difference_is_from_the_first():
    table = make_table(RECORDS)
    names, base, tuned = cells(table)
    assert names == ["A", "B", "C", "mean over the 2 of 3 all have tasks"]
    assert base == ["0.5000", "0.7500", "0.9000", "0.6250"]
    assert tuned == ["0.7000 (+0.2000)", "0.7000 (-0.0500)", "failed", "0.7000 (+0.0750)"]
    styles = [[str(cell.style) for cell in column.cells] for column in list(table.columns)[1:]]
    assert styles == [["", "bold", "", ""], ["bold", "", "red", "bold"]]


def test_equal_scores_have_no_winner():
    table = make_table([record("a", "A", 0.80041), record("b", "A", 0.80042)])
    assert [str(cell.style) for column in list(table.columns)[1:] for cell in column.cells] == ["", ""]


def test_models_move_into_rows_where_they_do_not_fit_side_by_side():
    records = [record(f"runs/optimizer_{i}/model", "Banking77Classification", 0.8 + i / 100) for i in range(9)]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_table(records, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("optimizer_8/model @0123456789abcdef" in line and "0.8800 (+0.0800)" in line for line in lines) == 1
    (names, scores) = cells(make_table(records, transposed=True))
    assert (len(names), scores[0], scores[8]) == (9, "0.8000", "0.8800 (+0.0800)")
    print_table(records[:2], console)
    assert "optimizer_1/model" in next(line for line in console.export_text().splitlines() if "optimizer_0/" in line)


def test_notes_say_what_went_wrong_once():
    records = [
        *RECORDS,
        record("tuned", "D", 0.1, reason="the adapter changes nothing"),
        record("tuned", "E", 0.1, reason="the adapter changes nothing"),
        record("base", "F", None, status="missing", reason="offline"),
        record("tuned", "F", None, status="missing", reason="offline"),
    ]
    assert notes(records) == [
        "failed  C with tuned: RuntimeError: boom",
        "WARNING tuned: the adapter changes nothing",
        "missing F: offline",
    ]


def test_brackets_in_names_and_reasons_are_printed_as_they_are():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_table([record("[red]x", "A[/]", None, reason="[/bold] oops")], console)
    text = console.export_text()
    assert "[red]x" in text
    assert "A[/]" in text
    assert "[/bold] oops" in text
