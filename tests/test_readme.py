"""The documentation's examples run, its commands and options exist, its links lead somewhere."""

import ast
import contextlib
import dataclasses
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

import tamft
from tamft import registry
from tamft.cli import COMMANDS
from tamft.train import catalogue
from tamft.train.shipped import find_config, find_preset, recipe_of
from tests.conftest import ROOT
from tests.recipes.program import load_recipe

FOLDERS = ("docs", "recipes", "eval", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
# Described once in a sentence on every page: they mean what they mean in torch.optim.
OF_TORCH = {"maximize", "foreach", "fused", "capturable", "differentiable"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command line in a shell block; comments and continuation lines are resolved."""
    found = []
    for page in PAGES:
        for block in [*blocks(page, "bash"), *blocks(page, "console")]:
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    found.append((name(page), words))
    return found


def flags(words: list[str]) -> list[str]:
    return [word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]


# Programs that a reader copies whole; the other pages show fragments, whose syntax and names are checked.
WHOLE = [page for page in PAGES if page == ROOT / "README.md" or page.parent.name == "optimizers"]


def examples(pages: list[Path]) -> list:
    return [pytest.param(c, id=f"{name(page)}-{i}") for page in pages for i, c in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize("code", examples(WHOLE))
def test_python_program_runs(code, run_python, tmp_path, tiny_model):
    # A tiny model in the place of the Hub's: the example's lines are what is tested, not the download.
    program = tmp_path / "example.py"
    program.write_text(code.replace("sentence-transformers/all-MiniLM-L6-v2", tiny_model.as_posix()), encoding="utf-8")
    run_python(program, check=True)


@pytest.mark.parametrize("code", examples([page for page in PAGES if page not in WHOLE]))
def test_names_in_python_fragments_exist(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tamft":
            found = {alias.name for alias in node.names if hasattr(importlib.import_module(node.module), alias.name)}
            assert found == {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tamft":
            assert hasattr(tamft, node.attr), f"tamft.{node.attr}"


def test_there_are_examples():
    assert len(blocks(ROOT / "README.md", "python")) >= 2
    assert len(commands()) >= 10


def test_the_two_commands_come_first():
    first = blocks(ROOT / "README.md", "bash")[0].splitlines()
    assert [line.partition("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, words in commands():
        if words[0] == "make":
            asked = {word for word in words[1:] if "=" not in word}
            assert asked <= targets, f"{page}: make {asked - targets}"


RECIPES = {  # and their own options
    "encoder_pairs": "PairsArguments",
    "llm_lora": "LoraArguments",
    "mine_negatives": "MiningArguments",
    "text_classification": "ClassificationArguments",
}
LAUNCHER = {"num_processes", "num_cpu_threads_per_process", "accelerate_config"}  # of `tamft train`


def dataclass_fields(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def flags_in_help(main) -> set[str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        main(["--help"])
    return set(re.findall(r"--([a-z_]+)", text.getvalue()))


@pytest.fixture(scope="module")
def known_flags() -> dict[str, set[str]]:
    """Flags of `tamft eval` and `tamft report`, of the recipes and of a script that reads TrainingArguments."""
    from sentence_transformers import SentenceTransformerTrainingArguments
    from transformers import TrainingArguments

    from tamft.evaluation.report.command import main as report
    from tamft.evaluation.score import main as evaluate

    options = dataclass_fields(SentenceTransformerTrainingArguments)
    return {
        "eval": flags_in_help(evaluate),
        "report": flags_in_help(report),
        "recipes": {"force"},
        "run": dataclass_fields(TrainingArguments),
        **{
            recipe: options | LAUNCHER | dataclass_fields(getattr(load_recipe(recipe), cls))
            for recipe, cls in RECIPES.items()
        },
    }


def test_tamft_commands_and_flags_exist(known_flags):
    seen = set()
    for page, words in commands():
        recipe = next((match[1] for word in words if (match := re.fullmatch(r"recipes/(\w+)\.py", word))), None)
        if words[0] == "tamft" and not words[1].startswith("-"):
            command, rest = words[1], words[2:]
            assert command in COMMANDS, f"{page}: tamft {command}"
            recipe = rest[0] if command == "train" else None
        elif "tamft.run" in words:
            command, rest = "run", words[words.index("tamft.run") + 1 :]
        elif recipe is not None:
            command, rest = "train", words[words.index(f"recipes/{recipe}.py") + 1 :]
        else:
            continue
        seen.add(command)
        launcher = next((i for i, word in enumerate(rest) if word in ("accelerate", "torchrun", "trl")), None)
        rest = rest[:launcher]  # what follows is the launcher's
        unknown = set(flags(rest)) - known_flags.get(recipe or command, set(flags(rest)))
        assert not unknown, f"{page}: {' '.join(words)}: {unknown}"
        if "--optim" in rest:
            optim = rest[rest.index("--optim") + 1]
            # a dotted name is somebody else's class, which need not be installed
            assert optim in registry.names() or optim == "adamw_torch" or "." in optim, f"{page}: --optim {optim}"
            if "--optim_args" in rest:
                registry.parse_optim_args(optim, rest[rest.index("--optim_args") + 1])
        if "--config" in rest and command == "train":
            config = rest[rest.index("--config") + 1]
            path = find_config(str(ROOT / config) if "/" in config else config)
            assert recipe == recipe_of(path), f"{page}: {config} is a config of {recipe_of(path)}"
        if "--accelerate_config" in rest:
            find_preset(rest[rest.index("--accelerate_config") + 1])
        if command == "recipes":
            assert rest[0] in ("ls", "show", "cp"), f"{page}: tamft recipes {rest[0]}"
            assert all(catalogue.find(name) for name in rest[1:2])
    assert {"run", "train", "eval", "recipes"} <= seen


def test_names_in_the_readme_table_are_registered():
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Which optimizer for whom")
    table = rest.partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    shown = [optim for row in rows for optim in re.findall(r"`([a-z_]+)`", row[2])]
    assert sorted(shown) == sorted([*registry.names(), "adamw_torch"])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name(page)}: {target}"


@pytest.mark.parametrize("optim", ["tam", "adatam", "adatamw", "msam", "adamw_msam"])
def test_option_tables_are_the_registry(optim):
    """A page's table has exactly the constructor's options, in its order, with its defaults."""
    text = (ROOT / "docs" / "optimizers" / f"{optim}.md").read_text(encoding="utf-8")
    table = text.partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    shown = {row[0].strip("`"): ast.literal_eval(row[2].strip("`")) for row in rows}
    options = {key: option.default for key, option in registry.options(optim).items() if key not in OF_TORCH}
    assert shown == options
    assert list(shown) == list(options)
    assert all(f"`{flag}`" in table for flag in OF_TORCH)


def test_no_page_names_a_machine():
    for page in PAGES:
        assert not re.search(r"(^|[^\w.~/-])/(work|root|home|tmp)/", page.read_text(encoding="utf-8")), name(page)
