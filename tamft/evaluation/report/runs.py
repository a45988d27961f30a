"""Sections of a report about training runs: what is in their run.json, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamft.errors import InputError
from tamft.evaluation import figures
from tamft.evaluation.report import page

Run = dict[str, Any]  # the content of a run.json
PERTURBED = (
    "With ρ > 0 the training loss is that of the moved weights: it does not compare with the loss of other runs."
)


def read_run(folder: Path) -> Run:
    """The content of a folder's run.json. Raises InputError where it is missing, broken or of another schema."""
    file = folder / "run.json"
    try:
        run = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda _: None)  # NaN is no JSON
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); name a folder that a recipe has written") from None
    if not isinstance(run, dict) or run.get("schema") != 1:
        raise InputError(f"{file}: not a run.json of schema 1; make the run again with this version of tamft")
    return run


def run_labels(folders: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    """A short, distinct name for each run: its optimizer, and its folder where two have the same."""
    names = [run["optimizer"]["name"] for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.name})"
        for name, folder in zip(names, folders, strict=True)
    ]


def final_loss(run: Run) -> float | None:
    """Mean of the losses logged in the last fifth of the steps; None where none was logged."""
    entries = [(step, value) for step, value in run["loss"] if value is not None]
    last = [value for step, value in entries if step > 0.8 * entries[-1][0]]
    return sum(last) / len(last) if last else None


def perturbed(run: Run) -> bool:
    """True if the run's gradients and losses were taken at weights moved by ρ."""
    return bool((run["optimizer"].get("args") or {}).get("rho"))


def warnings(runs: Mapping[str, Run]) -> list[str]:
    """What keeps these runs from being compared."""
    lines = []
    seeds = sorted({run["seed"] for run in runs.values()}, key=str)
    if len(seeds) == 1:
        lines.append(f"One seed ({seeds[0]}): no inference possible. Another seed may turn the order around.")
    if len({run["first_batches_sha256"] for run in runs.values()}) > 1:
        lines.append("The runs did not see the same first batches: their losses are not comparable.")
    return lines


def run_table(runs: Mapping[str, Run]) -> str:
    """One row per run: status, rate, options, seed, steps, loss, seconds, optimizer state."""
    rows = []
    for i, (label, run) in enumerate(runs.items()):
        config, loss = run["config"], final_loss(run)
        state = run["optimizer"].get("state_bytes")
        rows.append(
            [
                page.key(i) + page.text(label),
                page.text(run["status"]),
                page.text(config.get("learning_rate")),
                page.text(config.get("optim_args")),
                page.text(run["seed"]),
                page.text(run["steps"]),
                page.DASH if loss is None else f"{loss:.4f}",
                f"{run['seconds']:.0f}",
                page.DASH if state is None else f"{state / 2**20:.1f}",
            ]
        )
    head = ["optimizer", "status", "learning rate", "options", "seed", "steps", "final loss", "seconds", "state, MiB"]
    note = "Final loss: mean over the last fifth of the steps."
    if any(map(perturbed, runs.values())) and not all(map(perturbed, runs.values())):
        note += f" {PERTURBED}"
    return page.table("Training runs", head, rows) + f'<p class="dim">{note}</p>'


def curves(runs: Mapping[str, Run]) -> str:
    """Loss, ŝ and d over the steps."""
    loss = [
        figures.Line(label, i, *zip(*entries, strict=True))
        for i, (label, run) in enumerate(runs.items())
        if (entries := [(step, value) for step, value in run["loss"] if value is not None])
    ]
    alignment, damping = _bands(runs, "alignment"), _bands(runs, "damping")
    parts = []
    for name, lines, title, ylabel, level, caption in (
        ("loss", loss, "Training loss over steps", "training loss", None, "Training loss, mean since the last entry."),
        (
            "alignment",
            alignment,
            "Alignment over steps",
            "ŝ",
            0.0,
            "Alignment ŝ: smoothed cosine of gradient and momentum, 1 the same direction, 0 none in common. Line: mean "
            "over tensors; band: 10 % to 90 % of them.",
        ),
        (
            "damping",
            damping,
            "Damping over steps",
            "d",
            0.5,
            "Damping d = (1 + ŝ)/2: the factor on each gradient. At a steady ½, torque is AdamW at half the rate.",
        ),
    ):
        if lines:
            parts.append(page.figure(figures.lines(name, lines, title=title, ylabel=ylabel, level=level), caption))
    missing = "" if alignment else '<p class="dim">No run logged ŝ and d: none of these optimizers has torque.</p>'
    return page.plots(parts) + missing


def _bands(runs: Mapping[str, Run], key: str) -> list[figures.Line]:
    found = []
    for i, (label, run) in enumerate(runs.items()):
        names = (f"{key}_mean", f"{key}_q10", f"{key}_q90")
        rows = [
            (step, *(values[name] for name in names))
            for step, values in run.get("telemetry", [])
            if all(values.get(name) is not None for name in names)
        ]
        if rows:
            found.append(figures.Line(label, i, *zip(*rows, strict=True)))
    return found


def provenance(runs: Mapping[str, Run]) -> list[tuple[str, Any]]:
    """What the trainings depend on."""

    def data(run: Run) -> str:
        return "; ".join(f"{d['path']}, {d['rows']} rows, sha256 {d['sha256']}" for d in run["data"])

    def memory(run: Run) -> str | None:
        return f"{run['peak_memory_bytes'] / 2**20:.0f} MiB" if run["peak_memory_bytes"] else None

    readers = {
        "device": lambda run: run["device"],
        "versions": lambda run: ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "git": lambda run: run.get("git"),
        "seed": lambda run: run["seed"],
        "training data": data,
        "first batches": lambda run: f"sha256 {run['first_batches_sha256']}",
        "base model": lambda run: f"{run['base_model']['name']}, sha256 {run['base_model']['sha256']}",
        "optimizer": _options,
        "backend": lambda run: run["optimizer"].get("backend"),
        "peak memory": memory,
    }
    return page.shared_facts(readers, runs, "all runs")


def _options(run: Run) -> str:
    """The optimizer's arguments; Trainer sets the decay per group, so the constructor's default says nothing."""
    args = {**(run["optimizer"].get("args") or {}), "weight_decay": run["config"].get("weight_decay")}
    return ", ".join(f"{key}={value}" for key, value in args.items())
