"""Options typed before the script: they win over what it sets, in every TrainingArguments (or subclass) that it makes.

Most training scripts write their arguments down in Python. Nothing else could change them without an editor.
"""

import argparse
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.hf_argparser import string_to_bool

from tamft import registry
from tamft.errors import InputError
from tamft.hf.arguments import check_arguments, optim_name
from tamft.hf.matrices import MatrixAndAdamW
from tamft.hf.parsing import StrictParser
from tamft.optim_args import nearest

# Without effect where a script gives its Trainer an optimizer, or a scheduler, that it has made itself.
_OF_OPTIMIZER = ("optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_OF_SCHEDULER = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio")
_BOOLEANS = ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")
# Set for the processes that a launcher starts: one line about the overrides is enough for all of them.
_TOLD = "TAMFT_OVERRIDES_TOLD"


class _Parser(StrictParser):
    """Knows what was given from what was not."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls, allow_abbrev=False, add_help=False)
        for action in self._actions:
            action.default, action.required = argparse.SUPPRESS, False


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options before the script, and the rest. Options that Trainer does not know may be a subclass's own.

    A switch (`--bf16 script.py`) takes a following word only if that is true or false, and a list ends at a `.py`
    file. `--` ends the options where that is not enough.
    """
    flags = _Parser(TrainingArguments)._option_string_actions
    words, rest = list[str](), list(argv)
    while rest and rest[0].startswith("--"):
        word = rest.pop(0)
        if word == "--":
            break
        words.append(word)
        action = flags.get(word.partition("=")[0])
        if "=" in word or (action is not None and action.nargs == 0):
            continue
        if action is not None and action.type is string_to_bool:
            # said in full, because a subclass may want a value where Trainer does not (SFTConfig's bf16)
            words[-1] += f"={rest.pop(0) if rest and rest[0].lower() in _BOOLEANS else 'true'}"
        elif action is not None and action.nargs is None:
            words += rest[:1]
            del rest[:1]
        else:  # a list, or an option of a subclass, which may be a switch
            many = action is not None and action.nargs == "+"
            while rest and not rest[0].startswith("-") and not _is_script(rest[0]):
                words.append(rest.pop(0))
                if not many:
                    break
    return words, rest


def _is_script(word: str) -> bool:
    return word.endswith(".py") or Path(word).is_file()


class Overrides:
    """The options `words`, what has become of them, and the checks that they have an effect."""

    def __init__(self, words: Sequence[str]) -> None:
        """InputError for what is wrong whatever the script does."""
        self.words = list(words)
        self.made = False  # TrainingArguments were made, and so overridden
        self.handed_on = False  # a launcher's processes do the work
        parser = _Parser(TrainingArguments)
        namespace, rest = parser.parse_known_args(self.words)
        values = vars(namespace)
        for word in rest:
            # As near as this it is a slip of the finger. Else it may be an option of a subclass.
            flag = word.partition("=")[0]
            hint = nearest(flag, parser._option_string_actions, 0.9)
            if flag.startswith("--") and hint != ".":
                raise InputError(f"{flag} is not an option of TrainingArguments{hint}")
        if "optim" in values:
            defaults = {key: field.default for key, field in TrainingArguments.__dataclass_fields__.items()}
            check_arguments(SimpleNamespace(**{**defaults, **values}))  # type: ignore[arg-type]
        self.keys = [word[2:].partition("=")[0] for word in self.words if word.startswith("--")]
        self.of_optimizer = [key for key in values if key in _OF_OPTIMIZER]
        self.of_scheduler = [key for key in values if key in _OF_SCHEDULER]

    def values(self, cls: type) -> dict[str, Any]:
        """What was typed, as values of the fields of `cls`; InputError for an option that it does not have."""
        parser = _Parser(cls)
        namespace, rest = parser.parse_known_args(self.words)
        if rest:
            word = rest[0].partition("=")[0]
            if not word.startswith("--"):
                raise InputError(f"{word!r} is not expected among the options before the script")
            raise InputError(f"{word} is not an option of {cls.__name__}{nearest(word, parser._option_string_actions)}")
        return vars(namespace)

    def apply(self, args: TrainingArguments) -> None:
        """Called when all fields are set and nothing has been derived from them yet."""
        changes = []
        for key, value in self.values(type(args)).items():
            changes.append(f"{key} {_plain(getattr(args, key, None))} -> {_plain(value)}")
            setattr(args, key, value)
        if not self.made and os.environ.get("RANK", "0") == "0" and _TOLD not in os.environ:
            print(f"tamft run: {type(args).__name__}: {', '.join(changes)}", file=sys.stderr, flush=True)
        self.made = True

    def hand_on(self) -> list[str]:
        """The options, for the command line of a process that a launcher starts."""
        self.handed_on = True
        if self.made:
            os.environ[_TOLD] = "1"
        return self.words

    def check_trainer(self, given: dict[str, Any]) -> None:
        """InputError if a Trainer made with the arguments `given` would not read what was overridden."""
        optimizer, scheduler = given.get("optimizers") or (None, None)
        whole = given.get("optimizer_cls_and_kwargs")
        for keys, own, what, where in (
            (self.of_optimizer, optimizer, "optimizer", "optimizers="),
            (self.of_optimizer, whole and whole[0], "optimizer", "optimizer_cls_and_kwargs="),
            (self.of_scheduler, scheduler, "learning-rate scheduler", "optimizers="),
        ):
            if keys and own is not None:
                name = getattr(own, "__name__", type(own).__name__)
                raise InputError(
                    f"{_flags(keys)} would have no effect: the script gives Trainer its own {what} ({where}, {name}); "
                    f"remove that from the script, or leave {_flags(keys)} out"
                )
        args = given.get("args")
        if isinstance(args, TrainingArguments):
            wanted = self.values(type(args))
            changed = [key for key in self.of_optimizer if getattr(args, key) != wanted[key]]
            if changed:
                raise InputError(
                    f"{_flags(changed)} would have no effect: the script sets {changed[0]}="
                    f"{_plain(getattr(args, changed[0]))} after it has made its TrainingArguments; remove that line"
                )

    def check_used(self) -> None:
        """InputError if the script has ended and nothing was overridden."""
        if self.words and not (self.made or self.handed_on):
            raise InputError(
                f"{_flags(self.keys)}: nothing was overridden, because the script made no TrainingArguments; options "
                "for the script itself come after it"
            )


def _flags(keys: Sequence[str]) -> str:
    return ", ".join(f"--{key}" for key in keys)


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def check_optimizer(args: TrainingArguments, optimizer: Any) -> None:
    """InputError if training is about to begin with another optimizer than the one that was asked for."""
    name = optim_name(args)
    if _active is None or name is None or "optim" not in _active.of_optimizer:
        return
    if not isinstance(optimizer, registry.get(name).cls | MatrixAndAdamW):
        raise InputError(
            f"--optim {name} has no effect: the script's Trainer builds an optimizer of its own, "
            f"{type(optimizer).__name__}"
        )


_active: Overrides | None = None
_busy: set[int] = set()


@contextmanager
def active(overrides: Overrides) -> Iterator[Overrides]:
    """Inside, TrainingArguments are made with the overrides."""
    global _active
    if overrides.words:
        _install()
        _active = overrides
    try:
        yield overrides
    finally:
        _active = None


@functools.cache  # once per process
def _install() -> None:
    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        # Subclasses set fields of theirs from others before they call TrainingArguments.__post_init__ (SFTConfig's
        # bf16 from fp16): the outermost one is the place. Here, because only now the class is complete.
        for owner in cls.__mro__:
            method = owner.__dict__.get("__post_init__")
            if method is not None and not hasattr(method, "overriding"):
                owner.__post_init__ = _overriding(method)  # type: ignore[attr-defined]
        return object.__new__(cls)

    TrainingArguments.__new__ = __new__  # type: ignore[method-assign,assignment]
    original = Trainer.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Trainer, *args: Any, **kwargs: Any) -> None:
        if _active is not None:
            _active.check_trainer(signature.bind_partial(self, *args, **kwargs).arguments)
        original(self, *args, **kwargs)

    Trainer.__init__ = __init__  # type: ignore[method-assign]


def _overriding(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __post_init__(self: TrainingArguments, *args: Any) -> None:
        if _active is None or id(self) in _busy:
            return original(self, *args)
        _busy.add(id(self))
        try:
            _active.apply(self)
            return original(self, *args)
        finally:
            _busy.discard(id(self))

    __post_init__.overriding = True  # type: ignore[attr-defined]
    return __post_init__
