"""A run that trained nothing, or did not save what it trained, fails and says so: each guard is made to fire."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tamft.train import guards, models, run
from tests.hf import small
from tests.recipes.test_encoder_pairs import read, weights

LORA = ["--lora_r", 4, "--learning_rate", 0.01]


@pytest.fixture
def at_end(monkeypatch):
    """`at_end(action)`: called with the model after the last step."""
    make = run.PairsTrainer.__init__

    def install(action):
        def init(self, *args, **kwargs):
            make(self, *args, **kwargs)
            self.add_callback(small.At("on_train_end", 4, lambda model, **kwargs: action(model)))

        monkeypatch.setattr(run.PairsTrainer, "__init__", init)

    return install


@pytest.fixture
def spoil(monkeypatch):
    """`spoil(action)`: called with the folder that Trainer has just saved the final model into."""
    real = run.PairsTrainer.save_model

    def install(action):
        def save_model(self, output_dir=None, _internal_call=False):
            real(self, output_dir, _internal_call)
            action(self, output_dir)

        monkeypatch.setattr(run.PairsTrainer, "save_model", save_model)

    return install


def refused(result, *words):
    """The run failed with these words, in one line and in run.json; nothing is called `model`, and it is not lost."""
    code, error, folder = result
    record = read(folder)
    assert (code, record["status"], record["model_dir"]) == (1, "failed", None), error
    line = error.split("\r")[-1].splitlines()[-1]
    for word in words:
        assert word in line, line
        assert word in record["error"]
    assert not (folder / "model").exists()
    assert (folder / "model.rejected" / "modules.json").is_file()
    assert "model.rejected" in line
    return record


def test_what_a_good_run_says(recipe):
    for name, flags in (("encoder_pairs", []), ("llm_lora", [*LORA, "--save_merged", "true"])):
        checks = read(recipe(*flags, name=name, folder=name)[2])["checks"]
        assert checks["embeddings_changed"] > 1e-4
        assert checks["saved_apart"] < 1e-6
        assert checks["not_checked"] is None


@pytest.mark.parametrize(("name", "flags"), [("encoder_pairs", []), ("llm_lora", LORA)])
def test_no_learning_rate(recipe, name, flags):
    record = refused(recipe(*flags, "--learning_rate", 0, name=name), "changed nothing", "The learning rate was 0")
    assert record["checks"]["embeddings_changed"] == 0


def test_a_learning_rate_that_is_too_small(recipe):
    refused(recipe("--learning_rate", 1e-12), "changed nothing: after 4 steps", "a higher --learning_rate")


def test_an_adapter_of_zeros(recipe, at_end):
    def zero(model):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.zeros_(parameter)

    at_end(zero)
    refused(recipe(*LORA, name="llm_lora"), "changed nothing", "B matrices are still zero")


def test_a_save_that_drops_the_adapter(recipe, spoil, tiny_model):
    def drop(trainer, folder):
        shutil.rmtree(folder)
        shutil.copytree(tiny_model, folder)

    spoil(drop)
    refused(recipe(*LORA, name="llm_lora"), "not what was trained: model gives the embeddings of the base model")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    from tests.tiny import save_tiny_bert

    return save_tiny_bert(tmp_path_factory.mktemp("other") / "bert", seed=1)


def edit(name, key, value):
    def action(trainer, folder):
        path = Path(folder) / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return action


def test_an_adapter_over_another_base(recipe, spoil, other_model):
    spoil(edit("adapter_config.json", "base_model_name_or_path", str(other_model)))
    refused(recipe(*LORA, name="llm_lora"), "gives other embeddings than the trained model", "base_model_name_or_path")


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("config_sentence_transformers.json", "prompts", {"query": "q: "}, "has prompts {'query': 'q: '"),
        ("tokenizer_config.json", "model_max_length", 7, "has maximum length 7"),
        ("1_Pooling/config.json", "pooling_mode", "cls", "has modules"),
    ],
)
def test_settings_that_were_not_stored(recipe, spoil, file, key, value, words):
    spoil(edit(file, key, value))
    record = refused(recipe("--document_prompt", "text: "), "not what was trained", words)
    assert record["checks"]["embeddings_changed"] > 0


def test_a_model_that_cannot_be_loaded(recipe, spoil):
    def cut(trainer, folder):
        os.truncate(f"{folder}/model.safetensors", 1000)

    spoil(cut)
    refused(recipe(), "the saved model cannot be loaded")


def test_an_earlier_model_stays_and_the_next_good_run_tidies_up(recipe):
    good = weights(recipe()[2] / "model")
    code, _, folder = recipe("--learning_rate", 0, "--overwrite_output_dir")
    assert (code, read(folder)["status"], (folder / "model.rejected").is_dir()) == (1, "failed", True)
    assert all(torch.equal(value, good[key]) for key, value in weights(folder / "model").items())
    code, _, _ = recipe("--overwrite_output_dir")
    assert (code, (folder / "model.rejected").exists()) == (0, False)


def test_a_merged_model_that_is_not_the_adapters(recipe, monkeypatch):
    from tamft.train import lora

    real = lora.save_merged

    def base_instead(adapter, *args, **kwargs):
        folder = real(adapter, *args, **kwargs)
        shutil.copyfile(f"{read(adapter.parent)['base_model']['name']}/model.safetensors", folder / "model.safetensors")
        return folder

    monkeypatch.setattr(lora, "save_merged", base_instead)
    code, error, folder = recipe(*LORA, "--save_merged", "true", name="llm_lora")
    assert (code, read(folder)["status"]) == (1, "failed")
    assert "not what was trained: merged gives the embeddings of the base model" in error
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["merged.rejected", "model"]


def test_nothing_to_train_is_refused_before_training(recipe, monkeypatch):
    real = models.load_model

    def frozen(*args, **kwargs):
        return real(*args, **kwargs).requires_grad_(False)

    monkeypatch.setattr(models, "load_model", frozen)
    code, error, folder = recipe()
    assert (code, folder.exists()) == (2, False)
    assert error.startswith("error: nothing can be trained: all weights of the model are frozen")


def test_resumed_runs_are_compared_with_the_base_too(recipe):
    saving = ["--save_strategy", "steps", "--save_steps", 2]
    whole = recipe(*saving, folder="whole")[2]
    part = recipe(*saving, folder="part")[2]
    shutil.rmtree(part / "model")
    shutil.rmtree(part / "checkpoint-4")
    assert recipe(*saving, "--resume_from_checkpoint", "true", folder="part")[0] == 0
    assert read(part)["checks"] == read(whole)["checks"]


def test_no_room_for_a_second_copy_is_said(recipe, monkeypatch):
    monkeypatch.setattr(guards, "ROOM", 1e9)
    code, _, folder = recipe()
    checks = read(folder)["checks"]
    assert (code, checks["saved_apart"]) == (0, None)
    assert checks["embeddings_changed"] > 0
    assert checks["not_checked"].startswith("no memory for a second copy")


def test_running_out_of_memory_on_the_second_copy_costs_no_model(recipe, monkeypatch):
    def load(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(guards.Guard, "_load", load)
    code, _, folder = recipe()
    assert (code, (folder / "model" / "modules.json").is_file()) == (0, True)
    assert read(folder)["checks"]["not_checked"].startswith("no memory for a second copy")


def test_rounding_of_autocast_does_not_pass_for_training(recipe):
    refused(recipe("--learning_rate", 0, "--bf16", "true"), "changed nothing")
