"""The table in the terminal says what the summary says, and no more."""

from rich.console import Console

from tamft.evaluation.summary import summarize
from tamft.evaluation.table import make_table, print_table
from tests.evaluation.making import RECORDS, record


def cells(table):
    return [[str(cell) for cell in column.cells] for column in table.columns]


def printed(records, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_table(records, console)
    return console.export_text()


def test_best_is_bold_and_the_difference_is_from_the_first():
    records = [r for r in RECORDS if r["subset"] != "de"]
    for r in records:
        r["subset"] = "default"
    names, base, tuned = cells(table := make_table(summarize(records)))
    assert names == ["A", "B", "C", "mean over 3 tasks", "mean over the 2 of 3 tasks that all have"]
    assert base == ["0.5000", "0.7500", "0.9000", "0.7167", "0.6250"]
    assert tuned == ["0.6000 (+0.1000)", "0.7000 (-0.0500)", "failed", "missing", "0.6500 (+0.0250)"]
    styles = [[str(cell.style) for cell in column.cells] for column in list(table.columns)[1:]]
    assert styles == [["", "bold", "", "", ""], ["bold", "", "red", "dim", "bold"]]


def test_models_move_into_rows_where_they_do_not_fit_side_by_side():
    records = [record(f"runs/optimizer_{i}/model", "Banking77Classification", 0.8 + i / 100) for i in range(9)]
    lines = printed(records, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("optimizer_8/model @0123456789abcdef" in line and "0.8800 (+0.0800)" in line for line in lines) == 1
    (names, scores) = cells(make_table(summarize(records), transposed=True))
    assert (len(names), scores[0], scores[8]) == (9, "0.8000", "0.8800 (+0.0800)")
    assert "optimizer_1/model" in next(line for line in printed(records[:2], 80).splitlines() if "optimizer_0/" in line)


def test_notes_say_what_went_wrong_once():
    records = [
        *(record("base", task, 0.5) for task in "ABCDE"),
        *(record("tuned", task, 0.5) for task in "AB"),
        record("tuned", "C", None, reason="RuntimeError: boom"),
        record("tuned", "D", 0.1, reason="the adapter changes nothing"),
        record("tuned", "E", 0.1, reason="the adapter changes nothing"),
        record("base", "F", None, status="missing", reason="offline"),
        record("tuned", "F", None, status="missing", reason="offline"),
    ]
    assert list(summarize(records).notes) == [
        "failed  C with tuned: RuntimeError: boom",
        "WARNING tuned: the adapter changes nothing",
        "missing F: offline",
    ]


def test_brackets_in_names_and_reasons_are_printed_as_they_are():
    text = printed([record("[red]x", "A[/]", None, reason="[/bold] oops")], 100)
    assert "[red]x" in text
    assert "A[/]" in text
    assert "[/bold] oops" in text
