"""Make the tables of all results: SUMMARY.md of a results folder, and a page for each sitting in it.

    python eval/make_tables.py eval/results

A sitting is a folder with files of `tamft eval --json`, with studies of `tamft compare` (a folder each), or with both.
Its NOTES.md (written by hand: what was done, what it says and what it does not) comes before its tables. Nothing else
enters the tables: what is in the files is shown, all of it.
"""

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import quote

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.evaluation.figures import check_matplotlib
from tamft.evaluation.report.command import collect
from tamft.evaluation.report.html import make_page
from tamft.evaluation.report.study.drawings import files as figures_of
from tamft.evaluation.report.study.files import read_study
from tamft.evaluation.report.study.html import make_page as make_study_page
from tamft.evaluation.report.study.text import markdown as study_markdown
from tamft.evaluation.report.text import markdown
from tamft.evaluation.study.runs import make_study

INTRODUCTION = """\
# Results

One folder per sitting, named by date, device and torch. Made by `python eval/make_tables.py eval/results` from the
files in the folders: change those, and their NOTES.md, not this. How a number gets here: [../README.md](../README.md).
"""

# 1. Which sittings
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="the results folder, with one folder for each sitting")
parser.add_argument("--no_pages", action="store_true", help="SUMMARY.md alone; needs no matplotlib")
args = parser.parse_args()
files = [*args.folder.glob("*/*.json"), *(study.parent for study in args.folder.glob("*/*/study.jsonl"))]
sittings = sorted({file.parent for file in files}, reverse=True)  # the latest first

try:
    if not sittings:
        raise InputError(f"{args.folder}: no sitting in it: a folder with a file of `tamft eval --json`, or a study")
    if not args.no_pages:
        check_matplotlib()
    parts, pages = [INTRODUCTION], {}
    for sitting in sittings:
        notes = sitting / "NOTES.md"
        parts.append(notes.read_text(encoding="utf-8") if notes.exists() else f"## {sitting.name}")
        # 2. The scores of a sitting, and its runs if they are there
        scores = sorted(sitting.glob("*.json"))
        if scores:
            summary, runs = collect([*scores, *(file.parent for file in sorted(sitting.glob("*/run.json")))])
            parts.append(f"### Scores\n\n{markdown(summary, runs)}")
            pages[sitting / "report.html"] = None if args.no_pages else make_page(runs, summary)
        # 3. Its studies: their headings one below those of the sitting, and a picture
        for file in sorted(sitting.glob("*/study.jsonl")):
            study, folder = make_study(*read_study(file.parent)), file.parent
            pages |= {} if args.no_pages else {folder / name: svg for name, svg in figures_of(study).items()}
            pages[folder / "report.html"] = None if args.no_pages else make_study_page(study)
            title, _, rest = re.sub(r"^#", "###", study_markdown(study), flags=re.MULTILINE).partition("\n")
            picture = folder / "tasks.svg"
            if picture in pages or picture.exists():
                place = quote(picture.relative_to(args.folder).as_posix())
                title += f"\n\n![Differences from {study.baseline.name} by task, with 95 % intervals]({place})"
            parts.append(f"{title}\n{rest}")
except InputError as error:
    print(f"make_tables.py: error: {error}", file=sys.stderr)
    sys.exit(2)

# 4. Write: all is made before anything is replaced
for path, page in {args.folder / "SUMMARY.md": "\n\n".join(part.strip() for part in parts) + "\n", **pages}.items():
    if page is not None:
        write_atomically(path, page)
        print(path)
