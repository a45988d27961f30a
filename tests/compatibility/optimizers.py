"""The columns: tamft's names in the registry's order, then four peers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

import tamft
from tamft import registry
from tamft.errors import InputError
from tests.cases import HEAVY_BALL, PERTURBING
from tests.cases import NAMES as OURS

# Peers that transformers does not know, under the names by which `--optim` will know them.
REGISTERED = ("schedulefree.AdamWScheduleFree", "pytorch_optimizer.AdaBelief", "torch.optim.Muon")
COLUMNS: list[str] = [*OURS, "adamw_torch", *REGISTERED]
# Given on every command line and looked up in the optimizer afterwards: other numbers than the defaults.
GIVEN: dict[str, dict[str, Any]] = {
    name: {
        **({"gamma": 0.8} if "gamma" in registry.options(name) else {}),
        **({"rho": 0.2} if name in PERTURBING else {}),
    }
    for name in OURS
}


# TODO(dotted names): with tamft.register("pkg.Class") this set stays empty; remove it, `_imported` and the `except` then.
REFUSED_YET: set[str] = set()


def register_peers() -> None:
    """Make the peers known to `--optim`."""
    for name in REGISTERED:
        try:
            tamft.register(name)
        except InputError:
            tamft.register(name, _imported(name))
            if name != "pytorch_optimizer.AdaBelief":
                REFUSED_YET.add(name)


def _imported(name: str) -> type[Optimizer]:
    import importlib

    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def expected(name: str) -> type[Optimizer]:
    """The class that training with `name` must have used."""
    return torch.optim.AdamW if name == "adamw_torch" else registry.get(name).cls


def optim_args(name: str, **more: Any) -> str:
    """GIVEN as `--optim_args` takes it."""
    return ",".join(f"{key}={value}" for key, value in {**GIVEN.get(name, {}), **more}.items()).lower()


def rate(name: str) -> float:
    """A learning rate at which four steps go somewhere and nothing diverges."""
    return 0.05 if name in HEAVY_BALL else 5e-3


def build(name: str, params: Iterable[torch.nn.Parameter], args: dict[str, Any]) -> Optimizer:
    """What a plain loop writes: the class, called."""
    if name not in registry.ENTRIES:
        return expected(name)(params, lr=args["learning_rate"])
    entry = registry.get(name)
    options = registry.parse_optim_args(name, args.get("optim_args") or None)
    return entry.cls(params, lr=args["learning_rate"], **{**entry.preset, **options})
