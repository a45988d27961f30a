"""What a plan would find out after hours, found out before its first run."""

import contextlib
import io
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft import fingerprints
from tamft.compare import runs, worker
from tamft.compare.arms import FLAGS, optim_args
from tamft.compare.plan import Plan
from tamft.errors import InputError
from tamft.row_files import read_rows

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

# Some texts are the same by chance, or by the data's own fault; with more than this share memory is measured.
MOST = 0.05
NO_TEXTS = {"label", "labels", "id", "score", "lang", "language"}


def check(plan: Plan, train_file: Path | None) -> list[str]:
    """Check data, recipe and optimizers; returns what the reader of the results has to know, a line each.

    Raises InputError for tasks without data, for selecting on training or reported texts, and for what the recipe or an
    optimizer refuses.
    """
    check_recipe(plan, train_file)
    check_optimizers(plan)
    return check_overlap(plan)


def check_overlap(plan: Plan) -> list[str]:
    """Notes on texts that are in two places. Raises InputError where a selection would be worth nothing."""
    trained = fingerprints.make(_training_texts(plan))
    texts = {part: {task.metadata.name: _load(task) for task in tasks} for part, tasks in plan.tasks.items()}
    reported = fingerprints.make(itertools.chain.from_iterable(texts["report"].values()))
    if plan.select is None and "eval_file" in plan.options:
        texts["select"] = {"train.eval_file": list(_texts(Path(plan.options["eval_file"])))}
    notes = []
    for name, own in texts["select"].items():
        for other, what, why in (
            (trained, "trained on", "what a model remembers chooses no configuration"),
            (reported, "reported", "what a configuration was chosen by says nothing about it any more"),
        ):
            same, of = other.count(own)
            if same > MOST * of:
                raise InputError(
                    f"{plan.path}: select: {same} of the {of} texts of {name} are {what}: {why}; take other data"
                )
            if same:
                notes.append(f"{same} of the {of} texts of {name} (selection) are {what} as well")
    for name, own in texts["report"].items():
        same, of = trained.count(own)
        if same:
            loud = " – it measures memory, too" if same > MOST * of else ""
            notes.append(f"{same} of the {of} test texts of {name} (reported) are trained on{loud}")
    return notes


def check_recipe(plan: Plan, train_file: Path | None) -> None:
    """Let the recipe check its options, data and model. Raises InputError with what it says."""
    if plan.content["recipe"].endswith(".py"):  # one's own: it need not have --dry_run
        return
    run = runs.screen(plan)[0]
    with tempfile.TemporaryDirectory(prefix="tamft-") as folder:
        words = runs.job(plan, run, Path(folder), train_file).words or ()
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = worker.run_recipe(plan.content["recipe"], [*words, "--dry_run=true"])
    if code != 0:
        lines = told.getvalue().strip().splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
        raise InputError(f"{plan.path}: train: {said[-1] if said else f'exit code {code}'}")


def check_optimizers(plan: Plan) -> None:
    """Build every configuration over one number. Raises InputError for what its optimizer refuses."""
    import torch
    from transformers import Trainer, TrainingArguments

    for name, arm in plan.arms.items():
        for params in runs.trials(plan, name):
            args = arm.args | {key: value for key, value in params.items() if key not in FLAGS}
            flags = {key: value for key, value in params.items() if key in FLAGS}
            try:
                with warnings.catch_warnings(action="ignore"):
                    training = TrainingArguments(
                        output_dir="unused",
                        optim=arm.optim,
                        optim_args=optim_args(args) or None,
                        report_to="none",
                        **flags,
                    )
                    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(training, None)
                    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer):
                        kwargs = {k: v for k, v in kwargs.items() if k not in ("params", "model", "optimizer_dict")}
                        cls([torch.nn.Parameter(torch.zeros(1))], **kwargs)
            except (ValueError, TypeError, RuntimeError, ImportError) as error:
                raise InputError(f"{plan.path}: optimizers.{name}: {' '.join(str(error).split())}") from error


def _training_texts(plan: Plan) -> Iterator[str]:
    for path in plan.train_files:
        yield from _texts(path)
    if not plan.train_files:
        from tamft.train.data import load_rows

        options: dict[str, Any] = plan.options
        rows = load_rows(
            None,
            options["dataset"],
            options.get("dataset_config"),
            options.get("train_split", "train"),
            options.get("columns"),
        )
        for column in rows.texts:
            yield from rows.dataset[column]


def _texts(path: Path) -> Iterator[str]:
    for _, row in read_rows(path):
        yield from (value for key, value in row.items() if isinstance(value, str) and key not in NO_TEXTS)


def _load(task: "AbsTask") -> list[str]:
    """The texts that a task tests with. Raises InputError where its data cannot be had."""
    from tamft.evaluation.data import load_data
    from tamft.evaluation.overlap import test_texts

    parts = list(task.metadata.tasks) if task.is_aggregate else [task]  # type: ignore[attr-defined]
    found: list[str] = []
    for part in parts:
        try:
            load_data(part)
        except InputError:
            raise
        except Exception as error:  # data sets come with their own loading code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InputError(
                f"the data of {part.metadata.name} is not here ({reason}); "
                "`tamft suites prefetch` fetches it where there is a network"
            ) from error
        found += [text for split in part.eval_splits for s in part.hf_subsets for text in test_texts(part, split, s)]
        part.unload_data()
    return found
