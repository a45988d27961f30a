"""The text of `--optim_args` becomes typed keyword arguments: `"gamma=0.9, alignment=global"`.

What a key may be is told by an `Option`, which tamft.registry reads from a constructor's signature and docstring.
"""

import difflib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from tamft.errors import InputError

REQUIRED = inspect.Parameter.empty
WARMUP = "warmup"
_TRUE, _FALSE, _NONE = ("true", "yes", "1"), ("false", "no", "0"), ("none", "null")


@dataclass(frozen=True)
class Option:
    """One constructor argument: `type` is its annotation, `default` counts the preset, `help` is the docstring's."""

    name: str
    type: Any
    default: Any
    help: str


def parse(text: str | None, known: Mapping[str, Option], refusal: Callable[[str], str | None]) -> dict[str, Any]:
    """Typed keyword arguments from `text`; `known` are the options, `refusal(key)` says why a key may not be set.

    Values are written as numbers, true / false, none, one of the allowed words, or a tuple in parentheses. Hyphens in
    names are read as underscores. `rho_start=warmup` stays a word: only Trainer knows its warm-up steps.
    Raises InputError for anything unknown, twice given, ill-typed or malformed.
    """
    if text is None:
        return {}
    if not isinstance(text, str):
        raise InputError(f"--optim_args: {text!r} is not text: write key=value pairs{_example(known)}")
    values: dict[str, Any] = {}
    for item in _items(text):
        key, value = _key_and_value(item, known)
        if reason := refusal(key):
            raise InputError(f"--optim_args: {reason}")
        if key in values:
            raise InputError(f"--optim_args: {key} is given twice ({values[key]!r} and {value}): give it once")
        values[key] = _value(known[key], value)
    return values


def option_of(name: str, annotation: Any, default: Any, help: str = "") -> Option:
    """An option whose type comes from its annotation or, without one, from its default."""
    return Option(name, _inferred(default) if annotation is REQUIRED else annotation, default, help)


def _inferred(default: Any) -> Any:
    if default is None or default is REQUIRED:
        return Any
    if isinstance(default, tuple) and default:
        return tuple.__class_getitem__(tuple(_inferred(member) for member in default))
    # `weight=0` says nothing about fractions
    return int | float if type(default) is int else type(default)


def describe(kind: Any) -> str:
    """A type in a user's words: `float | None` -> "a number or none"."""
    if kind is Any:
        return "a number, true or false, none, or a word"
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if not (member is int and float in get_args(kind))]
        return " or ".join(words for member in members if (words := describe(member)))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"({', '.join('…' if member is Ellipsis else describe(member) for member in get_args(kind))})"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    return plain.get(kind, "")


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """How a sentence about an unknown word ends: `. Did you mean 'x'?`, or just a full stop."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=cutoff)
    return f". Did you mean {names[close[0]]!r}?" if close else "."


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


def _key_and_value(item: str, known: Mapping[str, Option]) -> tuple[str, str]:
    if item.count("=") != 1:
        reason = "has more than one '='" if "=" in item else "has no '='"
        hint = " (decimals are written with a point)" if item.isdigit() else ""
        raise InputError(f"--optim_args: {item!r} {reason}: write key=value{hint}{_example(known)}")
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
        takes = (
            describe(option.type) or f"a {getattr(option.type, '__name__', option.type)}, which no text can stand for"
        )
        raise InputError(
            f"--optim_args: {option.name} cannot be {text!r}: it takes {takes}{extra} "
            f"(default: {plain(option.default)}). {option.help}".strip()
        ) from None


def _convert(text: str, kind: Any) -> Any:
    """`text` as a value of the annotation `kind`; ValueError if it is none."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        # text would swallow everything and a fraction every whole number: they come last
        for member in sorted(members, key=lambda member: (member is str, member is float)):
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
        if members[-1:] == (Ellipsis,):
            members = members[:1] * len(values)
        if values and len(values) == len(members):
            return tuple(_convert(value, member) for value, member in zip(values, members, strict=True))
    elif kind is bool and text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    elif kind is type(None) and text.lower() in _NONE:
        return None
    elif kind is Any:
        return _convert(text, int | float | bool | None | str)
    elif kind is str or (kind in (int, float) and text.isascii() and "_" not in text):
        # int() and float() also read other scripts' digits and 1_000: nobody means those
        return kind(text)
    raise ValueError(text)


def _example(known: Mapping[str, Option]) -> str:
    wanted = [key for key in ("gamma", "rho") if key in known] or list(known)[:1]
    pairs = ",".join(f"{key}={plain(known[key].default)}" for key in wanted)
    return f", for example {pairs!r}" if pairs else ""


def plain(value: Any) -> str:
    """A default as a user would type it."""
    if value is REQUIRED:
        return "required"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
