"""The recipe: adapters that train, are saved alone and merged, resume exactly, and are scored like any model."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from tamft.evaluation.identity import identify
from tamft.evaluation.load import load
from tests.recipes.test_encoder_pairs import read

TEXTS = ["how do i change the pin of my card", "refund", "the cat sits in the park " * 30]


@pytest.fixture
def llm(recipe):
    """Run llm_lora with a small adapter at a high rate: (exit code, stderr, run folder)."""

    def call(*flags, folder="run"):
        return recipe("--lora_r", 4, "--learning_rate", 0.005, *flags, folder=folder, name="llm_lora")

    return call


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def encode(folder):
    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


@pytest.mark.parametrize("optim", ["adamw_torch", "adatamw", "adamw_msam"])
def test_a_decoder_becomes_an_embedder(llm, tiny_decoder, optim):
    flags = ["--optim", optim, "--save_merged", "true", "--max_steps", 12]
    # rho 0.3, the preset, is as far as a step of so small an adapter: docs/llm.md
    flags += ["--optim_args", "rho=0.01"] if optim == "adamw_msam" else []
    code, error, folder = llm("--model", tiny_decoder, *flags)
    assert code == 0, error
    record = read(folder)
    assert (record["status"], record["config"]["loss"]) == ("complete", "CachedMultipleNegativesRankingLoss")
    assert record["loss"][-1][1] < record["loss"][0][1] - 0.1
    assert {"merged", "model", "run.json"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "model" / "model.safetensors").exists()
    assert (folder / "model" / "adapter_model.safetensors").stat().st_size < 60_000
    assert not (folder / "merged" / "adapter_config.json").exists()
    tuned, merged = encode(folder / "model"), encode(folder / "merged")
    assert np.abs(tuned - merged).max() < 1e-5
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    model.disable_adapters()
    assert np.abs(model.encode(TEXTS) - tuned).max() > 1e-2
    # the optimizer's state is that of the adapters, and so small
    state = record["optimizer"]["state_bytes"] / sum(p.numel() for p in adapter(folder / "model").values())
    assert 7.5 < state < 9


@pytest.mark.parametrize("flags", [["--use_dora", "true"], ["--use_rslora", "true", "--bf16", "true"]])
@pytest.mark.parametrize("tiny_decoder", ["qwen3"], indirect=True)
def test_variants(llm, tiny_decoder, flags):
    more = ["--gradient_checkpointing", "true", "--mini_batch_tokens", 60, "--matryoshka_dims", 16]
    more += ["--loraplus_lr_ratio", 4, "--save_merged", "true"]
    code, error, folder = llm("--model", tiny_decoder, *flags, *more)
    assert code == 0, error
    config = json.loads((folder / "model" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (flags[0] == "--use_dora", flags[0] == "--use_rslora")
    tuned = encode(folder / "model")
    assert np.abs(tuned - encode(folder / "merged")).max() < 1e-5
    for form in ("model", "merged"):  # as `tamft eval` loads them: no weight without a place, no adapter without effect
        encoder, warning = load(identify(str(folder / form)), "cpu")
        assert warning is None
        assert np.abs(encoder.model.encode(TEXTS) - tuned).max() < 1e-5
    assert read(folder)["config"]["learning_rate_mapping"] == {r"\.lora_(embedding_)?B\.": 0.02}


def test_gradient_checkpointing_changes_nothing(llm, tiny_decoder):
    losses = [
        read(llm("--model", tiny_decoder, "--gradient_checkpointing", flag, folder=flag)[2])["loss"]
        for flag in ("true", "false")
    ]
    assert np.abs(np.array(losses[0]) - losses[1]).max() < 1e-4


def test_another_pooling_is_saved(llm):
    folder = llm("--pooling", "cls")[2]
    assert SentenceTransformer(str(folder / "model"), device="cpu")[1].pooling_mode == "cls"


def test_prompts_are_trained_with_and_stored(llm, rows_file, recipe):
    from tests.recipes.conftest import make_rows

    rows = [
        {"anchor": "the bank " + row["anchor"], "positive": row["positive"]}
        for row in make_rows(("anchor", "positive"))
    ]
    spelled = read(llm("--train_file", rows_file(rows=rows, name="spelled.jsonl"), folder="spelled")[2])
    code, _, folder = llm("--query_prompt", "the bank ")
    assert code == 0
    for key in ("first_batches_sha256", "loss"):
        assert read(folder)[key] == spelled[key]
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    assert model.prompts == {"query": "the bank ", "document": ""}
    assert np.abs(model.encode_query(TEXTS) - model.encode([f"the bank {text}" for text in TEXTS])).max() < 1e-6
    # the shared options work in the other recipe too
    pairs = recipe("--query_prompt", "the bank ", "--scale", 10, "--matryoshka_dims", 8, folder="pairs")[2]
    assert read(pairs)["first_batches_sha256"] == spelled["first_batches_sha256"]
    assert SentenceTransformer(str(pairs / "model"), device="cpu").prompts["query"] == "the bank "


def test_hard_negatives(llm, rows_file):
    columns = ("anchor", "positive", "negative_1", "negative_2")
    flags = ["--mini_batch_tokens", 50, "--max_steps", 8, "--learning_rate", 0.02]
    code, error, folder = llm("--train_file", rows_file(columns), "--columns", *columns, *flags)
    assert code == 0, error
    assert read(folder)["loss"][-1][1] < read(folder)["loss"][0][1]


def test_all_weights_of_a_decoder(llm, tiny_decoder):
    code, error, folder = llm("--model", tiny_decoder, "--lora_r", 0, "--learning_rate", 1e-3)
    assert code == 0, error
    assert (folder / "model" / "model.safetensors").exists()
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    assert (model[1].pooling_mode, model.tokenizer("refund").input_ids[-1]) == ("lasttoken", 1)


@pytest.mark.parametrize(
    ("name", "more"),
    [("adamw_torch", []), ("adatamw", ["--use_dora", "true"]), ("adamw_msam", ["--loraplus_lr_ratio", 4])],
)
def test_resume_is_exact(llm, name, more):
    saving = ["--optim", name, "--save_strategy", "steps", "--save_steps", 2, *more]
    whole, part = llm(*saving, folder="whole")[2], llm(*saving, folder="part")[2]
    shutil.rmtree(part / "checkpoint-4")
    shutil.rmtree(part / "model")
    code, error, _ = llm(*saving, "--resume_from_checkpoint", "true", folder="part")
    assert code == 0, error
    assert read(part)["loss"] == read(whole)["loss"]
    expected = adapter(whole / "model")
    assert adapter(part / "model").keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in adapter(part / "model").items())


BAD = [
    (["--lora_r", "-1"], ["--lora_r -1"]),
    (["--lora_target_modules", "q_proj"], ["--lora_target_modules q_proj", "dense, key, query, value"]),
    (["--load_in_4bit", "true"], ["--load_in_4bit", "bitsandbytes"]),
    (["--pooling", "max"], ["--pooling", "max"]),
    (["--mini_batch_tokens", "0"], ["--mini_batch_tokens 0"]),
    (["--loss", "MultipleNegativesRankingLoss", "--mini_batch_tokens", "9"], ["--mini_batch_tokens"]),
    (["--matryoshka_dims", "64"], ["--matryoshka_dims 64", "1 to 32"]),
    (["--query_prompt", "a", "--prompts", '{"anchor": "b"}'], ["--prompts cannot be combined"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_refused_in_one_line_and_nothing_written(llm, flags, words):
    code, error, folder = llm(*flags)
    assert code == 2, error
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not folder.exists()
