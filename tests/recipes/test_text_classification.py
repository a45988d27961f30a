"""An ordinary script for transformers' Trainer: learns, scores, resumes, and says what is wrong in a line."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tamft.train import run
from tests.recipes.program import load_recipe

SURE = ["--learning_rate", 2e-3, "--warmup_steps", 10]  # what this tiny model learns at with every optimizer
WORDS = {"bank": "card account money transfer".split(), "animals": "cat dog park runs".split()}


def texts(label, count=24):
    words = WORDS[label]
    return [f"the {words[i % 4]} {words[(i + 1 + i // 4) % 4]} today" for i in range(count)]


@pytest.fixture
def classify(tiny_of, rows_file, tmp_path, capsys):
    """Run the recipe in this process: (exit code, stdout, stderr, run folder)."""
    rows = [{"text": text, "label": label} for label in WORDS for text in texts(label)]

    def call(*flags, folder="run"):
        words = ["--model", tiny_of("bert"), "--train_file", rows_file(rows=rows, name="train.jsonl")]
        words += ["--output_dir", tmp_path / folder, "--use_cpu", "true", "--disable_tqdm", "true"]
        words += ["--per_device_train_batch_size", 8, "--learning_rate", 5e-3, "--save_strategy", "no", *flags]
        capsys.readouterr()
        code = run.command(load_recipe("text_classification").main, [str(word) for word in words])
        return code, *capsys.readouterr(), tmp_path / folder

    return call


@pytest.mark.parametrize(
    "optim", [["adatamw"], ["adamw_msam", "--optim_args", "rho=0.05"], ["adamw_torch"]], ids=lambda words: words[0]
)
def test_learns(classify, rows_file, optim):
    test = rows_file(
        rows=[{"text": text, "label": label} for label in WORDS for text in texts(label)], name="test.jsonl"
    )
    code, out, error, folder = classify("--optim", *optim, "--eval_file", test, "--num_train_epochs", 10, *SURE)
    assert code == 0, error
    scores = json.loads((folder / "eval_results.json").read_text())
    assert scores["eval_accuracy"] > 0.9
    assert f"accuracy {scores['eval_accuracy']:.4f}" in out
    # the saved model gives the classes by their names
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    inputs = AutoTokenizer.from_pretrained(folder / "model")(["the cat runs today"], return_tensors="pt")
    assert model.config.id2label[int(model(**inputs).logits.argmax())] == "animals"


def test_resume_goes_on_from_the_newest_checkpoint(classify):
    flags = ["--optim", "adatamw", "--save_strategy", "steps", "--save_steps", 2, "--logging_steps", 1]
    flags += ["--lr_scheduler_type", "constant"]  # linear would end with the steps, which are fewer in the first part
    first = classify(*flags, "--max_steps", 2)[3]
    losses = [json.loads((first / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]]
    code, _, error, folder = classify(*flags, "--max_steps", 4, "--resume_from_checkpoint", "true")
    assert code == 0, error
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert (state["global_step"], state["log_history"][:2]) == (4, losses[0][:2])
    moments = torch.load(folder / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
    assert {int(state["step"]) for state in moments.values()} == {4}
    # transformers before 5.6 saved LayerNorm's weights under old names and did not find them in a checkpoint
    whole = load_file(classify(*flags, "--max_steps", 4, folder="whole")[3] / "model" / "model.safetensors")
    resumed = load_file(folder / "model" / "model.safetensors")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_checkpoints_are_not_overwritten_by_accident(classify):
    flags = ["--max_steps", 2, "--save_strategy", "steps", "--save_steps", 2]
    assert classify(*flags)[0] == 0
    code, _, error, _ = classify(*flags)
    assert (code, "--overwrite_output_dir" in error) == (2, True)
    folder = classify(
        "--max_steps", 1, "--save_strategy", "steps", "--save_steps", 1, "--overwrite_output_dir", "true"
    )[3]
    # a resume takes the highest number: an old run's must be gone
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]


def test_csv_and_pairs_and_numbers(classify, tmp_path):
    lines = [f"card {i},money {i},{i % 3}" for i in range(24)]
    (tmp_path / "train.csv").write_text("\n".join(["a,b,y", *lines]) + "\n", encoding="utf-8")
    flags = ["--train_file", tmp_path / "train.csv", "--text_columns", "a", "b", "--label_column", "y"]
    code, out, error, folder = classify(*flags, "--max_steps", 1)
    assert code == 0, error
    assert "24 rows in 3 classes from a, b" in out
    assert json.loads((folder / "model" / "config.json").read_text())["label2id"] == {"0": 0, "1": 1, "2": 2}


def test_a_decoder_gets_a_pad_token(classify, tiny_of):
    assert classify("--model", tiny_of("llama"), "--max_steps", 1)[0] == 0


def test_metrics_against_the_definition():
    metrics = load_recipe("text_classification").metrics
    guesses, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    # 2 right of 3 guessed, 2 found of 3 there
    assert metrics((np.eye(2)[guesses], labels)) == {"accuracy": 0.6, "f1": pytest.approx(2 / 3)}
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    guesses, labels = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    expected = f1_score(labels, guesses, average="macro", labels=range(4), zero_division=0)
    assert metrics((np.eye(4)[guesses], labels))["f1"] == pytest.approx(expected)


BAD = [
    (["--train_file", "none.jsonl"], "there is no such file"),
    (["--train_file", "none.txt"], "unknown kind of file"),
    (["--text_columns", "texts"], "has no column 'texts'. Its columns: text, label"),
    (["--eval_strategy", "epoch"], "needs --eval_file"),
    (["--model", "./none"], "no such folder"),
    (["--optim", "adamwm"], "not known"),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_refused_in_one_line(classify, flags, words):
    code, _, error, folder = classify(*flags)
    assert code == 2, error
    assert words in error
    assert not folder.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 1}\n', "two classes or more"),
        ('{"text": "a", "label": -1}\n{"text": "b", "label": 1}\n', "two classes or more"),
        ('{"text": "a", "label": 1}\n{"text": \n', "cannot be loaded"),
    ],
)
def test_bad_rows(classify, tmp_path, content, words):
    (tmp_path / "bad.jsonl").write_text(content, encoding="utf-8")
    code, _, error, _ = classify("--train_file", tmp_path / "bad.jsonl")
    assert (code, words in error) == (2, True), error


def test_a_class_that_training_has_not(classify, rows_file):
    test = rows_file(rows=[{"text": "a", "label": "plants"}], name="test.jsonl")
    code, _, error, _ = classify("--eval_file", test, "--max_steps", 1)
    assert (code, "'plants' is in the evaluation rows and not in the training rows" in error) == (2, True), error
