"""Telemetry in the logs, on logging steps only, and rho_start=warmup."""

import json

import pytest
from transformers import TrainerCallback

import tamft
from tamft import registry
from tamft.hf.callbacks import is_moved, unwrap
from tests.cases import NAMES, PERTURBING
from tests.hf import small

LOGGING = {"logging_strategy": "steps", "logging_steps": 2}


class Tracker(TrainerCallback):
    """What wandb, tensorboard and the others do: take what on_log hands over."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append({**logs, "step": state.global_step})


@pytest.mark.parametrize("name", NAMES)
def test_logging_steps_carry_telemetry_to_history_and_trackers(tmp_path, name):
    tracker = Tracker()
    trainer = small.trainer(tmp_path, name, callbacks=[tracker], eval_strategy="steps", eval_steps=3, **LOGGING)
    trainer.train()
    keys = {f"tamft/{key}" for key in unwrap(trainer.optimizer).telemetry()}
    assert ("tamft/alignment_q50" in keys) == ("torque" in registry.options(name))
    assert ("tamft/rho" in keys) == (name in PERTURBING)
    assert "tamft/momentum_norm" in keys
    for rows in (trainer.state.log_history, tracker.rows):
        loss = [row for row in rows if "loss" in row]
        assert [row["step"] for row in loss] == [2, 4, 6]
        assert all({key for key in row if key.startswith("tamft/")} == keys for row in loss)
        assert all(isinstance(row[key], float) for row in loss for key in keys)
        others = [row for row in rows if "loss" not in row]
        assert len(others) == 3  # two evaluations and the summary
        assert not any(key.startswith("tamft/") for row in others for key in row)
    assert all(row["tamft/momentum_norm"] > 0 for row in trainer.state.log_history if "loss" in row)
    trainer.state.save_to_json(str(tmp_path / "state.json"))
    assert json.loads((tmp_path / "state.json").read_text())["log_history"] == trainer.state.log_history


def test_the_device_is_asked_on_logging_steps_only(tmp_path, monkeypatch):
    calls = []
    real = tamft.AdaTAMW.telemetry
    monkeypatch.setattr(tamft.AdaTAMW, "telemetry", lambda self: calls.append(1) or real(self))
    small.trainer(tmp_path, "adatamw", **LOGGING).train()
    assert len(calls) == 3


def test_the_last_value_is_the_optimizers_own(tmp_path):
    trainer = small.trainer(tmp_path, "adatamw", **LOGGING)
    trainer.train()
    last = next(row for row in reversed(trainer.state.log_history) if "loss" in row)
    assert last["step"] == 6
    assert {key: last[f"tamft/{key}"] for key in trainer.optimizer.optimizer.telemetry()} == (
        trainer.optimizer.optimizer.telemetry()
    )


def test_other_optimizers_logs_stay_as_they_were(tmp_path):
    trainer = small.trainer(tmp_path, "adamw_torch", **LOGGING)
    trainer.train()
    assert not any(key.startswith("tamft/") for row in trainer.state.log_history for key in row)


def moved_at_each_step(folder, name, **arguments) -> list[bool]:
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            seen.append(is_moved(optimizer))

    trainer = small.trainer(folder, name, callbacks=[Watch()], **arguments)
    trainer.train()
    return seen


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ({"optim_args": "rho_start=warmup", "warmup_steps": 3}, 3),
        ({"optim_args": "rho_start=warmup", "warmup_steps": 0.5}, 3),  # a share of the steps
        ({"optim_args": "rho_start=warmup", "warmup_steps": 0.4}, 3),  # rounded up, as the schedule does
        ({"optim_args": "rho_start=warmup", "warmup_steps": 0.5, "max_steps": -1, "num_train_epochs": 1}, 6),
        ({"optim_args": "rho_start=2", "warmup_steps": 3}, 2),
        ({"optim_args": "rho_start=warmup"}, 1),  # no warm-up: only the very first step has no momentum to follow
    ],
)
@pytest.mark.parametrize("name", PERTURBING)
def test_rho_starts_after_the_warm_up(tmp_path, name, arguments, first):
    seen = moved_at_each_step(tmp_path, name, **arguments)
    assert seen == [False] * first + [True] * (len(seen) - first)
    assert len(seen) == (12 if "num_train_epochs" in arguments else 6)


def test_rho_start_warmup_survives_a_resume(tmp_path):
    settings = {"optim_args": "rho_start=warmup", "warmup_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = small.trainer(tmp_path / "a", "adamw_msam", **settings)
    whole.train()
    resumed = small.trainer(tmp_path / "b", "adamw_msam", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert [group["rho_start"] for group in resumed.optimizer.param_groups] == [4, 4]
    assert small.distance(small.weights(resumed.model), small.weights(whole.model)) == 0
