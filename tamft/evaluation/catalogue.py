"""`tamft suites`: what suites there are, what is in them, and their data on this machine."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tamft.errors import InputError
from tamft.evaluation.quiet import quiet_libraries
from tamft.evaluation.rows import Row, print_rows
from tamft.parser import Parser

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

EXAMPLES = """\
examples:
  tamft suites ls
      the suites that come with tamft, and how much of each is on this machine
  tamft suites show mteb-eng-v2 --task_types STS
      its tasks: type, languages, splits, revision of the data, number of texts, on disk or not
  tamft suites prefetch nanobeir
      fetch the data of all its tasks, so that `tamft eval` needs no network; go on after an interruption
  tamft suites cp example
      a copy of a suite of one's own, to change: one task from local files of each type that there is
  tamft suites show mine.yaml
      a suite of one's own: the form is in docs/evaluation.md

Exit code: 0 ok, 1 some data could not be fetched or does not load offline, 2 bad input, 130 interrupted.
"""


def main(argv: Sequence[str]) -> int:
    """`tamft suites ls|show|prefetch|cp`. Returns the exit code. Raises InputError."""
    parser = Parser(
        prog="tamft suites",
        description="Suites of MTEB tasks: what there is, what is in it, and getting its data.",
        examples=EXAMPLES,
    )
    actions = ("ls", "show", "prefetch", "cp")
    parser.add_argument("action", choices=actions, metavar="ACTION", help=" | ".join(actions))
    parser.add_argument(
        "suite", nargs="?", metavar="NAME", help="a suite's name, or a .yaml file; for cp also: example"
    )
    parser.add_argument("destination", nargs="?", metavar="FOLDER", help="where cp copies to (default: here)")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="only these (without a suite: any of mteb's)")
    parser.add_argument("--task_types", nargs="+", metavar="TYPE", help="only tasks of these types, for example STS")
    parser.add_argument("--languages", nargs="+", metavar="CODE", help="only subsets in these languages (ISO 639-3)")
    args = parser.parse_words(argv)
    chosen = (args.suite, args.tasks, args.task_types, args.languages)
    if args.action == "cp":
        if args.suite is None or any(chosen[1:]):
            raise InputError("`tamft suites cp NAME [FOLDER]` copies a whole suite, or `example`")
        print(copy_out(args.suite, args.destination or "."))
        return 0
    if args.destination is not None:
        raise InputError(f"{args.destination!r}: one suite at a time")
    if args.action == "ls":
        if any(chosen):
            raise InputError("`tamft suites ls` takes nothing more; see one suite with `tamft suites show NAME`")
        _quiet(bars=False)
        print_rows(ls_rows())
        return 0
    if not any(chosen[:3]):
        raise InputError(f"which suite? `tamft suites {args.action} NAME`; `tamft suites ls` shows them")
    _quiet(bars=args.action == "prefetch")
    from tamft.evaluation.tasks import get_tasks

    tasks = get_tasks(args.tasks, suite=args.suite, languages=args.languages, task_types=args.task_types)
    if args.action == "show":
        print_rows(show_rows(tasks), right=[5])
        return 0
    from tamft.evaluation.prefetch import prefetch

    outcomes = prefetch(tasks)
    failed = {name: reason for name, reason in outcomes.items() if reason is not None}
    for name, reason in failed.items():
        print(f"failed  {name}: {reason}")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} data sets are here and load offline")
    return 1 if failed else 0


def copy_out(name: str, destination: str) -> Path:
    """Copy a shipped suite, or the folder of the example, into a folder; returns the new suite file.

    Raises InputError for an unknown name, a folder that is not there, and where something of that name is there.
    """
    from tamft.evaluation.suites import suite_folder, suite_names

    folder = Path(destination).expanduser()
    if not folder.is_dir():
        raise InputError(f"{destination}: there is no such folder")
    if name not in ("example", *suite_names()):
        raise InputError(f"nothing to copy is called {name!r}; there are example, {', '.join(suite_names())}")
    source = suite_folder() / (name if name == "example" else f"{name}.yaml")
    target = folder / source.name
    if target.exists():
        raise InputError(f"{target} is there already; name another folder")
    if name != "example":
        return Path(shutil.copyfile(source, target))
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    return target / "own_tasks.yaml"


def ls_rows() -> list[Row]:
    """The shipped suites."""
    from tamft.evaluation.data import on_disk
    from tamft.evaluation.suites import read_suite, suite_names
    from tamft.evaluation.tasks import get_tasks

    rows: list[Row] = [("suite", "tasks", "types", "what it is", "on disk")]
    for name in suite_names():
        tasks = get_tasks(suite=name)
        types = Counter(task.metadata.type for task in tasks)
        here = sum(on_disk(task) is True for task in tasks)
        words = ", ".join(f"{count} {kind}" for kind, count in types.most_common())
        rows.append((name, str(len(tasks)), words, read_suite(name)["description"], f"{here} of {len(tasks)}"))
    return rows


def show_rows(tasks: Sequence["AbsTask"]) -> list[Row]:
    """Tasks: what they are, about how many texts they encode, on disk or not ("?": only loading it can tell)."""
    from tamft.evaluation.data import on_disk
    from tamft.evaluation.sizes import size

    rows: list[Row] = [("task", "type", "languages", "splits", "revision", "texts", "on disk")]
    for task in tasks:
        counted = size(task)
        of = task.metadata
        row = (
            of.name,
            of.type,
            " ".join(task.languages[:4]) + (" …" if len(task.languages) > 4 else ""),
            " ".join(task.eval_splits),
            f"{len(of.tasks)} parts" if task.is_aggregate else of.revision[:8],
            f"{counted.texts:,}" if counted else "?",
            {True: "yes", False: "no", None: "?"}[on_disk(task)],
        )
        rows.append(row)
    return rows


def _quiet(bars: bool) -> None:
    """Before anything of the libraries is imported: that is when they read their environment."""
    if not bars:
        os.environ.setdefault("TQDM_DISABLE", "1")
    quiet_libraries()
