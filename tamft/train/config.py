"""Options of a recipe: dataclasses become flags, YAML < command line, and every mistake is one clear line."""

import json
from argparse import Action, ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch.cuda import is_available
from transformers import TrainingArguments

from tamft import registry
from tamft.errors import InputError
from tamft.hf.parsing import StrictParser
from tamft.registry import nearest
from tamft.train.shipped import configs, find_config, recipe_of
from tamft.yaml_file import read_yaml

# Trainer's defaults are for long runs: a recipe of 100 steps would never log, and a NaN would be averaged away.
DEFAULTS: dict[str, Any] = {
    "logging_steps": 10,
    "logging_nan_inf_filter": False,
    "save_total_limit": 2,
    "dataloader_pin_memory": is_available(),  # without a GPU it only warns
}
# Trainer drops --optim_args for these without a word.
NO_OPTIM_ARGS = ("adamw_torch", "adamw_torch_fused", "adafactor")


def parse(argv: Sequence[str], *classes: type) -> tuple[Any, ...]:
    """One object of each dataclass from `--config FILE.yaml` (a path or a shipped config's name) and `argv`'s flags.

    Flags win over the file; hyphens and underscores are the same in both. `null` in the file means "not set". One of
    the classes has to be TrainingArguments or a subclass; tamft.register() must have been called before.
    Raises InputError for an unknown key or value in either, a broken file, and for what the dataclasses refuse.
    """
    parser = StrictParser(classes, allow_abbrev=False)
    fields = {action.dest: action for action in parser._actions}
    parser.set_defaults(**{key: value for key, value in DEFAULTS.items() if key in fields})
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    config = first.parse_known_args(list(argv))[0].config
    tokens = _yaml_tokens(find_config(config), fields) if config else []
    namespace, rest = parser.parse_known_args([*tokens, *argv])
    if rest:
        _refuse(rest, fields)
    values = vars(namespace)
    # sentence-transformers sets this on several processes, with a warning, because its last batches would make them
    # wait for ever; a recipe's do not (see batches.Shares), and what was said is what happens.
    drop_last = values.get("dataloader_drop_last")
    objects = tuple(_build(cls, values | {"dataloader_drop_last": True}) for cls in classes)
    for training_args in objects:
        if isinstance(training_args, TrainingArguments):
            training_args.dataloader_drop_last = bool(drop_last)
            _check_optim_args(training_args)
    return objects


def origins(argv: Sequence[str]) -> dict[str, str]:
    """Option -> "command line", the config's file name, or "recipe" (its default is not Trainer's)."""
    found = dict.fromkeys(DEFAULTS, "recipe")
    flags = [word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")]
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    if name := first.parse_known_args(list(argv))[0].config:
        path = find_config(name)
        found |= {str(key).replace("-", "_"): path.name for key, value in read_yaml(path).items() if value is not None}
    return found | dict.fromkeys(flags, "command line")


def _yaml_tokens(path: Path, fields: dict[str, Action]) -> list[str]:
    """The config as command-line words, so that argparse checks its values like the user's own."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a config is a list of `key: value` lines, this is {type(content).__name__}")
    tokens: list[str] = []
    for raw_key, value in content.items():
        key = str(raw_key).replace("-", "_")
        if key not in fields or key in ("config", "help"):
            shipped = f" This is a config of {recipe_of(path)}." if path in configs().values() else ""
            raise InputError(f"{path}: {raw_key!r} is not an option{nearest(key, fields)}{shipped}")
        tokens += _tokens(path, fields[key], key, value)
    return tokens


def _tokens(path: Path, action: Action, key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        if action.nargs != "+":
            raise InputError(f"{path}: {key} takes one value, not a list")
        return [f"--{key}", *map(str, value)]
    if value is False and action.choices and "no" in action.choices:
        value = "no"  # YAML 1.1 reads a bare `no` as false
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, dict):
        value = json.dumps(value)
    return [f"--{key}={value}"]


def _refuse(rest: list[str], fields: dict[str, Action]) -> NoReturn:
    flags = [word for word in rest if word.startswith("--")]
    if not flags:
        raise InputError(f"{rest[0]!r} is not expected here: every option starts with --")
    name = flags[0].split("=")[0]
    known = [f"--{key}" for key in fields]
    raise InputError(f"{name} is not an option{nearest(name.replace('-', '_').replace('__', '--', 1), known)}")


def _build(cls: type, values: dict[str, Any]) -> Any:
    keys = [name for name, field in cls.__dataclass_fields__.items() if field.init]  # type: ignore[attr-defined]
    try:
        return cls(**{key: values[key] for key in keys})
    except (ValueError, ImportError) as error:  # TrainingArguments checks its values itself
        raise InputError(" ".join(str(error).split())) from error


def _check_optim_args(args: TrainingArguments) -> None:
    name = str(getattr(args.optim, "value", args.optim))
    if name in registry.names():
        registry.parse_optim_args(name, args.optim_args)
    elif args.optim_args:
        if name in NO_OPTIM_ARGS:
            raise InputError(f"--optim_args {args.optim_args!r}: {name} takes none; remove it")
        items = [item.split("=") for item in args.optim_args.replace(" ", "").split(",")]
        if any(len(item) != 2 or not all(item) for item in items):
            raise InputError(f"--optim_args {args.optim_args!r}: write key=value, with commas between them")
        keys = [key for key, _ in items]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise InputError(f"--optim_args {args.optim_args!r}: {twice} is given twice")
