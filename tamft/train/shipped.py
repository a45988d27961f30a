"""Where the recipes, their configs and accelerate's presets are: in a checkout, or in the installed package."""

from pathlib import Path

from tamft.errors import InputError
from tamft.registry import nearest

PACKAGE = Path(__file__).resolve().parent.parent
# A config's folder says which recipe reads it.
RECIPE_OF = {
    "encoder": "encoder_pairs",
    "llm": "llm_lora",
    "classification": "text_classification",
    "mining": "mine_negatives",
}


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
    """Name -> file of every shipped config, folder by folder."""
    return {path.stem: path for path in sorted((recipes_folder() / "configs").rglob("*.yaml"))}


def presets() -> dict[str, Path]:
    """Name -> file of every shipped accelerate config, for `--accelerate_config`."""
    return {path.stem: path for path in sorted((recipes_folder() / "accelerate").glob("*.yaml"))}


def recipe_of(config: Path) -> str:
    """Name of the recipe that reads a shipped config."""
    return RECIPE_OF[config.parent.name]


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
    return _find_yaml(name, configs(), "--config", "config")


def find_preset(name: str) -> Path:
    """The YAML file for `--accelerate_config`: a path, or the bare name of a shipped preset.

    Raises InputError with the nearest name when there is neither.
    """
    return _find_yaml(name, presets(), "--accelerate_config", "preset")


def _find_yaml(name: str, known: dict[str, Path], flag: str, what: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    bare = name.removesuffix(".yaml").removesuffix(".yml")  # not Path.stem: a name may hold a dot (0.6b)
    if bare in known:
        return known[bare]
    raise InputError(
        f"{flag} {name}: no such file and no shipped {what} of that name{nearest(bare, known)} "
        "List them: tamft recipes ls"
    )
