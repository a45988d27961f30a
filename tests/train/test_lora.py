"""Adapters: where they go, their learning rates, what is saved of them, and what is refused."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from tamft.errors import InputError
from tamft.train import lora, models, run

TEXTS = ["my card was lost", "refund", "the cat sits and the dog runs in the park today", "why"]
OPTIONS = {
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_target_modules": ["all-linear"],
    "use_rslora": False,
    "use_dora": False,
    "loraplus_lr_ratio": None,
    "load_in_4bit": False,
    "save_merged": False,
}


def options(**changes):
    return SimpleNamespace(**OPTIONS | changes)


@pytest.fixture
def arguments(tmp_path):
    def make(**changes):
        return SentenceTransformerTrainingArguments(str(tmp_path / "run"), report_to=[], use_cpu=True, **changes)

    return make


@pytest.fixture
def adapted(tiny_model, arguments):
    """`adapted(**options)`: the tiny BERT with adapters."""

    def make(folder=tiny_model, dtype="float32", **changes):
        model = models.load_model(str(folder), dtype=dtype)
        args = arguments()
        lora.add_adapters(model, options(**changes), args)
        return model

    return make


def moved(model, seed=0):
    """The model with adapters that are not as they began: B at zero would hide every mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def layers(model):
    return {name for name, module in model[0].auto_model.named_modules() if isinstance(module, LoraLayer)}


def test_all_linear_leaves_out_the_pooler_that_nobody_reads(adapted):
    found = layers(adapted())
    assert len(found) == 2 * 6  # two BERT layers: query, key, value, attention's output, two of the feed-forward
    assert not any(name.startswith("pooler") for name in found)


def test_named_targets(adapted):
    assert {name.rpartition(".")[2] for name in layers(adapted(lora_target_modules=["query", "value"]))} == {
        "query",
        "value",
    }
    one = "encoder.layer.1.attention.self.key"
    assert layers(adapted(lora_target_modules=[one])) == {one}


def test_a_target_that_does_not_exist(adapted):
    with pytest.raises(InputError, match=r"--lora_target_modules quer: .*'query'\?.* It has: dense, key, query, value"):
        adapted(lora_target_modules=["value", "quer"])


def test_only_adapters_train_and_in_float32(adapted):
    model = adapted(dtype="bfloat16")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if name not in trained} == {torch.bfloat16}
    counts = sum(p.numel() for p in trained.values()), sum(p.numel() for p in model.parameters())
    assert lora.describe(model).startswith(f"{counts[0]:,} of {counts[1]:,} weights are trained (")


def test_scaling(adapted):
    def scaling(**changes):
        layer = next(m for m in adapted(**changes).modules() if isinstance(m, LoraLayer))
        return layer.scaling["default"]

    assert scaling() == 8 / 4
    assert scaling(use_rslora=True) == 8 / math.sqrt(4)


def test_rank_zero_trains_all(adapted, tiny_model):
    model = adapted(lora_r=0)
    assert not layers(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("optim", ["adamw_torch", "adatamw", "adamw_msam", "tam"])
def test_lora_plus_groups(tiny_model, arguments, optim):
    """B at 8 times the rate, everything else at the rate, weights with and without decay still apart."""
    import tamft

    tamft.register()
    args = arguments(optim=optim, learning_rate=0.05, weight_decay=0.1, lr_scheduler_type="linear", max_steps=10)
    model = models.load_model(str(tiny_model))
    lora.add_adapters(model, options(loraplus_lr_ratio=8.0, use_dora=True), args)
    trainer = run.PairsTrainer(model=model, args=args, train_dataset=None, loss=MultipleNegativesRankingLoss(model))
    trainer.create_optimizer_and_scheduler(10)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = trainer.optimizer.param_groups
    seen = [names[parameter] for group in groups for parameter in group["params"]]
    assert sorted(seen) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    for group in groups:
        kinds = {".lora_B." in names[parameter] for parameter in group["params"]}
        if kinds:
            assert kinds == {group["lr"] == pytest.approx(0.4)}
            assert group["lr"] == pytest.approx(0.4 if kinds == {True} else 0.05)
            assert group["weight_decay"] == 0.1
    trainer.lr_scheduler.step()
    assert {round(group["lr"], 6) for group in groups} == {0.36, 0.045}


@pytest.mark.parametrize("dora", [False, True])
def test_adapter_and_merged_model_give_the_same_embeddings(adapted, tmp_path, dora, caplog):
    model = moved(adapted(use_dora=dora, use_rslora=True))
    expected = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "model"))
    keys = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert all(".lora_" in key for key in keys)
    assert lora.save_merged(tmp_path / "model") == tmp_path / "merged"
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    for name in ("model", "merged"):
        again = SentenceTransformer(str(tmp_path / name), device="cpu").encode(TEXTS)
        assert np.abs(again - expected).max() < 1e-5
    base = SentenceTransformer(json_of(tmp_path / "model")["base_model_name_or_path"], device="cpu")
    assert np.abs(base.encode(TEXTS) - expected).max() > 1e-2
    assert "MISSING" not in caplog.text  # transformers' report on weights that were not found


def json_of(folder):
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def test_peft_finds_dora_too(adapted, tmp_path):
    from peft import PeftModel

    model = moved(adapted(use_dora=True))
    expected = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "model"))
    base = SentenceTransformer(json_of(tmp_path / "model")["base_model_name_or_path"], device="cpu")
    base[0].model = PeftModel.from_pretrained(base[0].model, str(tmp_path / "model")).eval()
    assert np.abs(base.encode(TEXTS) - expected).max() < 1e-5


def test_adapter_weights_come_back_exactly_over_a_16_bit_base(adapted, tmp_path):
    model = moved(adapted(dtype="bfloat16", use_dora=True))
    model.save_pretrained(str(tmp_path))
    fresh = adapted(dtype="bfloat16", use_dora=True)
    lora.load_weights(fresh, tmp_path)
    expected = dict(model.named_parameters())
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("changes", [{}, {"lora_r": 2, "use_dora": True}, {"lora_target_modules": ["query"]}])
def test_weights_of_other_adapters_are_refused(adapted, tmp_path, changes):
    adapted(use_dora=True).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"belongs to other --lora_\* options"):
        lora.load_weights(adapted(**changes), tmp_path)


def test_the_merged_model_replaces_an_older_one(adapted, tmp_path):
    adapted().save_pretrained(str(tmp_path / "model"))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "old.txt").touch()
    lora.save_merged(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "model"]
    assert not (tmp_path / "merged" / "old.txt").exists()


def test_the_base_is_named_by_its_full_path(adapted, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    adapted(folder=tiny_model.name).save_pretrained(str(tmp_path / "model"))
    assert json_of(tmp_path / "model")["base_model_name_or_path"] == str(tiny_model)


def test_an_adapter_is_no_model_to_start_from(adapted, tmp_path):
    adapted().save_pretrained(str(tmp_path / "model"))
    with pytest.raises(InputError, match="is a LoRA adapter; merge it"):
        models.load_model(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_r": -1}, "--lora_r -1"),
        ({"lora_alpha": 0}, "--lora_alpha 0"),
        ({"lora_dropout": 1.0}, "--lora_dropout 1.0"),
        ({"loraplus_lr_ratio": 0.0}, "--loraplus_lr_ratio 0.0"),
        ({"loraplus_lr_ratio": math.nan}, "--loraplus_lr_ratio nan"),
        ({"lora_r": 0, "use_dora": True}, "--use_dora: needs adapters"),
        ({"lora_r": 0, "save_merged": True}, "--save_merged: needs adapters"),
        ({"load_in_4bit": True}, "--load_in_4bit: needs bitsandbytes"),
    ],
)
def test_refused(changes, words):
    with pytest.raises(InputError, match=words):
        lora.check(options(**changes))


def test_4bit_wants_a_gpu(monkeypatch):
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match="--load_in_4bit: needs a GPU"):
        lora.check(options(load_in_4bit=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    config = lora.quantization()["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert lora.quantization()["device_map"] == {"": 1}
