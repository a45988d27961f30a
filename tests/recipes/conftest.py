"""Tiny random models of the architectures that the configs name, tiny data, and the recipe run in this process."""

import json

import pytest

from tamft.train import run
from tests.recipes.program import load_recipe
from tests.tiny import WORDS

POSITIONS = 512


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory):
    """`tiny_of("bert" | "modernbert")`: folder of a plain transformers model, as the Hub's base models are."""
    made = {}

    def build(architecture):
        if architecture not in made:
            made[architecture] = _save(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return build


def _save(architecture, folder):
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast, ModernBertConfig, ModernBertModel

    vocabulary = list(dict.fromkeys([*WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789"]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": POSITIONS,
    }
    torch.manual_seed(0)
    if architecture == "bert":
        model = BertModel(BertConfig(**sizes))
    else:
        ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        model = ModernBertModel(ModernBertConfig(**sizes, **ids, global_attn_every_n_layers=2, local_attention=16))
    model.save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def make_rows(columns, count=24):
    """Rows whose texts differ in every cell; `score` and `label` are numbers."""
    words = WORDS[5:]
    return [
        {
            column: i / count
            if column in ("score", "label")
            else " ".join(words[(i * 5 + j * 11 + k) % len(words)] for k in range(4)) + f" {words[i]} {words[-1 - j]}"
            for j, column in enumerate(columns)
        }
        for i in range(count)
    ]


@pytest.fixture
def rows_file(tmp_path):
    """Write rows with these columns (or these rows) to a .jsonl file and return its name."""

    def write(columns=("anchor", "positive"), rows=None, name="rows.jsonl"):
        path = tmp_path / name
        rows = make_rows(columns) if rows is None else rows
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def recipe(tiny_model, rows_file, tmp_path, capsys):
    """Run a recipe (encoder_pairs) on the tiny model in this process: (exit code, stderr without the bar, run folder).

    Later flags win, so a test may replace any of the defaults.
    """

    def call(*flags, folder="run", program="encoder_pairs"):
        defaults = [
            "--model",
            tiny_model,
            "--train_file",
            rows_file(name="default.jsonl"),
            "--output_dir",
            tmp_path / folder,
        ]
        steps = ["--max_steps", 4, "--per_device_train_batch_size", 8, "--learning_rate", 1e-3, "--logging_steps", 1]
        quiet = ["--disable_tqdm", "true", "--save_strategy", "no", "--use_cpu", "true"]
        argv = [str(word) for word in [*defaults, *steps, *quiet, *flags]]
        capsys.readouterr()
        code = run.command(load_recipe(program).main, argv)
        return code, capsys.readouterr().err, tmp_path / folder

    return call
