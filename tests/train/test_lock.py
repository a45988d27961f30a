"""Two runs in one folder: the second is told who is there; a run that was killed holds nobody up."""

import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from tamft.errors import InputError
from tamft.train import lock
from tests.conftest import ROOT

HOLDER = """
import pathlib, sys, time
from tamft.train import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_is_there(tmp_path, holder):
    who = (
        rf"another run is writing there \(process {holder.pid} on {platform.node()}, since 20\d\d-.*take another folder"
    )
    with pytest.raises(InputError, match=who):
        lock.check(tmp_path)
    with pytest.raises(InputError, match=who), lock.hold(tmp_path):
        raise AssertionError
    with pytest.raises(InputError, match=who):  # asking did not end the other's lock
        lock.check(tmp_path)
    holder.communicate("\n")
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path):
        pass


def test_a_killed_run_holds_nobody_up(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run.lock").exists()
    lock.check(tmp_path)
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_workers_do_not_inherit_it(tmp_path):
    """A data loader's worker outlives its killed parent by seconds."""
    child = os.fork()
    if child == 0:
        with lock.hold(tmp_path):
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    lock.check(tmp_path)


def test_two_runs_of_one_process(tmp_path):
    with lock.hold(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} "), lock.hold(tmp_path):
        raise AssertionError
    with lock.hold(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}'])
def test_what_stands_in_the_file_does_not_matter(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    with lock.hold(tmp_path):
        pass


def test_a_file_that_was_removed_between_open_and_lock(tmp_path, monkeypatch):
    real, calls = lock._lock, []

    def first_removes(path, stream):
        if not calls:
            path.unlink()
        calls.append(stream)
        real(path, stream)

    monkeypatch.setattr(lock, "_lock", first_removes)
    with lock.hold(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / "run.lock").exists()


def test_a_recipe_is_refused_before_it_loads_anything(tmp_path, holder):
    from transformers import TrainingArguments

    from tamft.train import run

    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(InputError, match="another run"):
        run.prepare_output(args, overwrite=True)
