"""Trainer learns tamft's optimizers: `import tamft; tamft.register()`, then `--optim adatamw`."""

from typing import Any

from torch.optim import Optimizer

from tamft import registry
from tamft.errors import InputError

__all__ = ["register"]


def register(name: str | None = None, cls: type[Optimizer] | None = None, /, **preset: Any) -> None:
    """Make every registered name known to `--optim`; with `name` and `cls`, register that optimizer first.

    Call it before an argument parser is built. Calling it again changes nothing.

    Args:
        name: what `--optim` will accept.
        cls: a torch.optim.Optimizer subclass.
        **preset: keyword arguments in place of the class's own defaults.

    Raises:
        InputError: a name that is taken or unusable, a class that is no optimizer, an unknown preset, or a version of
            transformers that tamft cannot work with.
    """
    from tamft.hf import compat

    if (name is None) != (cls is None) or (preset and cls is None):
        raise InputError(f"register({name!r}, {cls!r}): give a name and an optimizer class, or nothing at all")
    compat.check_versions()
    compat.check_hooks()

    from tamft.hf.names import add_member, check_free
    from tamft.hf.trainer import patch

    if name is not None and cls is not None:
        check_free(name)  # first: an entry that could not become a member would capture transformers' own optimizer
        registry.add(name, cls, **preset)
    for known in registry.names():
        add_member(known)
    patch()
