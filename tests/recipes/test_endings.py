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

from tamft.hf.checkpoints import checkpoints, problems
from tamft.train import run, shipped
from tests.conftest import ROOT
from tests.hf import small
from tests.recipes.test_encoder_pairs import read, weights
from tests.tiny import save_tiny_bert

SAVING = ["--save_strategy", "steps", "--save_steps", 2, "--max_steps", 6]


@pytest.fixture
def at(monkeypatch):
    """`at(step, action)`: every trainer that is made from now on has the callback; `at(0, None)` ends that."""
    make = run.PairsTrainer.__init__

    def install(step, action, event="on_step_begin"):
        def init(self, *args, **kwargs):
            make(self, *args, **kwargs)
            if action:
                self.add_callback(small.At(event, step, lambda model, **kwargs: action(model)))

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
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json", "training_texts.hashes"]
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
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json", "training_texts.hashes"]


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


def terminate(model):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="session")
def dropping_model(tmp_path_factory):
    """With dropout: a checkpoint that was not taken between two steps resumes with other random numbers."""
    return save_tiny_bert(tmp_path_factory.mktemp("dropout") / "bert", dropout=0.3)


@pytest.mark.parametrize("when", ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_evaluate"])
@pytest.mark.parametrize("name", ["adamw_torch", "adatamw_msam"])
def test_sigterm_saves_a_checkpoint_that_resumes_bitwise(recipe, at, dropping_model, rows_file, name, when):
    flags = ["--model", dropping_model, "--optim", name, "--max_steps", 6, "--gradient_accumulation_steps", 2]
    flags += ["--per_device_train_batch_size", 4, "--warmup_steps", 2]
    if when == "on_evaluate":
        flags += ["--eval_strategy", "steps", "--eval_steps", 3, "--eval_file", rows_file(name="eval.jsonl")]
    stopped = 3 if when == "on_evaluate" else 4
    # A save rounds the fused path's momentum in its last bit: the whole run is one that saved there as well.
    saved_there = ["--save_strategy", "steps", "--save_steps", stopped]
    whole = recipe(*flags, *(saved_there if name != "adamw_torch" else []), folder="whole")[2]
    at(3, terminate, when)
    code, error, folder = recipe(*flags)
    assert (code, error.splitlines()[-1]) == (143, f"terminated by SIGTERM: saved after step {stopped}")
    record = read(folder)
    assert (record["status"], record["steps"], record["model_dir"]) == ("interrupted", stopped, None)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"checkpoint-{stopped}",
        "run.json",
        "training_texts.hashes",
    ]
    assert problems(folder / f"checkpoint-{stopped}", deep=True) == []
    at(0, None)
    assert recipe(*flags, "--resume_from_checkpoint", "true")[0] == 0
    assert read(folder)["loss"] == read(whole)["loss"]
    expected = weights(whole / "model")
    assert all(torch.equal(value, expected[key]) for key, value in weights(folder / "model").items())


def test_sigterm_in_the_last_step_is_too_late_to_interrupt(recipe, at):
    at(3, terminate)
    code, _, folder = recipe("--max_steps", 4)
    assert (code, read(folder)["status"]) == (0, "complete")


def test_sigterm_twice(recipe, at):
    """Launchers of several processes pass it on to workers that have got it already."""
    at(3, lambda model: [terminate(model), terminate(model)])
    assert recipe("--max_steps", 6)[0] == 143


def test_sigterm_does_not_save_what_is_not_finite(recipe, at):
    def both(model):
        terminate(model)
        poison(model)

    at(3, both, "on_optimizer_step")
    code, error, folder = recipe("--max_steps", 6)
    assert (code, "not finite after step 4" in error, (folder / "checkpoint-4").exists()) == (1, True, False)


def test_the_handler_is_given_back(recipe):
    before = signal.getsignal(signal.SIGTERM)
    recipe()
    assert signal.getsignal(signal.SIGTERM) is before


def test_trainers_own_way_is_refused(recipe):
    before = signal.getsignal(signal.SIGTERM)
    code, error, folder = recipe("--enable_jit_checkpoint", "true")
    assert (code, "saves on SIGTERM by itself" in error, folder.exists()) == (2, True, False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_killed_while_the_new_model_takes_the_place_of_the_old_one(recipe, at):
    """Between the two moves there is only `.model.old`; a run that then fails must not lose it."""
    folder = recipe()[2]
    good = weights(folder / "model")
    (folder / "model").rename(folder / ".model.old")
    at(1, None)
    assert recipe("--overwrite_output_dir")[0] == 0
    (folder / "model").rename(folder / ".model.old")
    monkey = run.PairsTrainer.save_model
    try:
        run.PairsTrainer.save_model = lambda *args, **kwargs: 1 / 0
        with pytest.raises(ZeroDivisionError):
            recipe("--overwrite_output_dir")
    finally:
        run.PairsTrainer.save_model = monkey
    assert all(torch.equal(value, good[key]) for key, value in weights(folder / "model").items())


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
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json", "training_texts.hashes"]
    assert read(folder)["status"] == "failed"
    assert json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("through", "number", "code", "told"),
    [
        ("python", signal.SIGINT, 130, "interrupted"),
        ("python", signal.SIGTERM, 143, "terminated by SIGTERM: saved after step "),
        ("tamft train", signal.SIGTERM, 143, "terminated by SIGTERM: saved after step "),
    ],
)
def test_a_signal_in_a_shell(tiny_model, rows_file, tmp_path, through, number, code, told):
    """To the program itself, as a terminal or a batch system sends it."""
    folder = tmp_path / "run"
    flags = ["--model", tiny_model, "--train_file", rows_file(), "--output_dir", folder, "--use_cpu", "true"]
    flags += ["--max_steps", 100_000, "--save_strategy", "no", "--disable_tqdm", "true", "--logging_steps", 1000]
    begin = (
        [shipped.find_recipe("encoder_pairs")] if through == "python" else ["-m", "tamft.cli", "train", "encoder_pairs"]
    )
    command = [str(word) for word in (sys.executable, *begin, *flags)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        deadline = time.time() + 300
        while not (folder / "run.json").exists() and time.time() < deadline and process.poll() is None:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(number)
        error = process.communicate(timeout=120)[1]
    assert process.returncode == code
    assert error.splitlines()[-1].startswith(told)
    assert read(folder)["status"] == "interrupted"
    saved = checkpoints(folder)
    assert [problems(path) for path in saved] == ([[]] if code == 143 else [])
