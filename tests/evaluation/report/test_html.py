"""The page shows what is in the run.json files and the score records, and nothing else."""

import html.parser
import json
import re

import pytest

from tamft.errors import InputError
from tamft.evaluation.report.html import make_page, write_report
from tamft.evaluation.report.runs import final_loss, read_run
from tamft.evaluation.summary import summarize
from tests.evaluation.report.making import a_run, score

pytest.importorskip("matplotlib")


@pytest.fixture
def runs(tmp_path):
    return [
        a_run(tmp_path / "runs" / "adamw_torch", "adamw_torch", telemetry=False, losses=(2.5, 1.5, 1.0, 0.75, 0.625)),
        a_run(tmp_path / "runs" / "adatamw", "adatamw", rate=4e-4),
    ]


@pytest.fixture
def scores(runs):
    models = ["/models/minilm", *(run / "model" for run in runs)]
    values = {"EmbeddedRetrieval": (0.4, 0.5, 0.5625), "EmbeddedSTS": (0.3, 0.25, 0.35)}
    return [score(m, task, v) for i, m in enumerate(models) for task, vs in values.items() for v in [vs[i]]]


class Page(html.parser.HTMLParser):
    """What a browser would see: the tables' cells, the running text, ids, references, and whether all tags close."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.rows, self.text = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]
        self.links += re.findall(r"url\(([^)]*)\)", " ".join(v or "" for _, v in attrs))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "span"):  # spans hold the keys to the figures' colours
            return
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += ("|" if self.open[-1] == "small" else "") + data

    def row(self, start):
        return next(row for row in self.rows if row and row[0].startswith(start))


def page_of(runs, scores, tmp_path):
    write_report(runs, scores, tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_tables_hold_the_runs_and_scores(runs, scores, tmp_path):
    page = page_of(runs, scores, tmp_path)
    assert page.row("adatamw") == ["adatamw", "complete", "0.0004", "–", "7", "10", "0.5000", "41", "3.0"]
    assert page.row("adamw_torch")[2:7] == ["0.0002", "–", "7", "10", "0.6250"]
    assert page.row("task") == ["task", "base", "adamw_torch", "adatamw"]
    assert page.row("EmbeddedRetrieval") == [
        "EmbeddedRetrieval|ndcg_at_10",
        "0.4000",
        "0.5000|+0.1000",
        "0.5625|+0.1625",
    ]
    assert page.row("EmbeddedSTS")[2] == "0.2500|-0.0500"
    assert page.row("mean over 2 tasks")[1:] == ["0.3500", "0.3750|+0.0250", "0.4562|+0.1063"]
    assert not [row for row in page.rows if row[0].startswith("Retrieval")]  # one task in each type: no row of its own


def test_provenance_is_there(runs, scores, tmp_path):
    text = " ".join(page_of(runs, scores, tmp_path).text)
    for part in (
        "torch 2.13.0",
        "a processor",
        "da7a" * 16,
        "2400 rows",
        "f125" * 16,
        "ba5e" * 16,
        "tamft demo --seed 7",
    ):
        assert part in text
    assert "2.26.24" in text
    assert "5eed" * 10 in text
    assert "weight_decay=0.0" in text


def test_another_seed_and_other_values_give_other_numbers(runs, scores, tmp_path):
    before = page_of(runs, scores, tmp_path)
    content = read_run(runs[1])
    content |= {"seed": 8, "loss": [[step, value + 1] for step, value in content["loss"]]}
    (runs[1] / "run.json").write_text(json.dumps(content), encoding="utf-8")
    scores[-1]["main_score"] = 0.45
    after = page_of(runs, scores, tmp_path)
    assert after.row("adatamw")[4:7] == ["8", "10", "1.5000"]
    assert after.row("EmbeddedSTS")[3] == "0.4500|+0.1500"
    assert any("One seed (7)" in text for text in before.text)
    assert not any("One seed" in text for text in after.text)
    assert any("seed, adatamw" in text for text in after.text)


def figure_of(text, name):
    return re.search(rf'<svg[^>]*>(?:(?!</svg>).)*id="{name}-axes_1".*?</svg>', text, re.DOTALL)[0]


@pytest.mark.parametrize(
    ("figure", "change"),
    [
        ("loss", lambda run: run["loss"].append([12, 0.1])),
        ("alignment", lambda run: run["telemetry"][0][1].update(alignment_mean=0.2)),
        ("alignment", lambda run: run["telemetry"][0][1].update(alignment_q90=0.2)),
        ("damping", lambda run: run["telemetry"][0][1].update(damping_mean=0.6)),
        ("damping", lambda run: run["telemetry"][0][1].update(damping_q10=0.54)),
    ],
)
def test_curves_are_drawn_from_the_run(runs, scores, tmp_path, figure, change):
    page_of(runs, scores, tmp_path)
    before = (tmp_path / "report.html").read_text(encoding="utf-8")
    content = read_run(runs[1])
    change(content)
    (runs[1] / "run.json").write_text(json.dumps(content), encoding="utf-8")
    page_of(runs, scores, tmp_path)
    after = (tmp_path / "report.html").read_text(encoding="utf-8")
    same = {name: figure_of(before, name) == figure_of(after, name) for name in ("loss", "alignment", "damping")}
    assert [name for name, equal in same.items() if not equal] == [figure]


def test_bars_are_drawn_from_the_scores(runs, scores, tmp_path):
    page_of(runs, scores, tmp_path)
    drawn = figure_of((tmp_path / "report.html").read_text(encoding="utf-8"), "tasks")
    assert set(re.findall(r">(0\.\d{3})<", drawn)) == {"0.400", "0.500", "0.562", "0.300", "0.250", "0.350"}


def test_only_torque_has_alignment_curves(runs, scores, tmp_path):
    page_of(runs[:1], scores, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="loss-axes_1"' in text
    assert 'id="alignment-axes_1"' not in text
    assert "none of these optimizers has torque" in text


def test_the_page_is_self_contained_and_valid(runs, scores, tmp_path):
    page = page_of(runs, scores, tmp_path)
    assert len(page.ids) == len(set(page.ids)) > 10
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|@import|#0[0-9]0[0-9]0", text)
    assert "default-src 'none'" in text
    assert text.count("<svg") == text.count('role="img"') == 4


def test_warnings_are_plain(runs, scores, tmp_path):
    text = " ".join(page_of(runs, scores, tmp_path).text)
    assert "smoke test, never evidence" in text
    assert "One seed (7): no inference possible" in text
    assert "not comparable" not in text
    content = read_run(runs[0]) | {"first_batches_sha256": "0" * 64}
    (runs[0] / "run.json").write_text(json.dumps(content), encoding="utf-8")
    for record in scores:
        record["task"] = record["task"].removeprefix("Embedded")
    text = " ".join(page_of(runs, scores, tmp_path).text)
    assert "not comparable" in text
    assert "synthetic" not in text


def test_text_is_escaped(tmp_path):
    evil = '<script>alert("x")</script>&'
    run = a_run(tmp_path / "a", evil, device=evil, data=[{"path": evil, "sha256": "a", "rows": 1}], telemetry=True)
    records = [score(evil, evil, 0.5, command=evil, metric=evil), score(run / "model", evil, 0.6, command=evil)]
    page = page_of([run], records, tmp_path)
    assert page.row(evil)[0].startswith(evil)  # it arrives as text
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_a_score_that_is_not_there_is_said(runs, scores, tmp_path, status):
    scores[-1] |= {"status": status, "main_score": None, "reason": "no memory"}
    page = page_of(runs, scores, tmp_path)
    assert page.row("EmbeddedSTS")[3] == status
    assert page.row("mean over 2 tasks")[1:] == ["0.3500", "0.3750|+0.0250", "missing"]
    assert any("EmbeddedSTS with adatamw" in text or "missing EmbeddedSTS: no memory" in text for text in page.text)


@pytest.mark.parametrize(("rhos", "said"), [((0.0, 0.0), False), ((0.0, 0.3), True), ((0.3, 0.3), False)])
def test_losses_at_moved_weights_are_not_compared_with_others(tmp_path, rhos, said):
    runs = [
        a_run(tmp_path / str(i), f"name{i}", optimizer={"name": f"name{i}", "args": {"rho": rho}, "backend": "loop"})
        for i, rho in enumerate(rhos)
    ]
    assert any("does not compare" in text for text in page_of(runs, [], tmp_path).text) is said


def test_runs_without_scores_and_a_diverged_run(runs, tmp_path):
    content = read_run(runs[1]) | {"status": "diverged", "model_dir": None, "loss": [[2, 2.5], [4, None]]}
    (runs[1] / "run.json").write_text(json.dumps(content), encoding="utf-8")
    page = page_of(runs, [], tmp_path)
    assert page.row("adatamw")[1] == "diverged"
    assert "Scores" not in page.text


def test_two_runs_of_one_optimizer_are_told_apart(tmp_path):
    runs = [a_run(tmp_path / name, "adatamw", seed=seed) for seed, name in enumerate(("first", "second"))]
    page = page_of(runs, [score(run / "model", "STS13", 0.5 + i / 8) for i, run in enumerate(runs)], tmp_path)
    assert page.row("task") == ["task", "adatamw (first)", "adatamw (second)"]
    assert page.row("STS13")[1:] == ["0.5000", "0.6250|+0.1250"]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], None),
        ([[1, 3.0]], 3.0),
        ([[2, 9.0], [4, 9.0], [6, 9.0], [8, 1.0], [10, 2.0]], 2.0),
        ([[2, 5.0], [4, None]], 5.0),
    ],
)
def test_final_loss_is_over_the_last_fifth(losses, expected):
    assert final_loss({"loss": losses}) == expected


def test_bad_input_is_one_clear_error_and_keeps_the_old_page(runs, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(InputError, match="at least one run"):
        write_report([], [], out)
    with pytest.raises(InputError, match=r"nothing.run\.json"):
        write_report([tmp_path / "nothing"], [], out)
    (runs[0] / "run.json").write_text('{"schema": 99}', encoding="utf-8")
    with pytest.raises(InputError, match="schema 1"):
        write_report(runs, [], out)
    (runs[0] / "run.json").write_text('{"schema": 1', encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        write_report(runs, [], out)
    assert out.read_text(encoding="utf-8") == "old"


def test_nothing_but_the_page_is_left(runs, scores, tmp_path):
    write_report(runs, scores, tmp_path / "new" / "report.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_types_of_several_tasks_are_bars_and_tasks_are_dots():
    values = {"STS12": 0.25, "STS13": 0.75, "NFCorpus": 0.125}
    text = make_page({}, summarize([score("m", task, value) for task, value in values.items()]))
    assert set(re.findall(r">(0\.\d{3})<", figure_of(text, "types"))) == {"0.500", "0.125"}
    assert all(f">{task}<" in figure_of(text, "tasks") for task in values)
