"""`tamft doctor [FOLDER]`: what is here, what is wrong with it, and what helps."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tamft.doctor.finding import OK, PROBLEM, WARNING, Finding
from tamft.parser import Parser

STYLES = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}
DESCRIPTION = (
    "Without FOLDER: versions, devices, threads and traps of this machine. With FOLDER (a run, a checkpoint, a saved "
    "model, an adapter): optimizer, step, is it complete, can it be resumed, are its weights the model's own, finite. "
    "Nothing in the folder is executed or changed. exit codes: 0 fine · 1 something is wrong · 2 bad input"
)


def main(argv: Sequence[str]) -> int:
    """Run `tamft doctor`; returns the exit code. Raises InputError for a folder that holds nothing to examine."""
    parser = Parser(prog="tamft doctor", description=DESCRIPTION)
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="a run, a checkpoint, a model, an adapter"
    )
    parser.add_argument("--json", action="store_true", help="a list of {what, text, level, cure}")
    args = parser.parse_words(argv)
    findings = examine(args.folder)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    elif sys.stdout.isatty():
        _table(findings)
    else:
        for finding in findings:
            cure = f" -> {finding.cure}" if finding.cure else ""
            print(_printable(f"{finding.level:<8}{finding.what}: {finding.text}{cure}"))
    return int(any(finding.level == PROBLEM for finding in findings))


def examine(folder: Path | None = None) -> list[Finding]:
    """Findings about this machine, or about `folder`. Raises InputError for a folder that holds nothing to examine."""
    if folder is None:
        from tamft.doctor import machine

        return list(machine.examine())
    from tamft.doctor import folder as on_disk

    return list(on_disk.examine(folder))


def _table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "", "what helps", box=None, show_header=any(finding.cure for finding in findings))
    for finding in findings:
        cells = [Text(finding.level, STYLES[finding.level])]
        table.add_row(*cells, *(Text(_printable(text)) for text in (finding.what, finding.text, finding.cure)))
    Console().print(table)


def _printable(text: str) -> str:
    """Without the control characters that a file's names could send to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
