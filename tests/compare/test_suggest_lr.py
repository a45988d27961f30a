"""The transfer rule on the command line, and its measurement."""

import re

import pytest

from tamft.compare.suggest_lr import main, measure, rule_for
from tamft.errors import InputError
from tests.compare import small


@pytest.mark.parametrize(
    ("optim", "options", "parent", "factor"),
    [
        ("adatamw", {}, "adamw_torch", 2.0),  # d is one half
        ("adatamw", {"first_moment": "sum"}, "adamw_torch", 0.2),
        ("adatamw", {"rescale": True}, "adamw_torch", 1.0),
        ("adatamw", {"rescale": True, "first_moment": "sum"}, "adamw_torch", 0.1),
        ("adatamw", {"torque": False}, "adamw_torch", 1.0),
        ("adamw_msam", {}, "adamw_torch_fused", 1.0),
        ("adatamw_msam", {}, "torch.optim.AdamW", 2.0),
        ("tam", {}, "sgd", 2.0),
        ("msam", {}, "torch.optim.SGD", 1.0),
    ],
)
def test_rule_without_a_measurement(optim, options, parent, factor):
    rule = rule_for(optim, options, parent)
    assert rule.rate(1e-4, 0.0, 0.9) == pytest.approx(factor * 1e-4)


def test_decay_keeps_its_strength_where_it_is_decoupled():
    assert rule_for("adatamw", {}, "adamw_torch").decay(0.01, 1e-4, 2e-4) == pytest.approx(0.005)
    assert rule_for("tam", {}, "sgd").decay(0.01, 0.1, 0.2) == 0.01  # part of the gradient


@pytest.mark.parametrize(("optim", "parent"), [("tam", "adamw_torch"), ("adatamw", "sgd"), ("adatamw", "adamw_troch")])
def test_no_rule_between_families(optim, parent):
    with pytest.raises(InputError, match="no rule leads from it"):
        rule_for(optim, {}, parent)


def test_the_second_half_is_what_counts():
    entries = [[i, {f"alignment_{k}": v for k, v in (("mean", m), ("q10", m - 0.1), ("q90", m + 0.1))}] for i, m in
               enumerate([0.0, 0.0, 0.2, 0.4])]  # fmt: skip
    found = measure({"telemetry": entries})
    assert (found.mean, found.q10, found.q90) == pytest.approx((0.3, 0.2, 0.4))
    assert found.over_time == pytest.approx(0.1)
    with pytest.raises(InputError, match="no alignment"):
        measure({"status": "complete", "telemetry": []})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "adamw_torch", "fast"], "the rate 'fast' is no number"),
        (["--from", "adamw_torch", "1e-4", "--steps", "2"], "--steps 2: ŝ needs 10 steps"),
        (["--from", "adamw_torch", "1e-4", "--max_steps", "9"], "--max_steps: the measured run sets this itself"),
        (["--from", "adamw_torch", "1e-4", "--optim_args", "gama=1"], "no option 'gama'. Did you mean 'gamma'"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(InputError, match=message):
        main(["--optim", "adatamw", *words])


def test_the_rule_alone(capsys):
    assert main(["--from", "adamw_torch", "2e-5", "--optim", "adatamw", "--weight_decay", "0.01", "--no-run"]) == 0
    out = capsys.readouterr().out
    assert "--learning_rate 4e-05" in out and "--weight_decay 0.005" in out and "not measured" in out


@pytest.mark.slow
def test_measured(capfd, plan_file):
    """Few rows again and again: gradients align, so d is more than a half and the rate less than twice."""
    data = str(plan_file.parent / "train.jsonl")
    model = small.yaml.safe_load(plan_file.read_text(encoding="utf-8"))["model"]
    recipe = ["--model", model, "--train_file", data, "--per_device_train_batch_size", "8", "--use_cpu", "true"]
    assert main(["--from", "adamw_torch", "1e-3", "--optim", "adatamw", "--steps", "12", *recipe]) == 0
    out = capfd.readouterr().out
    rate = float(out.split("--learning_rate ")[1].split(";")[0])
    low, high = map(float, re.search(r"sure +(\S+) to (\S+?),? by", out).groups())
    assert 1e-3 < low <= rate <= high < 2e-3
    d = float(out.split("d is ")[1].split()[0])
    assert rate == pytest.approx(1e-3 / d, rel=0.01)
