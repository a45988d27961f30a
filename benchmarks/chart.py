"""Draw the bar chart of a step benchmark: seconds over those of torch's fused optimizer.

python benchmarks/chart.py benchmarks/results/step_cpu.json step_cpu.svg
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

from tamft.errors import InputError
from tamft.evaluation.figures import check_matplotlib
from tamft.parser import Parser

OURS, BASELINE, OTHERS = "#1f6feb", "#24292f", "#b0b7bf"
INK = "#24292f"
WORDS = {"loop": "for-loop", "foreach": "foreach", "fused": "fused"}


def bars(records: Sequence[dict[str, Any]]) -> list[tuple[str, float, str]]:
    """(label, ratio, colour) of the bars of one set, from the top.

    Of ours what a user gets without asking, of torch all paths, of other packages what was measured.
    """
    first, ours, others = [], [], []
    for record in records:
        package, _, name = record["optimizer"].partition(" ")
        path, ratio = record["path"], record["ratio"]
        if package == "torch":
            label = f"torch {name} {WORDS[path]}"
            (first if path == "fused" else others).append((label, ratio, BASELINE if path == "fused" else OTHERS))
        elif name:
            others.append((f"{package} {name}", ratio, OTHERS))
        elif path == "default":
            ours.append((f"tamft {package}", ratio, OURS))
    return [*first, *ours, *sorted(others, key=lambda bar: bar[1])]


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the chart of `report` (what step.py wrote): a column for each set, a row for each family of optimizers."""
    from matplotlib.figure import Figure

    names = [name for name in report["sets"] if any(r["set"] == name for r in report["results"])]
    families = list(dict.fromkeys(r["family"] for r in report["results"]))
    if not names:
        raise InputError("the file holds no results: nothing to draw")
    table = {
        (family, name): bars([r for r in report["results"] if (r["family"], r["set"]) == (family, name)])
        for family in families
        for name in names
    }
    heights = [max(len(table[family, name]) for name in names) for family in families]
    figure = Figure(figsize=(3.4 + 2.7 * len(names), 1.4 + 0.27 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(families), len(names), squeeze=False, gridspec_kw={"height_ratios": heights})
    for i, family in enumerate(families):
        # The first set's order for all of them, so that a row is one optimizer.
        order = list(dict.fromkeys(label for name in names for label, _, _ in table[family, name]))
        longest = max(ratio for name in names for _, ratio, _ in table[family, name])
        for k, name in enumerate(names):
            axes = grid[i, k]
            found = {label: (ratio, colour) for label, ratio, colour in table[family, name]}
            values = [found[label][0] if label in found else 0.0 for label in order]
            colours = [found[label][1] if label in found else OTHERS for label in order]
            drawn = axes.barh(range(len(order)), values, 0.72, color=colours)
            texts = [f"{found[label][0]:.2f}" if label in found else "not available" for label in order]
            axes.bar_label(drawn, texts, padding=4, fontsize=8.5, color=INK)
            axes.axvline(1, color=BASELINE, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.set_xlim(0, 1.18 * longest)
            axes.set_ylim(len(order) - 0.4, -0.6)
            axes.set_yticks(range(len(order)), order if k == 0 else [], fontsize=9, color=INK)
            axes.tick_params(left=False, labelsize=9, colors=INK)
            axes.set_xticks([])
            axes.spines[["top", "right", "bottom"]].set_visible(False)
            if i == 0:
                facts = report["sets"][name]
                axes.set_title(
                    f"{facts['what']}\n{facts['tensors']} tensors, {facts['parameters'] / 1e6:.1f} M",
                    fontsize=9.5,
                    color=INK,
                )
    gpu = report["device"].startswith("cuda")
    kind = "GPU time" if gpu else f"CPU time, {report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    figure.suptitle(
        f"One optimizer step, times torch's fused optimizer of the family ({kind}; shorter is better)", fontsize=10.5
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)
    common.say(f"written: {path}")


def options() -> Parser:
    """The command line."""
    parser = Parser(prog="python benchmarks/chart.py", description="Draw the bar chart of a step benchmark.")
    parser.add_argument("report", type=Path, help="what step.py --json wrote")
    parser.add_argument("figure", type=Path, help="file to write: .svg or .png")
    return parser


def main(argv: Sequence[str]) -> int:
    """The program. Raises InputError."""
    args = options().parse_words(argv)
    if args.figure.suffix not in (".svg", ".png"):
        raise InputError(f"{args.figure}: the name has to end in .svg or .png")
    try:
        report = json.loads(args.report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{args.report}: cannot be read ({error}); name a file that step.py --json wrote") from error
    if report.get("benchmark") != "optimizer step" or report.get("schema") != common.SCHEMA:
        raise InputError(f"{args.report}: not written by this version of step.py --json")
    check_matplotlib()
    common.check_folder(args.figure)
    draw(report, args.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.command(main))
