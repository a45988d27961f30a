"""What people write in a plan: keys, types and ranges. Every mistake is one line that says where it is."""

import contextlib
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from tamft.errors import InputError
from tamft.optim_args import nearest
from tamft.yaml_file import read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=+-]{0,59}")
EVAL_LOSS = "eval_loss"  # the one metric that the recipe measures itself


def _number(value: Any) -> Any:
    """YAML reads 1e-5 as a text: it wants 1.0e-5, which nobody writes."""
    for kind in (int, float) if isinstance(value, str) else ():
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


Number = Annotated[float, BeforeValidator(_number)]
Value = Annotated[int | float | bool | str, BeforeValidator(_number)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Axis(_Part):
    """What is tried of one option: a range, sampled evenly in its logarithm, or a list of values."""

    log: list[Number] | None = None
    values: list[Value] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Axis":
        if (self.log is None) == (self.values is None):
            raise ValueError("write either log: [lowest, highest] or values: [first, second, …]")
        if self.log is not None and not (len(self.log) == 2 and 0 < self.log[0] < self.log[1]):
            raise ValueError("log takes two numbers above 0, the lower one first, for example log: [1e-5, 1e-3]")
        if self.values is not None and len({repr(value) for value in self.values}) < max(1, len(self.values)):
            raise ValueError("values is empty, or has a value twice: the space would be smaller than it looks")
        return self


class Optimizer(_Part):
    """One arm: an optimizer, what is fixed of it, and what is searched."""

    optim: str | None = None
    args: dict[str, Value] = Field(default_factory=dict)
    space: dict[str, Axis]

    @field_validator("args", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """`first_moment=sum,gamma=0.9`, as `--optim_args` has it, is the same as a mapping."""
        if not isinstance(value, str):
            return {} if value is None else value
        pairs = [item.partition("=") for item in re.split(r",(?![^(]*\))", value)]
        if any(not key.strip() or not text.strip() for key, _, text in pairs):
            raise ValueError("write key=value, with commas between them, or a mapping")
        return {key.strip(): text.strip() for key, _, text in pairs}


class Tasks(_Part):
    """What is scored: names of tasks, files of tasks of one's own, or a suite."""

    tasks: list[str] | None = None
    suite: str | None = None
    languages: list[str] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Tasks":
        if (self.suite is None) == (not self.tasks):
            raise ValueError("write either tasks: [NAME or FILE.yaml, …] or suite: NAME")
        return self


class Select(_Part):
    """What configurations are chosen by."""

    metric: str | None = None
    tasks: list[str] | None = None
    suite: str | None = None
    languages: list[str] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Select":
        if [self.metric is not None, bool(self.tasks), self.suite is not None].count(True) != 1:
            raise ValueError(f"write one of tasks: [NAME or FILE.yaml, …], suite: NAME, or metric: {EVAL_LOSS}")
        if self.metric not in (None, EVAL_LOSS):
            raise ValueError(f"metric {self.metric!r} is not known: it is {EVAL_LOSS}, the loss on train.eval_file")
        return self


class Seeds(_Part):
    """Seeds of the screening and of the confirmation; those of the A/A control follow unless they are given."""

    screen: list[int] = Field(min_length=1)
    confirm: list[int]
    aa: list[int] | None = None


class Controls(_Part):
    """Comparisons that must come out as equal, or that explain a difference."""

    aa: bool = True
    frozen_torque: bool | str = True


class Plan(_Part):
    """The whole file."""

    name: str
    description: str | None = None
    model: str
    recipe: str = "encoder_pairs"
    processes: int = Field(default=1, ge=1)
    train: dict[str, Any]
    select: Select
    report: Tasks
    optimizers: dict[str, Optimizer]
    trials: int | None = Field(default=None, ge=1)
    seeds: Seeds
    confirm: list[str] | None = None
    baseline: str = "adamw_torch"
    controls: Controls = Controls()
    delta: Number = Field(gt=0)
    sd: Number | None = Field(default=None, gt=0)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a name has at most 60 letters, digits, blanks and . _ = + -, a letter or digit first")
        return value


def read(path: Path) -> Plan:
    """The plan in a YAML file. Raises InputError with the place of the first mistake."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a plan is a list of `key: value` lines, this is {type(content).__name__}")
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    # an unknown key first: it is often why another one is missing
    found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")[0]
    # Members of a union are part of pydantic's place, and nothing that anybody wrote.
    loc = [part for part in found["loc"] if part not in ("int", "float", "bool", "str", "function-before")]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if found["type"] == "extra_forbidden":
        known = _keys(loc[:-1])
        inside = f" in {'.'.join(map(str, loc[:-1]))}" if loc[:-1] else ""
        return f"unknown key {loc[-1]!r}{inside}{nearest(str(loc[-1]), known)} There are: {', '.join(known)}"
    if found["type"] == "missing":
        return f"{place} is missing"
    message = found["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = re.sub("a valid dictionary( or instance of .*)?", "`key: value` lines", message)
    if found["type"] == "value_error":
        return f"{place}: {message}"
    value = repr(found["input"])
    return f"{place}: must be {message}, it is {value if len(value) < 60 else value[:57] + '…'}"


def _keys(loc: list[int | str]) -> list[str]:
    """The keys that are known at a place of the file."""
    kind: Any = Plan
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
            if get_origin(kind) in (Union, UnionType):
                kind = next(member for member in get_args(kind) if member is not NoneType)
        else:
            kind = get_args(kind)[-1]
    return list(kind.model_fields)
