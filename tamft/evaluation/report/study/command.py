"""`tamft report STUDY`: verdicts in the terminal, one file, or a folder with everything."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation import compare
from tamft.evaluation.options import check_writable
from tamft.evaluation.report.study.files import PLAN, ROWS, as_jsonl, read_study
from tamft.evaluation.study.runs import Study, make_study

FORMS = {"html": "report.html", "md": "report.md", "csv": "report.csv", "jsonl": "report.jsonl"}


def report(path: Path, *, form: str | None, out: Path | None, folder: bool, argv: Sequence[str]) -> int:
    """Print or write the report of the study in `path`; returns 0.

    Args:
        form: one of FORMS; None: a table in the terminal, or, with `folder`, all of them.
        out: the file to write; None: standard output. With `folder`: the folder to write everything into.
        argv: of the command, for the page's provenance.

    Raises:
        InputError: the study is missing or damaged, scipy or matplotlib is not installed.
    """
    compare.check_scipy()
    if out is not None:
        _check_place(out if folder else out.absolute().parent, path, out)
    if folder or form == "html":
        from tamft.evaluation.figures import check_matplotlib

        check_matplotlib()
    study = make_study(*read_study(path))
    command = shlex.join(["tamft", "report", *argv])
    if folder and out is not None:
        _write_all(study, out, command)
    elif form is None:
        from tamft.evaluation.report.study.text import print_study

        print_study(study)
    elif out is None:
        sys.stdout.write(_text(study, form, command))
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, _text(study, form, command))
        print(f"{out}: {_counts(study)}", file=sys.stderr)
    return 0


def _check_place(folder: Path, study: Path, out: Path) -> None:
    """InputError for a place that holds a study's own files, or that cannot be written."""
    if out.resolve() in [(study / name).resolve() for name in (".", PLAN, ROWS)] or (out / PLAN).exists():
        raise InputError(f"--out {out}: holds the study itself; write {study / 'report'}/ or another place")
    check_writable("--out", folder.absolute())


def _text(study: Study, form: str, command: str) -> str:
    from tamft.evaluation.report.study import html, text

    made: dict[str, Callable[[], str]] = {
        "html": lambda: html.make_page(study, command=command),
        "md": lambda: text.markdown(study),
        "csv": lambda: text.as_csv(study),
        "jsonl": lambda: as_jsonl(study.plan, study.rows),
    }
    if form not in made:
        raise InputError(f"--format {form}: a study's report is one of {', '.join(made)}")
    return made[form]()


def _write_all(study: Study, folder: Path, command: str) -> None:
    from tamft.evaluation.report.study.drawings import files

    texts = {name: _text(study, form, command) for form, name in FORMS.items()} | files(study)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        write_atomically(folder / name, content)
    print(f"{folder}: {', '.join(texts)}; {_counts(study)}", file=sys.stderr)


def _counts(study: Study) -> str:
    counts = {"run": study.rows, "optimizer": study.verdicts, "task": study.tasks}
    return ", ".join(f"{len(found)} {name}{'s' * (len(found) != 1)}" for name, found in counts.items())
