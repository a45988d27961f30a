"""The model card: what it says of the run, and that its example runs: of a whole model, an adapter, a merged one."""

import re

import pytest
from huggingface_hub import ModelCard

from tamft.train import card
from tests.recipes.test_encoder_pairs import read

RUNNER = """
import os, sys
for folder in sys.argv[1:]:
    os.chdir(folder)
    text = open("README.md", encoding="utf-8").read()
    code = next(part for part in text.split("```python")[1:] if "SentenceTransformer" in part).split("```")[0]
    exec(compile(code, folder, "exec"), {})
    print("ran", folder)
"""


def test_the_examples_run(recipe, run_python, rows_file, tmp_path):
    whole = recipe("--optim", "adatamw", "--eval_file", rows_file(), folder="whole")[2]
    lora = ["--lora_r", 4, "--learning_rate", 0.01, "--save_merged", "true"]
    prompts = ["--query_prompt", "q: ", "--document_prompt", "d: "]
    adapter = recipe(*lora, *prompts, name="llm_lora", folder="adapter")[2]
    folders = [whole / "model", adapter / "model", adapter / "merged"]
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    out = run_python(runner, *folders, check=True).stdout
    assert [line for line in out.splitlines() if line.startswith("ran")] == [f"ran {folder}" for folder in folders]
    assert "[3, 32]" in (whole / "model" / "README.md").read_text()
    assert "encode_query" in (adapter / "model" / "README.md").read_text()

    # what it says, of the same three
    for folder, kind in zip(folders, ["the whole model", "a LoRA adapter", "the whole model"], strict=True):
        text = (folder / "README.md").read_text(encoding="utf-8")
        record = read(folder.parent)
        part = text[text.index(card.BEGIN) : text.index(card.END)]
        assert kind in part
        assert record["data"][0]["sha256"] in part
        assert record["base_model"]["sha256"] in part
        assert record["command"] in part
        assert f"`{record['optimizer']['name']}` (lr=" in part
        assert f"torch {record['versions']['torch']}" in part
        assert text.index(card.BEGIN) < text.index("## Training Details")
        assert {"tamft", "sentence-transformers"} <= set(ModelCard(text).data.tags)
        assert re.search(r"\| `\S+\.jsonl` \| 24 \| `[0-9a-f]{64}` \|", part)
    assert "gamma=0.9" in (whole / "model" / "README.md").read_text()
    assert "48 of 48 evaluation texts are training texts" in (whole / "model" / "README.md").read_text()
    assert "lora_r 4" in (adapter / "merged" / "README.md").read_text()


CONTENT = {
    "config": {"loss": "CoSENTLoss", "dataset": "org/data", "learning_rate": 0.1, "lora_dropout": 0.0, "bf16": False},
    "optimizer": {"name": "tam", "args": {"lr": 0.1, "foreach": None}},
    "base_model": {"name": "org/base@0123abc", "sha256": None},
    "versions": {"torch": "2"},
    "data": [{"path": "org/data:train", "rows": 12345, "sha256": "f" * 64}],
    "global_batch": 8,
    "processes": 2,
    "negatives_per_anchor": None,
    "steps": 5,
    "seconds": 1.0,
    "device": "cpu",
    "git": None,
}


def test_metadata_and_writing_twice(tmp_path):
    path = tmp_path / card.NAME
    path.write_text("---\ntags:\n- a\n---\n\n# Model\n\n## Training Details\nx\n", encoding="utf-8")
    card.write(tmp_path, CONTENT)
    once = path.read_text()
    card.write(tmp_path, CONTENT)
    assert path.read_text() == once
    data = ModelCard.load(path).data
    assert (data.base_model, data.datasets, data.tags) == ("org/base", ["org/data"], ["a", "tamft"])
    assert "| `org/data:train` | 12,345 |" in once
    assert "negatives" not in once  # a row without a value is left out
    assert "foreach" not in once


def test_other_metadata_stays(tmp_path):
    # scores come later, from somebody else
    path = tmp_path / card.NAME
    results = (
        "model-index:\n- name: m\n  results:\n  - task: {type: STS}\n    dataset: {name: d, type: d}\n    metrics:\n"
    )
    path.write_text(f"---\n{results}    - {{type: cosine_spearman, value: 0.5}}\n---\n# m\n", encoding="utf-8")
    card.write(tmp_path, CONTENT)
    assert ModelCard.load(path).data.eval_results[0].metric_value == 0.5


def test_no_card_no_file(tmp_path):
    card.write(tmp_path, CONTENT)
    assert not (tmp_path / card.NAME).exists()


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("Qwen/Qwen3-Embedding-0.6B@abc", "Qwen/Qwen3-Embedding-0.6B"),
        ("/data/models/base", None),
        ("./a/b", None),
    ],
)
def test_base_models_of_the_hub(name, hub):
    assert card._hub_name(name) == hub
