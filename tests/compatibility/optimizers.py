"""The columns: tamft's names in the registry's order, then four peers."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch.optim import Optimizer

import tamft
from tamft import registry
from tests.cases import HEAVY_BALL, PERTURBING
from tests.cases import NAMES as OURS

# Peers that transformers does not know, under the names by which `--optim` will know them.
MUON = "torch.optim.Muon"
REGISTERED = ("schedulefree.AdamWScheduleFree", "pytorch_optimizer.AdaBelief", MUON)
MUON_IS_MISSING = not hasattr(torch.optim, "Muon")  # before torch 2.9
COLUMNS: list[str] = [*OURS, "adamw_torch", *REGISTERED]
GIVEN_RHO = 0.2
# Given on every command line and looked up in the optimizer afterwards: other numbers than the defaults.
GIVEN: dict[str, dict[str, Any]] = {
    name: {
        **({"gamma": 0.8} if "gamma" in registry.options(name) else {}),
        **({"rho": GIVEN_RHO} if name in PERTURBING else {}),
    }
    for name in OURS
}


def register_peers() -> None:
    """Make the peers that are installed known to `--optim`."""
    for name in REGISTERED:
        if find_spec(name.partition(".")[0]) is not None and not (name == MUON and MUON_IS_MISSING):
            tamft.register(name)


def expected(name: str) -> set[str]:
    """Names of the classes that training with `name` may have used."""
    if name == MUON:
        return {"Muon", "MatrixAndAdamW"}  # through Trainer; the latter gives AdamW what is no hidden matrix
    return {"AdamW" if name == "adamw_torch" else registry.get(name).cls.__name__}


def optim_args(name: str, **more: Any) -> str:
    """GIVEN as `--optim_args` takes it."""
    return ",".join(f"{key}={value}" for key, value in {**GIVEN.get(name, {}), **more}.items()).lower()


def rate(name: str) -> float:
    """A learning rate at which four steps go somewhere and nothing diverges."""
    return 0.05 if name in HEAVY_BALL else 5e-3


def build(name: str, params: Iterable[torch.nn.Parameter], args: dict[str, Any]) -> Optimizer:
    """What a plain loop writes: the class, called."""
    if name == "adamw_torch":
        return torch.optim.AdamW(params, lr=args["learning_rate"])
    entry = registry.get(name)
    options = registry.parse_optim_args(name, args.get("optim_args") or None)
    return entry.cls(params, lr=args["learning_rate"], **{**entry.preset, **options})
