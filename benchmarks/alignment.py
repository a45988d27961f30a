"""How well do gradients agree with the momentum? ŝ and d of AdaTAMW against batch size, step and layer.

    python benchmarks/alignment.py --threads 2 --json benchmarks/results/alignment.json --figure alignment.svg
    python benchmarks/alignment.py --train_file pairs.jsonl --threads 2 --figure alignment.svg

Trains all-MiniLM-L6-v2 with AdaTAMW as it is (alignment="tensor", gamma=0.9) on pairs, once for each batch size, always
from the same weights and with as many steps. Batches are real batches: accumulated or cached gradients would see other
negatives. ŝ is the optimizer's own state; the cosine of a single step follows from two of them,
s_t = (ŝ_t - γ ŝ_{t-1}) / (1-γ), and d_t = (1 + ŝ_t) / 2.

The built-in data are questions to an invented shop with 48 intents: real pairs say more (--train_file).
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import torch

from tamft import AdaTAMW, support_desk
from tamft.errors import InputError
from tamft.evaluation.figures import check_matplotlib
from tamft.parser import Parser
from tamft.train import data, losses, models

GAMMA = 0.9
TOKENS = 32  # longest text: most questions are shorter, and time grows with the longest of a batch
BINS = 100  # of the histogram, over [-1, 1]
QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = ("s", "s_std", "s_hat", "s_hat_std", "d")  # mean, standard deviation … of layers and tensors

S_HAT = COLUMNS.index("s_hat")


def pairs(train_file: str | None, columns: Sequence[str] | None, rows: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """(dataset of two text columns, where it is from): the file's, or `rows` built-in pairs."""
    if train_file is None:
        from datasets import Dataset

        made = [
            {"anchor": row["anchor"], "positive": row["positive"]}
            for row in support_desk.training_pairs(rows, seed=seed)
        ]
        return Dataset.from_list(made), {"path": "tamft.support_desk.training_pairs", "rows": rows, "seed": seed}
    found = data.load_file(train_file, columns)
    if found.kind != losses.PAIRS:
        raise InputError(
            f"--train_file {train_file}: holds {found.kind}; two text columns are needed, name them with --columns"
        )
    return found.dataset, found.source | {"path": Path(train_file).name}


def batches(dataset: Any, size: int, steps: int, seed: int) -> list[list[dict[str, str]]]:
    """`steps` batches of `size` pairs without a text twice in a batch; from the beginning again where rows run out.

    Raises InputError if the data do not fill a single batch.
    """
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    found: list[list[dict[str, str]]] = []
    epoch = 0
    while len(found) < steps:
        sampler = NoDuplicatesBatchSampler(
            dataset, size, drop_last=True, generator=torch.Generator(), seed=seed + epoch
        )
        before = len(found)
        for indices in sampler:
            found.append([dataset[i] for i in indices])
            if len(found) == steps:
                break
        if len(found) == before:
            raise InputError(f"--batch_sizes {size}: the data do not fill one batch without repeating a text")
        epoch += 1
    return found


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: "embeddings", "0", "1" … or its module's name."""
    if "embeddings" in name:
        return "embeddings"
    number = re.search(r"layers?\.(\d+)\.", name)
    return number[1] if number else name.split(".")[-2] if "." in name else name


def train(
    model: Any, steps: Sequence[Sequence[dict[str, str]]], *, lr: float, optimizer_options: dict[str, Any] | None = None
) -> tuple[list[str], torch.Tensor, list[float]]:
    """Train on the batches. Returns (names of the n tensors that are trained, ŝ as (steps, n) float64, losses)."""
    loss = losses.make_loss(model, "MultipleNegativesRankingLoss")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = AdaTAMW([p for _, p in named], lr=lr, gamma=GAMMA, **(optimizer_options or {}))
    model.train()
    seen, values = [], []
    for rows in steps:
        optimizer.train()
        optimizer.zero_grad()
        columns = ([row[key] for row in rows] for key in rows[0])
        features = [
            {k: v.to(model.device) for k, v in model.preprocess(c).items() if torch.is_tensor(v)} for c in columns
        ]
        value = loss(features, None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # Tensors without a gradient (a pooler that nothing reads) have no state.
        trained = [(name, optimizer.state[p]) for name, p in named if "alignment" in optimizer.state.get(p, {})]
        seen.append(torch.stack([state["alignment"].double().cpu() for _, state in trained]))
        values.append(value.item())
    return [name for name, _ in trained], torch.stack(seen), values


def single_steps(smoothed: torch.Tensor, gamma: float = GAMMA) -> torch.Tensor:
    """s of each step from ŝ, both (steps, tensors): ŝ_t = γ ŝ_{t-1} + (1-γ) s_t with ŝ_0 = 0, solved for s_t."""
    before = torch.cat([torch.zeros_like(smoothed[:1]), smoothed[:-1]])
    return (smoothed - gamma * before) / (1 - gamma)


def statistics(names: Sequence[str], smoothed: torch.Tensor, *, settled: int) -> dict[str, Any]:
    """Per step over tensors, per layer and tensor over the steps after the first `settled`, and a histogram of ŝ.

    In the beginning ŝ still rises from 0 (its memory is 1/(1-γ) = 10 steps), so those steps count only in the curves.
    """
    s = single_steps(smoothed)
    late, late_s = smoothed[settled:], s[settled:]
    q = torch.quantile(smoothed, torch.tensor(QUANTILES, dtype=smoothed.dtype), dim=1)
    layers, sizes = {}, {}
    for layer in dict.fromkeys(map(layer_of, names)):
        which = [i for i, name in enumerate(names) if layer_of(name) == layer]
        sizes[layer] = len(which)
        layers[layer] = _means(late[:, which], late_s[:, which])
    counts = torch.histc(late, bins=BINS, min=-1, max=1)
    return {
        "all": _means(late, late_s),
        "steps": {
            "s_mean": _rounded(s.mean(1)),
            "s_hat_mean": _rounded(smoothed.mean(1)),
            **{f"s_hat_q{round(100 * p)}": _rounded(row) for p, row in zip(QUANTILES, q, strict=True)},
            "d_mean": _rounded((1 + smoothed.mean(1)) / 2),
        },
        "layers": layers,
        "tensors_in_layer": sizes,
        "tensors": {name: _means(late[:, i], late_s[:, i]) for i, name in enumerate(names)},
        "histogram": {"of": "s_hat", "from": -1, "to": 1, "share": _rounded(counts / counts.sum())},
    }


def _means(smoothed: torch.Tensor, s: torch.Tensor) -> list[float]:
    """The values that COLUMNS names."""
    mean = smoothed.mean()
    return _rounded(torch.stack([s.mean(), s.std(correction=0), mean, smoothed.std(correction=0), (1 + mean) / 2]))


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


# ---- the figure ---------------------------------------------------------------------------------------------------


def draw(path: Path, runs: Sequence[dict[str, Any]], *, title: str) -> None:
    """Three panels: ŝ over steps, ŝ by layer, distribution of ŝ; a colour for each batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    over_steps, by_layer, spread = figure.subplots(1, 3)
    colours = ["#9ecae1", "#4292c6", "#08519c", "#08306b", "#041c40"]  # the larger the batch, the darker
    markers = "osD^v"
    for i, run in enumerate(runs):
        colour, label = colours[i % 5], f"batch {run['batch_size']}"
        steps = range(1, len(run["steps"]["s_hat_mean"]) + 1)
        over_steps.fill_between(
            steps, run["steps"]["s_hat_q10"], run["steps"]["s_hat_q90"], color=colour, alpha=0.15, linewidth=0
        )
        over_steps.plot(steps, run["steps"]["s_hat_mean"], color=colour, label=label)
        layers = list(run["layers"])
        means = [run["layers"][layer][S_HAT] for layer in layers]
        by_layer.plot(range(len(layers)), means, color=colour, marker=markers[i % 5], markersize=5, label=label)
        share = run["histogram"]["share"]
        edges = [-1 + 2 * k / len(share) for k in range(len(share) + 1)]
        spread.stairs(share, edges, color=colour, linewidth=1.6, label=label)
    for axes in (over_steps, by_layer):
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_ylabel("ŝ")
    over_steps.set(title="over training (mean, 10-90 % of tensors)", xlabel="step")
    names = ["emb." if layer == "embeddings" else layer for layer in layers]
    by_layer.set(title="by layer", xlabel="layer")
    by_layer.set_xticks(range(len(names)), names)
    reached = [k for run in runs for k, share in enumerate(run["histogram"]["share"]) if share > 0]
    low, high = (-1 + 2 * k / BINS for k in (min(reached) - 1, max(reached) + 2))
    spread.set(title="distribution over tensors and steps", xlabel="ŝ", ylabel="share", xlim=(low, high))
    spread.axvline(0, color="#888888", linewidth=0.8)
    over_steps.legend(frameon=False)
    for axes in (over_steps, by_layer, spread):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)
    common.say(f"written: {path}")


def options() -> Parser:
    """The command line."""
    parser = common.parser("alignment.py", "Alignment of gradients and momentum on a real model.")
    parser.add_argument("--batch_sizes", type=common.count, nargs="+", metavar="N", help="in pairs (default: 8 32 128)")
    parser.add_argument("--steps", type=common.count, metavar="N", help="for each batch size (default: 40)")
    parser.add_argument("--lr", type=float, default=2e-4, help="learning rate, constant (default: 2e-4)")
    parser.add_argument("--seed", type=int, default=0, help="of data and training (default: 0)")
    parser.add_argument("--model", default=models.MINILM, help=f"folder or Hub name (default: {models.MINILM})")
    parser.add_argument("--train_file", metavar="FILE", help="pairs: .jsonl, .csv or .parquet (default: built-in)")
    parser.add_argument("--columns", nargs=2, metavar="COLUMN", help="of the file")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it: .svg or .png")
    return parser


def main(argv: Sequence[str]) -> int:
    """The program. Raises InputError."""
    args = options().parse_words(argv)
    device = common.set_up(args)
    sizes = args.batch_sizes or ([4, 16] if args.short else [8, 32, 128])
    steps = args.steps or (6 if args.short else 40)
    if args.figure and args.figure.suffix not in (".svg", ".png"):
        raise InputError(f"--figure {args.figure}: the name has to end in .svg or .png")
    if args.figure:
        check_matplotlib()
        common.check_folder(args.figure)
    common.no_bars()
    dataset, source = pairs(args.train_file, args.columns, max(sizes) * steps + max(sizes), args.seed)
    settled = min(steps // 4, 15)
    runs = []
    for size in sizes:
        torch.manual_seed(args.seed)
        model = models.load_model(args.model, max_seq_length=TOKENS).to(device)
        started = time.perf_counter()
        names, smoothed, values = train(model, batches(dataset, size, steps, args.seed), lr=args.lr)
        runs.append({"batch_size": size, "seconds": round(time.perf_counter() - started, 1)})
        runs[-1] |= {"loss": [round(value, 5) for value in values], **statistics(names, smoothed, settled=settled)}
    show(runs, steps=steps, settled=settled)
    report = common.provenance("alignment", "alignment.py", argv, device, args.seed)
    report |= {"model": models.identity(args.model, model) | {"name": args.model}, "data": source}
    report |= {"steps": steps, "settled": settled, "lr": args.lr, "gamma": GAMMA, "columns": COLUMNS, "results": runs}
    if args.json:
        common.write(args.json, report)
    if args.figure:
        of = "pairs of a made-up shop" if args.train_file is None else source["path"]
        name = Path(args.model).name
        draw(
            args.figure,
            runs,
            title=f"Smoothed cosine ŝ of gradient and momentum: {name}, {of}, AdaTAMW, lr {args.lr:g}",
        )
    return 0


def show(runs: Sequence[dict[str, Any]], *, steps: int, settled: int) -> None:
    """Print a line for each batch size."""
    rows = []
    for run in runs:
        mean, layers = run["all"], {layer: values[S_HAT] for layer, values in run["layers"].items()}
        low, high = min(layers, key=layers.__getitem__), max(layers, key=layers.__getitem__)
        cells = [str(run["batch_size"]), f"{run['loss'][0]:.3f} to {run['loss'][-1]:.3f}"]
        cells += [f"{value:.3f}" for value in mean]
        cells += [f"{low}: {layers[low]:.3f}", f"{high}: {layers[high]:.3f}", f"{run['seconds']:.0f} s"]
        rows.append((False, cells))
    headings = ["batch", "loss", "s", "± s", "ŝ", "± ŝ", "d", "lowest layer (ŝ)", "highest layer (ŝ)", "time"]
    common.show(
        f"alignment, mean and standard deviation over tensors and steps {settled + 1} to {steps}", headings, rows
    )


if __name__ == "__main__":
    raise SystemExit(common.command(main))
