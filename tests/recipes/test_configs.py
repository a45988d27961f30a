"""Every shipped config runs: two steps on a tiny model of the architecture that it names."""

import json

import pytest
import yaml
from sentence_transformers import SentenceTransformer

from tamft.train import run, shipped
from tests.recipes.conftest import make_rows
from tests.recipes.program import load_recipe

# A config that names another model fails here until its architecture is added.
ARCHITECTURE = {
    None: "bert",  # demo: the model comes from the command line
    "all-MiniLM-L6-v2": "bert",
    "google-bert/bert-base-uncased": "bert",
    "answerdotai/ModernBERT-base": "modernbert",
}


@pytest.mark.parametrize("name", shipped.configs())
def test_two_steps(name, tiny_of, tmp_path):
    config = yaml.safe_load(shipped.find_config(name).read_text(encoding="utf-8"))
    architecture = ARCHITECTURE[config.get("model")]
    columns = config.get("columns", ["anchor", "positive"])
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in make_rows(columns, 40)), encoding="utf-8")
    flags = ["--config", name, "--model", tiny_of(architecture), "--train_file", data, "--output_dir", tmp_path / "run"]
    flags += ["--max_steps", 2, "--use_cpu", "true", "--disable_tqdm", "true"]
    assert run.command(load_recipe("encoder_pairs").main, [str(flag) for flag in flags]) == 0

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("complete", 2)
    for key, value in config.items():
        if key not in ("model", "max_steps"):
            assert record["config"][key] == value, key
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert model[0].auto_model.config.model_type == architecture
    assert model.max_seq_length == config["max_seq_length"]
    assert model.encode(["how do i top up my card"]).shape == (1, 32)


@pytest.mark.parametrize("name", shipped.configs())
def test_comments_say_how_where_and_how_long(name):
    text = shipped.find_config(name).read_text(encoding="utf-8")
    head = text[: text.index("\n", text.index("knob costs"))]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"--config {name}" in head
    assert "# hardware" in head
    assert "# time" in head
