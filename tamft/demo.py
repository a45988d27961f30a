"""`tamft demo`: fine-tune a real model with three optimizers on data made here, score them, and write a report."""

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tamft import registry, support_desk
from tamft.errors import InputError
from tamft.optim import MSAM, TAM, transfer_lr
from tamft.parser import Parser

OPTIMIZERS = ("adamw_torch", "adatamw", "adamw_msam")
RECIPE, CONFIG, SUITE = "encoder_pairs", "demo", "embedded"
ROWS = 2400
INSTALL = 'pip install "tamft[demo]"'
# A folder with this file is a demo's: what a demo writes may be deleted there, and nothing else.
MARKER = ".tamft-demo"
WRITTEN = ("runs", "results", "pairs.jsonl", "scores.json", "report.html")


def main(argv: Sequence[str]) -> int:
    """Run `tamft demo`. Returns 0, 1 if a run or a score failed, 130 if interrupted; raises InputError."""
    args = _parser().parse_words(argv)
    started = time.perf_counter()
    folder = Path(args.output_dir)

    _quiet()

    # 1. Everything that can be wrong is found before anything is written.
    from tamft.evaluation.figures import check_matplotlib
    from tamft.train import record
    from tamft.train.models import MINILM, resolve
    from tamft.train.shipped import find_config

    check_matplotlib()
    config = yaml.safe_load(find_config(CONFIG).read_text(encoding="utf-8"))
    rates = learning_rates(args.optimizers, float(config["learning_rate"]))
    model = resolve(args.model) if args.model else find_minilm()
    start = args.model or MINILM  # the recipe looks the name up once more, and run.json keeps it instead of a path
    record.check_writable(folder)
    clear(folder)

    # 2. Data
    pairs = folder / "pairs.jsonl"
    support_desk.write_training_pairs(pairs, ROWS, seed=args.seed)
    print(f"{ROWS} question pairs of an invented shop in {pairs} (seed {args.seed})")
    if faster := [name for name, rate in rates.items() if rate != float(config["learning_rate"])]:
        names = ", ".join(faster)
        print(f"{names}: torque halves the steps at small batches, so the rate is doubled (tamft.transfer_lr).")
        print("Weight decay is 0 in all runs; it would have to be halved.")

    # 3. One training run after another: all see the same batches in the same order.
    runs = [folder / "runs" / name for name in args.optimizers]
    for number, (name, run) in enumerate(zip(args.optimizers, runs, strict=True), start=1):
        print(f"\n[{number}/{len(runs)}] training with {name}, learning rate {rates[name]:g}", flush=True)
        code = train(name, rates[name], run, model=start, pairs=pairs, steps=args.steps, seed=args.seed)
        if code:
            print(f"tamft demo: the run with {name} ended with exit code {code}; see {run}", file=sys.stderr)
            return code

    # 4. Scores of the base model and of what came out
    from tamft.evaluation.report.html import write_report
    from tamft.evaluation.report.runs import read_run
    from tamft.evaluation.score import evaluate

    print(f"\nscoring the base model and {len(runs)} tuned ones on the suite {SUITE!r}", flush=True)
    contents = [read_run(run) for run in runs]
    models = [model, *(str(run / content["model_dir"]) for run, content in zip(runs, contents, strict=True))]
    command = shlex.join(["tamft", "demo", *argv])
    scores = evaluate(
        models, suite=SUITE, results=folder / "results", json_file=folder / "scores.json", command=command
    )

    # 5. Table and report
    print_summary(contents, models, scores)
    write_report(runs, scores, folder / "report.html")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} seconds in all. Curves, scores and provenance: {folder / 'report.html'}")
    if len({content["first_batches_sha256"] for content in contents}) > 1:
        print("tamft demo: the runs did not see the same first batches: do not compare them", file=sys.stderr)
        return 1
    return 0 if all(score["status"] == "ok" for score in scores) else 1


def _parser() -> Parser:
    # Heavy-ball optimizers would need a rate of their own: there is none that an AdamW rate could be carried over to.
    adam_like = [name for name in registry.names() if not issubclass(registry.get(name).cls, TAM | MSAM)]
    parser = Parser(
        prog="tamft demo",
        description="Fine-tunes all-MiniLM-L6-v2 with three optimizers on support-desk questions that are made here, "
        "scores all models on four MTEB tasks and writes a report: a few minutes on two cores. A smoke test: the "
        "data is synthetic and there is one seed, so it says nothing about which optimizer is better.",
        epilog="exit codes: 0 ok, 1 a run or a score failed, 2 bad input, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", default="demo", metavar="DIR", help="a demo there is replaced (default: demo)")
    parser.add_argument("--seed", type=_number(0), default=0, metavar="N", help="of data and training (default: 0)")
    parser.add_argument("--steps", type=_number(1), metavar="N", help="of each run (default: the config's)")
    parser.add_argument(
        "--optimizers",
        nargs="+",
        default=list(OPTIMIZERS),
        choices=["adamw_torch", *adam_like],
        metavar="NAME",
        help=f"any of adamw_torch {' '.join(adam_like)} (default: {' '.join(OPTIMIZERS)})",
    )
    parser.add_argument("--model", metavar="MODEL", help="folder or Hub name of another model to start from")
    return parser


def _number(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return convert


def learning_rates(optimizers: Sequence[str], adamw: float) -> dict[str, float]:
    """The rate of each optimizer that makes steps as long as AdamW's at the rate `adamw`.

    Raises InputError for a name given twice.
    """
    if twice := [name for name in optimizers if list(optimizers).count(name) > 1]:
        raise InputError(f"--optimizers: {twice[0]} is given twice; name each once")
    known = registry.names()
    torque = {name for name in optimizers if name in known and "torque" in registry.options(name)}
    return {name: transfer_lr(adamw) if name in torque else adamw for name in optimizers}


def find_minilm() -> str:
    """Folder of the packaged all-MiniLM-L6-v2, else its name on the Hub if it is cached or can be fetched.

    Raises InputError for weights with another sha256 than the published ones, and where there is neither.
    """
    from tamft.train.models import MINILM, MINILM_HUB, MINILM_SHA256, file_sha256, resolve

    name = resolve(MINILM)
    if name != MINILM_HUB:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all is here: no waiting for a network that may be missing
        return name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    print(f"{MINILM} is not installed ({INSTALL}): taking it from the Hub")
    try:
        weights = Path(hf_hub_download(MINILM_HUB, "model.safetensors"))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {MINILM}: not installed, and the Hub cannot be reached ({reason}); install it: {INSTALL}"
        ) from error
    if file_sha256(weights) != MINILM_SHA256:
        raise InputError(f"{weights}: not the published {MINILM} (sha256 should be {MINILM_SHA256}); use {INSTALL}")
    return MINILM_HUB


def clear(folder: Path) -> None:
    """Make `folder` ready for a demo: what an earlier one wrote there is deleted, and nothing else.

    Raises InputError for a folder that holds other things.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise InputError(f"--output_dir {folder}: holds files that no demo has written; name a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by `tamft demo`, which deletes its earlier output here.\n", encoding="utf-8")
    for name in WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def train(name: str, rate: float, run: Path, *, model: str, pairs: Path, steps: int | None, seed: int) -> int:
    """Run the recipe in a process of its own with the machine's cores; returns its exit code."""
    from tamft.train.launch import main as launch

    options = {
        "config": CONFIG,
        "model": model,
        "train_file": pairs,
        "output_dir": run,
        "optim": name,
        "learning_rate": rate,
        "weight_decay": 0.0,
        "seed": seed,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return launch([RECIPE, *words, *(("--max_steps", str(steps)) if steps else ())])


def print_summary(runs: Sequence[dict[str, Any]], models: Sequence[str], scores: Sequence[dict[str, Any]]) -> None:
    """Print a line for the base model and one for each run: rate, final loss, seconds, main scores."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from tamft.evaluation.report.runs import PERTURBED, final_loss, perturbed
    from tamft.evaluation.summary import summarize

    summary = summarize(scores)
    rows = [*summary.of("task"), *summary.of("mean_task")]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("optimizer", no_wrap=True)
    names = [row.name.removeprefix("Embedded") for row in summary.of("task")]
    heads = [name if len(name) < 11 else f"{name[:7]}." for name in names]  # 80 columns must be enough
    for head in ("rate", "final loss", "seconds", *heads, "mean"):
        table.add_column(head, justify="right")
    for model, run in zip(models, (None, *runs), strict=True):
        cells = ["(base)", "", "", ""]
        if run:
            loss = final_loss(run)
            shown = "–" if loss is None else f"{loss:.4f}"
            cells = [run["optimizer"]["name"], f"{run['config']['learning_rate']:g}", shown, f"{run['seconds']:.0f}"]
        values = [row.scores[model] for row in rows]
        table.add_row(*cells, *(value if isinstance(value, str) else f"{value:.4f}" for value in values))
    console = Console()
    console.print(table)
    if any(perturbed(run) for run in runs):
        console.print(PERTURBED)
    console.print(
        "The data is synthetic: a smoke test, never evidence. One seed allows no inference: another may turn the order "
        "of the optimizers around.",
        style="bold",
    )


def _quiet() -> None:
    """What the libraries tell their own developers would bury the table."""
    import warnings

    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", message="Precision is ill-defined")  # an intent that a probe never chooses
