"""Which class with which options: the table that the laws run over."""

from typing import Any

from tests.optim.problem import ADAM_NAMES, BALL_NAMES, NAMES, TORQUE_NAMES

_COMMON: dict[str, dict[str, Any]] = {
    "default": {},
    "decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "rho=0": {"rho": 0.0},
    "rho=0.3": {"rho": 0.3},
    "rho, decay": {"rho": 0.2, "weight_decay": 0.1},
    "rho, maximize": {"rho": 0.2, "maximize": True},
    "rho_start": {"rho": 0.5, "rho_start": 7},
}
_TORQUE: dict[str, dict[str, Any]] = {
    "no torque": {"torque": False},
    "no torque, rho": {"torque": False, "rho": 0.3},
    "gamma=0": {"gamma": 0.0},
    "gamma=1": {"gamma": 1.0},
    "gamma=0.5, eps": {"gamma": 0.5, "torque_eps": 0.1},
    "eps=0": {"torque_eps": 0.0},
    "global": {"alignment": "global"},
    "global, gamma=0, rho": {"alignment": "global", "gamma": 0.0, "rho": 0.2},
    "rescale": {"rescale": True},
    "rescale, gamma=0": {"rescale": True, "gamma": 0.0},
    "rescale, global, rho": {"rescale": True, "alignment": "global", "rho": 0.2},
    "torque_steps=1": {"torque_steps": 1},
    "torque_steps=9": {"torque_steps": 9, "gamma": 0.5},
    "torque_steps, rescale, rho": {"torque_steps": 9, "rescale": True, "rho": 0.2},
    "everything": {
        "gamma": 0.7,
        "torque_eps": 0.02,
        "alignment": "global",
        "rescale": True,
        "torque_steps": 12,
        "rho": 0.1,
        "rho_start": 3,
        "weight_decay": 0.05,
        "maximize": True,
    },
}
_BALL: dict[str, dict[str, Any]] = {
    "momentum=0": {"momentum": 0.0},
    "momentum=0, rho": {"momentum": 0.0, "rho": 0.2},
    "momentum=0.5": {"momentum": 0.5},
}
_BALL_TORQUE: dict[str, dict[str, Any]] = {
    "momentum=0, rescale": {"momentum": 0.0, "rescale": True, "gamma": 0.5},
}
_ADAM: dict[str, dict[str, Any]] = {
    "beta1=0": {"betas": (0.0, 0.99)},
    "beta1=0, rho": {"betas": (0.0, 0.99), "rho": 0.2},
    "beta2=0": {"betas": (0.5, 0.0), "eps": 0.1},
    "eps=0.01": {"eps": 0.01},
}
_ADAM_TORQUE: dict[str, dict[str, Any]] = {
    "sum": {"first_moment": "sum", "lr": 2e-3},
    "sum, rho": {"first_moment": "sum", "lr": 2e-3, "rho": 0.3},
    "sum, rescale": {"first_moment": "sum", "lr": 2e-3, "rescale": True},
    "sum, no torque": {"first_moment": "sum", "lr": 2e-3, "torque": False},  # the factor is 1, nothing else changes
    "sum, rescale, global, rho": {
        "first_moment": "sum",
        "lr": 2e-3,
        "rescale": True,
        "alignment": "global",
        "rho": 0.3,
    },
    "beta1=0, rescale": {"betas": (0.0, 0.99), "rescale": True, "gamma": 0.5},
}


def _cases() -> list[tuple[str, str, dict[str, Any]]]:
    cases = []
    for name in NAMES:
        table = dict(_COMMON)
        if name in TORQUE_NAMES:
            table |= _TORQUE
            table |= _BALL_TORQUE if name in BALL_NAMES else _ADAM_TORQUE
        table |= _BALL if name in BALL_NAMES else _ADAM
        assert set(table) >= set(_COMMON)
        cases += [(f"{name}-{label}", name, options) for label, options in table.items()]
    return cases


CASES = _cases()
IDS = [label for label, _, _ in CASES]
# One of each kind, for tests that need no cross product: torque alone, perturbation alone, both.
FEW: list[tuple[str, dict[str, Any]]] = [
    ("TAM", {}),
    ("TAM", {"rho": 0.2, "rescale": True}),
    ("AdaTAM", {"alignment": "global", "rescale": True}),
    ("AdaTAMW", {}),
    ("AdaTAMW", {"rho": 0.3, "rescale": True, "first_moment": "sum"}),
    ("MSAM", {}),
    ("AdamWMSAM", {}),
]
FEW_IDS = [f"{name}-{','.join(options) or 'default'}" for name, options in FEW]
assert {name for name, _ in FEW} == set(NAMES) and set(ADAM_NAMES) <= set(NAMES)
