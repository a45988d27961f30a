"""Other people's optimizers: found by dotted name or as plug-ins, tried once, refused where Trainer cannot run them."""

import functools
import importlib
import inspect
import math
import re
import warnings
from importlib.metadata import entry_points
from typing import Any

import torch
from torch.optim import Optimizer
from transformers import HfArgumentParser

from tamft import registry
from tamft.errors import InputError
from tamft.hf.names import add_member, check_free
from tamft.optim_args import REQUIRED, nearest

GROUP = "tamft.optimizers"  # of entry points
_CLOSURE = "its step() needs a closure that evaluates the model once more, and Trainer gives none"
_NO_PARAMETERS = {
    "model": "it wants the model itself, to update layer by layer inside the backward pass; Trainer gives parameters",
    "optimizer": "it wraps another optimizer; write a class that builds both, and register that",
}


def add(name: str, cls: type[Optimizer], **preset: Any) -> None:
    """Register `cls` and make its name known to Trainer. InputError for a name or a class that cannot be used."""
    check_free(name)  # first: an entry that could not become a member would capture transformers' own optimizer
    if isinstance(cls, type) and issubclass(cls, Optimizer) and (reason := _why_never(cls)):
        raise InputError(f"{name}: {cls.__name__} cannot be used with Trainer: {reason}")
    registry.add(name, cls, **preset)
    add_member(name)


def learn(name: Any) -> None:
    """Register the class that a dotted name stands for, if `name` is one that nobody has registered yet."""
    name = str(getattr(name, "value", name))
    if "." in name and name not in registry.ENTRIES:  # none of transformers' own names has a dot
        add(name, find(name))


def find(path: str) -> type[Optimizer]:
    """The optimizer class `package.module.Class`. Raises InputError."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise InputError(f"--optim {path}: write package.module.Class")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise InputError(f"--optim {path}: {module} cannot be imported: {error}") from error
        except Exception as error:  # a package may fail in any way while it is imported
            raise InputError(f"--optim {path}: {module} cannot be imported: {error!r}") from error
    else:
        raise InputError(f"--optim {path}: there is no package {parts[0]!r} here: check the name, or pip install it")
    for part in parts[length:]:
        if not hasattr(found, part):
            there = [key for key, value in vars(found).items() if _is_optimizer(value)]
            raise InputError(f"--optim {path}: {module} has no {part!r}{nearest(part, there)}")
        found = getattr(found, part)
    if not _is_optimizer(found):
        raise InputError(f"--optim {path}: this is a {type(found).__name__} and no subclass of torch.optim.Optimizer")
    return found


@functools.cache  # once per process
def load_plugins() -> None:
    """Register what installed packages offer; a broken one warns, names itself and leaves the others alone."""
    for point in entry_points(group=GROUP):
        try:
            add(point.name, point.load())
        except Exception as error:  # noqa: BLE001  a plug-in may fail in any way
            package = point.dist.name if point.dist else "?"
            warnings.warn(f"the optimizer {point.name!r} of package {package} is left out: {error!r}", stacklevel=3)


@functools.cache
def accept_dotted_names() -> None:
    """argparse compares --optim with a list that was made before anybody could know the name."""
    original = HfArgumentParser.__init__

    @functools.wraps(original)
    def __init__(self: HfArgumentParser, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for action in self._actions:
            if action.dest == "optim" and action.choices is not None:
                action.choices = _Choices(action.choices)

    HfArgumentParser.__init__ = __init__  # type: ignore[method-assign]


class _Choices(list[Any]):
    def __contains__(self, value: Any) -> bool:
        learn(value)
        return super().__contains__(value) or value in registry.ENTRIES


def check(name: str, kwargs: dict[str, Any], model: torch.nn.Module | None) -> None:
    """InputError if Trainer could not build, or step, the optimizer `name` with `kwargs`."""
    options = registry.options(name)
    for key, value in kwargs.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--optim {name}: {key}={value} is not a finite number (default: {options[key].default})")
    missing = [key for key, option in options.items() if option.default is REQUIRED and key not in kwargs]
    if missing:
        raise InputError(
            f"--optim {name} needs {', '.join(missing)}: give {'it' if len(missing) == 1 else 'them'} in --optim_args "
            f"or, where no text can stand for it, tamft.register(a_name, {registry.get(name).cls.__name__}, "
            f"{missing[0]}=…)"
        )
    error = _trial(name, kwargs, model)
    if error is None or only_matrices(name, kwargs, model):
        return
    if "closure" in f"{type(error).__name__} {error}".lower():
        raise InputError(f"--optim {name}: {_CLOSURE}") from error
    # Without the model this is a CPU, and perhaps before torch.distributed begins: some work only later.
    if model is not None or not re.search(r"cuda|gpu|triton|process group|distributed", f"{error}", re.IGNORECASE):
        hint = "; it has rules of its own for groups: torch.optim.Muon has none" if "use_muon" in str(error) else ""
        raise InputError(f"--optim {name}: a trial step failed: {type(error).__name__}: {error}{hint}") from error


def only_matrices(name: str, kwargs: dict[str, Any], model: torch.nn.Module | None = None) -> bool:
    """True for optimizers that refuse what is not a matrix, such as torch.optim.Muon."""
    return bool(_trial(name, kwargs, model, (4,))) and not _trial(name, kwargs, model, (4, 4))


def note_mode(optimizer: Any) -> None:
    """From now on `optimizer.away` says whether train() has been called after eval(): not every one says so itself."""
    if hasattr(optimizer, "away") or not (_has(optimizer, "train") and _has(optimizer, "eval")):
        return

    def noting(method: Any, away: bool) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            optimizer.away = away
            return result

        return call

    optimizer.train, optimizer.eval = noting(optimizer.train, True), noting(optimizer.eval, False)
    optimizer.away = False


def _has(optimizer: Any, method: str) -> bool:
    return callable(getattr(optimizer, method, None))


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Optimizer)


def _why_never(cls: type[Optimizer]) -> str | None:
    first = next(iter(inspect.signature(cls).parameters), "")
    if first in _NO_PARAMETERS:
        return _NO_PARAMETERS[first]
    parameters = list(inspect.signature(cls.step).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        return _CLOSURE if needed == ["closure"] else f"its step() needs {', '.join(needed)}"
    return None


def _trial(
    name: str, kwargs: dict[str, Any], model: torch.nn.Module | None, *shapes: tuple[int, ...]
) -> Exception | None:
    """What goes wrong in one step over weights of these `shapes`, where the model is; nothing random is used up."""
    weight = next((p for p in model.parameters() if p.requires_grad), None) if model is not None else None
    device = torch.device("cpu") if weight is None else weight.device
    shapes = shapes or ((4, 4), (4,))
    params = [torch.nn.Parameter(torch.full(shape, 0.5, device=device)) for shape in shapes]
    for p in params:
        p.grad = torch.full_like(p, 0.1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            optimizer = registry.get(name).cls([{"params": params, "weight_decay": 0.0}], **kwargs)
            if any("lr" not in group for group in optimizer.param_groups):
                return ValueError("its parameter groups have no 'lr', which Trainer's schedule sets")
            if _has(optimizer, "train"):
                optimizer.train()  # as Trainer does
            optimizer.step()
        except Exception as error:  # noqa: BLE001  theirs may be anything, and is looked at
            return error
    return None
