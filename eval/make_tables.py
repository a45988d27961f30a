"""Make the tables of all results: SUMMARY.md of a results folder, and a page for each sitting in it.

    python eval/make_tables.py eval/results

A sitting is a folder with files of `tamft eval --json`; its NOTES.md (written by hand: what was done, what it says and
what it does not) comes before its tables. Nothing else enters the tables: what is in the files is shown, all of it.
"""

import argparse
import sys
from pathlib import Path

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation.figures import check_matplotlib
from tamft.evaluation.report.command import collect
from tamft.evaluation.report.html import make_page
from tamft.evaluation.report.text import markdown

INTRODUCTION = """\
# Results

One folder per sitting, named by date, device and torch. Made by `python eval/make_tables.py eval/results` from the
files in the folders: change those, and their NOTES.md, not this. How a number gets here: [../README.md](../README.md).
"""

# 1. Which sittings
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="the results folder, with one folder for each sitting")
parser.add_argument("--no_pages", action="store_true", help="SUMMARY.md only; needs no matplotlib")
args = parser.parse_args()
sittings = sorted({file.parent for file in args.folder.glob("*/*.json")}, reverse=True)  # the latest first

try:
    if not sittings:
        raise InputError(f"{args.folder}: no sitting in it: a folder with a file of `tamft eval --json`")
    if not args.no_pages:
        check_matplotlib()
    parts, pages = [INTRODUCTION], {}
    for sitting in sittings:
        # 2. The scores of a sitting, and its runs if they are there
        summary, runs = collect(
            [*sorted(sitting.glob("*.json")), *(f.parent for f in sorted(sitting.glob("*/run.json")))]
        )
        notes = sitting / "NOTES.md"
        words = notes.read_text(encoding="utf-8") if notes.exists() else f"## {sitting.name}\n"
        parts.append(f"{words.strip()}\n\n### Scores\n\n{markdown(summary, runs)}")
        pages[sitting / "report.html"] = None if args.no_pages else make_page(runs, summary)
except InputError as error:
    print(f"make_tables.py: error: {error}", file=sys.stderr)
    sys.exit(2)

# 3. Write: all is made before anything is replaced
for path, page in {args.folder / "SUMMARY.md": "\n".join(parts), **pages}.items():
    if page is not None:
        write_atomically(path, page)
        print(path)
