"""`tamft report` as people call it: formats, where they go, what is refused before anything is written."""

import csv
import io
import json
import re
import shlex
import shutil

import pytest

from tamft.cli import main as tamft
from tamft.evaluation.report.command import FORMATS
from tests.conftest import ROOT
from tests.evaluation.making import record
from tests.evaluation.report.making import a_run, write_results


@pytest.fixture
def scores(tmp_path, monkeypatch):
    """A record file of two models in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    values = {"base": (0.5, 0.75), "runs/x/model": (0.625, 0.5)}
    rows = [
        record(model, task, value, revision=f"{i}" * 16)
        for i, (model, pair) in enumerate(values.items())
        for task, value in zip(("STS12", "NFCorpus"), pair, strict=True)
    ]
    (tmp_path / "scores.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_table_is_the_default(scores, capsys):
    assert tamft(["report", "scores.json"]) == 0
    printed = capsys.readouterr().out
    assert "0.6250 (+0.1250)" in printed
    assert "mean over 2 tasks" in printed
    assert left(scores) == ["scores.json"]


@pytest.mark.parametrize("form", ["md", "csv", "json"])
def test_text_goes_to_the_output_or_to_a_file(scores, capsys, form):
    assert tamft(["report", "scores.json", "--format", form, "--baseline", "x"]) == 0
    printed = capsys.readouterr().out
    assert tamft(["report", "scores.json", "--out", f"new/report.{form}", "--baseline=x"]) == 0
    again = (scores / "new" / f"report.{form}").read_text(encoding="utf-8")
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(printed)))
        assert {r["difference"] for r in rows if r["task"] == "STS12"} == {"", "-0.125"}
        assert again == printed
    if form == "json":
        assert json.loads(printed)["baseline"] == "x/model"
        assert json.loads(again) == json.loads(printed)
    if form == "md":
        assert "| STS12 | **0.6250** | 0.5000 (-0.1250) |" in printed.splitlines()
        assert again == printed


def test_a_page_of_scores_alone_and_of_runs(scores, capsys, tiny_model):
    pytest.importorskip("matplotlib")
    assert tamft(["report", "scores.json", "--format", "html"]) == 0
    text = (scores / "report.html").read_text(encoding="utf-8")
    assert "Scores of base, x/model" in text
    assert "<h2>Runs</h2>" not in text
    a_run(scores / "runs" / "x", "adatamw")
    assert tamft(["report", "runs/x", "scores.json", "--out", "page.html"]) == 0
    text = (scores / "page.html").read_text(encoding="utf-8")
    assert "Fine-tuning with adatamw" in text
    assert "tamft report runs/x scores.json --out page.html" in text
    assert 'id="alignment-axes_1"' in text
    assert "page.html: 2 models, 2 tasks" in capsys.readouterr().err


def test_a_suite_and_published_results(scores, capsys):
    published = {("acme/tiny", "r"): {"STS12": 0.25}}
    write_results(scores / "clone", published, version="2.26.24", revisions={"STS12": "5eed"})
    (scores / "mine.yaml").write_text("name: mine\ndescription: d\ntasks: [{name: STS12}, {name: STS13}]\n")
    words = ["report", "scores.json", "--published", "clone", "--suite", "mine.yaml", "--format", "csv"]
    assert tamft(words) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {(r["model"], r["task"]): (r["score"], r["state"]) for r in rows if r["kind"] == "task"}
    assert found["tiny (published)", "STS12"] == ("0.25", "ok")
    assert {found[model, "STS13"] for model in ("base", "x/model", "tiny (published)")} == {("", "missing")}
    assert {task for _, task in found} == {"STS12", "STS13"}


def test_versions_are_mixed_only_when_asked(scores, capsys):
    rows = json.loads((scores / "scores.json").read_text(encoding="utf-8"))
    rows[0]["mteb_version"] = "2.10.0"
    (scores / "scores.json").write_text(json.dumps(rows), encoding="utf-8")
    assert tamft(["report", "scores.json"]) == 0
    printed = capsys.readouterr().out
    assert "mixed" in printed and "mteb versions differ: 2.10.0 (base)" in printed and "(+0.1250)" not in printed
    assert tamft(["report", "scores.json", "--mix-versions"]) == 0
    printed = capsys.readouterr().out
    assert "mixed" not in printed and "mteb versions differ" in printed and "(+0.1250)" in printed


def test_scores_go_into_a_card(scores, capsys, tiny_model):
    from tamft.evaluation.identity import identify

    shutil.copytree(tiny_model, scores / "runs" / "x" / "model")
    identity = identify("runs/x/model")
    write_results(scores / "results", {(identity.name, identity.revision): {"STS12": 0.5}})
    assert tamft(["report", "results", "--card", "runs/x/model"]) == 0
    assert "README.md: 1 scores" in capsys.readouterr().out
    assert "STS12 (default)" in (scores / "runs" / "x" / "model" / "README.md").read_text(encoding="utf-8")
    before = left(scores / "runs" / "x" / "model")
    assert tamft(["report", "scores.json", "--card", "runs/x/model"]) == 2
    assert "score it again" in capsys.readouterr().err
    assert left(scores / "runs" / "x" / "model") == before


def test_the_examples_of_the_page_run(scores, tiny_model, other_tiny_model, monkeypatch):
    """docs/report.md: its commands and its program, on results, runs and a clone of the names it uses."""
    pytest.importorskip("matplotlib")
    from tamft.evaluation.identity import identify

    base = {("acme/all-MiniLM-L6-v2", "r"): {"STS12": 0.25, "STS13": 0.5}}
    for name, source in (("adamw", tiny_model), ("adatamw", other_tiny_model)):
        a_run(scores / "runs" / name, name)
        shutil.copytree(source, scores / "runs" / name / "model")
        identity = identify(str(scores / "runs" / name / "model"))
        base[identity.name, identity.revision] = {"STS12": 0.5, "STS13": 0.75}
    write_results(scores / "results", base)
    write_results(scores / "clone", {("intfloat/e5-small", "r"): {"STS12": 0.5}})
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in commands.splitlines()]
    assert len(lines) == 5
    for words in lines:
        assert tamft(words[1:]) == 0, words
    assert (scores / "report.html").exists()
    assert "STS13 (default)" in (scores / "runs" / "adatamw" / "model" / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(program, "docs/report.md", "exec"), {})


BAD = {
    "": "the following arguments are required: PATH",
    "nothing": "nothing: no such file or folder",
    "scores.json --format pdf": "invalid choice: 'pdf'",
    "scores.json --out report.pdf": "its suffix is no format",
    "scores.json --out x.html": "not an ordinary file",
    "scores.json --out ./scores.json": "is one of the inputs",
    "scores.json --out scores.json/r.md": "is a file, so nothing can be written below it",
    "scores.json --baseline nobody": "no model 'nobody' among the scores",
    "scores.json --baseline basse": "did you mean base?",
    "scores.json --suite nothing": "unknown suite 'nothing'",
    "scores.json --published nowhere": "nowhere: no such file or folder",
    "scores.json --base-line x": "did you mean --baseline?",
    "scores.json --card nowhere": "--card nowhere: no such folder",
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_line_and_writes_nothing(bad, scores, capsys):
    (scores / "x.html").mkdir()
    before = left(scores)
    assert tamft(["report", *bad.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("tamft report: error: ")
    assert printed.err.count("\n") == 1
    assert BAD[bad] in printed.err
    assert printed.out == ""
    assert left(scores) == before


def test_a_page_needs_matplotlib_and_says_so(scores, capsys, monkeypatch):
    monkeypatch.setattr("tamft.evaluation.figures.find_spec", lambda name: None)
    assert tamft(["report", "scores.json", "--format", "html"]) == 2
    assert 'pip install "tamft[demo]"' in capsys.readouterr().err
    assert left(scores) == ["scores.json"]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        tamft(["report", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in ("--baseline", "--published", "--mix_versions", "--card", "Exit codes", *FORMATS):
        assert word in printed


@pytest.mark.usefixtures("tiny_tasks")
def test_eval_and_report_mean_the_same_by_mixing_versions(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["eval", str(tiny_model), "--tasks", "TinySTS", "TwoLanguages", "--device", "cpu"]
    assert tamft(words) == 0
    (file,) = (tmp_path / "results" / "results").glob("*/*/TinySTS.json")
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"mteb_version": "2.20.0"}))
    capsys.readouterr()
    assert tamft(["report", "results"]) == 0
    assert "mixed" in capsys.readouterr().out
    for command in (["report", "results"], words):
        assert tamft([*command, "--mix_versions"]) == 0
        printed = capsys.readouterr().out
        assert "mixed" not in printed
        assert "mteb versions differ" in printed


@pytest.mark.usefixtures("tiny_tasks")
def test_what_tamft_eval_stores_is_what_is_shown(tiny_model, other_tiny_model, tmp_path, capsys, monkeypatch):
    """From scoring to the report: the same models under the same names, the same numbers, the same provenance."""
    monkeypatch.chdir(tmp_path)
    for name, source in (("a", tiny_model), ("b", other_tiny_model)):
        shutil.copytree(source, tmp_path / "runs" / name / "model")
    models = ["runs/a/model", "runs/b/model"]
    words = ["--tasks", "TinySTS", "TwoLanguages", "Broken", "--device", "cpu", "--json", "scores.json"]
    assert tamft(["eval", *models, *words]) == 1
    capsys.readouterr()
    found = {}
    for source in ("results", "scores.json"):
        assert tamft(["report", source, "--format", "json"]) == 0
        content = json.loads(capsys.readouterr().out)
        found[source] = {
            (row["name"], model): cell["score"]
            for row in content["rows"]
            if row["name"] in ("TinySTS", "TwoLanguages")
            for model, cell in row["scores"].items()
        }
        assert {(r["device"], r["dtype"]) for r in content["records"] if r["status"] == "ok"} == {("cpu", "float32")}
    assert found["results"] == found["scores.json"]
    assert {model for _, model in found["results"]} == {"a/model", "b/model"}
