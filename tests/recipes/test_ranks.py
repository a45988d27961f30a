"""Two processes: one of them gets SIGTERM, both save the same step; the lock belongs to the run, not to a process."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tamft.errors import InputError
from tamft.hf.checkpoints import checkpoints, problems
from tamft.train import lock, shipped
from tamft.train.launch import EXIT_FILE
from tests.conftest import ROOT
from tests.recipes.test_encoder_pairs import read


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes(tiny_model, rows_file, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--standalone"]
    words += [shipped.find_recipe("encoder_pairs")]
    words += ["--model", tiny_model, "--train_file", rows_file(), "--output_dir", folder, "--use_cpu", "true"]
    words += ["--max_steps", 100_000, "--save_strategy", "no", "--disable_tqdm", "true", "--optim", "adatamw_msam"]
    words += ["--per_device_train_batch_size", 4, "--logging_steps", 100_000]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([str(word) for word in words], env=env, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.time() + 200
        while not (folder / "run.json").exists() and time.time() < deadline and process.poll() is None:
            time.sleep(0.1)
        time.sleep(2)
        with pytest.raises(InputError, match="another run is writing there"):
            lock.check(folder)
        workers = [child for child in psutil.Process(process.pid).children() if "encoder_pairs" in str(child.cmdline())]
        second = next(child for child in workers if child.environ().get("RANK") == "1")
        second.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=120)[1]
    assert "terminated by SIGTERM: saved after step" in error
    (saved,) = checkpoints(folder)
    assert problems(saved, ranks=(0, 1), deep=True) == []
    assert read(folder)["status"] == "interrupted"
    assert not (folder / "run.lock").exists()


FAILING = """
import os, signal, sys
from tamft.errors import InputError
from tamft.train import failures, run
from tests.hf import small
from tests.recipes.program import load_recipe

kind, rank = sys.argv[1], int(sys.argv[2])


def fail(model, **kwargs):
    if kind == "bug":
        raise KeyError("a bug in the second process")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


make = run.PairsTrainer.__init__


def init(self, *args, **kwargs):
    if kind == "input" and failures.RANK == rank:
        raise InputError("rows.jsonl: there is no such file")
    make(self, *args, **kwargs)
    if failures.RANK == rank:
        self.add_callback(small.At("on_step_begin", 2, fail))


run.PairsTrainer.__init__ = init
sys.exit(run.command(load_recipe("encoder_pairs").main, sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code", "status", "told"),
    [
        ("bug", 1, "failed", "process 1 of 2: error: KeyError: 'a bug in the second process'"),
        ("killed", 1, "failed", "error: a process ended without a word: killed, or out of memory?"),
        ("input", 2, None, "process 1 of 2: error: rows.jsonl: there is no such file"),
    ],
)
def test_a_process_that_fails_is_named_and_the_others_end(tiny_model, rows_file, tmp_path, kind, code, status, told):
    program, folder, exit_file = tmp_path / "failing.py", tmp_path / "run", tmp_path / "code"
    program.write_text(FAILING)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--standalone", program, kind, 1]
    words += ["--model", tiny_model, "--train_file", rows_file(), "--output_dir", folder, "--use_cpu", "true"]
    words += ["--max_steps", 100_000, "--save_strategy", "no", "--disable_tqdm", "true", "--logging_steps", 100_000]
    words += ["--per_device_train_batch_size", 4]
    env = {**os.environ, "PYTHONPATH": str(ROOT), EXIT_FILE: str(exit_file)}
    done = subprocess.run([str(word) for word in words], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert int(exit_file.read_text()) == code
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith(told)]) == 1, done.stderr
    if status is None:
        assert not (folder / "run.json").exists()
        return
    record = read(folder)
    assert record["status"] == status
    assert record["error"].startswith("Ended: a process" if kind == "killed" else "process 1 of 2: KeyError")
    assert not (folder / "run.lock").exists()
    if kind == "bug":  # the other process says whose fault it was, and shows no traceback of its own
        assert len([line for line in lines if line.startswith("error: process 1 of 2: KeyError")]) == 1, done.stderr
        assert not [line for line in lines if line.startswith(("RuntimeError", "tamft.train"))]
