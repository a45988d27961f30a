"""Flat shards are refused before training, with the reason and the lines to write; other optimizers are left alone."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tamft.errors import InputError
from tamft.hf.sharding import check_sharding
from tests.hf import small
from tests.optim.problem import NAMES, cls

LINES = "distributed_type: FSDP\n    fsdp_config:\n      fsdp_version: 2"


def arguments(tmp_path, optim: str, **more) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), optim=optim, **{**small.QUIET, **more})


@pytest.mark.parametrize("optim", ["adatamw", "msam"])
def test_trainers_flags(tmp_path, optim, monkeypatch):
    with pytest.raises(InputError, match="--deepspeed"):
        arguments(tmp_path, optim, deepspeed={"zero_optimization": {"stage": 2}})
    with pytest.raises(InputError, match="version 1") as raised:
        arguments(tmp_path, optim, fsdp="full_shard", fsdp_config={"version": 1})
    assert LINES in str(raised.value)
    args = arguments(tmp_path, optim, fsdp="full_shard", fsdp_config={"version": 2})
    assert args.fsdp
    arguments(tmp_path, "adamw_torch", fsdp="full_shard", fsdp_config={"version": 1})


def test_what_accelerate_launch_leaves_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="FSDP1"):
        arguments(tmp_path, "tam")
    monkeypatch.setenv("FSDP_VERSION", "2")
    arguments(tmp_path, "tam")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="DEEPSPEED"):
        arguments(tmp_path, "tam")


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "FSDP1"),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=2)}, None),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, "DeepSpeed"),
        ({}, None),
    ],
)
def test_what_accelerate_says_before_training_begins(tmp_path, state, match):
    accelerator = SimpleNamespace(state=SimpleNamespace(**state))
    args = arguments(tmp_path, "adamw_torch")
    params = [torch.nn.Parameter(torch.ones(2))]
    check_sharding(args, accelerator)
    check_sharding(args, accelerator, torch.optim.AdamW(params))
    ours = [(arguments(tmp_path, "adatamw"), None), (args, cls("AdaTAMW")(params))]
    for asked, optimizer in ours:  # by name, and handed to Trainer
        if match is None:
            check_sharding(asked, accelerator, optimizer)
        else:
            with pytest.raises(InputError, match=match):
                check_sharding(asked, accelerator, optimizer)


def test_train_asks_the_accelerator(tmp_path, monkeypatch):
    trainer = small.trainer(tmp_path, "adatamw")
    monkeypatch.setattr(trainer, "accelerator", SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=object())))
    with pytest.raises(InputError, match="DeepSpeed"):
        trainer.train()
    optimizer = cls("TAM")(small.model().parameters())
    args = arguments(tmp_path, "adamw_torch", max_steps=1)
    trainer = Trainer(small.model(), args, train_dataset=small.data(), optimizers=(optimizer, None))
    monkeypatch.setattr(trainer, "accelerator", SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=object())))
    with pytest.raises(InputError, match="DeepSpeed"):
        trainer.train()


def flattened(optimizer) -> None:
    """As DeepSpeed's ZeRO-1 and ZeRO-2 do it: one flat float32 tensor in the place of a group's."""
    for group in optimizer.param_groups:
        flat = torch.cat([p.detach().reshape(-1) for p in group["params"]])
        group["params"] = [flat.requires_grad_()]
        flat.grad = torch.ones_like(flat)


@pytest.mark.parametrize("name", NAMES)
def test_flat_partitions_are_noticed_in_the_first_step(name):
    for shapes in (((3, 2), (4,)), ((3, 2),)):
        optimizer = cls(name)([torch.nn.Parameter(torch.ones(shape)) for shape in shapes])
        flattened(optimizer)
        before = optimizer.param_groups[0]["params"][0].detach().clone()
        with pytest.raises(RuntimeError, match="DeepSpeed") as raised:
            optimizer.step()
        assert LINES in str(raised.value)
        assert torch.equal(optimizer.param_groups[0]["params"][0].detach(), before)


def test_groups_may_shrink_and_vectors_may_be_alone():
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in ((3,), (4, 2), (5,))]
    optimizer = cls("TAM")([{"params": params[:2]}, {"params": params[2:]}])
    optimizer.param_groups[0]["params"] = params[:1]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert not torch.equal(params[0], torch.ones(3)) and not torch.equal(params[2], torch.ones(5))


@pytest.mark.parametrize("mark", ["ds_id", "_fsdp_flattened"])
def test_marked_parameters_are_noticed_at_once(mark):
    p = torch.nn.Parameter(torch.ones(4))
    setattr(p, mark, 1)
    with pytest.raises(RuntimeError, match="flattens them"):
        cls("AdaTAMW")([p])
    torch.optim.AdamW([p])
