"""`tamft recipes ls|show|cp`: what is shipped, its text, and a copy to change."""

import argparse
import ast
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tamft.atomic import write_atomically
from tamft.errors import InputError
from tamft.parser import Parser
from tamft.registry import nearest
from tamft.train import shipped
from tamft.yaml_file import read_yaml

DESCRIPTION = """\
Recipes are programs, configs are their options, presets say on how many machines and GPUs accelerate runs them.

  tamft recipes ls                           all of them, with model, data and hardware
  tamft recipes show qwen3_embedding_0.6b    the text, and where the file is
  tamft recipes cp qwen3_embedding_0.6b      a copy in this folder, to change; then
  tamft train llm_lora --config qwen3_embedding_0.6b.yaml --dry_run true
"""
COLUMNS = ("recipe", "config", "model", "data", "hardware", "what")


@dataclass(frozen=True)
class Head:
    """What the comments on top of a YAML file say: the first sentence, and its `# key   text` lines."""

    what: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Entry:
    """A line of `tamft recipes ls`; what a kind of file does not have is empty."""

    recipe: str
    config: str
    model: str
    data: str
    hardware: str
    what: str


def main(argv: Sequence[str]) -> int:
    """Run `tamft recipes`; returns the exit code. Raises InputError for an unknown name and a file that is there."""
    parser = Parser(prog="tamft recipes", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="ls|show|cp", parser_class=Parser)
    commands.add_parser("ls", help="list recipes, configs and presets; tab-separated when piped")
    show = commands.add_parser("show", help="print one of them, and where it is")
    copy = commands.add_parser("cp", help="copy one of them out, to change it")
    for command in (show, copy):
        command.add_argument("name", metavar="NAME", help="of a recipe, a config or a preset")
    copy.add_argument("destination", nargs="?", metavar="DEST", help="file or folder (this folder)")
    copy.add_argument("--force", action="store_true", help="replace a file that is there")
    args = parser.parse_words(argv)
    if args.command == "ls":
        _list()
    elif args.command == "show":
        path = find(args.name)
        print(f"# {path}", file=sys.stderr)
        print(path.read_text(encoding="utf-8"), end="")
    else:
        target = copy_out(args.name, args.destination, force=args.force)
        print(f"{target}\nnext: {next_command(find(args.name), target)}")
    return 0


def entries() -> list[Entry]:
    """All recipes, each followed by its configs, then the presets."""
    found = []
    for name, path in shipped.recipes().items():
        found.append(Entry(name, "", "", "", "", program_head(path)))
        for config, file in shipped.configs().items():
            if shipped.recipe_of(file) == name:
                content, head = read_yaml(file), yaml_head(file)
                data = " ".join(str(content[key]) for key in ("dataset", "dataset_config") if content.get(key))
                values = (content.get("model") or "", data, head.facts.get("hardware", ""), head.what)
                found.append(Entry(name, config, *(str(value) for value in values)))
    for preset, file in shipped.presets().items():
        head = yaml_head(file)
        found.append(Entry("--accelerate_config", preset, "", "", head.facts.get("hardware", ""), head.what))
    return found


def find(name: str) -> Path:
    """The shipped file called `name`. Raises InputError with the nearest name: paths are not names."""
    known = shipped.recipes() | shipped.configs() | shipped.presets()
    bare = re.sub(r"\.(py|ya?ml)$", "", name)
    if bare not in known:
        raise InputError(
            f"nothing that is shipped is called {name!r}{nearest(bare, known)} `tamft recipes ls` lists it"
        )
    return known[bare]


def copy_out(name: str, destination: str | None = None, *, force: bool = False) -> Path:
    """Copy a shipped file to `destination`: a file, a folder, or None for the working folder; returns the new file.

    Raises InputError for an unknown name, a folder that is not there or cannot be written, and, without `force`, for
    a file that is there.
    """
    source = find(name)
    target = Path(destination or ".").expanduser()
    target = target / source.name if target.is_dir() else target
    if target.suffix != source.suffix:
        raise InputError(f"{target}: a copy of {source.name} is called something{source.suffix}")
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the shipped file itself: name another folder or file")
    if target.exists() and not force:
        raise InputError(f"{target} is there already: name another file, or replace it with --force")
    try:
        write_atomically(target, source.read_bytes())
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from error
    return target


def next_command(source: Path, target: Path) -> str:
    """The command that uses a copy of a shipped file."""
    word = shlex.quote(str(target))
    if source.suffix == ".py":
        # a bare name would be looked for among the shipped recipes
        return f"tamft train {word} --help"
    if source.parent.name == "accelerate":
        return f"tamft train RECIPE --config CONFIG --accelerate_config {word}"
    return f"tamft train {shipped.recipe_of(source)} --config {word} --help"


def program_head(path: Path) -> str:
    """First line of a program's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def yaml_head(path: Path) -> Head:
    """The comments on top of a shipped YAML file: a sentence, then `# hardware  …` and lines like it."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#"))
    blank = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    facts: dict[str, str] = {}
    key = ""
    for line in lines[blank:]:
        if match := re.match(r" (\w+) {2,}(\S.*)", line):
            key, facts[match[1]] = match[1], match[2]
        elif key and re.match(r" {8,}\S", line):
            facts[key] += f" {line.strip()}"
        else:
            key = ""
    return Head(" ".join(line.strip() for line in lines[:blank]).rstrip(":"), facts)


def _list() -> None:
    rows = [tuple(vars(entry).values()) for entry in entries()]
    if not sys.stdout.isatty():
        for row in (COLUMNS, *rows):
            print("\t".join(row))
        return
    _table(rows)


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """A line for each, grouped by recipe; what does not fit is cut, and is in `show`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    groups: dict[str, list[list[str]]] = {}
    for recipe, config, model, data, hardware, what in rows:
        cells = [config, model, data.rpartition("/")[2], hardware.partition(";")[0], what]
        groups.setdefault(recipe, []).append(cells)
    every = [cells for group in groups.values() for cells in group]
    widths = [min(max(len(cells[i]) for cells in every), 30) for i in range(4)]
    shown = (0, 1, 2, 3, 4) if console.width >= 120 else (0, 1, 3)  # a name that is cut could not be typed
    for recipe, group in groups.items():
        own = [cells for cells in group if not cells[0]]
        head = own[0][-1] if own else "on how many processes, GPUs and machines"
        console.print(Text.assemble((recipe, "bold"), "  ", (head, "dim")))
        table = Table(box=None, show_header=False, expand=True, padding=(0, 2, 0, 0))
        for i in shown[:-1]:
            table.add_column(width=widths[i], no_wrap=True, style="" if i else "cyan")
        table.add_column(no_wrap=True, ratio=1, style="dim")
        for cells in group:
            if cells[0]:
                table.add_row(*(Text(cells[i]) for i in shown))
        console.print(table)
    print("`tamft recipes show NAME` prints one, `tamft recipes cp NAME` copies it.")
