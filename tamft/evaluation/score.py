"""`tamft eval`: score models on MTEB tasks, side by side.

Everything is run and stored by mteb itself; what is added is the models' identities, provenance, and honest outcomes:
a task that fails or whose data is not here is a record with a reason, never a zero and never a lost evening.
"""

import argparse
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.parser import Parser

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

Record = dict[str, Any]


def evaluate(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    tasks: Iterable["str | AbsTask"] | None = None,
    suite: str | None = None,
    languages: Sequence[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    device: str | None = None,
    command: str | None = None,
) -> list[Record]:
    """Score models on tasks; scores that `results` already holds are not computed again.

    Args:
        models: model folders, LoRA adapter folders or Hub names; one or several.
        tasks, suite, languages: see `tamft.evaluation.tasks.get_tasks`.
        results: folder of mteb's result files (default: "results"); what is done is not done again.
        json_file: where to write the records, too.
        batch_size: sentences per forward pass; halved when memory runs out.
        device: "cpu", "cuda", "cuda:1", "mps" …; None: the best there is.
        command: what to write into the records as the command that made them.

    Returns:
        Records, in the order models × tasks × (split, subset), with the keys model (as typed), name, revision, task,
        split, subset, metric, main_score (None unless ok), reason, status ("ok", "failed", "missing"), mteb_version,
        dataset_revision, device, dtype, batch, seconds (mteb's time for the task, loading apart; for all its splits and
        subsets together), command, overlap ({texts, of}: test texts that are in the model's training data, see
        `tamft.evaluation.overlap`; None: not known). For a stored score, device to command and overlap are those of the
        run that made it.

    Raises:
        InputError: anything that can be known before the work begins; nothing has been written then.
        OSError: `json_file` cannot be written in the end (the scores are in `results`).
    """
    given = [models] if isinstance(models, str | os.PathLike) else list(models)
    nameless = [model for model in given if not isinstance(model, str | os.PathLike)]
    if nameless:
        raise InputError(
            f"a {type(nameless[0]).__name__} object has no identity, so its scores would be taken for another's; "
            "save it and give the folder, or give the Hub name"
        )
    names = [os.fspath(model) for model in given]
    folder = Path(results if results is not None else "results")
    _check(names, batch_size=batch_size, device=device, results=folder, json_file=json_file)

    from tamft.evaluation.identity import identify
    from tamft.evaluation.overlap import fingerprint_of
    from tamft.evaluation.tasks import get_tasks

    chosen = get_tasks(tasks, suite=suite, languages=languages)
    identities = [identify(name) for name in names]
    trained_on = {identity.typed: fingerprint_of(identity) for identity in identities}

    from tqdm.auto import tqdm

    from tamft.evaluation.results import Results, write_json
    from tamft.evaluation.scorer import Scorer
    from tamft.evaluation.table import labels

    cache = Results(folder)
    records: list[Record] = []
    short = labels(names)
    with tqdm(total=len(identities) * len(chosen), unit="task", disable=None, file=sys.stderr) as bar:
        for identity in identities:
            label = short[identity.typed]
            scorer = Scorer(
                identity,
                cache,
                label=label,
                batch_size=batch_size,
                device=device,
                command=command,
                trained_on=trained_on[identity.typed],
            )
            for task in chosen:
                bar.set_description(f"{task.metadata.name} · {label}")
                records += scorer.records(task)
                bar.update()
    if json_file is not None:
        write_json(Path(json_file), records)
    return records


# --- checks before any work -------------------------------------------------------------------------------------------


def _check(
    models: list[str],
    *,
    batch_size: int,
    device: str | None,
    results: Path,
    json_file: str | os.PathLike[str] | None,
) -> None:
    if not models:
        raise InputError("no model given: write a model folder or a Hub name, for example runs/demo/model")
    twice = [m for m in models if models.count(m) > 1]
    if twice:
        raise InputError(f"model {twice[0]!r} is given twice; name each model once")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"--batch_size {batch_size!r}: it must be a whole number of at least 1")
    if device is not None:
        _check_device(device)
    if results.exists() and not results.is_dir():
        raise InputError(f"--results {str(results)!r} is a file; give a folder")
    _check_writable("--results", results)
    if json_file is not None:
        _check_json(json_file)


def _check_json(json_file: str | os.PathLike[str]) -> None:
    path = Path(json_file)
    if path.exists() and not path.is_file():
        raise InputError(f"--json {str(path)!r} is not an ordinary file; give the name of a file to write")
    _check_writable("--json", path.absolute().parent)


def _check_device(device: str) -> None:
    import torch

    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("the meta device holds no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        here = ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
        raise InputError(
            f"--device {device!r} cannot be used here ({str(error).splitlines()[0][:120]}); there is {', '.join(here)}"
        ) from None


def _check_writable(flag: str, folder: Path) -> None:
    """`folder` can be written, or can be made: nothing is made to find out."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{flag}: {str(place)!r} is a file, so nothing can be written below it; give another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{flag}: {str(place)!r} cannot be written; give another place or change its permissions")
    if shutil.disk_usage(place).free < 1 << 20:
        raise InputError(f"{flag}: the disk of {str(place)!r} is full; free some space or give another place")


# --- command line -----------------------------------------------------------------------------------------------------

EXAMPLES = """\
examples:
  tamft eval runs/demo/model --tasks STS13 Banking77Classification
      one model, two tasks, English only
  tamft eval sentence-transformers/all-MiniLM-L6-v2 runs/a/model runs/b/model --suite nanobeir --json scores.json
      base model and two tuned models side by side; differences are from the first
  tamft eval runs/lora/model --tasks XQuADRetrieval --languages deu --device cuda --batch_size 256
      a LoRA adapter (its base model is found from adapter_config.json), German, on a GPU

Scores are kept in --results (mteb's own files) and are not computed again: after an interruption run the same command.
Exit code: 0 all scored, 1 something failed or its data is missing, 2 bad input (nothing written).
"""


class _Once(logging.Filter):
    """Lets a message through the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


def main(argv: Sequence[str]) -> int:
    """`tamft eval …`. Prints the table; returns 0, or 1 if a task failed or is missing. Raises InputError."""
    from tamft.evaluation.table import print_table

    parser = Parser(
        prog="tamft eval",
        description="Score embedding models on MTEB tasks, side by side. Everything is run and stored by mteb.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folder, LoRA adapter folder or Hub name")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="mteb's task names, for example STS13 SICK-R")
    parser.add_argument("--suite", metavar="NAME", help="embedded, nanobeir, mteb-eng-v2, mteb-eng-v1 or a .yaml file")
    parser.add_argument(
        "--languages",
        nargs="+",
        metavar="CODE",
        help="ISO 639-3 codes, or all (default: eng where a task has English, else all the task has)",
    )
    parser.add_argument("--results", default="results", metavar="DIR", help="mteb's result files (default: results)")
    parser.add_argument("--json", metavar="FILE", help="also write the scores as a list of records")
    parser.add_argument(
        "--batch_size", type=int, default=32, metavar="N", help="halved when memory runs out (default: 32)"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps … (default: the best there is)")
    args = parser.parse_words(argv)

    # what the libraries tell their own developers would bury what the user must read
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*is ill-defined", module="sklearn")  # other metrics than the main score
    warnings.filterwarnings("ignore", message="The task .* is superseded")  # mteb logs the same, for every model
    logging.getLogger("mteb.abstasks.abstask").addFilter(_Once())
    command = shlex.join(["tamft", "eval", *argv])
    if args.json is not None:
        _check_json(args.json)
    records = evaluate(
        args.models,
        tasks=args.tasks,
        suite=args.suite,
        languages=args.languages,
        results=args.results,
        batch_size=args.batch_size,
        device=args.device,
        command=command,
    )
    print_table(records)
    from tamft.evaluation.results import write_json

    if args.json is not None:  # after the table: a disk that filled up meanwhile must not hide the scores
        try:
            write_json(Path(args.json), records)
        except OSError as error:
            print(f"tamft eval: {args.json} could not be written ({error}); run again with another", file=sys.stderr)
            return 1
    return 0 if all(record["status"] == "ok" for record in records) else 1
