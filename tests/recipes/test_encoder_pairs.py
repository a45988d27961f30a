"""The recipe: what it trains, what it records, what it refuses, and how it ends."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

NAMES = ["adamw_torch", "tam", "adatam", "adatamw", "msam", "adamw_msam", "adatamw_msam", "tam_msam"]
TORQUE = {"tam", "adatam", "adatamw", "adatamw_msam", "tam_msam"}


def read(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer(recipe, tiny_model, name):
    code, _, folder = recipe("--optim", name)
    assert code == 0
    record = read(folder)
    assert (record["status"], record["steps"], record["model_dir"], record["error"]) == ("complete", 4, "model", None)
    assert record["optimizer"]["name"] == name
    # what it chose unasked on a CPU: ours the fused path, torch the loop
    assert record["optimizer"]["backend"] == ("loop" if name == "adamw_torch" else "fused")
    count = sum(p.numel() for p in weights(tiny_model).values())
    per_weight = record["optimizer"]["state_bytes"] / count
    assert (3.5 if name in ("tam", "msam", "tam_msam") else 7.5) < per_weight < 9
    assert [step for step, _ in record["loss"]] == [1, 2, 3, 4]
    keys = record["telemetry"][-1][1] if record["telemetry"] else {}
    assert ("alignment_mean" in keys) == (name in TORQUE)
    assert ("rho" in keys) == name.endswith("msam")
    before, after = weights(tiny_model), weights(folder / "model")
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_same_data_order_for_all(recipe):
    orders = {
        read(recipe("--optim", name, "--seed", seed, folder=f"{name}{seed}")[2])["first_batches_sha256"]
        for name, seed in [("adamw_torch", 1), ("adatamw", 1), ("msam", 1)]
    }
    assert len(orders) == 1
    other = read(recipe("--seed", 2, folder="other")[2])["first_batches_sha256"]
    assert other not in orders
    assert len(other) == 64


@pytest.mark.parametrize(
    ("columns", "flags", "loss"),
    [
        (("anchor", "positive"), [], "MultipleNegativesRankingLoss"),
        (("anchor", "positive"), ["--loss", "CachedMultipleNegativesRankingLoss", "--mini_batch_size", "3"], None),
        (("anchor", "positive", "negative"), ["--loss", "TripletLoss"], None),
        (("sentence1", "sentence2", "score"), [], "CoSENTLoss"),
        (("sentence1", "sentence2", "score"), ["--loss", "CosineSimilarityLoss"], None),
        (("q", "a", "n1", "n2"), ["--columns", "q", "a", "n1", "n2"], "MultipleNegativesRankingLoss"),
    ],
)
def test_columns_and_losses(recipe, rows_file, columns, flags, loss):
    code, _, folder = recipe("--train_file", rows_file(columns), *flags)
    record = read(folder)
    assert (code, record["config"]["loss"]) == (0, loss or flags[1])
    assert record["config"]["columns"] == list(columns)
    assert record["loss"][-1][1] < record["loss"][0][1]


def test_a_stray_label_never_reaches_the_loss(recipe, rows_file):
    # the labels would be targets for sentence-transformers: text ones crash it, numbers change the loss silently
    plain = read(recipe("--train_file", rows_file(), folder="plain")[2])
    code, _, folder = recipe("--train_file", rows_file(("anchor", "positive", "label"), name="label.jsonl"))
    assert code == 0
    assert read(folder)["config"]["columns"] == ["anchor", "positive"]
    assert read(folder)["loss"] == plain["loss"]


def test_evaluation_loss(recipe, rows_file):
    flags = ["--eval_strategy", "steps", "--eval_steps", 2]
    code, _, folder = recipe("--eval_file", rows_file(name="eval.jsonl"), *flags)
    assert (code, len(read(folder)["data"])) == (0, 2)
    measured = read(folder)["eval_loss"]
    assert [step for step, _ in measured] == [2, 4] and all(value > 0 for _, value in measured)
    code, error, folder = recipe(*flags, folder="other")
    assert (code, folder.exists()) == (2, False)
    assert "--eval_strategy steps needs --eval_file" in error
    code, error, _ = recipe(*flags, "--eval_split", "validation", folder="other")
    assert (code, "--eval_split validation is one of --dataset" in error) == (2, True)
    scored = rows_file(("sentence1", "sentence2", "score"), name="scored.jsonl")
    code, error, _ = recipe(*flags, "--eval_file", scored, folder="other")
    assert (code, "both must be the same" in error) == (2, True)


def test_record_holds_the_schema(recipe, tiny_model):
    record = read(recipe("--optim", "adatamw", "--optim_args", "gamma=0.5")[2])
    keys = "schema status config optimizer versions git device seed data first_batches_sha256 base_model steps seconds"
    assert {*keys.split(), "peak_memory_bytes", "loss", "telemetry", "model_dir"} <= set(record)
    assert record["optimizer"]["args"]["gamma"] == 0.5
    assert record["schema"] == 1
    assert record["seed"] == 42
    assert record["base_model"]["name"] == str(tiny_model)
    assert record["data"][0]["rows"] == 24
    assert record["peak_memory_bytes"] > 10**7
    assert record["seconds"] > 0
    assert record["device"].startswith("cpu: ")
    assert record["versions"]["torch"] == torch.__version__


def test_record_holds_what_words_stood_for(recipe):
    flags = ["--optim", "adamw_msam", "--optim_args", "rho_start=warmup", "--warmup_steps", 3]
    arguments = read(recipe(*flags)[2])["optimizer"]["args"]
    assert (arguments["rho_start"], arguments["lr"], arguments["rho"]) == (3, 1e-3, 0.3)


BAD = [
    (["--train_file", "none.jsonl"], ["none.jsonl", "no such file"]),
    (["--columns", "anchor", "postive"], ["'postive'"]),
    (["--loss", "CoSENTLoss"], ["CoSENTLoss", "two texts and a number", "anchor, positive"]),
    (["--loss", "MultipleNegativeRankingLoss"], ["not known", "multiplenegativesrankingloss"]),
    (["--optim", "adamwm"], ["'adamwm'", "not known"]),
    (["--optim", "adatamw", "--optim_args", "gamma=2"], ["gamma", "2"]),
    (["--optim", "adatamw", "--optim_args", "gama=0.2"], ["gama"]),
    (["--model", "/no/model"], ["/no/model", "no such folder"]),
    (["--max_seq_length", "9999"], ["9999"]),
    (["--mini_batch_size", "0", "--loss", "CachedMultipleNegativesRankingLoss"], ["--mini_batch_size 0"]),
    (["--report_to", "comet_ml"], ["comet"]),
    (["--optim", "adamw_bnb_8bit"], ["bitsandbytes"]),
    (["--learning_rate_mapping", '{"nothing": 0.1}'], ["nothing"]),
    (["--resume_from_checkpoint", "true"], ["holds no checkpoint"]),
    (["--output_dir", "/proc/none"], ["/proc/none", "cannot be written"]),
    (["--learning_rat", "1"], ["--learning_rat", "'--learning_rate'"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_refused_in_one_line_and_nothing_written(recipe, tmp_path, flags, words):
    code, error, folder = recipe(*flags)
    assert code == 2, error
    assert error.count("\n") == 1
    assert error.split("\r")[-1].startswith("error: ")  # a finished bar wipes itself with a carriage return
    assert all(word in error for word in words), error
    assert not folder.exists()


def test_complete_run_is_not_overwritten_by_accident(recipe):
    _, _, folder = recipe()
    kept = weights(folder / "model")
    code, error, _ = recipe("--seed", 7)
    assert (code, "complete run" in error, read(folder)["seed"]) == (2, True, 42)
    code, _, _ = recipe("--seed", 7, "--overwrite_output_dir")
    assert (code, read(folder)["seed"]) == (0, 7)
    assert any(not torch.equal(value, kept[key]) for key, value in weights(folder / "model").items())
    assert sorted(path.name for path in folder.iterdir()) == ["model", "run.json", "training_texts.hashes"]


@pytest.mark.parametrize("name", ["adamw_torch", "adatamw", "adamw_msam"])
def test_resume_is_exact(recipe, name):
    saving = ["--optim", name, "--save_strategy", "steps", "--save_steps", 2]
    whole = recipe(*saving, folder="whole")[2]
    part = recipe(*saving, folder="part")[2]
    shutil.rmtree(part / "checkpoint-4")
    shutil.rmtree(part / "model")
    code, error, _ = recipe(*saving, "--seed", 42, folder="part")
    assert (code, "complete run" in error) == (2, True)
    code, _, _ = recipe(*saving, "--resume_from_checkpoint", "true", folder="part")
    assert code == 0
    record = read(part)
    assert (record["loss"], record["steps"]) == (read(whole)["loss"], 4)
    assert record["first_batches_sha256"] == read(whole)["first_batches_sha256"]
    expected = weights(whole / "model")
    assert all(torch.equal(value, expected[key]) for key, value in weights(part / "model").items())


@pytest.mark.parametrize("name", ["adamw_torch", "adatamw"])
def test_an_incomplete_checkpoint_is_passed_over_or_refused(recipe, name, caplog):
    saving = ["--optim", name, "--save_strategy", "steps", "--save_steps", 2]
    folder = recipe(*saving)[2]
    expected = weights(folder / "model")
    (folder / "checkpoint-4" / "optimizer.pt").unlink()
    code, error, _ = recipe(*saving, "--resume_from_checkpoint", folder / "checkpoint-4")
    assert (code, "checkpoint-4 is not a complete checkpoint: optimizer.pt: is missing" in error) == (2, True)
    assert error.rstrip().endswith("checkpoint-2")
    shutil.rmtree(folder / "model")
    assert recipe(*saving, "--resume_from_checkpoint", "true")[0] == 0
    assert "checkpoint-4 is not complete and is passed over: optimizer.pt: is missing" in caplog.text
    assert all(torch.equal(value, expected[key]) for key, value in weights(folder / "model").items())


@pytest.mark.parametrize("name", ["adamw_torch", "adatamw"])
def test_killed_after_the_last_checkpoint_only_the_model_is_missing(recipe, name):
    saving = ["--optim", name, "--save_strategy", "steps", "--save_steps", 2]
    folder = recipe(*saving)[2]
    expected = weights(folder / "model")
    shutil.rmtree(folder / "model")
    assert recipe(*saving, "--resume_from_checkpoint", "true")[0] == 0
    assert (read(folder)["status"], read(folder)["steps"]) == ("complete", 4)
    assert all(torch.equal(value, expected[key]) for key, value in weights(folder / "model").items())


def test_auto_goes_on_or_starts(recipe):
    saving = ["--save_strategy", "steps", "--save_steps", 2, "--resume_from_checkpoint", "auto"]
    code, _, folder = recipe(*saving, "--seed", 3)
    assert (code, read(folder)["status"]) == (0, "complete")
    for number in (2, 4):
        (folder / f"checkpoint-{number}" / "optimizer.pt").unlink()
    code, error, _ = recipe(*saving)
    assert (code, "a complete run" in error) == (2, True)
    (folder / "run.json").unlink()
    assert recipe(*saving, "--seed", 4)[0] == 0
    assert read(folder)["seed"] == 4


@pytest.mark.parametrize(("wrote", "asked"), [("adamw_torch", "adatamw"), ("adatamw", "adamw_torch"), ("tam", "msam")])
def test_another_optimizers_checkpoint_is_refused(recipe, wrote, asked):
    saving = ["--save_strategy", "steps", "--save_steps", 2]
    folder = recipe(*saving, "--optim", wrote)[2]
    code, error, _ = recipe(*saving, "--optim", asked, "--resume_from_checkpoint", "true")
    assert code == 2
    told = "not written by tamft" if wrote == "adamw_torch" else f"was written with --optim {wrote}, not {asked}"
    assert told in error
    (folder / "checkpoint-4" / "training_args.bin").unlink()
    code, error, _ = recipe(*saving, "--optim", asked, "--resume_from_checkpoint", "true")
    assert (code, "tamft" in error or "which MSAM has not" in error) == (2, True)
    assert read(folder)["optimizer"]["name"] == wrote


def test_nothing_is_loaded_before_the_folder_is_known_to_be_writable(recipe, monkeypatch):
    from tamft.train import data, models

    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(models, "load_model", never)
    monkeypatch.setattr(data, "load_rows", never)
    code, error, _ = recipe("--output_dir", "/proc/none")
    assert (code, "cannot be written" in error) == (2, True)


def test_saved_model_is_float32_and_loads(recipe):
    folder = recipe("--bf16", "true")[2]
    assert {value.dtype for value in weights(folder / "model").values()} == {torch.float32}
    assert SentenceTransformer(str(folder / "model"), device="cpu").encode("hello").shape == (32,)
