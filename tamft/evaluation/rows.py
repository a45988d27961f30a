"""Rows of text: a table on a terminal, tab-separated lines in a pipe."""

import sys
from collections.abc import Collection, Sequence

Row = tuple[str, ...]


def print_rows(rows: Sequence[Row], right: Collection[int] = ()) -> None:
    """Print rows, the first of which is the head; `right`: numbers of the columns that are aligned to the right."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in rows))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for number in right:
        table.columns[number].justify = "right"
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)
