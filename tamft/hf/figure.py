"""A picture of a training: loss, ŝ and d, |m| and ρ. While it runs (a callback) or afterwards (`tamft plot`)."""

import io
import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.parser import Parser

FORMATS = (".svg", ".png", ".pdf")
NAME = "telemetry.svg"
_PREFIX = "tamft/"
_BLUE, _ORANGE, _GREY = "#1f6fb2", "#c8540a", "#6b6b6b"  # told apart by colour-blind readers, and by their dashes


class TelemetryFigure(TrainerCallback):
    """Draws loss, ŝ, d, |m| and ρ into a file, anew at every log entry of the first process.

        trainer.add_callback(tamft.TelemetryFigure())

    Args:
        path: .svg, .png or .pdf (default: `telemetry.svg` in the output folder).

    Raises InputError for another kind of file, and where matplotlib is not installed.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path or NAME)
        self.named = path is not None
        _check(self.path)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Callbacks run in the order in which they were added, so this entry has its telemetry by now.
        if state.is_world_process_zero and any("loss" in entry for entry in state.log_history):
            path = self.path if self.named else Path(args.output_dir) / self.path
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(state.log_history, path, title=f"{getattr(args.optim, 'value', args.optim)}, {args.output_dir}")


def draw(history: Sequence[dict[str, Any]], path: str | Path, *, title: str = "") -> Path:
    """Write a picture of Trainer's `log_history` (entries with `step`, `loss`, `tamft/…`) and return its path.

    Panels without values are left out. Raises InputError for a kind of file that is none of .svg, .png, .pdf, without
    matplotlib, and for a history without a single loss.
    """
    path = Path(path)
    _check(path)
    curves = _curves(history)
    if "loss" not in curves:
        raise InputError("there is nothing to draw: no log entry has a loss; train with --logging_steps 1 or so")
    panels = [_loss] + [
        panel for key, panel in (("alignment_mean", _torque), ("momentum_norm", _norm)) if key in curves
    ]

    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(7, 0.5 + 2.3 * len(panels)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=10)
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        panel(axes, curves)
    all_axes[-1].set_xlabel("step")
    stream = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tamft"}):
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[path.suffix]
        figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=metadata)
    write_atomically(path, stream.getvalue())
    return path


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Log entries of a training: from a trainer_state.json, a run.json, a checkpoint, or a folder that holds these.

    Of several checkpoints the one with the highest step counts. Raises InputError where nothing is found.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}: give a training's folder, a checkpoint, or its trainer_state.json")
    folders = [path] if path.is_dir() else []
    folders += sorted(path.glob("checkpoint-[0-9]*"), key=_number, reverse=True) if folders else []
    # run.json holds the whole run, a checkpoint only what was logged before it.
    candidates = [path / "run.json", *(folder / "trainer_state.json" for folder in folders)] if folders else [path]
    for file in candidates:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read: {error}") from error
        if isinstance(content, dict) and isinstance(content.get("log_history"), list):
            return content["log_history"]
        if isinstance(content, dict) and isinstance(content.get("loss"), list):
            entries: dict[int, dict[str, Any]] = {step: {"step": step, "loss": loss} for step, loss in content["loss"]}
            for step, values in content.get("telemetry", []):
                entries.setdefault(step, {"step": step}).update({_PREFIX + key: v for key, v in values.items()})
            return list(entries.values())
    raise InputError(f"{path} holds no log of a training (trainer_state.json in a checkpoint, or run.json)")


def main(argv: list[str]) -> int:
    """`tamft plot PATH [--output FILE]`; returns 0. Raises InputError."""
    parser = Parser(
        prog="tamft plot",
        description="Draw loss, alignment ŝ, damping d, |m| and ρ of a training that was logged by Trainer.",
        epilog="example: tamft plot out/checkpoint-500 --output run.png",
    )
    parser.add_argument("path", help="output folder, checkpoint, trainer_state.json or run.json of a training")
    parser.add_argument("--output", help=f".svg, .png or .pdf (default: {NAME} in the folder of the training)")
    args = parser.parse_words(argv)
    folder = Path(args.path) if Path(args.path).is_dir() else Path(args.path).parent
    print(draw(read_history(args.path), args.output or folder / NAME, title=args.path))
    return 0


def _check(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: a figure is written as {', '.join(FORMATS)}; give it one of these endings")
    if find_spec("matplotlib") is None:
        raise InputError('figures need matplotlib, which is not installed: pip install "tamft[demo]"')


def _number(path: Path) -> int:
    return int(re.search(r"\d+", path.name)[0])


def _curves(history: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """(steps, values) of each key that has numbers; telemetry without its prefix."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for entry in history:
        for key, value in entry.items():
            if key != "step" and "step" in entry and isinstance(value, int | float):
                steps, values = found.setdefault(key.removeprefix(_PREFIX), ([], []))
                steps.append(entry["step"])
                values.append(value)
    return found


def _plot(axes: Any, curves: dict[str, Any], key: str, label: str, colour: str, dash: str = "-") -> None:
    if key in curves:
        marker = "o" if len(curves[key][0]) < 40 else ""
        axes.plot(*curves[key], dash, color=colour, marker=marker, markersize=3, linewidth=1.3, label=label)


def _loss(axes: Any, curves: dict[str, Any]) -> None:
    _plot(axes, curves, "loss", "training", _BLUE)
    _plot(axes, curves, "eval_loss", "evaluation", _ORANGE, "--")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8)


def _torque(axes: Any, curves: dict[str, Any]) -> None:
    low, high = (curves[f"alignment_{q}"] for q in ("q10", "q90"))
    axes.fill_between(low[0], low[1], high[1], color=_BLUE, alpha=0.18, linewidth=0, label="10 % to 90 % of tensors")
    _plot(axes, curves, "alignment_mean", "mean", _BLUE)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.set_ylabel("alignment ŝ")
    # d is a straight line in ŝ: one curve, two scales
    right = axes.secondary_yaxis("right", functions=(lambda s: (1 + s) / 2, lambda d: 2 * d - 1))
    right.set_ylabel("damping d = (1 + ŝ)/2")
    axes.legend(frameon=False, fontsize=8)


def _norm(axes: Any, curves: dict[str, Any]) -> None:
    _plot(axes, curves, "momentum_norm", "|m|", _BLUE)
    axes.set_ylabel("momentum |m|")
    if min(curves["momentum_norm"][1]) > 0:
        axes.set_yscale("log")
    if "rho" in curves:
        right = axes.twinx()
        right.spines[["top"]].set_visible(False)
        right.step(*curves["rho"], where="post", color=_ORANGE, linestyle="--", linewidth=1.3)
        right.set_ylim(bottom=0, top=1.1 * max([*curves["rho"][1], 1e-9]))
        right.set_ylabel("ρ", color=_ORANGE)


PANELS = {"loss": _loss, "alignment_mean": _torque, "momentum_norm": _norm}
