"""The page in a real browser: nothing on the console, nothing fetched, nothing wider than a phone's screen."""

import pytest

from tamft.evaluation.report.html import make_page, write_page
from tamft.evaluation.report.runs import read_run
from tamft.evaluation.summary import summarize
from tests.browser import TOO_WIDE, Browser, find_browser
from tests.evaluation.making import record
from tests.evaluation.report.making import a_run

pytest.importorskip("matplotlib")
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no chromium here (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Much of everything: long names, many models, three runs, warnings, what is missing, a name that is an attack."""
    folder = tmp_path_factory.mktemp("page")
    names = ["adamw_torch", "a-very-long-optimizer-name-" + "x" * 60, "<img src=http://example.com/x onerror=alert(1)>"]
    runs = {name: read_run(a_run(folder / str(i), name, seed=i)) for i, name in enumerate(names)}
    models = ["base", *names, "organisation/" + "m" * 70, *(f"model {i}" for i in range(5))]
    tasks = [
        "STS12",
        "STS13",
        "NFCorpus",
        "Banking77Classification",
        "ALongNameWithoutASpace" * 4,
        "EmbeddedSTS",
        "$x^{$",
    ]
    rows = [record(m, t, 0.3 + 0.05 * i + 0.01 * j) for i, m in enumerate(models) for j, t in enumerate(tasks)]
    rows[3] |= {"status": "failed", "main_score": None, "reason": "RuntimeError: " + "y" * 200}
    rows[8] |= {"dataset_revision": "0" * 40, "command": "tamft eval " + "z" * 300}
    text = make_page(runs, summarize(rows, names={m: m for m in models}), command="tamft report " + "w" * 200)
    write_page(text, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        found = {}
        for width in (390, 1440):
            browser.open(page, width=width)
            browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            found[width] = {
                "wide": browser.evaluate(TOO_WIDE),
                "headings": browser.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)"),
                "figures": browser.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.clientHeight)"),
                "names": browser.evaluate(
                    "[...document.querySelectorAll('svg')].map(s => s.getAttribute('aria-label'))"
                ),
                "scrolls": browser.evaluate(
                    "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth)"
                ),
                "background": browser.evaluate("getComputedStyle(document.body).backgroundColor"),
            }
        browser.open(page, width=390, dark=True)
        found["dark"] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        return {**found, "console": browser.console, "requests": browser.requests}


@needs_browser
def test_the_console_is_silent_and_nothing_is_fetched(seen, page):
    assert seen["console"] == []
    assert set(seen["requests"]) == {page.resolve().as_uri()}


@needs_browser
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(seen, width):
    assert seen[width]["wide"] == []


@needs_browser
def test_wide_tables_scroll_in_their_own_box_on_a_phone(seen):
    assert seen[390]["scrolls"] == [True, True]


@needs_browser
def test_figures_are_drawn_and_have_names_and_headings_are_in_order(seen):
    assert len(seen[390]["figures"]) == 5
    assert min(seen[390]["figures"]) > 100
    assert all(seen[390]["names"])
    assert seen[390]["headings"] == ["H1", *["H2"] * (len(seen[390]["headings"]) - 1)]


@needs_browser
def test_there_is_a_light_page_and_a_dark_one(seen):
    light, dark = ([int(v) for v in c[4:-1].split(",")] for c in (seen[390]["background"], seen["dark"]))
    assert sum(light) > 600 > 200 > sum(dark)


@needs_browser
def test_the_check_of_widths_can_fail(page, tmp_path):
    text = page.read_text(encoding="utf-8").replace("<main>", '<main><p style="width:700px">wide</p>')
    (tmp_path / "wide.html").write_text(text, encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "wide.html", width=390)
        assert browser.evaluate(TOO_WIDE)
        browser.evaluate("fetch('http://127.0.0.1:9/x').catch(() => 1)")
        assert browser.console, "the page's policy forbids fetching and says so"
