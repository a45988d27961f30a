"""Who is measured: torch's optimizers, ours, and other packages' where they are installed."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import tamft

LR = 1e-6  # so small that the parameters, which all contenders share, stay what they are


@dataclass(frozen=True)
class Contender:
    """An optimizer on one of its paths.

    Attributes:
        family: "Adam" or "SGD"; the family's `baseline` is what the others are divided by.
        path: "loop", "foreach", "fused" or "default" (what the optimizer chooses itself).
        make: takes the parameters.
        state: bytes of state per float32 parameter, roughly: decides how many fit into memory side by side.
        main: part of the short form.
        baseline: torch's fused optimizer.
    """

    family: str
    name: str
    path: str
    make: Callable[[Sequence[Tensor]], torch.optim.Optimizer]
    state: int
    main: bool = False
    baseline: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.path}"


LOOP, FOREACH, FUSED, DEFAULT = (
    ("loop", {"foreach": False, "fused": False}),
    ("foreach", {"foreach": True, "fused": False}),
    ("fused", {"fused": True}),
    ("default", {}),
)
# name of the package to install, module, class, path, bytes of state, options
RIVALS: tuple[tuple[str, str, str, str, int, dict[str, Any]], ...] = (
    ("pytorch_optimizer", "pytorch_optimizer", "AdaTAM", "default", 12, {"weight_decay": 1e-2}),
    ("schedulefree", "schedulefree", "AdamWScheduleFree", "foreach", 8, {"weight_decay": 1e-2, "foreach": True}),
    ("torch-optimi", "optimi", "AdamW", "default", 8, {"weight_decay": 1e-2}),
)


def contenders() -> list[Contender]:
    """Torch's and ours, in the order of the tables."""
    # 16-bit weights are refused with rho > 0 unless allowed; nothing changes for float32.
    both = partial(tamft.AdaTAMW, rho=0.3, allow_low_precision=True)
    msam = partial(tamft.AdamWMSAM, allow_low_precision=True)
    table: list[tuple[str, str, Callable[..., torch.optim.Optimizer], int, bool]] = [
        ("Adam", "torch AdamW", torch.optim.AdamW, 8, False),
        ("Adam", "AdaTAMW", tamft.AdaTAMW, 8, True),
        ("Adam", "AdamW-MSAM", msam, 8, True),
        ("Adam", "AdaTAMW+MSAM", both, 8, True),
        ("SGD", "torch SGD", partial(torch.optim.SGD, momentum=0.9), 4, False),
        ("SGD", "TAM", tamft.TAM, 4, True),
        ("SGD", "MSAM", partial(tamft.MSAM, allow_low_precision=True), 4, True),
    ]
    return [
        Contender(
            family,
            name,
            path,
            partial(cls, lr=LR, **how),
            state,
            main=path == "fused" or (ours and path == "default"),
            baseline=path == "fused" and not ours,
        )
        for family, name, cls, state, ours in table
        for path, how in ([DEFAULT, FUSED, FOREACH, LOOP] if ours else [FUSED, FOREACH, LOOP])
    ]


def rivals() -> tuple[list[Contender], list[str]]:
    """Other packages' optimizers, all of Adam's family, and a line for each package that is not installed."""
    found, notes = [], []
    for package, module, cls, path, state, options in RIVALS:
        try:
            make = getattr(importlib.import_module(module), cls)
        except ImportError:
            notes.append(f"{package} {cls}: not installed (pip install {package})")
            continue
        found.append(Contender("Adam", f"{package} {cls}", path, partial(make, lr=LR, **options), state))
    return found, notes


def one_step(optimizer: torch.optim.Optimizer) -> None:
    """What a user pays for a step: `train()`, which moves the weights where rho > 0, and `step()`."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    optimizer.step()


def backend(contender: Contender, optimizer: torch.optim.Optimizer) -> str:
    """The path that was taken: what our optimizers say themselves, for others what was asked for."""
    return str(getattr(optimizer, "backend", contender.path))
