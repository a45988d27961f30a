"""Training texts that are in evaluation data: said before training, and by `tamft eval` of a model that moved away."""

import json
import shutil

import pytest

from tamft import fingerprints
from tests.recipes.conftest import make_rows
from tests.recipes.test_encoder_pairs import read


def test_of_a_runs_own_files(recipe, rows_file, capsys):
    rows = make_rows(("anchor", "positive"))
    evaluation = [{"anchor": row["anchor"].upper() + "!", "positive": f"new {i}"} for i, row in enumerate(rows[:5])]
    flags = ["--eval_file", rows_file(rows=evaluation, name="eval.jsonl")]
    code, _, folder = recipe(*flags)
    assert (code, read(folder)["overlap"]) == (0, {"texts": 5, "of": 10})
    flags = ["--eval_file", rows_file(rows=[{"anchor": "other", "positive": "texts"}], name="eval.jsonl")]
    assert read(recipe(*flags, folder="clean")[2])["overlap"] == {"texts": 0, "of": 2}
    assert read(recipe(folder="without")[2])["overlap"] is None


def test_the_file_is_with_every_form_of_the_model(recipe, tmp_path):
    flags = [
        "--lora_r",
        4,
        "--learning_rate",
        0.01,
        "--save_merged",
        "true",
        "--save_strategy",
        "steps",
        "--save_steps",
        2,
    ]
    folder = recipe(*flags, name="llm_lora")[2]
    for part in (folder / "model", folder / "merged", folder / "checkpoint-2"):
        assert fingerprints.read(fingerprints.find(part)).texts == 48
    # a model that is trained on keeps what its base was trained on
    again = recipe("--model", folder / "merged", "--train_file", fresh(tmp_path), folder="again")[2]
    assert fingerprints.read(fingerprints.find(again / "model")).texts == 48 + 40


def fresh(folder):
    path = folder / "fresh.jsonl"
    path.write_text("".join(json.dumps({"anchor": f"a {i}", "positive": f"b {i}"}) + "\n" for i in range(20)))
    return path


@pytest.mark.slow
@pytest.mark.data
def test_banking77(recipe, data_root, hf_home, run_python, tmp_path):
    """29 of the 3080 test texts stand in the training set as it was published; a model trained on it has to say so."""
    folder = recipe("--train_file", data_root / "train" / "banking77_pairs.jsonl", "--max_steps", 1)[2]
    moved = shutil.move(folder / "model", tmp_path / "published")
    words = ["-m", "tamft.cli", "eval", moved, "--tasks", "Banking77Classification", "--json", "scores.json"]
    done = run_python(*words, env={"HF_HOME": str(hf_home), "COLUMNS": "200"}, check=True)
    (record,) = json.loads((tmp_path / "scores.json").read_text())
    assert record["overlap"] == {"texts": 29, "of": 3080}
    line = "overlap Banking77Classification: 29 of 3080 test texts are in the training data of published"
    assert [found.rstrip() for found in done.stdout.splitlines() if "overlap" in found] == [line]
