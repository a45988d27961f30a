"""Every YAML in the tree is read, resolved and run: two steps on a tiny model of the architecture that it names."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification

from tamft.train import run, shipped
from tamft.train.catalogue import yaml_head
from tamft.yaml_file import read_yaml
from tests.conftest import ROOT
from tests.recipes.conftest import make_rows
from tests.recipes.program import load_recipe
from tests.recipes.tiny_models import MODELS

CONFIGS = shipped.configs()
BY_RECIPE = {
    recipe: [name for name, path in CONFIGS.items() if shipped.recipe_of(path) == recipe]
    for recipe in shipped.recipes()
}
EMBEDDERS = BY_RECIPE["encoder_pairs"] + BY_RECIPE["llm_lora"]
QUIET = ["--use_cpu", "true", "--disable_tqdm", "true"]
NOT_MEANT_HERE = ("model", "max_steps", "dataset", "dataset_config", "train_split")


def read(name):
    return read_yaml(shipped.find_config(name))


def model_of(name):
    # the demo's model comes from the command line
    return read(name).get("model", "all-MiniLM-L6-v2")


def rows_for(tmp_path, columns, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(columns, 40)), encoding="utf-8")
    return path


def call(name, *flags):
    recipe = shipped.recipe_of(shipped.find_config(name))
    return run.command(load_recipe(recipe).main, [str(word) for word in ("--config", name, *flags)])


def test_every_yaml_of_the_tree_has_a_test():
    found = set((ROOT / "recipes").rglob("*.y*ml"))
    assert found == {*CONFIGS.values(), *shipped.presets().values()}
    assert {path.parent.name for path in CONFIGS.values()} == set(shipped.RECIPE_OF)
    assert set(shipped.RECIPE_OF.values()) == set(shipped.recipes())
    assert sum(map(len, BY_RECIPE.values())) == len(CONFIGS)
    for name in CONFIGS:
        assert model_of(name) in MODELS, f"{name}: add its model to tests/recipes/tiny_models.py"


def test_the_table_has_all_of_them():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "recipes" / target).resolve() for target in re.findall(r"\]\(([\w./]+\.(?:yaml|py))\)", text)}
    assert linked == {*CONFIGS.values(), *shipped.presets().values(), *shipped.recipes().values()}
    for name, path in CONFIGS.items():
        row = next(line for line in text.splitlines() if path.name in line)
        size = re.search(r"([\d.]+ Gi?B)", yaml_head(path).facts["memory"])
        assert (size[1] if size else "not measured") in row, f"{name}: {row}"


def test_names_are_unique():
    """`tamft recipes show NAME` has one answer; Path.stem would hide two configs of one name in two folders."""
    names = [path.stem for path in (ROOT / "recipes").rglob("*") if path.suffix in (".py", ".yaml")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", EMBEDDERS)
def test_two_steps_of_an_embedder(name, tiny_of, tmp_path):
    config, source = read(name), tiny_of(model_of(name))
    data = rows_for(tmp_path, config.get("columns", ["anchor", "positive"]))
    assert (
        call(name, "--model", source, "--train_file", data, "--output_dir", tmp_path / "run", "--max_steps", 2, *QUIET)
        == 0
    )

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("complete", 2)
    for key, value in config.items():
        if key not in NOT_MEANT_HERE:
            assert record["config"][key] == value, key
    tuned = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    base = SentenceTransformer(str(source), device="cpu")
    assert tuned[0].auto_model.config.model_type == MODELS[model_of(name)].architecture
    assert tuned.max_seq_length == config["max_seq_length"]
    assert [type(module) for module in tuned] == [type(module) for module in base]
    assert tuned[1].pooling_mode == config.get("pooling", base[1].pooling_mode)
    assert tuned.prompts["query"] == config.get("query_prompt", base.prompts["query"])
    assert tuned.prompts["document"] == config.get("document_prompt", base.prompts["document"])
    vectors = tuned.encode_query(["how do i top up my card", "why"])
    assert vectors.shape == (2, 32)
    assert torch.isfinite(torch.tensor(vectors)).all()


@pytest.mark.parametrize("name", [*EMBEDDERS, *BY_RECIPE["text_classification"]])
def test_dry_run(name, tiny_of, tmp_path, capsys):
    config = read(name)
    columns = config.get("columns") or [*config.get("text_columns", ["anchor", "positive"])]
    data = rows_for(tmp_path, columns if "text_columns" not in config else [*columns, config["label_column"]])
    flags = ["--model", tiny_of(model_of(name)), "--train_file", data, "--output_dir", tmp_path / "run", *QUIET]
    if "text_columns" in config:
        flags += ["--eval_file", data]
    capsys.readouterr()
    assert call(name, *flags, "--dry_run", "true") == 0
    out = capsys.readouterr().out
    rows = config["per_device_train_batch_size"]
    assert f" = {rows} rows a step" in out
    if "text_columns" not in config:
        assert f"negatives  {rows * (len(columns) - 1) - 1} for each anchor" in out
    assert re.search(rf"learning_rate +{config['learning_rate']} +{name}.yaml", out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", BY_RECIPE["llm_lora"])
def test_lora_trains_float32_adapters_over_the_dtype_of_the_config(name, tiny_of, tmp_path):
    config = read(name)
    flags = ["--model", tiny_of(model_of(name)), "--train_file", rows_for(tmp_path, config["columns"])]
    flags += ["--output_dir", tmp_path / "run", "--max_steps", 2, "--learning_rate", 1e-2, "--warmup_steps", 0, *QUIET]
    assert call(name, *flags) == 0
    adapter = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    # B starts at zero: after a step it is not
    assert all(tensor.abs().sum() > 0 for key, tensor in adapter.items() if "lora_B" in key)


@pytest.mark.parametrize("name", BY_RECIPE["text_classification"])
def test_two_steps_of_a_classifier(name, tiny_of, tmp_path):
    config = read(name)
    rows = rows_for(tmp_path, [*config["text_columns"], config["label_column"]])
    labelled = [
        json.loads(line) | {config["label_column"]: i % 2} for i, line in enumerate(rows.read_text().splitlines())
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in labelled), encoding="utf-8")
    flags = ["--model", tiny_of(model_of(name)), "--train_file", rows, "--eval_file", rows]
    assert call(name, *flags, "--output_dir", tmp_path / "run", "--max_steps", 2, "--optim", "adatamw", *QUIET) == 0
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert state["train_batch_size"] == config["per_device_train_batch_size"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert (model.config.model_type, model.config.num_labels) == (MODELS[model_of(name)].architecture, 2)


@pytest.mark.parametrize("name", BY_RECIPE["mine_negatives"])
def test_mining(name, tiny_of, tmp_path):
    config = read(name)
    rows = rows_for(tmp_path, config["columns"])
    # a random model hardly tells texts apart: the config's margin would leave nothing
    flags = ["--model", tiny_of(model_of(name)), "--train_file", rows, "--relative_margin", 0, "--range_max", 30]
    assert call(name, *flags, "--output_file", tmp_path / "out.jsonl") == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found
    assert set(found[0]) == {"anchor", "positive", *(["negative"] if config["num_negatives"] == 1 else [])}


@pytest.mark.parametrize("name", CONFIGS)
def test_comments_say_how_where_and_how_long(name):
    path = shipped.find_config(name)
    text = path.read_text(encoding="utf-8")
    head = text[: text.index("\n", text.index("knob costs"))]
    assert all(line.startswith("#") for line in head.splitlines())
    command = f"tamft train {shipped.recipe_of(path)} --config {name} "
    assert command in head
    facts = yaml_head(path).facts
    assert {"hardware", "memory", "time"} <= set(facts)
    assert len(yaml_head(path).what) > 20
    for fact in ("memory", "time"):
        # a number is measured, or says what else it is
        if re.search(r"\d", facts[fact]):
            assert re.search(r"measured|estimate|computed|threads", facts[fact]), f"{name}: {fact}"
    # a knob that is explained exists
    explained = re.findall(r"^#   (\w+)  ", text, re.MULTILINE)
    recipe = load_recipe(shipped.recipe_of(path))
    options = next(
        value
        for key, value in vars(recipe).items()
        if key.endswith("Arguments") and value.__module__ == recipe.__name__
    )
    from sentence_transformers import SentenceTransformerTrainingArguments

    known = set(options.__dataclass_fields__) | set(SentenceTransformerTrainingArguments.__dataclass_fields__)
    assert explained
    assert set(explained) <= known, set(explained) - known
