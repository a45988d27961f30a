"""Our five entries of torch's own table of optimizers (OptimizerInfo), and the small task that its tests run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from tests.optim.problem import ADAM_NAMES, NAMES, TORQUE_NAMES, bits, cls

pytest.importorskip("expecttest", reason="torch's test table needs expecttest (extra `dev`)")
common = pytest.importorskip("torch.testing._internal.common_optimizers")

RHO = {"TAM": 0.1, "AdaTAM": 0.1, "AdaTAMW": 0.1, "MSAM": 0.3, "AdamWMSAM": 0.3}
FLAGS = ("foreach", "differentiable", "maximize", "capturable")


def inputs(name: str) -> Callable[..., list[Any]]:
    def function(device: Any, dtype: Any = None) -> list[Any]:
        family = common.optim_inputs_func_adam if name in ADAM_NAMES else common.optim_inputs_func_sgd
        ours = [
            entry
            for entry in family(device=device, dtype=dtype)
            if not {"amsgrad", "dampening", "nesterov"} & set(entry.kwargs)
        ]
        torque = [{"alignment": "global"}, {"rescale": True, "torque_steps": 2}, {"gamma": 1.0}]
        extra = torque if name in TORQUE_NAMES else []
        return ours + [common.OptimizerInput(params=None, kwargs=k, desc=str(k)) for k in extra]

    return function


def error_inputs(name: str) -> Callable[..., list[Any]]:
    own = ("betas", (1.0, 0.0)) if name in ADAM_NAMES else ("momentum", -0.5)

    def function(device: Any, dtype: Any) -> list[Any]:
        entries = common.get_error_inputs_for_all_optims(device, dtype)
        for entry in entries:
            if entry.error_regex == "Tensor lr must be 1-element":
                entry.error_regex = r"lr=.*0-d tensor"  # ours names the option and the value first
        refused: list[tuple[str, Any]] = [("weight_decay", -1), ("rho", -1.0), ("lr", float("nan")), own]
        return entries + [
            common.ErrorOptimizerInput(
                common.OptimizerInput(params=None, kwargs={key: value}, desc=f"{key}={value}"),
                error_type=ValueError,
                error_regex=key,
            )
            for key, value in refused
        ]

    return function


INFOS = [
    common.OptimizerInfo(
        cls(name),
        optim_inputs_func=inputs(name),
        optim_error_inputs_func=error_inputs(name),
        scheduler_inputs=(
            [lambda opt: schedulers.StepLR(opt, gamma=0.9, step_size=10)],
            [lambda opt: schedulers.LinearLR(opt, start_factor=0.4, end_factor=0.8, total_iters=4)],
            [
                lambda opt: schedulers.StepLR(opt, gamma=0.9, step_size=10),
                lambda opt: schedulers.ReduceLROnPlateau(opt),
            ],
        ),
        supported_impls=("foreach", "differentiable"),
        not_og_supported_flags=FLAGS,
        has_capturable_arg=True,
        supports_complex=True,
    )
    for name in NAMES
]
# How the optimizer is driven, and whether step() gets the closure (and the class its rho).
DRIVES = {"bare": False, "closure": True}


class Task:
    """Two parameters, a quadratic loss: the task of torch's own optimizer tests."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, dtype=dtype, generator=generator)

        self.weight, self.bias = torch.nn.Parameter(draw(10, 5)), torch.nn.Parameter(draw(10))
        self.input = draw(5)

    @property
    def params(self) -> list[torch.nn.Parameter]:
        return [self.weight, self.bias]

    def closure(self) -> torch.Tensor:
        for p in self.params:
            p.grad = None
        loss = (self.weight.mv(self.input) + self.bias).abs().square().sum()
        loss.backward()
        return loss

    def run(self, optimizer: Any, drive: str, steps: int, after: Callable[[Any], None] = lambda loss: None) -> None:
        for _ in range(steps):
            if DRIVES[drive]:
                loss = optimizer.step(self.closure)
            else:
                loss = self.closure()
                optimizer.step()
            after(loss)

    def bits(self) -> list[bytes]:
        return [bits(p) for p in self.params]


def rho(info: Any, drive: str) -> dict[str, float]:
    return {"rho": RHO[info.optim_cls.__name__] if DRIVES[drive] else 0.0}


def settings(info: Any, drive: str) -> list[dict[str, Any]]:
    """Every input of the entry with this drive's rho, and a rate at which a few steps are visible."""
    return [{"lr": 1e-2, **entry.kwargs, **rho(info, drive)} for entry in info.optim_inputs_func(device="cpu")]
