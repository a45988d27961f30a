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
