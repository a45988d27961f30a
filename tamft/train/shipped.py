"""Where the recipes and their configs are: in a checkout, or in the installed package."""

from pathlib import Path

from tamft.errors import InputError
from tamft.registry import nearest

PACKAGE = Path(__file__).resolve().parent.parent


def recipes_folder() -> Path:
    """Folder of the shipped recipes: `recipes/` of the checkout that tamft is imported from, else the wheel's copy."""
    for folder in (PACKAGE.parent / "recipes", PACKAGE / "_recipes"):
        if (folder / "encoder_pairs.py").is_file():
            return folder
    raise InputError(f"{PACKAGE}: the recipes are missing from this installation; install tamft again")


def recipes() -> dict[str, Path]:
    """Name -> program of every shipped recipe."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.py"))}


def configs() -> dict[str, Path]:
    """Name -> file of every shipped config."""
    return {path.stem: path for path in sorted((recipes_folder() / "configs").rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The program for a recipe's name, or for a path to a recipe of the user's own (ends in .py).

    Raises InputError with the nearest name when there is none.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise InputError(f"recipe {name}: there is no such file")
        return Path(name)
    known = recipes()
    if name not in known:
        raise InputError(f"recipe {name!r} is not known{nearest(name, known)} There is: {', '.join(known)}")
    return known[name]


def find_config(name: str) -> Path:
    """The YAML file for `--config`: a path, or the bare name of a shipped config.

    Raises InputError with the nearest name when there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = configs()
    if name in known:
        return known[name]
    if path.parent == Path() and path.stem in known and path.suffix in (".yaml", ".yml"):
        return known[path.stem]
    raise InputError(f"--config {name}: no such file and no shipped config of that name{nearest(path.stem, known)}")
