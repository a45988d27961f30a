"""docs/compatibility.md from the outcomes. No date, no time: the same versions write the same file."""

import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.compatibility.cell import STEPS, Cell
from tests.compatibility.matrix import AXES, IMPOSSIBLE, NOT_RESUMED, Rule, covering, pairs, row_cell, rows
from tests.compatibility.optimizers import COLUMNS

PACKAGES = (
    "torch transformers accelerate sentence-transformers trl peft optuna schedulefree pytorch_optimizer safetensors"
).split()
TITLES = {"trainer": "Trainers", "launcher": "Launchers", "precision": "Precisions", "wrapper": "Wrappers"}

HEAD = """\
# Compatibility

Written by `make compatibility`; do not edit. Every cell is a real training on a CPU: {steps} steps of a tiny model with
a checkpoint in the middle, and a second training resumed from it. **works** means that all of this was looked at and
right:

- {steps} steps were taken, every loss and weight is finite, the weights moved;
- every step was taken by the optimizer of the column, with the options that were given; one that perturbs was at its
  perturbed point when the gradients were ready;
- each checkpoint holds the weights that the optimizer's own `eval()` gives, bit for bit, and all that were trained;
- the resumed training ends at the same bits as the uninterrupted one.

**refused** means that it stopped with an error that says why (see the number below the tables). **trains** means that
all is right but for what the number says. What a row leaves open is as in an ordinary training: Trainer,
`python script.py`, float32.

Python {python}, {versions}.
"""


def page(outcomes: dict[Cell, str]) -> str:
    notes: dict[str, int] = {}
    parts = [HEAD.format(steps=STEPS, python=platform.python_version(), versions=_versions())]
    for axis, names in rows().items():
        lines = [
            f"## {TITLES[axis]}\n",
            "| | " + " | ".join(f"`{column}`" for column in COLUMNS) + " |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        for name in names:
            cells = [_short(outcomes[row_cell(axis, name, column)], notes) for column in COLUMNS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines) + "\n")
    if notes:
        parts.append("".join(f"{number}. {reason}\n" for reason, number in notes.items()))
    parts += [_pairs(outcomes), _left_out()]
    return "\n".join(parts)


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _short(outcome: str, notes: dict[str, int]) -> str:
    word, _, reason = outcome.partition(": ")
    if not reason or word == "FAILS":
        return outcome.replace("|", "/")
    return f"{word} [{notes.setdefault(reason, len(notes) + 1)}]"


def _pairs(outcomes: dict[Cell, str]) -> str:
    cells = list(covering())
    said = Counter(outcomes[cell].partition(":")[0] for cell in cells)
    lines = [
        "## Combinations\n",
        f"Beside the tables, {len(cells)} trainings combine a trainer, a launcher, a precision, a wrapper and an "
        f"optimizer, so that each of the {len(pairs())} pairs that can be combined occurs in at least one: "
        + ", ".join(f"{word} {count}" for word, count in sorted(said.items(), reverse=True))
        + ".",
    ]
    lines += [f"- {words(cell)}: {outcomes[cell]}" for cell in cells if outcomes[cell] != "works"]
    return "\n".join(lines) + "\n"


def words(cell: Cell) -> str:
    return ", ".join(getattr(cell, axis) for axis in AXES)


def _left_out() -> str:
    def listed(rules: list[Rule]) -> str:
        return "".join(
            f"- {', '.join(rule.one[1])} with {', '.join(rule.other[1])}"
            + (f" under {' and '.join(rule.under)}" if rule.under else "")
            + f": {rule.reason}\n"
            for rule in rules
        )

    return (
        "## Not combined\n\nThere is nothing to try:\n\n"
        + listed(IMPOSSIBLE)
        + "\nTried without the comparison after resuming, which torch's AdamW does not pass either:\n\n"
        + listed(NOT_RESUMED)
        + "\nNeeds a GPU, and was not tried: tamft's GPU kernels (`fused=true` on a GPU), FSDP and DeepSpeed as "
        "accelerate launches them, 4-bit and 8-bit base weights.\n"
    )


def write(path: Path, outcomes: dict[Cell, str]) -> None:
    path.write_text(page(outcomes), encoding="utf-8")
