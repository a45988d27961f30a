"""Every name with a few settings, built from the registry: a new entry is tested by existing.

@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
"""

from typing import Any, Literal, get_origin

from tamft import registry

NAMES: list[str] = registry.names()
CLASSES = list(dict.fromkeys(registry.get(name).cls for name in NAMES))
HEAVY_BALL = [name for name in NAMES if "momentum" in registry.options(name)]
PERTURBING = [name for name in NAMES if "rho" in (known := registry.options(name)) and known["rho"].default > 0]
# How a step is computed, not what; and what cannot be tried without saying what it is for.
_LEFT_OUT = {"foreach", "fused", "capturable", "differentiable", "maximize", "allow_low_precision", "kahan_sum"}


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Constructor arguments to try for `name`, by label: the defaults, every other word, every switch thrown."""
    found: dict[str, dict[str, Any]] = {"defaults": {}}
    for key, option in registry.options(name).items():
        if key in _LEFT_OUT:
            continue
        if get_origin(option.type) is Literal:
            found |= {f"{key}={word}": {key: word} for word in option.type.__args__ if word != option.default}
        elif option.type is bool:
            found[f"{key}={not option.default}"] = {key: not option.default}
        elif option.type == int | None:
            found[f"{key}=3"] = {key: 3}
    found["rho=0"] = {"rho": 0.0}
    found["rho=0.05"] = {"rho": 0.05}
    found["rho_start=2"] = {"rho": 0.05, "rho_start": 2}
    return found


CASES: list[tuple[str, dict[str, Any]]] = [(name, kw) for name in NAMES for kw in variants(name).values()]
IDS: list[str] = [f"{name}-{label}" for name in NAMES for label in variants(name)]
