"""Markdown, CSV and JSON hold the same numbers as the table."""

import csv
import io
import json

import pytest

from tamft.evaluation.report import text
from tamft.evaluation.summary import summarize
from tests.evaluation.making import record


@pytest.fixture
def summary():
    rows = [record("base", t, v) for t, v in (("STS12", 0.5), ("STS13", 0.75), ("NFCorpus", 0.25))]
    rows += [record("tuned", "STS12", 0.625), record("tuned", "NFCorpus", 0.125, dtype="bfloat16")]
    rows += [record("tuned", "STS13", None, reason="no memory")]
    return summarize(rows)


def test_markdown(summary):
    lines = text.markdown(summary).splitlines()
    assert lines[:9] == [
        "| main score (difference from base) | base | tuned |",
        "|---|---:|---:|",
        "| STS12 | 0.5000 | **0.6250** (+0.1250) |",
        "| STS13 | 0.7500 | failed |",
        "| NFCorpus | **0.2500** | 0.1250 (-0.1250) |",
        "| *STS, mean of 2* | 0.6250 | missing |",
        "| *Retrieval, mean of 1* | **0.2500** | 0.1250 (-0.1250) |",
        "| *mean over 3 tasks* | 0.5000 | missing |",
        "| *mean over 2 task types* | 0.4375 | missing |",
    ]
    assert "- failed STS13 with tuned: no memory" in lines
    assert any("not evidence" in line for line in lines)
    assert "- scored tuned: local/model @ 0123456789abcdef" in lines
    assert "- scored in, tuned: bfloat16, float32" in lines


def test_markdown_names_cannot_break_the_table():
    rows = [record("a|b", "A*B*\nC", 0.5), record("<b>[x](y)", "A*B*\nC", 0.25), record("_i_ and some_name", "D", 0.5)]
    lines = text.markdown(summarize(rows, names={r["model"]: r["model"] for r in rows})).splitlines()
    assert lines[0].endswith(r"| a\|b | \<b\>\[x\](y) | \_i\_ and some_name |")
    assert lines[2].startswith(r"| A\*B\* C | ")


def test_many_models_stand_below_each_other_in_markdown():
    lines = text.markdown(summarize([record(f"m{i}", "A", 0.5 + i / 10) for i in range(4)])).splitlines()
    assert lines[:3] == ["| main score (difference from m0) | A |", "|---|---:|", "| m0 | 0.5000 |"]
    assert lines[5] == "| m3 | **0.8000** (+0.3000) |"


def test_csv(summary):
    rows = list(csv.DictReader(io.StringIO(text.as_csv(summary))))
    assert len(rows) == len(summary.rows) * 2
    by = {(r["kind"], r["task"] or r["type"], r["model"]): r for r in rows}
    one = by["task", "NFCorpus", "tuned"]
    assert (float(one["score"]), float(one["difference"]), one["state"]) == (0.125, -0.125, "ok")
    assert (one["metric"], one["dtype"], one["dataset_revision"]) == ("accuracy", "bfloat16", "5eed")
    assert (by["task", "STS13", "tuned"]["score"], by["task", "STS13", "tuned"]["state"]) == ("", "failed")
    assert (by["mean_task", "", "tuned"]["score"], by["mean_task", "", "tuned"]["state"]) == ("", "missing")
    assert float(by["type", "STS", "base"]["score"]) == 0.625
    assert by["mean_task_type", "", "base"]["difference"] == ""


def test_json_has_everything_and_can_be_made_again_from_its_records(summary):
    content = json.loads(text.as_json(summary))
    assert (content["baseline"], content["models"]) == ("base", ["base", "tuned"])
    assert content["rows"][1]["scores"]["tuned"] == {"score": None, "state": "failed", "difference": None}
    again = json.loads(text.as_json(summarize(content["records"])))
    assert again == content
