"""Tiny random models of the architectures that the configs name, tiny data, and the recipe run in this process."""

import json

import pytest

from tamft.train import run
from tests.recipes.program import load_recipe
from tests.recipes.tiny_models import MODELS, Kind, save
from tests.tiny import WORDS


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory):
    """`tiny_of("Qwen/Qwen3-Embedding-0.6B")` or `tiny_of("qwen3")`: folder of a tiny random model of that kind.

    A name of the Hub gives the modules that the Hub's model has, an architecture the plain transformers model.
    """
    made = {}

    def build(name):
        kind = MODELS[name] if name in MODELS else Kind(name)
        key = repr(kind)
        if key not in made:
            made[key] = save(kind, tmp_path_factory.mktemp(kind.architecture))
        return made[key]

    return build


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
    """Run encoder_pairs (or the recipe `name`) on the tiny model in this process: (exit code, stderr, run folder).

    Later flags win, so a test may replace any of the defaults.
    """

    def call(*flags, folder="run", name="encoder_pairs"):
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
        code = run.command(load_recipe(name).main, argv)
        return code, capsys.readouterr().err, tmp_path / folder

    return call
