"""Trainer learns tamft's optimizers: `import tamft; tamft.register()`, then `--optim adatamw`."""

from typing import Any

from torch.optim import Optimizer

from tamft import registry
from tamft.errors import InputError

__all__ = ["register"]


def register(name: str | None = None, cls: type[Optimizer] | None = None, /, **preset: Any) -> None:
    """Make every registered name known to `--optim`, and those of plug-ins; with a `name`, register that one too.

    Call it before an argument parser is built. Calling it again changes nothing. Afterwards `--optim` also takes the
    dotted name of any installed optimizer, `package.module.Class`.

    Args:
        name: what `--optim` will accept. Without `cls` it is the dotted name of the class.
        cls: a torch.optim.Optimizer subclass.
        **preset: keyword arguments in place of the class's own defaults.

    Raises:
        InputError: a name that is taken or unusable, a class that is no optimizer or that Trainer cannot run, an
            unknown preset, or a version of transformers that tamft cannot work with.
    """
    from tamft.hf import compat

    dotted = cls is None and isinstance(name, str) and "." in name
    if not dotted and ((name is None) != (cls is None) or (preset and cls is None)):
        raise InputError(
            f"register({name!r}, {cls!r}): give a name and an optimizer class, a dotted name, or nothing at all"
        )
    compat.check_versions()
    compat.check_hooks()

    from tamft.hf import others
    from tamft.hf.names import add_member
    from tamft.hf.trainer import patch

    if name is not None:
        others.add(name, others.find(name) if cls is None else cls, **preset)
    for known in registry.names():
        add_member(known)
    others.load_plugins()
    others.accept_dotted_names()
    patch()
