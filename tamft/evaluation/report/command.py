"""`tamft report`: scores of several models side by side, as a table, a file or a page."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation.report.study.files import is_study
from tamft.parser import Parser

if TYPE_CHECKING:
    from tamft.evaluation.report.runs import Run
    from tamft.evaluation.summary import Summary

FORMATS = {"md": ".md", "csv": ".csv", "html": ".html", "json": ".json", "jsonl": ".jsonl"}
EXAMPLES = """\
examples:
  tamft report results
      everything that `tamft eval --results results` has stored, as a table
  tamft report runs/adamw runs/adatamw --baseline adamw_torch --out report.html
      two training runs: curves, scores (from ./results), what they depend on, as a page that needs no network
  tamft report scores.json --published ~/results --models all-MiniLM-L6-v2 'intfloat/*' --mix_versions
      own scores beside published ones, from a clone of https://github.com/embeddings-benchmark/results
  tamft report results --suite mteb-eng-v2 --format csv > scores.csv
      the tasks of one suite, with means that are missing until all of them are scored
  tamft report results --card runs/adatamw/model
      writes the model's scores into its README.md
  tamft report studies/intents --out studies/intents/report/
      verdicts of a study of `tamft compare`: page, Markdown, CSV, JSONL and figures (docs/verdicts.md)

Means are mteb's leaderboard's: over tasks, and over the means of the task types. What is missing is never 0.
Exit codes: 0 ok, 2 bad input (nothing written), 130 interrupted.
"""


def collect(
    paths: Sequence[Path],
    *,
    baseline: str | None = None,
    suite: str | None = None,
    published: Path | None = None,
    models: Sequence[str] | None = None,
    results: Path = Path("results"),
    mix_versions: bool = False,
) -> tuple["Summary", dict[str, "Run"]]:
    """The scores that the paths lead to, side by side, and the training runs among them by their names.

    Args:
        paths, published, models, results: see `tamft.evaluation.report.sources.find`.
        baseline: any unambiguous name of the model that differences are from; None: the first.
        suite: show the tasks of this suite, and all of them; None: what there is.
        mix_versions: see `tamft.evaluation.summary.summarize`.

    Raises:
        InputError: see `find`; or an unknown suite, or a baseline that names none or several.
    """
    from tamft.evaluation.report.sources import find, find_model
    from tamft.evaluation.summary import summarize

    tasks = None
    if suite is not None:
        from tamft.evaluation.tasks import get_tasks

        tasks = get_tasks(suite=suite)
    found = find(paths, results=results, published=published, models=models, baseline=baseline)
    names = {r["model"]: r["model"] for r in found.records}
    first = find_model(baseline, found.records) if baseline else None
    summary = summarize(found.records, baseline=first, tasks=tasks, names=names, mix_versions=mix_versions)
    return replace(summary, notes=(*found.remarks, *summary.notes)), found.runs


def main(argv: Sequence[str]) -> int:
    """`tamft report …`. Prints or writes the report; returns 0. Raises InputError."""
    args = _parser().parse_words(argv)
    paths = [Path(path).expanduser() for path in args.paths]
    if any(map(is_study, paths)):
        return _report_study(args, paths, argv)
    form = args.format or _from_suffix(args.out)
    if form == "jsonl":
        raise InputError("--format jsonl is for studies of `tamft compare`; these are scores, write --format json")
    out = Path(args.out or "report.html") if args.out or form == "html" else None
    if out is not None:
        _check_out(out, paths)
    if form == "html":
        from tamft.evaluation.figures import check_matplotlib

        check_matplotlib()
    summary, trained = collect(
        paths,
        baseline=args.baseline,
        suite=args.suite,
        published=Path(args.published).expanduser() if args.published else None,
        models=args.models,
        results=Path(args.results).expanduser(),
        mix_versions=args.mix_versions,
    )
    if args.card:
        return _write_cards(args.card, summary)
    if form is None:
        from tamft.evaluation.table import print_table

        print_table(summary)
        return 0
    text = _render(form, summary, trained, shlex.join(["tamft", "report", *argv]))
    if out is None:
        sys.stdout.write(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text)
        print(f"{out}: {len(summary.models)} models, {len(summary.of('task'))} tasks", file=sys.stderr)
    return 0


def _render(form: str, summary: "Summary", trained: dict[str, "Run"], command: str) -> str:
    if form == "html":
        from tamft.evaluation.report.html import make_page

        return make_page(trained, summary, command=command)
    from tamft.evaluation.report import text

    return {"md": text.markdown, "csv": text.as_csv, "json": text.as_json}[form](summary, trained)


def _parser() -> Parser:
    parser = Parser(
        prog="tamft report",
        description="Scores of several models side by side: by task, by task type and as means, with the differences "
        "from a baseline and everything the numbers depend on.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="results folder (of tamft eval, mteb's cache, a clone of mteb's results repository), file of "
        "`tamft eval --json`, run folder with a run.json, or one study of `tamft compare`",
    )
    parser.add_argument("--baseline", metavar="NAME", help="the model that differences are from (default: the first)")
    parser.add_argument("--format", choices=list(FORMATS), help="md, csv, html, json or jsonl (default: a table)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where to write; its suffix can be the format (html: report.html); of a study also FOLDER/, for all",
    )
    parser.add_argument("--suite", metavar="NAME", help="only, and all of, the tasks of a suite; a missing one is said")
    parser.add_argument("--published", metavar="DIR", help="results in mteb's format to show beside one's own")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="which of the published models (or of all), for example intfloat/*"
    )
    parser.add_argument(
        "--results", default="results", metavar="DIR", help="where the scores of run folders are (default: results)"
    )
    parser.add_argument(
        "--mix_versions",
        action="store_true",
        help="compare, and average over, results of different versions of mteb or of the data",
    )
    parser.add_argument(
        "--card", nargs="+", metavar="FOLDER", help="write the scores of these models into their README.md instead"
    )
    return parser


def _report_study(args: argparse.Namespace, paths: Sequence[Path], argv: Sequence[str]) -> int:
    if len(paths) > 1:
        raise InputError(f"{' '.join(args.paths)}: a study is reported alone; each has a plan and verdicts of its own")
    for name in ("baseline", "suite", "published", "models", "mix_versions", "card"):
        if getattr(args, name):
            raise InputError(f"--{name} does not go with a study: its plan has decided what is compared, before it ran")
    out = Path(args.out).expanduser() if args.out else None
    folder = out is not None and args.format is None and (out.is_dir() or args.out.endswith("/"))
    form = args.format or (None if folder else _from_suffix(args.out))
    if out is None and form == "html":
        out = Path("report.html")
    if out is not None and not folder:
        _check_out(out, paths)

    from tamft.evaluation.report.study.command import report

    return report(paths[0], form=form, out=out, folder=folder, argv=argv)


def _write_cards(folders: Sequence[str], summary: "Summary") -> int:
    from tamft.evaluation.report.card import prepare

    for change in [prepare(Path(folder).expanduser(), summary.records) for folder in folders]:  # all or none
        change.write()
        print(f"{change.path}: {change.scores} scores")
    return 0


def _from_suffix(out: str | None) -> str | None:
    if out is None:
        return None
    for form, suffix in FORMATS.items():
        if out.endswith(suffix):
            return form
    raise InputError(f"--out {out!r}: its suffix is no format; write --format, one of {', '.join(FORMATS)}")


def _check_out(out: Path, paths: Sequence[Path]) -> None:
    from tamft.evaluation.options import check_writable

    if out.exists() and not out.is_file():
        raise InputError(f"--out {str(out)!r} is not an ordinary file; give the name of a file to write")
    if out.resolve() in [path.resolve() for path in paths]:
        raise InputError(f"--out {str(out)!r} is one of the inputs; give another name")
    check_writable("--out", out.absolute().parent)
