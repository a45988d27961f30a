"""What optimizers exist under which name, and what can be set: the one table behind Trainer, tests, docs and errors.

A constructor's signature and docstring are the only source of names, types, defaults and help. An entry is a class plus
a preset: keyword arguments that replace the class's own defaults.
"""

import difflib
import inspect
import re
import textwrap
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch.optim import Optimizer

from tamft.errors import InputError
from tamft.optim import MSAM, TAM, AdamWMSAM, AdaTAM, AdaTAMW

REQUIRED = inspect.Parameter.empty
WARMUP = "warmup"
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
_TRUE, _FALSE, _NONE = ("true", "yes", "1"), ("false", "no", "0"), ("none", "null")


@dataclass(frozen=True)
class Entry:
    """A name that `--optim` accepts: `cls(params, **{**preset, **options})`."""

    name: str
    cls: type[Optimizer]
    preset: dict[str, Any]


@dataclass(frozen=True)
class Option:
    """One constructor argument: `type` is its annotation, `default` counts the preset, `help` is the docstring's."""

    name: str
    type: Any
    default: Any
    help: str


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
    """Typed keyword arguments from `--optim_args`: `"gamma=0.9, alignment=global"` -> `{"gamma": 0.9, ...}`.

    Values are written as numbers, true / false, none, one of the allowed words, or a tuple in parentheses. Hyphens in
    names are read as underscores. `rho_start=warmup` stays a word: only Trainer knows its warm-up steps.
    Raises InputError for anything unknown, twice given, ill-typed, malformed, or set by a flag of Trainer.
    """
    known = options(name)
    if text is None:
        return {}
    if not isinstance(text, str):
        raise InputError(f"--optim_args: {text!r} is not text: write key=value pairs, for example {_example(known)!r}")
    flags, values = owned(name), dict[str, Any]()
    for item in _items(text):
        key, value = _key_and_value(item, known)
        if key not in known or key in flags:
            raise InputError(_refusal(name, key))
        if key in values:
            raise InputError(f"--optim_args: {key} is given twice ({values[key]!r} and {value}): give it once")
        values[key] = _value(known[key], value)
    return values


def help_text(name: str) -> str:
    """A table, one line per option of `name`: what `--optim_args` takes, then what Trainer's own flags set."""
    flags = owned(name)
    rows = [
        (f"{key}={_plain(option.default)}", describe(option.type), textwrap.shorten(option.help, 90, placeholder=" …"))
        for key, option in options(name).items()
        if key not in flags
    ]
    wide, middle = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    lines = [f"  {a:<{wide}}  {b:<{middle}}  {c}".rstrip() for a, b, c in rows]
    lines += [f"  {key:<{wide}}  set by {flag}" for key, flag in flags.items()]
    return "\n".join([f"options of {name}:", *lines])


def describe(kind: Any) -> str:
    """A type in a user's words: `float | None` -> "a number or none"."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(words for member in get_args(kind) if (words := describe(member)))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"({', '.join(describe(member) for member in get_args(kind))})"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    return plain.get(kind, "")


def nearest(word: str, known: Iterable[str]) -> str:
    """How a sentence about an unknown word ends: `. Did you mean 'x'?`, or just a full stop."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f". Did you mean {close[0]!r}?" if close else "."


def _trainer_flags(arguments: dict[str, Option]) -> dict[str, str]:
    def fits(key: str) -> bool:
        # Other people's `betas` may be three numbers and their `eps` a pair: those cannot come from Trainer's flags.
        default = arguments[key].default
        if key == "betas":
            return isinstance(default, tuple) and len(default) == 2
        return key != "eps" or isinstance(default, float)

    return {key: flag for key, flag in _FLAGS.items() if key in arguments and fits(key)}


def _arguments(cls: type[Optimizer]) -> dict[str, Option]:
    """The constructor's keyword arguments, `params` left out; types from annotations, else from the default."""
    hints = get_type_hints(cls.__init__)
    texts = _docstring_args(inspect.getdoc(cls) or "")
    found = {}
    for parameter in list(inspect.signature(cls).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        inferred = str if parameter.default in (None, REQUIRED) else type(parameter.default)
        found[parameter.name] = Option(
            parameter.name, hints.get(parameter.name, inferred), parameter.default, texts.get(parameter.name, "")
        )
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


def _items(text: str) -> list[str]:
    """`a=1, b=(2, 3)` -> `["a=1", "b=(2, 3)"]`: commas inside parentheses belong to the value."""
    if not text.strip():
        return []
    if text.count("(") != text.count(")"):
        raise InputError(f"--optim_args: a parenthesis is not closed, or closed too often, in {text!r}")
    items = [item.strip() for item in re.split(r",(?![^(]*\))", text)]
    if "" in items:
        where = "after the last" if not items[-1] else "before a"
        raise InputError(f"--optim_args: there is nothing {where} comma in {text!r}: write key=value,key=value")
    return items


def _key_and_value(item: str, known: dict[str, Option]) -> tuple[str, str]:
    if item.count("=") != 1:
        reason = "has more than one '='" if "=" in item else "has no '='"
        hint = " (decimals are written with a point)" if item.isdigit() else ""
        raise InputError(f"--optim_args: {item!r} {reason}: write key=value{hint}, for example {_example(known)!r}")
    key, value = (part.strip() for part in item.split("="))
    if not key or not value:
        raise InputError(f"--optim_args: {item!r} has no {'value' if key else 'name'}: write key=value")
    return key.replace("-", "_"), value


def _value(option: Option, text: str) -> Any:
    if option.name == "rho_start" and text == WARMUP:
        return text
    try:
        return _convert(text, option.type)
    except ValueError:
        extra = f", or {WARMUP!r} for Trainer's warm-up steps" if option.name == "rho_start" else ""
        raise InputError(
            f"--optim_args: {option.name} cannot be {text!r}: it takes {describe(option.type)}{extra} "
            f"(default: {_plain(option.default)}). {option.help}".strip()
        ) from None


def _convert(text: str, kind: Any) -> Any:
    """`text` as a value of the annotation `kind`; ValueError if it is none."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        # text would swallow everything: try it last
        for member in sorted(members, key=lambda member: member is str):
            try:
                return _convert(text, member)
            except ValueError:
                continue
    elif origin is Literal:
        for member in members:
            if text == str(member):
                return member
    elif origin is tuple:
        parts = re.fullmatch(r"\((.*)\)", text)
        values = [part.strip() for part in parts[1].split(",")] if parts else []
        if len(values) == len(members):
            return tuple(_convert(value, member) for value, member in zip(values, members, strict=True))
    elif kind is bool and text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    elif kind is type(None) and text.lower() in _NONE:
        return None
    elif kind in (int, float, str):
        return kind(text)
    raise ValueError(text)


def _refusal(name: str, key: str) -> str:
    flag = owned(name).get(_ALIASES.get(key, key))
    if flag:
        return f"--optim_args: {key} of {name} is set by Trainer's own flag: use {flag} and leave it out here"
    settable = [option for option in options(name) if option not in _FLAGS]
    return f"--optim_args: {name} has no option {key!r}{nearest(key, settable)}\n{help_text(name)}"


def _example(known: dict[str, Option]) -> str:
    wanted = [key for key in ("gamma", "rho") if key in known] or [key for key in known if key not in _FLAGS][:1]
    return ",".join(f"{key}={_plain(known[key].default)}" for key in wanted)


def _plain(value: Any) -> str:
    """A default as a user would type it."""
    if value is REQUIRED:
        return "required"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


add("tam", TAM)
add("adatam", AdaTAM)
add("adatamw", AdaTAMW)
add("msam", MSAM)
add("adamw_msam", AdamWMSAM)
add("adatamw_msam", AdaTAMW, rho=0.3)
add("tam_msam", TAM, rho=0.3)
