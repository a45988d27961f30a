"""Who of several processes says what: run.json has the word of the one that failed, not of those that lost it."""

import errno

import pytest

from tamft.errors import InputError
from tamft.train import failures, record
from tamft.train.failures import (
    Diverged,
    Ended,
    RunError,
    consequence,
    keep_exit_code,
    leave_note,
    others_failure,
    tell,
)


@pytest.fixture
def as_process(monkeypatch):
    def be(rank, world=4):
        monkeypatch.setattr(failures, "RANK", rank)
        monkeypatch.setattr(failures, "WORLD", world)
        monkeypatch.setattr(failures, "GRACE", 0.0)

    return be


@pytest.fixture
def path(tmp_path):
    record.write_json(tmp_path / "run.json", {"status": "running", "error": None, "steps": 7})
    return tmp_path / "run.json"


def test_the_first_failure_counts(as_process, path):
    as_process(2)
    leave_note(path, "diverged", Diverged("the loss is nan"))
    as_process(3)
    leave_note(path, "failed", RuntimeError("Connection closed by peer"))
    assert record.read_json(path) == {
        "status": "diverged",
        "error": "process 2 of 4: Diverged: the loss is nan",
        "steps": 7,
    }
    as_process(0)
    assert others_failure(path) == {"status": "diverged", "error": "process 2 of 4: Diverged: the loss is nan"}
    found = consequence(path, RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1"))
    assert isinstance(found, Ended)
    assert str(found) == "process 2 of 4: Diverged: the loss is nan"


def test_an_interruption_is_no_failure(as_process, path):
    as_process(1)
    leave_note(path, "interrupted", KeyboardInterrupt())
    assert record.read_json(path)["status"] == "running"
    assert others_failure(path) is None


@pytest.mark.parametrize(
    "error", [RunError("own"), KeyboardInterrupt(), Diverged("own"), OSError(errno.ENOSPC, "full")]
)
def test_what_is_a_processs_own(as_process, path, error):
    as_process(0)
    assert consequence(path, error) is None
    as_process(0, world=1)
    assert consequence(path, RuntimeError("Connection closed by peer")) is None


def test_a_process_that_vanished(as_process, path):
    as_process(0)
    assert "ended without a word" in str(consequence(path, RuntimeError("Connection reset by peer")))


def test_lines_are_numbered_but_for_the_first_process(as_process, capsys):
    as_process(0)
    tell("error: x")
    as_process(3)
    tell("error: y")
    assert capsys.readouterr().err == "error: x\nprocess 3 of 4: error: y\n"


def test_exit_codes(as_process, tmp_path):
    file = str(tmp_path / "code")
    as_process(3)
    keep_exit_code(file, 0)
    keep_exit_code(None, 2)
    assert not (tmp_path / "code").exists()
    keep_exit_code(file, 2)
    as_process(0)
    keep_exit_code(file, 1)
    assert (tmp_path / "code").read_text() == "2"


class OneOfTwo:
    num_processes = 2

    def __init__(self, main):
        self.is_main_process = main


@pytest.mark.parametrize("error", [None, RunError("not trained"), InputError("bad")])
def test_work_of_the_main_process_fails_in_all(monkeypatch, error):
    sent = []

    def work():
        if error:
            raise error

    def broadcast(words):
        if words[0] is not None or not sent:
            sent.append(words[0])
        words[0] = sent[0]

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    for main, kind in ((True, type(error)), (False, Ended)):
        if error is None:
            failures.on_main(OneOfTwo(main), work)
        else:
            with pytest.raises(kind, match=str(error)):
                failures.on_main(OneOfTwo(main), work)
