"""A checkpoint that is not whole, or not this optimizer's, is passed over or refused: never half used in silence."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW
from transformers import Trainer

import tamft
from tamft import registry
from tamft.errors import InputError
from tamft.hf.checkpoints import ONLY_MODEL, problems
from tests.hf import small

NAME = "adatamw_msam"
SAVING = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear", "max_grad_norm": 1.0}
FILES = ["model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with checkpoint-2, -4 and -6, and its trainer."""
    trainer = small.trainer(tmp_path_factory.mktemp("whole") / "run", NAME, **SAVING)
    trainer.train()
    return trainer


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the run as it was when it had saved step 4."""
    shutil.copytree(whole.args.output_dir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-6"))
    return tmp_path / "run"


def trainer_in(folder, name=NAME, **changes):
    return small.trainer(folder, name, **{**SAVING, **changes})


def same_state(a, b):
    """Weights and optimizer states are equal bit for bit."""
    if small.distance(small.weights(a.model), small.weights(b.model)) != 0:
        return False
    states = zip(a.optimizer.state_dict()["state"].values(), b.optimizer.state_dict()["state"].values(), strict=True)
    return all(torch.equal(one[key], other[key]) for one, other in states for key in one)


def damage(path: Path, cut: str) -> bool:
    """Shorten or remove a file; False where that changes nothing (the line end of a text)."""
    content = path.read_bytes()
    if cut == "deleted":
        path.unlink()
        return True
    size = {"empty": 0, "half": len(content) // 2, "last byte": len(content) - 1}[cut]
    path.write_bytes(content[:size])
    return content[size:].strip() != b""


@pytest.mark.parametrize("cut", ["empty", "half", "last byte", "deleted"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_taken(folder, whole, caplog, file, cut):
    harmful = damage(folder / "checkpoint-4" / file, cut)
    trainer = trainer_in(folder)
    trainer.train(resume_from_checkpoint=True)
    assert same_state(trainer, whole)
    told = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert len(told) == harmful
    if harmful:
        assert "checkpoint-4 is not complete" in told[0]
        assert f"{file}: " in told[0]


@pytest.mark.parametrize("cut", ["empty", "half", "last byte", "deleted"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_by_name_is_refused_with_the_file_and_a_whole_one(folder, file, cut):
    if not damage(folder / "checkpoint-4" / file, cut):
        return
    before = small.weights((trainer := trainer_in(folder)).model)
    with pytest.raises(InputError, match=rf"checkpoint-4 is not a complete checkpoint: .*{file}: .*checkpoint-2$"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert small.distance(before, small.weights(trainer.model)) == 0
    assert trainer.optimizer is None


@pytest.mark.parametrize("cut", ["empty", "half", "last byte", "deleted"])
def test_training_arguments_are_not_needed(folder, whole, cut):
    damage(folder / "checkpoint-4" / "training_args.bin", cut)
    assert problems(folder / "checkpoint-4") == []
    trainer = trainer_in(folder)
    trainer.train(resume_from_checkpoint=True)
    assert same_state(trainer, whole)


def test_none_is_complete(folder):
    for number in (2, 4):
        (folder / f"checkpoint-{number}" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"no complete checkpoint: checkpoint-4 \(optimizer.pt: is missing\), checkp"):
        trainer_in(folder).train(resume_from_checkpoint=True)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="holds no checkpoint; start anew"):
        trainer_in(folder).train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match="there is no such folder"):
        trainer_in(folder).train(resume_from_checkpoint=str(folder / "checkpoint-9"))


@pytest.mark.parametrize("no", [None, False])
def test_nothing_to_resume_is_a_fresh_start(folder, whole, no):
    trainer = trainer_in(folder)
    trainer.train(resume_from_checkpoint=no)
    assert same_state(trainer, whole)


@pytest.mark.parametrize("settings", [{}, {"max_steps": 18, "save_steps": 6}])  # within an epoch, and many
def test_the_last_checkpoint_of_a_run_that_could_not_say_so_needs_no_further_step(tmp_path, settings):
    """Trainer makes step 7 of 6 (see below): the model would be another one than without the interruption."""
    whole, again = trainer_in(tmp_path, **settings), trainer_in(tmp_path, **settings)
    whole.train()
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == again.args.max_steps
    assert same_state(whole, again)


def test_trainer_still_makes_a_step_too_many(tmp_path):
    """Fails as soon as the patch for the test above is no longer needed."""
    trainer_in(tmp_path, "adamw_torch").train()
    assert trainer_in(tmp_path, "adamw_torch").train(resume_from_checkpoint=True).global_step == 7


def test_what_save_only_model_wrote_cannot_be_resumed(tmp_path):
    trainer_in(tmp_path, save_only_model=True).train()
    assert problems(tmp_path / "checkpoint-4") == [ONLY_MODEL]
    with pytest.raises(InputError, match="save_only_model"):
        trainer_in(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_save_that_the_just_in_time_callback_did_not_finish(folder):
    (folder / "checkpoint-4" / "checkpoint-is-incomplete.txt").write_text("")
    assert problems(folder / "checkpoint-4") == ["checkpoint-is-incomplete.txt: the save did not come to its end"]


def test_contents_that_are_something_else(folder):
    checkpoint = folder / "checkpoint-4"
    torch.save([1, 2], checkpoint / "optimizer.pt")
    (checkpoint / "trainer_state.json").write_text("[]")
    assert [text.partition(":")[0] for text in problems(checkpoint)] == ["optimizer.pt", "trainer_state.json"]


def test_a_flipped_byte_is_seen_by_a_deep_look(folder):
    path = folder / "checkpoint-4" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (problem,) = problems(folder / "checkpoint-4", deep=True)
    assert problem.startswith("optimizer.pt: damaged")


def test_a_later_number_counts_not_a_longer_name(folder, whole):
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-10")
    (folder / "checkpoint-10" / "scheduler.pt").unlink()
    (folder / "checkpoint-4x").mkdir()
    trainer = trainer_in(folder)
    trainer.train(resume_from_checkpoint=True)
    assert same_state(trainer, whole)


def test_weights_as_before_torch_1_6(folder):
    checkpoint = folder / "checkpoint-4"
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "pytorch_model.bin"
    torch.save(small.model().state_dict(), path, _use_new_zipfile_serialization=False)
    assert problems(checkpoint) == []
    path.write_bytes(path.read_bytes()[:-100])
    assert problems(checkpoint)[0].startswith("pytorch_model.bin: damaged")


def test_shards(tmp_path):
    model = small.model()
    trainer_in(tmp_path).train()
    checkpoint = tmp_path / "checkpoint-4"
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="8KB")
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert problems(checkpoint) == []
    shards[0].rename(checkpoint / "away")
    assert problems(checkpoint) == [f"{shards[0].name}: is missing"]
    shutil.copy(shards[1], shards[0])
    assert "lacks" in problems(checkpoint)[0]
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    assert "outside of the folder" in problems(checkpoint)[0]


@pytest.mark.parametrize(
    ("there", "ranks", "missing"),
    [
        (["rng_state.pth"], [0], None),
        (["rng_state.pth"], [0, 1], None),  # one process wrote it: allowed, as in Trainer
        (["rng_state_0.pth", "rng_state_1.pth"], [0, 1], None),
        (["rng_state_0.pth", "rng_state_1.pth"], [0], None),
        (["rng_state_0.pth"], [0, 1], "rng_state_1.pth"),
        (["rng_state_1.pth"], [1], None),  # a machine that holds its own processes' files
        ([], [0], "rng_state.pth"),
    ],
)
def test_random_numbers_of_every_process(folder, there, ranks, missing):
    checkpoint = folder / "checkpoint-4"
    content = (checkpoint / "rng_state.pth").read_bytes()
    (checkpoint / "rng_state.pth").unlink()
    for name in there:
        (checkpoint / name).write_bytes(content)
    found = problems(checkpoint, ranks=ranks)
    assert [text.partition(":")[0] for text in found] == ([missing] if missing else [])


def test_a_loss_scaler_that_the_run_has_and_the_checkpoint_lacks(folder):
    trainer = trainer_in(folder)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(InputError, match=r"no complete checkpoint: .*scaler.pt: is missing"):
        trainer.train(resume_from_checkpoint=True)


def test_saving_over_a_checkpoint_unmarks_it_first(folder, monkeypatch):
    """Killed while it writes over an old checkpoint-6, a run must not leave a mixture that looks complete."""
    seen = []

    def save_model(self, output_dir, **kwargs):
        seen.append((Path(output_dir).name, (Path(output_dir) / "trainer_state.json").exists()))
        raise KeyboardInterrupt

    trainer = trainer_in(folder)
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-6")
    monkeypatch.setattr(Trainer, "save_model", save_model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert seen == [("checkpoint-6", False)]
    assert problems(folder / "checkpoint-6") == ["trainer_state.json: is missing"]


# ---- another optimizer, other numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tam", "adatam", "adamw_msam", "msam"])
def test_another_optimizer_is_refused(folder, name):
    trainer = trainer_in(folder, name)
    with pytest.raises(InputError, match=rf"was written with --optim {NAME}, not {name}: take the optimizer"):
        trainer.train(resume_from_checkpoint=True)
    (folder / "checkpoint-4" / "training_args.bin").unlink()  # then the state tells
    if name != "adatam":  # whose state is the same
        with pytest.raises(InputError, match="the state"):
            trainer.train(resume_from_checkpoint=True)


def test_another_preset_of_the_same_class_goes_on_with_the_checkpoints_rho(folder, whole):
    trainer = trainer_in(folder, "adatamw")
    trainer.train(resume_from_checkpoint=True)
    assert same_state(trainer, whole)


@pytest.mark.parametrize("name", ["adatamw", "tam"])
def test_a_checkpoint_of_torchs_own_is_refused(tmp_path, name):
    trainer_in(tmp_path, "adamw_torch").train()
    with pytest.raises(InputError, match="not written by tamft"):
        trainer_in(tmp_path, name).train(resume_from_checkpoint=True)


def test_an_optimizer_of_somebody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))
    tamft.register("theirs", AdamW)
    trainer_in(tmp_path / "a", NAME).train()
    with pytest.raises(InputError, match=f"--optim {NAME}, not theirs"):
        trainer_in(tmp_path / "a", "theirs").train(resume_from_checkpoint=True)
    trainer_in(tmp_path / "b", "theirs").train()
    (tmp_path / "b" / "checkpoint-6" / "optimizer.pt").unlink()
    trainer = trainer_in(tmp_path / "b", "theirs")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 6


def test_an_optimizer_that_was_handed_to_trainer(folder, whole):
    """--optim says nothing about it; the checkpoint's own state does."""

    def handed(folder, cls):
        trainer = trainer_in(folder, "adamw_torch")
        groups = [{"params": list(trainer.model.parameters())}]
        trainer.optimizer = cls(groups, lr=1e-2)
        return trainer

    handed(folder / "new", tamft.AdaTAMW).train()
    assert handed(folder / "new", tamft.AdaTAMW).train(resume_from_checkpoint=True).global_step == 6
    with pytest.raises(InputError, match="moment"):
        handed(folder / "new", tamft.TAM).train(resume_from_checkpoint=True)


def test_trainers_own_behaviour_stays_with_trainers_own_optimizers(tmp_path):
    trainer_in(tmp_path, "adamw_torch").train()
    (tmp_path / "checkpoint-6" / "optimizer.pt").unlink()
    trainer_in(tmp_path, "adamw_torch").train(resume_from_checkpoint=True)  # afresh, in silence


def test_other_numbers_are_the_checkpoints_and_said_in_one_line(folder, whole, caplog):
    changes = {"learning_rate": 3e-3, "adam_beta1": 0.8, "weight_decay": 0.1, "optim_args": "gamma=0.5,foreach=true"}
    trainer = trainer_in(folder, **changes)
    with caplog.at_level(logging.WARNING, logger="tamft"):
        trainer.train(resume_from_checkpoint=True)
    (line,) = [record.getMessage() for record in caplog.records if "asked for" in record.getMessage()]
    assert "checkpoint-4: the checkpoint's value is used: " in line
    for part in (
        "betas: checkpoint (0.9, 0.999), asked for (0.8, 0.999)",
        "gamma: checkpoint 0.9, asked for 0.5",
        "learning_rate: checkpoint 0.01, asked for 0.003",
        "weight_decay: checkpoint 0.0, asked for 0.1",
    ):
        assert part in line
    assert line.count("asked for") == 4
    # the line tells the truth: linear decay from the checkpoint's rate
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.01
    assert [trainer.lr_scheduler.base_lrs[0], whole.lr_scheduler.base_lrs[0]] == [0.01, 0.01]


def test_the_rates_of_a_resumed_run_are_the_checkpoints(folder):
    rates = []
    trainer = trainer_in(folder, learning_rate=3e-3)
    trainer.add_callback(
        small.At("on_pre_optimizer_step", 4, lambda optimizer, **kw: rates.append(optimizer.param_groups[0]["lr"]))
    )
    trainer.add_callback(
        small.At("on_pre_optimizer_step", 5, lambda optimizer, **kw: rates.append(optimizer.param_groups[0]["lr"]))
    )
    trainer.train(resume_from_checkpoint=True)
    assert rates == pytest.approx([0.01 * 2 / 6, 0.01 * 1 / 6])


def test_the_same_numbers_are_not_talked_about(folder, caplog):
    trainer_in(folder).train(resume_from_checkpoint=True)
    assert not [record for record in caplog.records if record.name.startswith("tamft")]


def test_rho_start_of_the_warm_up_is_filled_in_later(tmp_path, caplog):
    settings = {"optim_args": "rho_start=warmup", "warmup_steps": 3}
    trainer_in(tmp_path, **settings).train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    trainer = trainer_in(tmp_path, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.optimizer.param_groups[0]["rho_start"] == 3
    assert not [record for record in caplog.records if "asked for" in record.getMessage()]
