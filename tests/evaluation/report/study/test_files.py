"""A study's files: read whole or refused with the place; one file has everything."""

import json

import pytest

pytest.importorskip("scipy")

from tamft.cli import main
from tamft.errors import InputError
from tamft.evaluation.report.study.files import as_jsonl, read_study
from tests.evaluation.study.making import the_study, write_study


@pytest.fixture(scope="module")
def raw():
    return the_study()


@pytest.fixture
def folder(raw, tmp_path):
    return write_study(tmp_path / "intents", *raw)


def test_what_is_read_is_what_was_written(raw, folder):
    plan, rows = read_study(folder)
    assert (plan, rows) == (raw[0], raw[1])


def test_one_file_has_all_of_a_study(raw, folder, tmp_path):
    (tmp_path / "all.jsonl").write_text(as_jsonl(*raw), encoding="utf-8")
    assert read_study(tmp_path / "all.jsonl") == read_study(folder)


@pytest.mark.parametrize("form", ["md", "csv", "jsonl"])
def test_everything_can_be_made_again_from_the_jsonl(folder, tmp_path, form):
    pytest.importorskip("matplotlib")
    assert main(["report", str(folder), "--format", "jsonl", "--out", str(tmp_path / "all.jsonl")]) == 0
    texts = []
    for path in (folder, tmp_path / "all.jsonl"):
        out = tmp_path / f"{path.name}.{form}.out"
        assert main(["report", str(path), "--format", form, "--out", str(out)]) == 0
        texts.append(out.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert len(texts[0]) > 1000


def test_a_damaged_line_is_named(folder):
    lines = (folder / "study.jsonl").read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:40]
    (folder / "study.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"study\.jsonl, line 3: not valid JSON"):
        read_study(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": "sgd"}, "'sgd', which the plan does not have"),
        ({"seed": 99}, "seed 99 of adamw_torch"),
        ({"stage": "final"}, "final run"),
        ({"status": None}, "status is None"),
        ({"params": "lr=1"}, "params is 'lr=1'"),
        ({"selection": "high"}, "a score is no number"),
        ({"scores": {"STS12": "0.7"}}, "a score is no number"),
    ],
)
def test_a_line_that_cannot_be_right_is_refused(raw, folder, change, said):
    rows = [row | change if i == 4 else row for i, row in enumerate(raw[1])]
    if "seed" in change or "arm" in change:
        rows[4] |= {"arm": change.get("arm", "adamw_torch")}
    write_study(folder, raw[0], rows)
    with pytest.raises(InputError, match=f"line 5: .*{said}"):
        read_study(folder)


def test_not_a_number_is_no_score(raw, folder):
    text = (folder / "study.jsonl").read_text(encoding="utf-8")
    (folder / "study.jsonl").write_text(text.replace('"selection": 0', '"selection": NaN, "x": 0', 1), encoding="utf-8")
    with pytest.raises(InputError, match="NaN is no number"):
        read_study(folder)


def test_a_run_that_is_there_twice_is_refused(raw, folder):
    write_study(folder, raw[0], [*raw[1], raw[1][-1]])
    with pytest.raises(InputError, match=r"confirm run of adatamw gamma=1, seed 17, is there twice"):
        read_study(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delta": 0}, "delta is 0"),
        ({"delta": "small"}, "delta is 'small'"),
        ({"trials": True}, "trials is True"),
        ({"seeds": {"screen": [1], "confirm": []}}, r"seeds.confirm is \[\]"),
        ({"report": {"suite": "nanobeir"}}, "report.tasks is None"),
        ({"baseline": "sgd"}, "baseline 'sgd' is none"),
        ({"confirm": ["adamw_torch", "sgd"]}, "confirm has 'sgd'"),
        ({"hash": None}, "hash is None"),
    ],
)
def test_a_plan_that_cannot_be_right_is_refused(raw, folder, change, said):
    write_study(folder, raw[0] | change, raw[1])
    with pytest.raises(InputError, match=rf"plan\.json: {said}.*; it is not the plan of a study"):
        read_study(folder)


def test_a_study_without_runs_or_without_a_plan(raw, folder):
    write_study(folder, raw[0], [])
    with pytest.raises(InputError, match="no run has ended yet"):
        read_study(folder)
    (folder / "plan.json").unlink()
    with pytest.raises(InputError, match=r"plan\.json: cannot be read"):
        read_study(folder)
    (folder / "x.jsonl").write_text('{"run": "a"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="its first line is no plan"):
        read_study(folder / "x.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--baseline", "adatamw"], "--baseline does not go with a study"),
        (["--suite", "nanobeir"], "--suite does not go"),
        (["--card", "x"], "--card does not go"),
        (["other"], "a study is reported alone"),
        (["--format", "json", "--out", "x.json"], "one of html, md, csv, jsonl"),
        (["--out", "x.pdf"], "its suffix is no format"),
        (["--out", "intents/"], "holds the study itself"),
        (["--out", "intents/study.jsonl"], "holds the study itself"),
        (["--out", "intents/plan.json"], "holds the study itself"),
    ],
)
def test_what_does_not_go_with_a_study_is_one_error_and_writes_nothing(folder, words, said, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    assert main(["report", "intents", *words]) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


def test_jsonl_is_no_format_of_scores(tmp_path, capsys):
    (tmp_path / "scores.json").write_text(json.dumps([]), encoding="utf-8")
    assert main(["report", str(tmp_path / "scores.json"), "--format", "jsonl"]) == 2
    assert "--format jsonl is for studies" in capsys.readouterr().err
