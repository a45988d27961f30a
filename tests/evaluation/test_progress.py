"""One bar for a suite: where it is, how fast, how long. Nothing in a pipe."""

import io
import re
import sys

import pytest

from tamft.evaluation.progress import Progress, expected_texts
from tests.evaluation import tiny_tasks


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """After a call, errors go to a terminal. (Not before: pytest sets stderr anew between a fixture and its test.)"""

    def switch():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "120")
        return stream

    return switch


def test_what_a_terminal_shows(terminal, score, tiny_model):
    stream = terminal()
    score(tiny_model, tasks=[tiny_tasks.TinySTS(), tiny_tasks.TwoLanguages()])
    shown = stream.getvalue()
    assert "0/2 TinySTS · bert/model" in shown
    assert "1/2 TwoLanguages · bert/model" in shown
    assert re.search(r"\d texts/s|texts/s", shown)
    assert re.search(r"\[\d\d:\d\d<", shown)  # time spent, time left
    assert "TinySTS · bert/model: 0.3969" in shown
    assert "Batches" not in shown  # no other bar


def test_a_pipe_gets_lines_only(score, tiny_model, capsys):
    score(tiny_model, tasks=[tiny_tasks.TinySTS(), tiny_tasks.TwoLanguages()])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"(\w+ · bert/model: 0\.\d{4} \(\d+ s\)\n){2}", printed.err)


def test_the_total_follows_what_tasks_really_have(terminal):
    terminal()
    progress = Progress([(0, 0), (0, 1), (0, 2)], {0: 100, 1: 300, 2: None})
    assert progress._bar.total == 600  # the third is guessed to be like the others
    progress.texts(150)
    progress.end((0, 0), 150)
    assert progress._bar.total == 650
    progress.end((0, 1), 0)  # failed, or another evaluation did it
    assert progress._bar.total == 350
    progress.texts(200)
    progress.end((0, 2), 200)
    assert (progress._bar.n, progress._bar.total) == (350, 350)
    progress.close()


def test_more_texts_than_expected(terminal):
    terminal()
    progress = Progress([(0, 0)], {0: 10})
    progress.texts(25)
    assert progress._bar.total == 25
    progress.close()


def test_expected_texts_come_from_mtebs_statistics():
    from tamft.evaluation.tasks import get_tasks

    (sts,) = get_tasks(["STS13"])
    assert expected_texts(sts) == 1314 + 1355
    assert expected_texts(tiny_tasks.TinySTS()) is None
