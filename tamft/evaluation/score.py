"""`tamft eval`: score models on MTEB tasks, side by side.

Everything is run and stored by mteb itself; what is added is the models' identities, provenance, and honest outcomes:
a task that fails or whose data is not here is a record with a reason, never a zero and never a lost evening.
"""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.evaluation.options import (
    CACHE_MB,
    CPU_TOKENS,
    DTYPES,
    GPU_TOKENS,
    Options,
    check_json,
    check_results,
    choose_devices,
)
from tamft.evaluation.quiet import quiet_libraries
from tamft.parser import Parser

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from tamft.evaluation.jobs import Plan

Record = dict[str, Any]


def evaluate(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    tasks: Iterable["str | AbsTask"] | None = None,
    suite: str | None = None,
    languages: Sequence[str] | None = None,
    task_types: Sequence[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    cache_mb: int | None = None,
    device: str | None = None,
    devices: Sequence[str] | None = None,
    num_processes: int | None = None,
    mix_versions: bool = False,
    command: str | None = None,
) -> list[Record]:
    """Score models on tasks; scores that `results` already holds are not computed again.

    Args:
        models: model folders, LoRA adapter folders or Hub names; one or several.
        tasks, suite, languages, task_types: see `tamft.evaluation.tasks.get_tasks`.
        results: folder of mteb's result files (default: "results"); what is done is not done again, and several
            evaluations may share it.
        json_file: where to write the records, too.
        batch_tokens, batch_size: how much goes through the model at once, in tokens (the default) or in texts; halved
            when memory runs out.
        dtype, cache_mb, mix_versions, command: see `tamft.evaluation.options.Options`.
        device: "cpu", "cuda", "cuda:1", "mps" …; None: the best there is.
        devices, num_processes: spread the tasks over processes, see `tamft.evaluation.options.choose_devices`. A
            program that does so needs `if __name__ == "__main__":`, because processes are started afresh.

    Returns:
        Records, in the order models × tasks × (split, subset), with the keys model (as typed), name, revision, task,
        type, split, subset, metric, main_score (None unless ok), reason, status ("ok", "failed", "missing"),
        mteb_version, dataset_revision, device, dtype, batch, batch_unit ("tokens" or "texts"), seconds (mteb's time for
        the task, loading apart; for all its splits and subsets together), command, overlap ({texts, of}: test texts
        that are in the model's training data, see `tamft.evaluation.overlap`; None: not known). For a stored score,
        mteb_version to overlap are those of the run that made it.

    Raises:
        InputError: anything that can be known before the work begins; nothing has been written then.
        OSError: `json_file` cannot be written in the end (the scores are in `results`).
    """
    if json_file is not None:
        check_json(json_file)
    plan, chosen = prepare(
        models,
        {"tasks": tasks, "suite": suite, "languages": languages, "task_types": task_types},
        results,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        dtype=dtype,
        cache_mb=cache_mb,
        devices=choose_devices(device, devices, num_processes),
        mix_versions=mix_versions,
        command=command,
    )

    from tamft.evaluation.jobs import score_all
    from tamft.evaluation.results import write_json

    records = score_all(plan, chosen)
    if json_file is not None:
        write_json(Path(json_file), records)
    return records


def prepare(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    source: dict[str, Any],
    results: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple["Plan", list["AbsTask"]]:
    """What would be scored, with everything checked that can be known before the work. Nothing is written.

    Args:
        models, results: see `evaluate`.
        source: arguments of `tamft.evaluation.tasks.get_tasks`.
        options: fields of `tamft.evaluation.options.Options`.

    Raises:
        InputError: as `evaluate`.
    """
    names = _names(models)
    folder = Path(results if results is not None else "results")
    check_results(folder)
    how = Options(**options)

    from tamft.evaluation.data import notice_no_network
    from tamft.evaluation.identity import identify
    from tamft.evaluation.jobs import Plan
    from tamft.evaluation.overlap import fingerprint_of
    from tamft.evaluation.tasks import get_tasks

    source = source | {"tasks": list(source["tasks"]) if source["tasks"] is not None else None}
    chosen = get_tasks(**source)
    notice_no_network(chosen, names)
    identities = [identify(name) for name in names]
    for identity in identities:
        fingerprint_of(identity)  # InputError for a broken file
    return Plan(identities, source, folder, how), chosen


def _names(models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    given = [models] if isinstance(models, str | os.PathLike) else list(models)
    nameless = [model for model in given if not isinstance(model, str | os.PathLike)]
    if nameless:
        raise InputError(
            f"a {type(nameless[0]).__name__} object has no identity, so its scores would be taken for another's; "
            "save it and give the folder, or give the Hub name"
        )
    names = [os.fspath(model) for model in given]
    if not names:
        raise InputError("no model given: write a model folder or a Hub name, for example runs/demo/model")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"model {twice[0]!r} is given twice; name each model once")
    return names


# --- command line -----------------------------------------------------------------------------------------------------

EXAMPLES = """\
examples:
  tamft eval runs/demo/model --tasks STS13 Banking77Classification
      one model, two tasks, English only
  tamft eval sentence-transformers/all-MiniLM-L6-v2 runs/a/model runs/b/model --suite nanobeir --json scores.json
      base model and two tuned models side by side; differences are from the first
  tamft eval runs/lora/model --tasks XQuADRetrieval --languages deu --device cuda --dtype bfloat16
      a LoRA adapter (its base model is found from adapter_config.json), German, on a GPU
  tamft eval runs/a/model --suite mteb-eng-v2 --dry_run
      what that would cost here; nothing is scored
  tamft eval runs/a/model --suite mteb-eng-v2 --devices all
      tasks spread over every GPU of this machine

Scores are kept in --results (mteb's own files) and are not computed again: after an interruption run the same command.
Several evaluations may share a folder: no task is scored twice.
Exit code: 0 all scored, 1 something failed or its data is missing, 2 bad input (nothing written).
"""


def main(argv: Sequence[str]) -> int:
    """`tamft eval …`. Prints the table; returns 0, or 1 if a task failed or is missing. Raises InputError."""
    from tamft.evaluation.summary import summarize
    from tamft.evaluation.table import print_table

    parser = Parser(
        prog="tamft eval",
        description="Score embedding models on MTEB tasks, side by side. Everything is run and stored by mteb.",
        examples=EXAMPLES,
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
    parser.add_argument("--task_types", nargs="+", metavar="TYPE", help="only tasks of these types, for example STS")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print texts, tokens, time and disk that it would take, after a short calibration; nothing is downloaded",
    )
    parser.add_argument("--results", default="results", metavar="DIR", help="mteb's result files (default: results)")
    parser.add_argument("--json", metavar="FILE", help="also write the scores as a list of records")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument(
        "--batch_tokens",
        type=int,
        metavar="N",
        help="tokens per batch, padding included; halved when memory runs out "
        f"(default: {CPU_TOKENS} on a CPU, {GPU_TOKENS} on a GPU)",
    )
    batch.add_argument("--batch_size", type=int, metavar="N", help="instead: texts per batch, exactly as mteb does")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of weights and activations (default: as saved)")
    parser.add_argument(
        "--cache_mb",
        type=int,
        metavar="N",
        help="megabytes of embeddings kept for texts that occur again; 0: none "
        f"(default: {CACHE_MB}, with --batch_size 0)",
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps … (default: the best there is)")
    parser.add_argument(
        "--devices", nargs="+", metavar="D", help="a process for each, for example cuda:0 cuda:1; all: every GPU"
    )
    parser.add_argument("--num_processes", type=int, metavar="N", help="spread the tasks over N processes")
    parser.add_argument(
        "--mix_versions",
        action="store_true",
        help="use stored results of other versions of mteb or of the data instead of scoring again",
    )
    args = parser.parse_words(argv)

    quiet_libraries()
    command = shlex.join(["tamft", "eval", *argv])
    if args.json is not None:
        if args.dry_run:
            raise InputError("--json is for scores, and --dry_run writes nothing: give one of them")
        check_json(args.json)
    source = {key: getattr(args, key) for key in ("tasks", "suite", "languages", "task_types")}
    how = {key: getattr(args, key) for key in ("batch_tokens", "batch_size", "dtype", "cache_mb", "mix_versions")}
    where = {key: getattr(args, key) for key in ("device", "devices", "num_processes")}
    if args.dry_run:
        from tamft.evaluation.price import print_price

        print_price(*prepare(args.models, source, args.results, devices=choose_devices(**where), **how))
        return 0
    records = evaluate(args.models, results=args.results, command=command, **source, **how, **where)
    print_table(summarize(records, mix_versions=args.mix_versions))
    from tamft.evaluation.results import write_json

    if args.json is not None:  # after the table: a disk that filled up meanwhile must not hide the scores
        try:
            write_json(Path(args.json), records)
        except OSError as error:
            print(f"tamft eval: {args.json} could not be written ({error}); run again with another", file=sys.stderr)
            return 1
    return 0 if all(record["status"] == "ok" for record in records) else 1
