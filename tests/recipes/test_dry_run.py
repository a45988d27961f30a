"""`--dry_run true`: says what the same command then does, and writes nothing."""

import json
import re

import pytest
from sentence_transformers import SentenceTransformer

from tamft.train import run
from tests.recipes.conftest import make_rows
from tests.recipes.program import load_recipe
from tests.recipes.test_encoder_pairs import read


@pytest.fixture
def call(tmp_path, rows_file, capsys):
    """Run a recipe with and without --dry_run: (exit code, stdout, run folder)."""

    def run_recipe(name, *flags, dry=True, folder="run"):
        columns = ("sentence1", "sentence2", "label") if name == "text_classification" else ("anchor", "positive")
        rows = [row | {"label": i % 2} if "label" in row else row for i, row in enumerate(make_rows(columns, 30))]
        words = ["--train_file", rows_file(rows=rows), "--output_dir", tmp_path / folder, "--use_cpu", "true"]
        words += ["--disable_tqdm", "true", "--per_device_train_batch_size", 8, "--save_strategy", "no", *flags]
        capsys.readouterr()
        code = run.command(load_recipe(name).main, [str(word) for word in [*words, "--dry_run", str(dry).lower()]])
        return code, capsys.readouterr().out, tmp_path / folder

    return run_recipe


def field(text, name):
    return re.search(rf"^ *{name} +(.*)$", text, re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("encoder_pairs", ["--num_train_epochs", 2]),
        ("encoder_pairs", ["--gradient_accumulation_steps", 3, "--optim", "adatamw_msam"]),
        ("encoder_pairs", ["--max_steps", 5, "--optim", "msam", "--learning_rate", 0.1]),
        ("llm_lora", ["--num_train_epochs", 1, "--lora_r", 4]),
        ("llm_lora", ["--max_steps", 3, "--lora_r", 2, "--optim", "adatamw", "--dataloader_drop_last", "true"]),
    ],
)
def test_the_run_does_what_the_dry_run_says(call, tiny_model, recipe, flags):
    flags = ["--model", tiny_model, *flags]
    code, text, folder = call(recipe, *flags)
    assert (code, folder.exists()) == (0, False)
    assert call(recipe, *flags, dry=False)[0] == 0
    record = read(folder)
    assert int(field(text, "steps").split()[0]) == record["steps"]
    assert field(text, "optimizer state") == f"{record['optimizer']['state_bytes'] / 2**20:.2f} MiB"
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    names = [name for name, _ in model.named_parameters() if recipe == "encoder_pairs" or "lora_" in name]
    trained = sum(model.get_parameter(name).numel() for name in names)
    assert int(field(text, "trained").split()[0].replace(",", "")) == trained


def test_what_is_said(call, tiny_model, rows_file):
    triplets = rows_file(("anchor", "positive", "negative"), name="triplets.jsonl")
    flags = ["--model", tiny_model, "--train_file", triplets, "--config", "demo", "--warmup_steps", 0.5]
    flags += ["--gradient_accumulation_steps", 2, "--max_seq_length", 8]
    code, text, _ = call("encoder_pairs", *flags)
    assert code == 0
    assert field(text, "negatives").startswith("15 for each anchor: 1 hard ones of its own, 14 from its batch, 0 from")
    assert field(text, "loss") == "MultipleNegativesRankingLoss"
    assert field(text, "batch") == "8 rows x 2 accumulated x 1 processes = 16 rows a step"
    assert field(text, "steps") == "60 (2 in an epoch), 30 of them warm-up"
    assert "cut at 8" in field(text, "tokens")
    assert field(text, "learning_rate").split() == ["0.0002", "demo.yaml"]
    assert field(text, "max_seq_length").split() == ["8", "command", "line"]
    assert field(text, "logging_nan_inf_filter").split() == ["False", "recipe"]
    assert "rough estimate" in field(text, "activations")


def test_tokens_are_those_of_the_models_tokenizer_with_prompts(call, tiny_model):
    words = [
        "--model",
        tiny_model,
        "--query_prompt",
        "a a a a a a a a a a ",
        "--document_prompt",
        "a a a a a a a a a a ",
    ]
    plain = call("encoder_pairs", "--model", tiny_model)[1]
    prompted = call("encoder_pairs", *words)[1]
    mean = [int(field(text, "tokens").split()[1].rstrip(",")) for text in (plain, prompted)]
    assert mean[1] == mean[0] + 10


def test_cached_loss_holds_a_mini_batch(call, tiny_model):
    sizes = []
    for flags in ([], ["--mini_batch_size", 4], ["--mini_batch_size", 2]):
        cached = ["--loss", "CachedMultipleNegativesRankingLoss", *flags] if flags else []
        text = call("encoder_pairs", "--model", tiny_model, *cached)[1]
        sizes.append(int(re.search(r"scaled to ([\d,]+) padded", text)[1].replace(",", "")))
    assert sizes[0] > 3 * sizes[1]
    assert sizes[1] == pytest.approx(2 * sizes[2], rel=0.3)


def test_text_classification(call, tiny_of):
    flags = ["--model", tiny_of("bert"), "--text_columns", "sentence1", "sentence2", "--num_train_epochs", 2]
    code, text, folder = call("text_classification", *flags, "--optim", "adatamw")
    assert (code, folder.exists()) == (0, False)
    assert "negatives" not in text
    assert field(text, "steps").startswith("8 (4 in an epoch)")
    code, _, folder = call("text_classification", *flags, "--optim", "adatamw", "--save_strategy", "epoch", dry=False)
    assert code == 0
    assert json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())["global_step"] == 8


@pytest.mark.parametrize("flags", [["--optim", "adatamw", "--optim_args", "gamma=2"], ["--train_file", "none.jsonl"]])
def test_what_is_wrong_is_found(call, tiny_model, flags):
    code, _, folder = call("encoder_pairs", "--model", tiny_model, *flags)
    assert (code, folder.exists()) == (2, False)
