"""How a run can end before its time: NaN, Ctrl-C, a full disk, a bug."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import TrainerCallback

from tamft.train import run, shipped
from tests.recipes.test_encoder_pairs import read, weights

SAVING = ["--save_strategy", "steps", "--save_steps", 2, "--max_steps", 6]


class At(TrainerCallback):
    """Does something to the model when a step begins."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.action(model)


@pytest.fixture
def at(monkeypatch):
    """`at(step, action)`: every trainer that is made from now on has the callback; `at(0, None)` ends that."""
    make = run.PairsTrainer.__init__

    def install(step, action):
        def init(self, *args, **kwargs):
            make(self, *args, **kwargs)
            if action:
                self.add_callback(At(step, action))

        monkeypatch.setattr(run.PairsTrainer, "__init__", init)

    return install


def poison(model):
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def test_nan_loss(recipe, at):
    at(3, poison)
    code, error, folder = recipe(*SAVING)
    record = read(folder)
    assert (code, record["status"], record["steps"], record["model_dir"]) == (1, "diverged", 3, None)
    assert "the loss is nan in step 4" in error
    assert "the loss is nan in step 4" in record["error"]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json"]
    assert all(torch.isfinite(value).all() for value in weights(folder / "checkpoint-2").values())


def test_nan_loss_at_once_leaves_the_good_model(recipe, at):
    good = weights(recipe()[2] / "model")
    at(0, poison)
    code, _, folder = recipe("--overwrite_output_dir")
    assert (code, read(folder)["status"]) == (1, "diverged")
    assert all(torch.equal(value, good[key]) for key, value in weights(folder / "model").items())


def test_nan_weights_are_not_saved(recipe, monkeypatch):
    # a finite loss with gradients that are not: the optimizer writes them into the weights just before the save
    real = run.RunCallback.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            poison(self.trainer.model)
        real(self, args, state, control, **kwargs)

    monkeypatch.setattr(run.RunCallback, "on_step_end", on_step_end)
    code, error, folder = recipe(*SAVING)
    assert (code, read(folder)["status"]) == (1, "diverged")
    assert "not finite after step 4" in error
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json"]


def interrupt(model):
    raise KeyboardInterrupt


def test_interrupt_then_resume(recipe, at):
    whole = recipe(*SAVING, folder="whole")[2]
    at(3, interrupt)
    code, error, folder = recipe(*SAVING)
    assert (code, error.splitlines()[-1].split()[-1], read(folder)["status"]) == (130, "interrupted", "interrupted")
    at(0, None)
    code, error, _ = recipe(*SAVING)
    assert (code, "unfinished run" in error) == (2, True)
    code, _, _ = recipe(*SAVING, "--resume_from_checkpoint", "true")
    assert (code, read(folder)["status"], read(folder)["loss"]) == (0, "complete", read(whole)["loss"])
    expected = weights(whole / "model")
    assert all(torch.equal(value, expected[key]) for key, value in weights(folder / "model").items())


def test_interrupt_in_the_first_resumed_step_keeps_the_checkpoint(recipe, at):
    folder = recipe(*SAVING)[2]
    shutil.rmtree(folder / "checkpoint-6")
    at(4, interrupt)
    assert recipe(*SAVING, "--resume_from_checkpoint", "true")[0] == 130
    assert (folder / "checkpoint-4" / "trainer_state.json").is_file()


def test_a_bug_is_recorded_and_not_hidden(recipe, at, tmp_path):
    def bug(model):
        raise ZeroDivisionError("a bug")

    at(3, bug)
    with pytest.raises(ZeroDivisionError):
        recipe()
    record = read(tmp_path / "run")
    assert (record["status"], record["error"]) == ("failed", "ZeroDivisionError: a bug")


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [40, 150])
def test_full_disk(recipe, run_python, tmp_path, tiny_model, blocks):
    """`ulimit -f` stands for the full disk: the model (40 kB), or the optimizer (150 kB), does not fit into a file."""
    folder = recipe("--save_strategy", "steps", "--save_steps", 2, "--max_steps", 2)[2]
    sizes = {name: (folder / "checkpoint-2" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")}
    assert 41_000 < sizes["model.safetensors"] < 153_600 < sizes["optimizer.pt"], sizes
    shutil.rmtree(folder / "model")
    program = f"""
import resource, sys
from tamft.train import run, shipped
from tests.recipes.program import load_recipe
resource.setrlimit(resource.RLIMIT_FSIZE, ({blocks * 1024}, {blocks * 1024}))
sys.exit(run.command(load_recipe("encoder_pairs").main, sys.argv[1:]))
"""
    flags = [
        "--model",
        tiny_model,
        "--train_file",
        tmp_path / "default.jsonl",
        "--output_dir",
        folder,
        "--use_cpu",
        "true",
    ]
    flags += ["--max_steps", 4, "--save_steps", 2, "--per_device_train_batch_size", 8, "--learning_rate", 1e-3]
    flags += ["--disable_tqdm", "true", "--resume_from_checkpoint", "true"]
    result = run_python("-c", program, *flags)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert lines[-1].startswith(f"error: {folder}: cannot write: ")
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json"]
    assert read(folder)["status"] == "failed"
    assert json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.slow
def test_ctrl_c_in_a_shell(tiny_model, rows_file, tmp_path):
    """SIGINT to the program itself, as a terminal sends it."""
    folder = tmp_path / "run"
    flags = ["--model", tiny_model, "--train_file", rows_file(), "--output_dir", folder, "--use_cpu", "true"]
    flags += ["--max_steps", 100_000, "--save_strategy", "no", "--disable_tqdm", "true", "--logging_steps", 1000]
    command = [sys.executable, shipped.find_recipe("encoder_pairs"), *flags]
    with subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        deadline = time.time() + 300
        while not (folder / "run.json").exists() and time.time() < deadline and process.poll() is None:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted"
    assert read(folder)["status"] == "interrupted"
