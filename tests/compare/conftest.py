"""Small studies, carried out as a user would; every run is a process of its own."""

import json
import os
import signal
import threading
import time

import psutil
import pytest

from tamft import registry
from tamft.compare.command import main
from tamft.compare.worker import LOCK, LOG
from tests.compare import small
from tests.tiny import save_tiny_bert


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """Other people's optimizers that a plan names are forgotten again."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))


THREADS = ["--num_cpu_threads_per_process", "1"]


@pytest.fixture(scope="session")
def plan_file(tmp_path_factory):
    """A plan of 3 optimizers x 3 rates x 2 seeds, with its data and its model."""
    folder = tmp_path_factory.mktemp("plan")
    return small.write_plan(folder, small.content(save_tiny_bert(folder / "bert")))


def kill_run(pid):
    """End the process of a run, without a word."""
    os.kill(pid, signal.SIGKILL)


def kill_node(pid):
    """End the process of a run and the worker of Ray that started it: run, server of forks, Ray's worker."""
    worker = psutil.Process(pid).parent().parent()
    assert "ray::" in worker.cmdline()[0]
    worker.kill()
    kill_run(pid)


def kill_one(folder, kill, killed, done):
    """Kill the first run that has begun."""
    while not done.is_set():
        for lock in folder.glob(f"runs/*/{LOCK}"):
            log = lock.with_name(LOG)
            begun = log.exists() and "--- attempt" in log.read_text(encoding="utf-8")  # else there is nothing to count
            if begun and (text := lock.read_text(encoding="utf-8")):
                kill(json.loads(text)["pid"])
                killed.append(lock.parent.name)
                return
        time.sleep(0.01)


def carry_out(plan_file, folder, kill, *words):
    """`tamft compare` with two workers, one of which is killed: (folder, exit code, key of the killed run)."""
    killed, done = [], threading.Event()
    watcher = threading.Thread(target=kill_one, args=(folder, kill, killed, done))
    watcher.start()
    try:
        code = main([str(plan_file), "--output_dir", str(folder), "--jobs", "2", *THREADS, *words])
    finally:
        done.set()
        watcher.join()
    (key,) = killed
    return folder, code, key


@pytest.fixture(scope="session")
def killed_study(plan_file, tmp_path_factory):
    """A study of which one worker was killed: (folder, exit code, key of the killed run)."""
    return carry_out(plan_file, tmp_path_factory.mktemp("study") / "small", kill_run)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: what a shell starts in its background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
