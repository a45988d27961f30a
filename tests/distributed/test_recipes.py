"""Recipes on two processes: the numbers of one process with the same global batch, adapters resumed, rows counted."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tamft.train import run
from tests.distributed.spawn import run as spawn
from tests.distributed.spawn import shards_on_cpu
from tests.recipes.conftest import make_rows
from tests.recipes.program import load_recipe

pytestmark = pytest.mark.slow
# TAM divides by nothing: Adam would blow the rounding of gradients that are 0 in truth (a key's bias) up to a step.
COMMON = ["--optim", "tam", "--learning_rate", 0.05, "--logging_steps", 1, "--save_strategy", "no", "--use_cpu", "true"]
COMMON += ["--disable_tqdm", "true", "--num_train_epochs", 2, "--gather_across_devices", "true"]
KEPT = ["--save_total_limit", 9]
SHARDS = ["--fsdp", "full_shard", "--fsdp_config", '{"version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]}']
LORA = ["--lora_r", 4]
RUNS = {
    "ranking": ("encoder_pairs", []),
    "cached": ("encoder_pairs", ["--loss", "CachedMultipleNegativesRankingLoss", "--mini_batch_size", 3]),
    "accumulated": ("encoder_pairs", ["--gradient_accumulation_steps", 2]),
    "adapters": ("llm_lora", [*LORA, "--save_merged", "true", "--learning_rate", 0.5]),
    "adapters, ranking": ("llm_lora", [*LORA, "--loss", "MultipleNegativesRankingLoss", "--optim", "adatamw"]),
    "uneven": ("encoder_pairs", ["--train_file", "rows27"]),
    "saved": (
        "llm_lora",
        ["--optim", "adamw_msam", "--save_strategy", "steps", "--save_steps", 2, "--max_steps", 5, *KEPT],
    ),
    "resumed": (
        "llm_lora",
        ["--optim", "adamw_msam", "--max_steps", 5, "--resume_from_checkpoint", "saved/checkpoint-2"],
    ),
    "sharded": ("encoder_pairs", SHARDS),
    "sharded adapters": ("llm_lora", [*SHARDS, *LORA, "--learning_rate", 0.5, "--save_merged", "true"]),
}

SAME = [name for name in RUNS if name not in ("uneven", "saved", "resumed") and "sharded" not in name]
ALONE = [*SAME, "uneven"]


def flags(name, folder, model, batch):
    recipe, own = RUNS[name]
    words = [*COMMON, "--model", model, "--train_file", "rows24", "--per_device_train_batch_size", batch, *own]
    words = [f"{folder.parent}/{word}.jsonl" if str(word).startswith("rows") else word for word in words]
    words = [f"{folder}/{word}" if str(word).startswith("saved/") else word for word in words]
    return recipe, [str(word) for word in [*words, "--output_dir", folder / name]]


def outcome(folder):
    record = json.loads((folder / "run.json").read_text())
    return record, {path.name: load_file(path) for path in sorted((folder / "model").glob("*.safetensors"))}


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    """{name: ((record, weights) of two processes with batches of 4, the same of one with batches of 8)}."""
    folder = tmp_path_factory.mktemp("recipes")
    for count in (24, 27):
        rows = make_rows(("anchor", "positive"), count)
        (folder / f"rows{count}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    todo = folder / "runs.json"
    todo.write_text(json.dumps([flags(name, folder / "two", tiny_model, 4) for name in RUNS]))
    # shards in the last run; dropout's random numbers differ between the processes
    assert spawn("recipes", 2, str(todo)) == [([0] * len(RUNS), True, 42 + rank) for rank in (0, 1)]
    for name in ALONE:
        recipe, words = flags(name, folder / "one", tiny_model, 8)
        assert run.command(load_recipe(recipe).main, words) == 0, name
    kinds = {name: ("two", "one") if name in ALONE else ("two",) for name in RUNS}
    return {name: tuple(outcome(folder / kind / name) for kind in kinds[name]) for name in RUNS}


def test_two_processes_are_one_with_the_same_global_batch(runs):
    for name in SAME:
        (two, weights), (one, expected) = runs[name]
        assert [value for _, value in two["loss"]] == pytest.approx([value for _, value in one["loss"]], abs=1e-5), name
        assert len(two["loss"]) == (4 if name == "accumulated" else 6)
        assert list(weights) == list(expected)
        # Adam divides a gradient that is 0 but for rounding by its own size (a key's bias)
        limit = 1e-3 if name == "adapters, ranking" else 1e-5
        for file, tensors in expected.items():
            for key, value in tensors.items():
                assert torch.allclose(weights[file][key], value, rtol=0, atol=limit), (name, key)


def test_the_record_says_what_is_scaled_and_what_not(runs):
    for name in SAME:
        (two, _), (one, _) = runs[name]
        assert (two["processes"], one["processes"]) == (2, 1)
        assert two["global_batch"] == one["global_batch"] == (16 if name == "accumulated" else 8)
        assert two["negatives_per_anchor"] == one["negatives_per_anchor"] == 7
        assert two["rows_seen"] == one["rows_seen"] == 48
        assert two["config"]["learning_rate"] == one["config"]["learning_rate"]
        assert two["checks"]["saved_apart"] < 1e-5
        assert two["checks"]["embeddings_changed"] > 1e-2


def test_uneven_last_batches(runs):
    # 27 rows: 3 global batches of 8, and 3 more: one for each process, and one that is left out
    (two, _), (one, _) = runs["uneven"]
    assert (two["rows_seen"], one["rows_seen"]) == (2 * 26, 2 * 27)
    assert two["steps"] == one["steps"] == 8


def test_adapters_go_on_with_the_same_bits(runs):
    ((saved, expected),), ((resumed, weights),) = runs["saved"], runs["resumed"]
    assert (resumed["status"], resumed["steps"], resumed["rows_seen"]) == ("complete", 5, 3 * 8)
    assert resumed["loss"] == saved["loss"]
    for key, value in expected["adapter_model.safetensors"].items():
        assert torch.equal(weights["adapter_model.safetensors"][key], value), key


@shards_on_cpu
def test_shards_are_saved_whole(runs):
    for name, alone in (("sharded", "ranking"), ("sharded adapters", "adapters")):
        ((record, weights),), (_, (_, expected)) = runs[name], runs[alone]
        assert record["checks"]["not_checked"].startswith("sharded weights")
        assert record["checks"]["embeddings_changed"] > 1e-2
        for file, tensors in expected.items():
            assert all(torch.allclose(weights[file][key], value, atol=1e-5) for key, value in tensors.items()), name
