"""The names as members of transformers' enum, and TrainingArguments in every form it takes."""

import copy
import json
import pickle
import warnings

import pytest
import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments, trainer
from transformers.training_args import OptimizerNames

import tamft
from tamft import registry
from tamft.errors import InputError
from tamft.hf.callbacks import TamftCallback
from tests.cases import HEAVY_BALL, NAMES
from tests.hf import small
from tests.test_registry import MALFORMED


def arguments(tmp_path, **kwargs) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), **{**small.QUIET, **kwargs})


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_real_members(name):
    member = OptimizerNames(name)
    assert isinstance(member, OptimizerNames)
    assert member == name
    assert member.value == name
    assert member in list(OptimizerNames)
    assert OptimizerNames[name.upper()] is member
    assert getattr(OptimizerNames, name.upper()) is member


def test_registering_again_changes_nothing():
    before = list(OptimizerNames), Trainer.train, TrainingArguments.__post_init__, list(trainer.DEFAULT_CALLBACKS)
    tamft.register()
    assert (
        list(OptimizerNames),
        Trainer.train,
        TrainingArguments.__post_init__,
        list(trainer.DEFAULT_CALLBACKS),
    ) == before
    assert trainer.DEFAULT_CALLBACKS.count(TamftCallback) == 1


@pytest.mark.parametrize("name", NAMES)
def test_command_line_json_yaml_and_dict(tmp_path, name):
    parser = HfArgumentParser(TrainingArguments)
    line = f"--output_dir {tmp_path} --optim {name} --optim_args rho=0.2 --use_cpu --report_to none"
    (parsed,) = parser.parse_args_into_dataclasses(line.split())
    assert parsed.optim is OptimizerNames(name)
    settings = {"output_dir": str(tmp_path), "optim": name, "optim_args": "rho=0.2", "use_cpu": True}
    (tmp_path / "a.json").write_text(json.dumps(settings))
    (tmp_path / "a.yaml").write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items()))
    for (other,) in (parser.parse_json_file(tmp_path / "a.json"), parser.parse_yaml_file(tmp_path / "a.yaml")):
        assert other.optim is OptimizerNames(name)
    assert parsed.to_dict()["optim"] == name
    assert json.loads(parsed.to_json_string())["optim"] == name
    assert TrainingArguments(**{**settings, "optim": parsed.to_dict()["optim"]}).optim is parsed.optim


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_member_pickles_as_a_plain_string(tmp_path, protocol):
    member = OptimizerNames("adatamw")
    data = pickle.dumps(member, protocol=protocol)
    assert b"OptimizerNames" not in data
    assert type(pickle.loads(data)) is str
    assert copy.deepcopy(member) == "adatamw"
    args = arguments(tmp_path, optim="adatamw", optim_args="gamma=0.5")
    for again in (pickle.loads(pickle.dumps(args, protocol=protocol)), copy.deepcopy(args)):
        assert again.to_dict() == args.to_dict()
        made, kwargs = Trainer.get_optimizer_cls_and_kwargs(again)
        assert made is tamft.AdaTAMW
        assert kwargs["gamma"] == 0.5


def test_transformers_own_members_are_untouched():
    member = OptimizerNames("adamw_torch")
    assert pickle.loads(pickle.dumps(member)) is member


def test_training_args_bin_loads_where_tamft_is_not(tmp_path, run_python):
    trainer = small.trainer(tmp_path, "adamw_msam", max_steps=1)
    trainer.save_model(str(tmp_path / "saved"))
    code = (
        "import sys, torch\n"
        "args = torch.load(sys.argv[1], weights_only=False)\n"
        "print(args.optim, type(args).__name__, 'tamft' in sys.modules)"
    )
    result = run_python("-c", code, tmp_path / "saved" / "training_args.bin", check=True)
    assert result.stdout.split() == ["adamw_msam", "TrainingArguments", "False"]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_reaches_the_optimizer(tmp_path, name):
    trainer = small.trainer(
        tmp_path,
        name,
        learning_rate=0.02,
        weight_decay=0.1,
        adam_beta1=0.8 if name not in HEAVY_BALL else 0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-6,
        optim_args="momentum=0.7,foreach=false" if name in HEAVY_BALL else "foreach=false",
    )
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is registry.get(name).cls
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.02
        assert group["foreach"] is False
        assert group["rho"] == registry.options(name)["rho"].default
        if name in HEAVY_BALL:
            assert group["momentum"] == 0.7
        else:
            assert group["betas"] == (0.8, 0.95)
            assert group["eps"] == 1e-6


def test_optim_args_win_over_the_preset(tmp_path):
    trainer = small.trainer(tmp_path, "adatamw_msam", optim_args="rho=0.05,gamma=0.5")
    group = trainer.create_optimizer().param_groups[0]
    assert (group["rho"], group["gamma"]) == (0.05, 0.5)


def test_transformers_own_optimizers_are_built_as_before(tmp_path):
    made, kwargs = Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim="adamw_torch", learning_rate=0.1))
    assert made is torch.optim.AdamW
    assert kwargs["lr"] == 0.1
    # not ours to judge
    assert arguments(tmp_path, optim="adamw_torch", optim_args="gama=0.9").optim_args == "gama=0.9"


@pytest.mark.parametrize(("name", "text", "message"), MALFORMED, ids=[f"{n}:{t}" for n, t, _ in MALFORMED])
def test_malformed_optim_args_stop_before_any_model_is_loaded(tmp_path, name, text, message):
    with pytest.raises(InputError) as raised:
        arguments(tmp_path / "new", optim=name, optim_args=text)
    assert message in str(raised.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("adatamw", {"optim_args": "gamma=2"}, "gamma=2.0 is out of range"),
        ("adatamw", {"optim_args": "gamma=nan"}, "gamma=nan is out of range"),
        ("adatamw", {"optim_args": "rho=-1"}, "rho=-1.0 is out of range"),
        ("adatamw", {"optim_args": "rho=inf"}, "rho=inf is out of range"),
        ("adatamw", {"optim_args": "torque_steps=0"}, "torque_steps=0 is out of range"),
        ("adatamw", {"optim_args": "fused=true,foreach=true"}, "fused=True and foreach=True exclude each other"),
        ("msam", {"optim_args": "differentiable=true"}, "differentiable=True cannot be combined with rho=0.3"),
        ("tam", {"optim_args": "momentum=1"}, "momentum=1.0 is out of range"),
        ("adatamw", {"learning_rate": -1.0}, "lr=-1.0 is out of range"),
        ("adatamw", {"learning_rate": "1e-5"}, "lr='1e-5' is out of range"),
        ("adatamw", {"weight_decay": -0.1}, "weight_decay=-0.1 is out of range"),
        ("adatamw", {"adam_beta2": 1.0}, "betas=(0.9, 1.0) is out of range"),
    ],
)
def test_numbers_out_of_range_stop_as_early(tmp_path, name, kwargs, message):
    with pytest.raises(InputError) as raised:
        arguments(tmp_path, optim=name, **kwargs)
    assert message in str(raised.value)
    assert f"--optim {name}" in str(raised.value)


def test_arguments_changed_later_are_checked_when_the_optimizer_is_made(tmp_path):
    trainer = small.trainer(tmp_path, "adatamw")
    trainer.args.set_optimizer("msam", learning_rate=0.1, args="rho=0.1,rho=0.2")
    with pytest.raises(InputError, match="rho is given twice"):
        trainer.train()


def test_sixteen_bit_weights_cannot_carry_a_perturbation(tmp_path):
    trainer = small.trainer(tmp_path, "adamw_msam")
    trainer.model.to(torch.bfloat16)
    with pytest.raises(InputError, match=r"--optim adamw_msam: .*Load float32 weights and use --bf16 autocast"):
        trainer.train()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [5e-5, 1e-3])
def test_a_heavy_ball_at_adams_rate_warns(tmp_path, name, rate):
    trainer = small.trainer(tmp_path, name, learning_rate=rate)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.create_optimizer()
    found = [str(w.message) for w in caught if "heavy-ball" in str(w.message)]
    assert len(found) == (name in HEAVY_BALL and rate < 1e-3)
    assert all(f"--optim {name}" in text and "learning_rate=5e-05" in text for text in found)


def test_a_beta_that_nobody_reads_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"does not read adam_beta1=0.5: use --optim_args momentum=0.5"):
        small.trainer(tmp_path, "tam", adam_beta1=0.5).create_optimizer()


class Mine(torch.optim.SGD):
    """SGD under another name."""


def test_another_optimizer_can_be_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))
    tamft.register("mine-1", Mine, momentum=0.5)
    tamft.register("mine-1", Mine, momentum=0.5)
    trainer = small.trainer(tmp_path, "mine-1", optim_args="nesterov=true", learning_rate=0.1)
    before = small.weights(trainer.model)
    trainer.train()
    group = trainer.optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["lr"]) == (0.5, True, 0.1)
    assert small.distance(small.weights(trainer.model), before) > 0
    with pytest.raises(InputError, match=r"has no option 'nestrov'\. Did you mean 'nesterov'"):
        arguments(tmp_path, optim="mine-1", optim_args="nestrov=true")


@pytest.mark.parametrize(
    ("args", "preset", "message"),
    [
        (("adamw_torch", Mine), {}, "transformers already has an optimizer called 'adamw_torch'"),
        (("mine-2",), {}, "give a name and an optimizer class"),
        ((None, Mine), {}, "give a name and an optimizer class"),
        ((), {"rho": 1.0}, "give a name and an optimizer class"),
    ],
)
def test_what_cannot_be_registered(monkeypatch, args, preset, message):
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))
    with pytest.raises(InputError, match=message):
        tamft.register(*args, **preset)
    assert registry.names() == NAMES
