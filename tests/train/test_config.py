"""YAML < command line, and every unknown key or wrong value is one line that names it."""

import pytest
from sentence_transformers import SentenceTransformerTrainingArguments

import tamft
from tamft.errors import InputError
from tamft.train import config, shipped
from tests.recipes.program import load_recipe


@pytest.fixture(scope="module")
def parse():
    tamft.register()
    arguments = load_recipe("encoder_pairs").PairsArguments
    return lambda *argv: config.parse(list(argv), arguments, SentenceTransformerTrainingArguments)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_command_line_wins_over_yaml_over_defaults(parse, yaml_file, tmp_path):
    path = yaml_file("learning_rate: 2e-5\nmax-steps: 7\nbf16: false\ncolumns: [a, b]\nmodel: x\nseed: null\n")
    out = str(tmp_path / "o")
    args, training = parse("--config", path, "--max-steps", "9", "--output_dir", out, "--columns", "c", "d")
    assert (training.learning_rate, training.max_steps, training.seed) == (2e-5, 9, 42)  # 2e-5: YAML 1.1 reads a text
    assert (args.columns, args.model, args.dtype) == (["c", "d"], "x", "float32")
    assert training.logging_nan_inf_filter is False
    assert training.logging_steps == 10


def test_yaml_no_and_mappings(parse, yaml_file):
    path = yaml_file("save_strategy: no\nlr_scheduler_kwargs: {num_cycles: 2}\noutput_dir: o\n")
    training = parse("--config", path)[1]
    assert training.save_strategy == "no"
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize("name", ["adamw_torch", "tam", "adatam", "adatamw", "msam", "adamw_msam", "adatamw_msam"])
def test_optimizer_names(parse, name):
    assert parse("--output_dir", "o", "--optim", name)[1].optim == name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lerning_rate", "1"], ["--lerning_rate", "'--learning_rate'"]),
        (["--max-sequence-length=3"], ["--max-sequence-length", "'--max_seq_length'"]),
        (["stray"], ["'stray'"]),
        (["--learning_rate", "fast"], ["learning_rate", "'fast'"]),
        (["--max_steps", "1.5"], ["max_steps", "1.5"]),
        (["--bf16", "perhaps"], ["bf16", "perhaps"]),
        (["--optim", "adatanw"], ["'adatanw'", "Did you mean 'adatamw'?", "tam_msam"]),
        (["--optim", "adatamw", "--optim_args", "gama=1"], ["gama"]),
        (["--optim", "adatamw", "--optim_args", "gamma=x"], ["gamma"]),
        (["--optim", "adatamw", "--optim_args", "gamma=1,gamma=1"], ["twice"]),
        (["--optim", "sgd", "--optim_args", "momentum=0.9=1"], ["key=value"]),
        (["--optim", "sgd", "--optim_args", "momentum=0.9,momentum=0.8"], ["momentum is given twice"]),
        (["--optim", "adamw_torch", "--optim_args", "betas=1"], ["adamw_torch takes none"]),
        (["--dtype", "float23"], ["--dtype", "'float32'"]),
        (["--save_strategy", "sometimes"], ["--save_strategy", "steps"]),
        (["--config", "minilm_banking7"], ["minilm_banking7", "'minilm_banking77'"]),
        (["--lr_scheduler_type", "linaer"], ["linaer", "'linear'"]),
    ],
)
def test_wrong_flags(parse, flags, words):
    with pytest.raises(InputError) as error:
        parse("--output_dir", "o", *flags)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lerning_rate: 1", ["'lerning_rate'", "'learning_rate'"]),
        ("learning_rate: [1, 2]", ["one value"]),
        ("learning_rate: {a: 1}", ["learning_rate"]),
        ("max_steps: many", ["max_steps", "many"]),
        ("a: [", ["line 1", "not valid YAML"]),
        ("- a\n- b", ["list"]),
        ("config: other", ["'config'"]),
        ("", ["NoneType"]),
    ],
)
def test_wrong_yaml(parse, yaml_file, text, words):
    with pytest.raises(InputError) as error:
        parse("--output_dir", "o", "--config", yaml_file(text))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_yaml_that_is_not_utf8(parse, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"model: caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8"):
        parse("--config", str(path))


def test_shipped_names():
    assert "encoder_pairs" in shipped.recipes()
    assert {"demo", "minilm_banking77", "bert_base_allnli", "modernbert_msmarco"} <= set(shipped.configs())
    assert shipped.find_config("demo") == shipped.find_config("demo.yaml")
    with pytest.raises(InputError, match="'encoder_pairs'"):
        shipped.find_recipe("encoder_pair")
    with pytest.raises(InputError, match="no such file"):
        shipped.find_recipe("mine.py")


def test_where_a_value_comes_from(yaml_file):
    path = yaml_file("learning_rate: 2e-5\nmax-steps: 7\nseed: null\nlogging_steps: 3\n")
    found = config.origins(["--config", path, "--max-steps=9", "--output-dir", "o"])
    assert {
        key: found[key] for key in ("learning_rate", "max_steps", "output_dir", "logging_steps", "save_total_limit")
    } == {
        "learning_rate": "c.yaml",
        "max_steps": "command line",
        "output_dir": "command line",
        "logging_steps": "c.yaml",
        "save_total_limit": "recipe",
    }
    assert "seed" not in found


def test_a_config_of_another_recipe(parse):
    with pytest.raises(InputError, match=r"'pooling' is not an option.* This is a config of llm_lora\."):
        parse("--config", "llama_3.2_1b", "--output_dir", "o")
