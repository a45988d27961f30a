"""`make compatibility`: try every row with every column, and every pair. Exit code 1 if a cell fails.

python -m tests.compatibility --write docs/compatibility.md      everything (a quarter of an hour on two cores)
python -m tests.compatibility --rows LoRA torchrun --columns adatamw    cells whose row contains one of the words
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from tests.compatibility import report
from tests.compatibility.matrix import Cell, covering, row_cell, rows
from tests.compatibility.optimizers import COLUMNS
from tests.compatibility.runner import run


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page; needs all rows and columns")
    parser.add_argument("--rows", nargs="+", metavar="WORD", help="only rows that contain one of these words; no pairs")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, metavar="NAME", default=COLUMNS)
    parser.add_argument("--pairs", action="store_true", help="only the combinations")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at a time (default: 2)")
    args = parser.parse_args(argv)
    absent = [name for name in args.columns if "." in name and find_spec(name.partition(".")[0]) is None]
    if absent:
        parser.error(f"{', '.join(absent)}: not installed: pip install 'tamft[rivals,dev]', or choose other --columns")
    if args.write and (args.rows or args.pairs or args.columns != COLUMNS):
        parser.error("--write needs all rows and columns")

    wanted = [] if args.pairs else _row_cells(args.rows, args.columns)
    if not args.rows:
        wanted += [cell for cell in covering() if cell.optimizer in args.columns]
    cells = list(dict.fromkeys(wanted))
    with tqdm(total=len(cells), unit="cell", smoothing=0.02) as bar:
        outcomes = run(cells, jobs=args.jobs, done=bar.update)
    for cell in cells:
        if args.rows or outcomes[cell].startswith("FAILS"):
            print(f"{report.words(cell)}: {outcomes[cell]}")
    failed = sum(outcome.startswith("FAILS") for outcome in outcomes.values())
    print(f"{len(cells)} cells, {failed} failed")
    if args.write:
        report.write(args.write, outcomes)
    return 1 if failed else 0


def _row_cells(words: list[str] | None, columns: list[str]) -> list[Cell]:
    return [
        row_cell(axis, name, column)
        for axis, names in rows().items()
        for name in names
        if words is None or any(word.lower() in name.lower() for word in words)
        for column in columns
    ]


if __name__ == "__main__":
    sys.exit(main())
