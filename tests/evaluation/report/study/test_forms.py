"""The page, Markdown, CSV and terminal of a study show its numbers, in words that claim no more than they may."""

import csv
import io
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
from scipy import stats

from tamft.cli import main
from tamft.evaluation.report.study import html, table, text
from tamft.evaluation.report.study.files import read_study
from tamft.evaluation.study.runs import make_study
from tests.browser import TOO_WIDE, Browser, find_browser
from tests.conftest import ROOT
from tests.evaluation.report.test_html import Page
from tests.evaluation.study.making import CONFIRM, TASKS, a_plan, diverge, some_rows, the_study, write_study


@pytest.fixture(scope="module")
def raw():
    return the_study()


@pytest.fixture(scope="module")
def study(raw):
    return make_study(*raw)


@pytest.fixture(scope="module")
def made(study):
    return html.make_page(study, command="tamft report x")


@pytest.fixture(scope="module")
def page(made):
    return Page(made)


def means(rows, arm):
    found = {r["seed"]: r for r in rows if (r["arm"], r["stage"]) == (arm, "confirm") and r["status"] == "complete"}
    return np.array([np.mean([found[s]["scores"][t] for t in TASKS]) for s in CONFIRM if s in found])


def test_the_page_has_the_numbers(raw, page):
    _, rows = raw
    mine, theirs = means(rows, "adatamw"), means(rows, "adamw_torch")
    d = mine - theirs
    low, high = stats.t.interval(0.95, 6, loc=d.mean(), scale=stats.sem(d))
    row = next(r for r in page.rows if r and r[0] == "adatamw|optimizer")
    assert row[1:4] == ["equivalent", f"{mine.mean():.4f}", f"{d.mean():+.4f}|{low:+.4f} to {high:+.4f}"]
    assert row[6] == "7"
    assert next(r for r in page.rows if r and r[0].startswith("base model"))[2] == "0.8075"
    assert next(r for r in page.rows if r and r[0] == "lion|optimizer")[6] == "6 (1 diverged)"


def test_verdicts_come_first_and_provenance_last(made, raw):
    order = [made.index(part) for part in ("equivalent to", ">Comparison<", "<svg", ">Provenance<", raw[0]["hash"])]
    assert order == sorted(order)
    words = " ".join(Page(made).text)
    for part in (
        "da7a" * 16,
        "torch 2.13.0",
        "a processor",
        "tamft report x",
        "DevIntents @ 45eed",
        "11, 12, 13",
        "scipy",
    ):
        assert part in words
    for limit in table.LIMITS:
        assert limit in words


def test_the_page_is_self_contained(made, page):
    assert len(page.ids) == len(set(page.ids)) > 10
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"<script|@import|http-equiv=.refresh", made)
    assert made.count("<svg") == 7


SENTENCES = {
    "adatamw": r"^adatamw is equivalent to adamw_torch: -0\.\d{4} \(95 % interval .* 7 seeds\), so within ±0\.006; adj",
    "adamw_msam": r"^adamw_msam: undecided against adamw_torch\. \+0\.\d{4} .* adjusted p 0\.\d{3} for a difference "
    r"and 0\.\d{3} for equivalence within ±0\.006\. 7 seeds are enough for a true difference of 0 or of ±0\.006",
    "lion": r"^lion is worse than adamw_torch: -0\.\d{4} .* adjusted p < 0\.001\. The arm diverged in 1 of 7 pairs, "
    "which cannot be averaged away",
}


@pytest.mark.parametrize("arm", SENTENCES)
def test_sentences_say_what_was_found(study, arm):
    assert re.search(SENTENCES[arm], table.sentence(study, arm))


def test_with_one_configuration_nothing_is_called_tuned():
    plans = [a_plan(), a_plan(trials=1)]
    asked = [table.question(make_study(plan, some_rows(plan))) for plan in plans]
    assert ["tuned with the same 3 trials" in text for text in asked] == [True, False]
    assert "with one configuration each, so nothing tuned" in asked[1]


def sentence(arm="adatamw", rows=None, **changes):
    plan = a_plan(**changes)
    return table.sentence(make_study(plan, rows(plan) if rows else some_rows(plan)), arm)


def test_undecided_says_how_many_seeds_would_decide():
    assert re.search(r"undecided .* about \d+ fresh seeds would recognise", sentence("adamw_msam", delta=0.003))
    assert "more than 1,000 seeds would be needed" in sentence("adamw_msam", delta=0.0001)


def test_no_sentence_claims_what_one_seed_or_an_unfinished_study_cannot_show():
    seeds = {"screen": [1, 2], "confirm": [11], "aa": [18]}
    one = sentence("lion", seeds=seeds)
    assert one.startswith("lion: no inference possible. One seed shows no spread")
    assert "Observed: -0.0" in one
    unfinished = sentence("lion", rows=lambda plan: some_rows(plan)[:-8])
    assert unfinished.startswith("lion: not finished. 1 of 7 pairs is not there yet")
    assert "So far -0.0" in unfinished
    nothing = sentence("lion", rows=lambda plan: some_rows(plan)[:3])
    assert nothing == "lion: not finished. 7 of 7 pairs are not there yet; numbers so far are no verdict."
    for words in (one, unfinished, nothing):
        assert not re.search("better|worse|equivalent|adjusted p", words)
    lost = sentence("lion", rows=lambda plan: [diverge(r) if r["arm"] == "lion" else r for r in some_rows(plan)])
    assert lost == (
        "lion: undecided against adamw_torch. The arm diverged in 7 of 7 pairs, which cannot be averaged away."
    )


def test_better_is_said_as_plainly():
    said = sentence("adamw_msam", rows=lambda plan: some_rows(plan, gains={"adamw_msam": 0.03}))
    assert said.startswith("adamw_msam is better than adamw_torch: +0.0")


def test_csv_has_every_number_and_verdicts_for_the_suite_alone(raw, study):
    lines = list(csv.DictReader(io.StringIO(text.as_csv(study))))
    suite = {line["arm"]: line for line in lines if line["part"] == "suite"}
    assert list(suite) == ["base model", "adamw_torch", *list(TASKS and study.verdicts), *study.controls]
    d = means(raw[1], "adamw_msam") - means(raw[1], "adamw_torch")
    assert float(suite["adamw_msam"]["difference"]) == pytest.approx(d.mean())
    assert float(suite["adamw_msam"]["sd"]) == pytest.approx(d.std(ddof=1))
    assert float(suite["adamw_msam"]["p"]) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert suite["lion"]["verdict"] == "worse"
    assert suite["lion"]["diverged"] == "1"
    assert {line["verdict"] for line in lines if line["part"] != "suite" or line["role"] != "optimizer"} == {""}
    assert {line["p"] for line in lines if line["part"] != "suite"} == {""}
    tasks = [line for line in lines if line["part"] == "task" and line["arm"] == "lion"]
    assert {line["tasks"]: line["type"] for line in tasks} == {name: kind for name, (kind, _) in TASKS.items()}


def test_markdown_has_sentences_tables_and_provenance_and_repeats_itself(study, raw):
    made = text.markdown(study)
    assert made == text.markdown(make_study(*raw))
    assert "- adatamw is equivalent to adamw_torch" in made
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in made.splitlines() if line.startswith("| adatamw ")}
    assert widths >= {15, 10}
    assert raw[0]["hash"] in made


def test_the_terminal_shows_verdicts(tmp_path, raw, capsys):
    assert main(["report", str(write_study(tmp_path / "s", *raw))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "adatamw is equivalent to adamw_torch" in out
    assert "WARNING adatamw: the optimum is on the border" in out
    assert "0.8075" in out


def test_a_folder_gets_everything(tmp_path, raw, capsys):
    folder = write_study(tmp_path / "s", *raw)
    assert main(["report", str(folder), "--out", f"{folder}/report/"]) == 0
    names = {path.name for path in (folder / "report").iterdir()}
    figures = {"forest", "tasks", "sensitivity", "best_of_k", "loss", "alignment", "damping"}
    assert names == {"report.html", "report.md", "report.csv", "report.jsonl", *(f"{f}.svg" for f in figures)}
    for figure in figures:
        drawn = (folder / "report" / f"{figure}.svg").read_text(encoding="utf-8")
        assert drawn.startswith("<svg ")
        assert "var(--" not in drawn
        assert 'xmlns="http://www.w3.org/2000/svg"' in drawn
        ET.fromstring(drawn)
        assert "adatamw" in drawn  # a file of its own has no caption that says what is which
    assert "67 runs, 3 optimizers" in capsys.readouterr().err


def figure_of(made, name):
    return re.search(rf'<svg[^>]*>(?:(?!</svg>).)*id="{name}-axes_1".*?</svg>', made, re.DOTALL)[0]


def test_arms_that_are_compared_never_look_alike():
    names = [f"arm {i}" for i in range(9)]
    plan = a_plan()
    plan["optimizers"] |= dict.fromkeys(names, plan["optimizers"]["adatamw"])
    study = make_study(plan, some_rows(a_plan()))
    number = table.numbers(study)
    assert len(number) > 12 and number[study.baseline.name] is None
    looks = {name: html.page.key(number[name]) for name in number}
    assert len(set(looks.values())) == len(looks)
    judged = [*study.verdicts, *study.controls]
    colours = {re.search(r"--s\d", looks[name])[0] for name in judged if name != study.baseline.name}
    assert len(colours) == min(8, len(judged))


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        (lambda r: r["scores"].update(STS12=0.1), {"forest", "tasks"}),
        (
            lambda r: [r["loss"][3].__setitem__(1, 1.9), r["telemetry"][3][1].update(damping_q90=0.9)],
            {"loss", "damping"},
        ),
        (lambda r: r["telemetry"][3][1].update(alignment_mean=0.9), {"alignment"}),
    ],
)
def test_figures_are_drawn_from_the_runs(made, change, figures):
    plan, rows = the_study()
    change(next(r for r in rows if (r["arm"], r["stage"], r["seed"]) == ("adatamw", "confirm", 12)))
    after = html.make_page(make_study(plan, rows))
    names = ("forest", "tasks", "sensitivity", "best_of_k", "loss", "alignment", "damping")
    assert {name for name in names if figure_of(made, name) != figure_of(after, name)} == figures


def test_the_search_is_drawn_from_the_screening(made):
    plan, rows = the_study()
    next(r for r in rows if r["stage"] == "screen" and r["learning_rate"] == 1e-4)["selection"] = 0.5
    after = html.make_page(make_study(plan, rows))
    for name in ("sensitivity", "best_of_k"):
        assert figure_of(made, name) != figure_of(after, name)
    assert figure_of(made, "forest") == figure_of(after, "forest")


def test_a_study_that_has_begun_has_a_page(raw):
    plan, rows = raw
    for count in (1, 4, 20, 30):
        words = " ".join(Page(html.make_page(make_study(plan, rows[:count]))).text)
        assert "not finished" in words


def attack(raw):
    """A study whose names are attacks, and long ones."""
    evil, long = "<img src=http://example.com/x onerror=alert(1)>|`$x^{$", "a-very-long-name-" + "x" * 50
    plan, rows = raw
    names = {"adatamw": evil, "adatamw gamma=1": f"{evil} gamma=1", "lion": long, "STS12": "T" * 80, "STS13": evil}

    def renamed(value):
        if isinstance(value, dict):
            return {names.get(k, k): renamed(v) for k, v in value.items()}
        if isinstance(value, list):
            return [renamed(v) for v in value]
        return names.get(value, value) if isinstance(value, str) else value

    plan, rows = renamed(plan), [renamed(row) for row in rows]
    plan |= {"name": evil, "description": long * 4, "model": evil}
    return plan, [row | {"error": evil, "device": evil} for row in rows]


def test_names_are_text(raw):
    made = html.make_page(make_study(*attack(raw)))
    assert "<img" not in made
    assert "onerror" in " ".join(Page(made).text)
    markdown = text.markdown(make_study(*attack(raw)))
    assert not re.search(r"(?<!\\)<img", markdown)


@pytest.mark.skipif(find_browser() is None, reason="no chromium here (Debian: apt install chromium)")
def test_pages_in_a_browser(raw, tmp_path):
    pages = {"plain": raw, "attack": attack(raw), "begun": (raw[0], raw[1][:30])}
    ours = [file.parent for file in (ROOT / "eval" / "results").glob("*/*/study.jsonl")]
    pages |= {folder.name: read_study(folder) for folder in ours}
    assert "minilm-intents" in pages
    with Browser(tmp_path / "profile") as browser:
        for name, content in pages.items():
            file = tmp_path / f"{name}.html"
            file.write_text(html.make_page(make_study(*content), command="tamft report " + "w" * 200), encoding="utf-8")
            for width in (390, 1440):
                browser.open(file, width=width)
                assert browser.evaluate(TOO_WIDE) == [], (name, width)
                heights = browser.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.clientHeight)")
                assert min(heights) > 60  # a forest of one line, on a phone
        assert browser.console == []
        assert all(url.startswith("file:") for url in browser.requests)
