"""Malformed --optim_args, generated: whatever is typed, the answer is one clear InputError and no folder."""

import itertools

import pytest
import torch
from transformers import TrainingArguments

import tamft
from tamft import registry, run
from tamft.errors import InputError
from tests.hf import small
from tests.test_run import TRAINING, here  # noqa: F401  a fixture

# A good pair of each name, to spoil; and a name that is not tamft's own.
GOOD = {
    "adatamw": "gamma=0.9",
    "tam": "momentum=0.9",
    "adamw_msam": "rho=0.3",
    "torch.optim.NAdam": "momentum_decay=0.1",
}
# How to spoil `key=value`. Each is (what, how, a word that the message must have).
SPOILED = [
    ("unknown key", lambda k, v: f"{k}x{k}x={v}", "no option"),
    ("near miss", lambda k, v: f"{k[:-1]}={v}", "Did you mean"),
    ("capitals", lambda k, v: f"{k.upper()}={v}", "no option"),
    ("spaces in a key", lambda k, v: f"{k} {k}={v}", "no option"),
    ("unicode key", lambda k, v: f"γ={v}", "no option 'γ'"),
    ("unicode comma", lambda k, v: f"{k}={v}，{k}={v}", "more than one '='"),
    ("unicode digits", lambda k, v: f"{k}=０.９", "cannot be '０.９'"),
    ("no-break space", lambda k, v: f"{k}=0\u00a09", "cannot be"),
    ("underscore digits", lambda k, v: f"{k}=0_1", "cannot be '0_1'"),
    ("twice", lambda k, v: f"{k}={v},{k}={v}", "given twice"),
    ("twice with a hyphen", lambda k, v: f"{k}={v}, {k.replace('_', '-')} = {v}", "given twice"),
    ("a word", lambda k, v: f"{k}=high", "cannot be 'high': it takes a number"),
    ("quoted", lambda k, v: f"{k}='{v}'", "it takes a number"),
    ("percent", lambda k, v: f"{k}=90%", "it takes a number"),
    ("none", lambda k, v: f"{k}=none", "it takes a number"),
    ("a boolean", lambda k, v: f"{k}=true", "it takes a number"),
    ("a list", lambda k, v: f"{k}=[{v}]", "it takes a number"),
    ("a dict", lambda k, v: f"{{'{k}': {v}}}", "has no '='"),
    ("a tuple", lambda k, v: f"{k}=({v},{v})", "it takes a number"),
    ("an empty tuple", lambda k, v: f"{k}=()", "it takes a number"),
    ("open parenthesis", lambda k, v: f"{k}=({v}", "parenthesis"),
    ("closed parenthesis", lambda k, v: f"{k}={v})", "parenthesis"),
    ("crossed parentheses", lambda k, v: f"{k}=){v}(", "cannot be"),
    ("nested", lambda k, v: f"{k}=(({v}))", "it takes a number"),
    ("trailing comma", lambda k, v: f"{k}={v},", "nothing after the last comma"),
    ("leading comma", lambda k, v: f",{k}={v}", "nothing before a comma"),
    ("double comma", lambda k, v: f"{k}={v},,maximize=true", "nothing before a comma"),
    ("only a comma", lambda k, v: ",", "nothing"),
    ("only an equals sign", lambda k, v: "=", "no name"),
    ("a chain", lambda k, v: f"{k}={v}={v}", "more than one '='"),
    ("double equals", lambda k, v: f"{k}=={v}", "more than one '='"),
    ("a colon", lambda k, v: f"{k}:{v}", "has no '='"),
    ("semicolon", lambda k, v: f"{k}={v};maximize=true", "more than one '='"),
    ("spaces for commas", lambda k, v: f"{k}={v} maximize=true", "more than one '='"),
    ("decimal comma", lambda k, v: f"{k}=0,9", "decimals are written with a point"),
    ("no value", lambda k, v: f"{k}=", "no value"),
    ("no value before a comma", lambda k, v: f"{k}= ,maximize=true", "no value"),
    ("no key", lambda k, v: f"={v}", "no name"),
    ("only a key", lambda k, v: k, "has no '='"),
    ("nan", lambda k, v: f"{k}=nan", "nan"),
    ("inf", lambda k, v: f"{k}=inf", "inf"),
    ("minus infinity", lambda k, v: f"{k}=-inf", "-inf"),
    ("too large for a float", lambda k, v: f"{k}=1e999", "inf"),
    ("negative", lambda k, v: f"{k}=-1", "-1"),
    ("two minus signs", lambda k, v: f"{k}=--1", "it takes a number"),
    ("a huge whole number", lambda k, v: f"maximize=1{'0' * 5000}", "maximize cannot be"),
    ("not a boolean", lambda k, v: "maximize=2", "true or false"),
    ("half a boolean", lambda k, v: "foreach=maybe", "foreach cannot be 'maybe'"),
    ("Trainer's rate", lambda k, v: "lr=1e-3", "use --learning_rate"),
    ("Trainer's rate in full", lambda k, v: "learning_rate=1e-3", "use --learning_rate"),
    ("Trainer's decay", lambda k, v: f"{k}={v},weight_decay=0.1", "use --weight_decay"),
    ("params", lambda k, v: "params=1", "no option 'params'"),
    ("a flag", lambda k, v: f"--{k}={v}", "no option"),
    ("a line break", lambda k, v: f"{k}={v}\n{k}={v}", "more than one '='"),
    ("a null byte", lambda k, v: f"{k}={v}\0", "it takes a number"),
]
CASES = [
    pytest.param(name, how(*GOOD[name].split("=")), word, id=f"{name}: {what}")
    for name, (what, how, word) in itertools.product(GOOD, SPOILED)
]


@pytest.fixture(autouse=True)
def _entries(monkeypatch):
    tamft.register()
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))


@pytest.mark.parametrize("name", GOOD)
def test_what_is_spoiled_was_good(tmp_path, name):
    args = TrainingArguments(output_dir=str(tmp_path / "new"), optim=name, optim_args=GOOD[name], **small.QUIET)
    assert args.optim == name
    assert len(SPOILED) >= 40


@pytest.mark.parametrize(("name", "text", "word"), CASES)
def test_malformed(tmp_path, name, text, word):
    with pytest.raises(InputError) as raised:
        TrainingArguments(output_dir=str(tmp_path / "new"), optim=name, optim_args=text, **small.QUIET)
    message = str(raised.value)
    assert word in message
    assert message.startswith(("--optim_args: ", f"--optim {name}: "))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "schedule_free_adamw"])
@pytest.mark.parametrize("text", ["a=b=c", "a=1,", ",a=1", "a", "betas=(1,2)", "a=1,,b=2", "a:1"])
def test_transformers_own_names_do_not_end_in_a_traceback(tmp_path, name, text):
    with pytest.raises(InputError, match=r"--optim_args: .* is not key=value: write key=value,key=value"):
        TrainingArguments(output_dir=str(tmp_path / "new"), optim=name, optim_args=text, **small.QUIET)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("before", [True, False], ids=["before the script", "after it"])
@pytest.mark.parametrize(
    ("name", "text"),
    [("adatamw", "gamma=0.9,"), ("msam", "a=b=c"), ("torch.optim.NAdam", "momentum_decay=(1"), ("tam", "rho=nan")],
)
def test_through_the_launcher(here, capsys, before, name, text):  # noqa: F811
    (here / "train.py").write_text(TRAINING)
    options = ["--optim", name, "--optim_args", text]
    line = [*options, "train.py", "--output_dir", "out"] if before else ["train.py", "--output_dir", "out", *options]
    assert run.main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("tamft run: error: --optim")
    assert "Traceback" not in error
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (tuple[float, ...], "(1, 2,3)", (1.0, 2.0, 3.0)),
        (tuple[float, float] | tuple[float, float, float], "(1,2,3)", (1.0, 2.0, 3.0)),
        (float | torch.Tensor, "0.5", 0.5),
        (float | int, "3", 3),
    ],
)
def test_other_peoples_annotations(kind, text, value):
    from tamft import optim_args

    known = {"key": optim_args.option_of("key", kind, None)}
    found = optim_args.parse(f"key={text}", known, lambda key: None)["key"]
    assert found == value
    assert type(found) is type(value)


def test_what_no_text_can_stand_for():
    from collections.abc import Callable

    from tamft import optim_args

    known = {"key": optim_args.option_of("key", Callable[[int], int], None)}
    with pytest.raises(InputError, match=r"key cannot be 'x': it takes a Callable, which no text can stand for"):
        optim_args.parse("key=x", known, lambda key: None)
