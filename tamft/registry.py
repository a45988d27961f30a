"""What optimizers exist under which name, and what can be set: the one table behind Trainer, tests, docs and errors.

A constructor's signature and docstring are the only source of names, types, defaults and help. An entry is a class plus
a preset: keyword arguments that replace the class's own defaults.
"""

import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any, get_type_hints

from torch.optim import Optimizer

from tamft.errors import InputError
from tamft.optim import MSAM, TAM, AdamWMSAM, AdaTAM, AdaTAMW
from tamft.optim_args import REQUIRED, Option, describe, nearest, option_of, parse, plain

# Trainer already has a flag for these: two places to set one number would let one of them lose silently.
_FLAGS = {
    "lr": "--learning_rate",
    "betas": "--adam_beta1 and --adam_beta2",
    "eps": "--adam_epsilon",
    "weight_decay": "--weight_decay",
}
# What people type for them.
_ALIASES = {
    "learning_rate": "lr",
    **dict.fromkeys(("beta1", "beta2", "adam_beta1", "adam_beta2"), "betas"),
    **dict.fromkeys(("epsilon", "adam_epsilon"), "eps"),
    "wd": "weight_decay",
}
# Flags that Adam's name is in stand for its numbers only: where an optimizer's own default differs, Trainer's would
# silently replace a tuned number (Lion's β2, AdaBelief's ε), so it is an ordinary option there.
_ADAMS = {"betas": (0.9, 0.999), "eps": 1e-8}


@dataclass(frozen=True)
class Entry:
    """A name that `--optim` accepts: `cls(params, **{**preset, **options})`."""

    name: str
    cls: type[Optimizer]
    preset: dict[str, Any]


ENTRIES: dict[str, Entry] = {}


def names() -> list[str]:
    """All known names, built-in ones first."""
    return list(ENTRIES)


def get(name: str) -> Entry:
    """The entry called `name`; InputError with the nearest name if there is none."""
    if name not in ENTRIES:
        raise InputError(f"no optimizer is called {name!r}{nearest(name, ENTRIES)} There are: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def add(name: str, cls: type[Optimizer], /, **preset: Any) -> Entry:
    """Register `cls` under `name` with `preset` in place of its own defaults; doing the same again changes nothing.

    Raises InputError for a name that is taken or unusable on a command line, for a class that is no
    torch.optim.Optimizer, and for a preset that the constructor does not have or that Trainer's own flags set.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} cannot name an optimizer: use letters, digits, '_', '-' and '.', a letter first")
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise InputError(f"{cls!r} cannot be registered as {name!r}: it is not a subclass of torch.optim.Optimizer")
    arguments = _arguments(cls)
    for key in preset:
        if key not in arguments or key in _trainer_flags(arguments):
            reason = (
                f"Trainer sets it with {_FLAGS[key]}" if key in arguments else "its constructor has no such argument"
            )
            raise InputError(f"{cls.__name__} cannot be registered with {key}={preset[key]!r}: {reason}")
    entry = Entry(name, cls, preset)
    if ENTRIES.setdefault(name, entry) != entry:
        raise InputError(f"the name {name!r} already stands for {ENTRIES[name].cls.__name__}: choose another one")
    return entry


def options(name: str) -> dict[str, Option]:
    """Everything that can be set for `name`, in the order of the constructor's signature."""
    entry = get(name)
    return {
        key: Option(key, option.type, entry.preset.get(key, option.default), option.help)
        for key, option in _arguments(entry.cls).items()
    }


def owned(name: str) -> dict[str, str]:
    """The options of `name` that TrainingArguments sets, with the flag for each."""
    return _trainer_flags(_arguments(get(name).cls))


def parse_optim_args(name: str, text: str | None) -> dict[str, Any]:
    """Typed keyword arguments for `name` from `--optim_args`: `"gamma=0.9, alignment=global"` -> `{"gamma": 0.9, ...}`.

    Raises InputError for anything unknown, twice given, ill-typed, malformed, or set by a flag of Trainer.
    """
    flags = owned(name)
    settable = {key: option for key, option in options(name).items() if key not in flags}
    return parse(text, settable, lambda key: None if key in settable else _refusal(name, key))


def help_text(name: str) -> str:
    """A table, one line per option of `name`: what `--optim_args` takes, then what Trainer's own flags set."""
    flags = owned(name)
    rows = [
        (f"{key}={plain(option.default)}", describe(option.type), textwrap.shorten(option.help, 90, placeholder=" …"))
        for key, option in options(name).items()
        if key not in flags
    ]
    wide, middle = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    lines = [f"  {a:<{wide}}  {b:<{middle}}  {c}".rstrip() for a, b, c in rows]
    lines += [f"  {key:<{wide}}  set by {flag}" for key, flag in flags.items()]
    return "\n".join([f"options of {name}:", *lines])


def _trainer_flags(arguments: dict[str, Option]) -> dict[str, str]:
    return {
        key: flag
        for key, flag in _FLAGS.items()
        if key in arguments and arguments[key].default == _ADAMS.get(key, arguments[key].default)
    }


def _arguments(cls: type[Optimizer]) -> dict[str, Option]:
    """The constructor's keyword arguments, `params` left out; types from annotations, else from the default."""
    try:
        hints = get_type_hints(cls.__init__)
    except Exception:  # noqa: BLE001  other people's annotations may name what exists for type checkers only
        hints = {}
    texts = _docstring_args(inspect.getdoc(cls) or "")
    found = {}
    for parameter in list(inspect.signature(cls).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        key = parameter.name
        found[key] = option_of(key, hints.get(key, REQUIRED), parameter.default, texts.get(key, ""))
    return found


def _docstring_args(doc: str) -> dict[str, str]:
    """`Args:` of a Google-style docstring: name -> text, continuation lines joined, `(default: x)` left out."""
    _, _, section = doc.partition("\nArgs:\n")
    # the section ends at the next line that is not indented (`Raises:`, prose)
    body = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
    entries = re.findall(
        r"^    (\w+)(?: \([^)\n]*\))?:((?:.*\n?)(?:(?: {5,}.*|\s*)(?:\n|\Z))*)", body, flags=re.MULTILINE
    )
    return {key: re.sub(r"\s*\(default: [^)]*\)+\.?", "", " ".join(text.split())) for key, text in entries}


def _refusal(name: str, key: str) -> str:
    flag = owned(name).get(_ALIASES.get(key, key))
    if flag:
        return f"{key} of {name} is set by Trainer's own flag: use {flag} and leave it out here"
    settable = [option for option in options(name) if option not in owned(name)]
    return f"{name} has no option {key!r}{nearest(key, settable)}\n{help_text(name)}"


add("tam", TAM)
add("adatam", AdaTAM)
add("adatamw", AdaTAMW)
add("msam", MSAM)
add("adamw_msam", AdamWMSAM)
add("adatamw_msam", AdaTAMW, rho=0.3)
add("tam_msam", TAM, rho=0.3)
