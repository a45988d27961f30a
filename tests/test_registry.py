"""The registry: what exists, typed parsing of --optim_args, and errors that teach."""

import inspect
import math
from typing import Literal

import pytest
import torch

from tamft import AdamWMSAM, AdaTAM, AdaTAMW, registry
from tamft.errors import InputError
from tests.cases import CASES, CLASSES, HEAVY_BALL, IDS, NAMES, PERTURBING

BUILT_IN = ["tam", "adatam", "adatamw", "msam", "adamw_msam", "adatamw_msam", "tam_msam"]


@pytest.fixture
def entries(monkeypatch):
    """A registry that forgets what a test adds."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))


def test_the_names_and_their_order():
    assert NAMES == BUILT_IN
    assert len(CLASSES) == 5
    assert HEAVY_BALL == ["tam", "msam", "tam_msam"]
    assert PERTURBING == ["msam", "adamw_msam", "adatamw_msam", "tam_msam"]


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_every_case_can_be_built_and_takes_steps_downhill(name, options):
    weights = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    entry = registry.get(name)
    optimizer = entry.cls([weights], lr=0.02, **{**entry.preset, **options})
    for _ in range(20):
        optimizer.step(lambda: _loss_with_gradient(optimizer, weights))
    assert 0 < weights.square().sum().item() < 13


def _loss_with_gradient(optimizer, weights):
    optimizer.zero_grad()
    loss = weights.square().sum()
    loss.backward()
    return loss


@pytest.mark.parametrize("name", BUILT_IN)
def test_options_are_the_constructors_arguments(name):
    entry, options = registry.get(name), registry.options(name)
    parameters = dict(list(inspect.signature(entry.cls).parameters.items())[1:])
    assert list(options) == list(parameters)
    for key, option in options.items():
        assert option.default == entry.preset.get(key, parameters[key].default)
        assert len(option.help) > 5, f"{entry.cls.__name__}'s docstring does not explain {key}"
        assert "(default:" not in option.help


def test_an_option_knows_its_type_default_and_help():
    options = registry.options("adatamw")
    assert options["gamma"].type is float
    assert options["torque"].type is bool
    assert options["alignment"].type == Literal["tensor", "global"]
    assert options["torque_steps"].type == int | None
    assert options["torque_steps"].default is None
    assert options["rescale"].help.endswith("leaves the learning rate's scale alone")  # a continuation line
    assert "Raises" not in options["differentiable"].help


def test_presets_replace_defaults():
    assert registry.options("adatamw")["rho"].default == 0.0
    assert registry.options("adatamw_msam")["rho"].default == 0.3
    assert registry.get("adatamw_msam").cls is AdaTAMW
    assert registry.get("adamw_msam").cls is AdamWMSAM


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match=r"'adatamv'. Did you mean 'adatam.?'\? There are: tam, adatam, adatamw, msam"):
        registry.get("adatamv")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, {}),
        ("", {}),
        ("  ", {}),
        ("gamma=0.5", {"gamma": 0.5}),
        ("gamma=1", {"gamma": 1.0}),
        ("gamma=1e-3", {"gamma": 1e-3}),
        (" gamma = 0.5 , rho = .05 ", {"gamma": 0.5, "rho": 0.05}),
        ("torque-eps=0.1", {"torque_eps": 0.1}),
        ("torque=False", {"torque": False}),
        ("torque=no,rescale=1", {"torque": False, "rescale": True}),
        ("alignment=global,first_moment=sum", {"alignment": "global", "first_moment": "sum"}),
        ("torque_steps=100", {"torque_steps": 100}),
        ("torque_steps=None,foreach=none", {"torque_steps": None, "foreach": None}),
        ("foreach=true", {"foreach": True}),
        ("rho_start=200", {"rho_start": 200}),
        ("rho_start=warmup", {"rho_start": "warmup"}),
    ],
)
def test_well_formed_optim_args(text, values):
    parsed = registry.parse_optim_args("adatamw", text)
    assert parsed == values
    assert {key: type(value) for key, value in parsed.items()} == {key: type(value) for key, value in values.items()}


MALFORMED = [
    # unknown, with the nearest name and the list of what exists
    ("adatamw", "gama=0.9", "no option 'gama'. Did you mean 'gamma'?"),
    ("adatamw", "Gamma=0.9", "no option 'Gamma'. Did you mean 'gamma'?"),
    ("adatamw", "rho_star=3", "Did you mean 'rho_start'?"),
    ("adatamw", "xyzzy=1", "no option 'xyzzy'.\noptions of adatamw:"),
    ("adatamw", "momentum=0.9", "adatamw has no option 'momentum'"),
    ("adamw_msam", "gamma=0.9", "adamw_msam has no option 'gamma'"),
    ("tam", "betas=(0.9,0.99)", "tam has no option 'betas'"),
    ("tam", "params=1", "tam has no option 'params'"),
    # given by Trainer's own flags
    ("adatamw", "lr=1e-3", "use --learning_rate"),
    ("adatamw", "learning_rate=1e-3", "use --learning_rate"),
    ("tam", "weight_decay=0.1", "use --weight_decay"),
    ("adatamw", "betas=(0.9,0.99)", "use --adam_beta1 and --adam_beta2"),
    ("adatamw", "beta2=0.99", "use --adam_beta1 and --adam_beta2"),
    ("adatamw", "eps=1e-6", "use --adam_epsilon"),
    # twice
    ("adatamw", "gamma=0.9,gamma=0.8", "gamma is given twice"),
    ("adatamw", "torque-eps=0,torque_eps=0", "torque_eps is given twice"),
    # ill-typed
    ("adatamw", "gamma=high", "gamma cannot be 'high': it takes a number (default: 0.9)"),
    ("adatamw", "gamma=none", "gamma cannot be 'none'"),
    ("adatamw", "torque=maybe", "torque cannot be 'maybe': it takes true or false"),
    ("adatamw", "torque=0.0", "torque cannot be '0.0'"),
    ("adatamw", "alignment=row", "alignment cannot be 'row': it takes tensor or global"),
    ("adatamw", "torque_steps=1.5", "torque_steps cannot be '1.5': it takes a whole number or none"),
    ("adatamw", "torque_steps=1e3", "torque_steps cannot be '1e3'"),
    ("adatamw", "rho_start=warm", "rho_start cannot be 'warm': it takes a whole number, or 'warmup'"),
    ("adatamw", "gamma=(0.9,0.8)", "gamma cannot be '(0.9,0.8)'"),
    ("adatamw", "gamma=warmup", "gamma cannot be 'warmup'"),
    # malformed
    ("adatamw", "a=b=c", "'a=b=c' has more than one '='"),
    ("adatamw", "gamma==0.9", "has more than one '='"),
    ("adatamw", "gamma", "'gamma' has no '='"),
    ("adatamw", "gamma:0.9", "has no '='"),
    ("adatamw", "gamma=0,9", "'9' has no '=': write key=value (decimals are written with a point)"),
    ("adatamw", "gamma=0.9 rho=0.1", "has more than one '='"),
    ("adatamw", "gamma=0.9,", "nothing after the last comma"),
    ("adatamw", ",gamma=0.9", "nothing before a comma"),
    ("adatamw", "gamma=0.9,,rho=0.1", "nothing before a comma"),
    ("adatamw", ",", "nothing after the last comma"),
    ("adatamw", "gamma=", "'gamma=' has no value"),
    ("adatamw", "=0.9", "'=0.9' has no name"),
    ("adatamw", "gamma=(0.9", "parenthesis is not closed"),
    ("adatamw", "gamma=0.9)", "parenthesis is not closed, or closed too often"),
    ("adatamw", {"gamma": 0.9}, "{'gamma': 0.9} is not text"),
]


@pytest.mark.parametrize(("name", "text", "message"), MALFORMED, ids=[f"{n}:{t}" for n, t, _ in MALFORMED])
def test_malformed_optim_args(name, text, message):
    with pytest.raises(InputError) as raised:
        registry.parse_optim_args(name, text)
    assert message in str(raised.value)


def test_an_unknown_key_lists_what_exists_with_type_default_and_help():
    with pytest.raises(InputError) as raised:
        registry.parse_optim_args("adatamw_msam", "gama=0.9")
    lines = str(raised.value).splitlines()
    assert lines[1] == "options of adatamw_msam:"
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[2:]}
    assert table["gamma=0.9"].startswith("a number γ in [0, 1]")
    assert table["rho=0.3"].startswith("a number radius")  # the preset, not the class's default
    assert table["torque=true"].startswith("true or false")
    assert table["lr"] == "set by --learning_rate"
    keys = {line.split()[0].split("=")[0] for line in lines[2:]}
    assert keys == set(registry.options("adatamw_msam"))


def test_ranges_are_not_the_registrys_business():
    assert math.isnan(registry.parse_optim_args("adatamw", "gamma=nan")["gamma"])
    with pytest.raises(ValueError, match=r"gamma=2.0 is out of range"):
        AdaTAMW([torch.zeros(1)], **registry.parse_optim_args("adatamw", "gamma=2"))


class Other(torch.optim.Optimizer):
    """Somebody else's optimizer.

    Args:
        params: parameters
        lr (float): step size (default: 0.1)
        betas: three numbers
            on two lines (default: (0.9, 0.99, 0.999))
        pair: a pair

    Example:
        pair: not an option
    """

    def __init__(
        self,
        params,
        lr,
        betas: tuple[float, float, float] = (0.9, 0.99, 0.999),
        pair: tuple[int, bool] = (1, True),
        untyped=3,
        word: str | int = "x",
        **ignored,
    ):
        super().__init__(params, {"lr": lr})


def test_another_class_can_be_added(entries):
    entry = registry.add("other", Other, untyped=4)
    assert registry.get("other") == entry
    assert registry.names()[-1] == "other"
    options = registry.options("other")
    assert list(options) == ["lr", "betas", "pair", "untyped", "word"]
    assert options["lr"].default is registry.REQUIRED
    assert options["betas"].help == "three numbers on two lines"
    assert options["pair"].help == "a pair"
    assert options["untyped"].default == 4
    # three betas cannot come from --adam_beta1 and --adam_beta2
    assert registry.owned("other") == {"lr": "--learning_rate"}
    text = "betas=(0.5, 0.6, 0.7), pair=(2,no), untyped=5, word=1"
    assert registry.parse_optim_args("other", text) == {
        "betas": (0.5, 0.6, 0.7),
        "pair": (2, False),
        "untyped": 5,
        "word": 1,
    }
    assert "lr=required" not in registry.help_text("other")
    with pytest.raises(InputError, match=r"betas cannot be '\(0.5,0.6\)': it takes \(a number, a number, a number\)"):
        registry.parse_optim_args("other", "betas=(0.5,0.6)")


def test_adding_the_same_again_changes_nothing(entries):
    assert registry.add("other", Other) == registry.add("other", Other)
    assert registry.add("adatamw", AdaTAMW) is not None
    assert registry.names() == [*BUILT_IN, "other"]


@pytest.mark.parametrize(
    ("name", "cls", "preset", "message"),
    [
        ("adatamw", AdaTAM, {}, "'adatamw' already stands for AdaTAMW"),
        ("adatamw", AdaTAMW, {"rho": 0.1}, "'adatamw' already stands for AdaTAMW"),
        ("my optimizer", AdaTAM, {}, "'my optimizer' cannot name an optimizer"),
        ("", AdaTAM, {}, "cannot name an optimizer"),
        (3, AdaTAM, {}, "3 cannot name an optimizer"),
        ("thing", "pkg.Class", {}, "not a subclass of torch.optim.Optimizer"),
        ("thing", dict, {}, "not a subclass of torch.optim.Optimizer"),
        ("thing", AdaTAM, {"gama": 1}, "gama=1: its constructor has no such argument"),
        ("thing", AdaTAM, {"lr": 1.0}, "lr=1.0: Trainer sets it with --learning_rate"),
    ],
)
def test_what_cannot_be_added(entries, name, cls, preset, message):
    before = registry.names()
    with pytest.raises(InputError) as raised:
        registry.add(name, cls, **preset)
    assert message in str(raised.value)
    assert registry.names() == before
