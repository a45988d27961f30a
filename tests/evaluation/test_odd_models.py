"""Models with something missing or damaged: the score of what was meant, or a refusal that says why."""

import json
import shutil

import pytest

from tamft.errors import InputError

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def remove(model, *patterns):
    for path in [path for pattern in patterns for path in model.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def keep_weights(model, wanted):
    from safetensors.torch import load_file, save_file

    weights = {name: tensor for name, tensor in load_file(model / "model.safetensors").items() if wanted(name)}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def to_pickle(model):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def truncate(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSED = {
    "no pooling config": (lambda m: remove(m, "*Pooling/*"), "1_Pooling/config.json is missing"),
    "truncated weights": (truncate, "is damaged"),
    "no weights": (lambda m: remove(m, "*.safetensors"), "has no weights"),
}
FAILED = {
    "no tokenizer": (lambda m: remove(m, "tokenizer*", "vocab*"), "its tokenizer knows no words"),
    "no vocabulary": (lambda m: remove(m, "tokenizer.json"), "its tokenizer knows no words"),
    "no config": (lambda m: remove(m, "config.json"), "Should have a `model_type` key"),
    "half the weights": (
        lambda m: keep_weights(m, lambda name: "layer.1" not in name),
        "16 of its weights are not in model.safetensors, for example 'encoder.layer.1.",
    ),
}
SCORED = {
    "no tokenizer_config": lambda m: remove(m, "tokenizer_config.json"),
    "no pooler": lambda m: keep_weights(m, lambda name: "pooler" not in name),
    "pickled weights": to_pickle,
    "no modules": lambda m: remove(m, "modules.json", "*Pooling", "config_sentence*", "sentence*"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_work(score, model, forbid_loading, name):
    change, said = REFUSED[name]
    change(model)
    forbid_loading()
    with pytest.raises(InputError, match=said):
        score(model)


@pytest.mark.parametrize("name", FAILED)
def test_failed_with_the_reason(score, model, name):
    change, said = FAILED[name]
    change(model)
    (record,) = score(model)
    assert (record["status"], record["main_score"]) == ("failed", None)
    assert record["reason"].startswith("the model cannot be loaded: ")
    assert said in record["reason"]


@pytest.mark.parametrize("name", SCORED)
def test_scored_as_what_it_is(score, tiny_model, model, name):
    (wanted,) = score(tiny_model)
    SCORED[name](model)
    (record,) = score(model)
    assert record["main_score"] == wanted["main_score"]
    assert record["revision"] != wanted["revision"]
    said = "it has no modules.json, so mean pooling is assumed, without prompts: is that how it was trained?"
    assert record["reason"] == (said if name == "no modules" else None)


def test_names_of_weights_may_have_a_prefix(score, tiny_model, model):
    """Checkpoints of a model with a head: `bert.encoder…`. transformers strips it."""
    from safetensors.torch import load_file, save_file

    weights = {f"bert.{name}": tensor for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (wanted,), (record,) = score(tiny_model), score(model)
    assert record["main_score"] == wanted["main_score"]


def test_an_adapter_folder_is_no_model_without_weights(score, tiny_model, tmp_path):
    from tests.evaluation.adapters import save_adapter

    adapter = save_adapter(tiny_model, tmp_path / "lora")
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="the adapter's base model cannot be used"):
        score(adapter)
