"""The picture of a training: drawn while it runs, and from what it left behind."""

import json
import re

import pytest

import tamft
from tamft import cli
from tamft.errors import InputError
from tamft.hf.figure import draw, read_history
from tests.hf import small

pytest.importorskip("matplotlib")
LOGGING = {"logging_strategy": "steps", "logging_steps": 2}


def texts(path) -> set[str]:
    """The words in an .svg."""
    return {text.strip() for text in re.findall(r">([^<>]+)<", path.read_text(encoding="utf-8")) if text.strip()}


@pytest.mark.parametrize(
    ("name", "there", "not_there"),
    [
        ("adatamw_msam", {"loss", "alignment ŝ", "damping d = (1 + ŝ)/2", "momentum |m|", "ρ"}, set()),
        ("adatamw", {"loss", "alignment ŝ", "momentum |m|"}, {"ρ"}),
        ("adamw_msam", {"loss", "momentum |m|", "ρ"}, {"alignment ŝ"}),
        ("adamw_torch", {"loss"}, {"alignment ŝ", "momentum |m|", "ρ"}),
    ],
)
def test_the_callback_draws_what_was_logged(tmp_path, name, there, not_there):
    settings = {"eval_strategy": "steps", "eval_steps": 3, **LOGGING}
    trainer = small.trainer(tmp_path / "out", name, callbacks=[tamft.TelemetryFigure()], **settings)
    trainer.train()
    words = texts(tmp_path / "out" / "telemetry.svg")
    assert {*there, "training", "evaluation", "step"} <= words
    assert not not_there & words
    assert any(word.startswith(f"{name}, ") for word in words)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["telemetry.svg"]


def test_every_log_entry_is_a_picture(tmp_path, monkeypatch):
    from tamft.hf import figure

    seen = []
    monkeypatch.setattr(figure, "draw", lambda history, path, title: seen.append(len(history)))
    small.trainer(tmp_path, "adatamw", callbacks=[tamft.TelemetryFigure()], **LOGGING).train()
    assert seen == [1, 2, 3, 4]  # the fourth is Trainer's summary


def test_the_last_values_are_in_the_curve(tmp_path):
    trainer = small.trainer(tmp_path, "adatamw", **LOGGING)
    trainer.train()
    from tamft.hf.figure import _curves

    curves = _curves(trainer.state.log_history)
    assert curves["damping_mean"][0] == [2, 4, 6]
    assert curves["damping_mean"][1][-1] == trainer.optimizer.optimizer.telemetry()["damping_mean"]


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_kinds_of_files(tmp_path, suffix, magic):
    path = draw([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], tmp_path / f"a{suffix}")
    assert path.read_bytes().startswith(magic)


def test_the_same_training_is_the_same_picture(tmp_path):
    history = [{"step": 1, "loss": 2.0, "tamft/momentum_norm": 0.0}, {"step": 2, "loss": 1.0}]
    assert draw(history, tmp_path / "a.svg").read_bytes() == draw(history, tmp_path / "b.svg").read_bytes()


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(InputError, match=r"a\.gif: a figure is written as \.svg, \.png, \.pdf"):
        tamft.TelemetryFigure(tmp_path / "a.gif")
    with pytest.raises(InputError, match="no log entry has a loss"):
        draw([{"step": 1, "eval_loss": 1.0}], tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_the_command_reads_what_a_training_left(tmp_path, capsys):
    out = tmp_path / "out"
    trainer = small.trainer(out, "adatamw_msam", save_strategy="steps", save_steps=3, **LOGGING)
    trainer.train()
    capsys.readouterr()
    assert cli.main(["plot", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "telemetry.svg")
    assert {"alignment ŝ", "ρ"} <= texts(out / "telemetry.svg")
    # the newest checkpoint by number, not by name
    (out / "checkpoint-6").rename(out / "checkpoint-12")
    (out / "checkpoint-3").rename(out / "checkpoint-9")
    assert [e["step"] for e in read_history(out) if "loss" in e] == [2, 4, 6]
    assert cli.main(["plot", str(out / "checkpoint-9"), "--output", str(tmp_path / "early.png")]) == 0
    assert [e["step"] for e in read_history(out / "checkpoint-9") if "loss" in e] == [2]


def test_a_run_folder_of_a_recipe(tmp_path):
    values = {"alignment_mean": 0.1, "alignment_q10": 0.0, "alignment_q90": 0.2, "momentum_norm": 1.0}
    run = {"schema": 1, "loss": [[1, 2.0], [2, 1.5]], "telemetry": [[1, values], [2, values]]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert read_history(tmp_path)[1] == {"step": 2, "loss": 1.5, **{f"tamft/{k}": v for k, v in values.items()}}
    assert cli.main(["plot", str(tmp_path)]) == 0
    assert "alignment ŝ" in texts(tmp_path / "telemetry.svg")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no "), ("{", "cannot be read"), ("[]", "holds no log of a training"), ("{}", "holds no log")],
)
def test_bad_input_is_said_in_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "trainer_state.json"
    if content is not None:
        path.write_text(content)
    assert cli.main(["plot", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tamft plot: error: ") and message in error and error.count("\n") == 1
