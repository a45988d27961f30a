"""A small noisy problem, the same numbers in float32, float64 and numpy, and the runs over it that tests compare."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tamft
from tests.reference.optimizers import Reference

NAMES = ["TAM", "AdaTAM", "AdaTAMW", "MSAM", "AdamWMSAM"]
TORQUE_NAMES = ["TAM", "AdaTAM", "AdaTAMW"]
BALL_NAMES = ["TAM", "MSAM"]
ADAM_NAMES = ["AdaTAM", "AdaTAMW", "AdamWMSAM"]
PATHS: dict[str, dict[str, bool]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "loop-capturable": {"foreach": False, "capturable": True},
    "foreach-capturable": {"foreach": True, "capturable": True},
}
LINE = 5e-6  # of the distance travelled in 50 steps: what two paths in float32 may differ by
TIGHT = 1e-12  # the same, for float64 parameters
SHAPES: tuple[tuple[int, ...], ...] = ((5, 3), (7,), (), (0, 3), (2, 3, 4))


def cls(name: str) -> Any:
    """The optimizer class called `name`."""
    return getattr(tamft, name)


def learning_rate(name: str) -> float:
    """A rate at which 50 steps travel about as far as the weights are long."""
    return 1e-2 if name in ADAM_NAMES else 2e-2


@dataclass
class Problem:
    """gradient = ±h ⊙ (θ - c) + noise_t: it depends on where it is taken, so a wrong perturbation shows.

    Every number is a float32, so float32 and float64 runs start from, and see, the same values. `missing` says at
    which (step, parameter index) there is no gradient; the parameters in `concave` are for `maximize` (sign -).
    """

    shapes: tuple[tuple[int, ...], ...] = SHAPES
    seed: int = 0
    steps: int = 50
    noise: float = 1.0
    missing: Callable[[int, int], bool] = lambda step, index: False
    concave: tuple[int, ...] = ()
    start: list[np.ndarray] = field(init=False)
    _torch: dict[torch.dtype, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)

        def draw(scale: float) -> list[np.ndarray]:
            return [(scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64) for shape in self.shapes]

        self.start = draw(0.3)
        self.curvature = [np.exp(x).astype(np.float32).astype(np.float64) for x in draw(0.5)]
        for i in self.concave:
            self.curvature[i] = -self.curvature[i]
        self.centre = draw(1.0)
        self.noises = [draw(self.noise) for _ in range(self.steps)]

    def parameters(self, dtype: torch.dtype) -> list[torch.nn.Parameter]:
        """Fresh torch parameters at the start."""
        return [torch.nn.Parameter(torch.tensor(x, dtype=dtype)) for x in self.start]

    def gradients(self, step: int, points: list[np.ndarray]) -> list[np.ndarray | None]:
        """The gradients of step `step` (from 0) in numpy; None where `missing`."""
        return [
            None if self.missing(step, i) else self.curvature[i] * (x - self.centre[i]) + self.noises[step][i]
            for i, x in enumerate(points)
        ]

    def set_gradients(self, step: int, parameters: list[Tensor]) -> None:
        """The same in torch, into `.grad`, in the parameters' dtype."""
        dtype = parameters[0].dtype
        if dtype not in self._torch:
            lists = (self.curvature, self.centre, *self.noises)
            self._torch[dtype] = [[torch.tensor(x, dtype=dtype) for x in xs] for xs in lists]
        curvature, centre, *noises = self._torch[dtype]
        for i, p in enumerate(parameters):
            p.grad = None if self.missing(step, i) else curvature[i] * (p.detach() - centre[i]) + noises[step][i]


# Indices into Problem.shapes and what differs in that group.
GROUPS: list[tuple[list[int], dict[str, Any]]] = [([0, 1], {}), ([2, 3, 4], {})]


def groups_of(params: list[Any], groups: list[tuple[list[int], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Parameter groups as torch.optim and the reference take them."""
    return [{"params": [params[i] for i in indices], **options} for indices, options in groups]


def one_step(optimizer: torch.optim.Optimizer, problem: Problem, params: list[Tensor], step: int, drive: str) -> None:
    """Step `step` of the problem, driven by "closure", by "train" (train, backward, step) or bare ("step")."""
    if drive == "closure":

        def closure() -> Tensor:
            problem.set_gradients(step, params)
            return torch.tensor(float(step))

        assert optimizer.step(closure) == step
        return
    if drive == "train":
        optimizer.train()
    problem.set_gradients(step, params)
    optimizer.step()


def run_tamft(
    name: str,
    problem: Problem,
    *,
    dtype: torch.dtype = torch.float64,
    drive: str = "closure",
    groups: list[tuple[list[int], dict[str, Any]]] = GROUPS,
    first: int = 0,
    last: int | None = None,
    **options: Any,
) -> tuple[list[torch.nn.Parameter], Any]:
    """Run the class `name` over the problem; returns its parameters and the optimizer."""
    params = problem.parameters(dtype)
    optimizer = cls(name)(groups_of(params, groups), **options)
    for step in range(first, problem.steps if last is None else last):
        one_step(optimizer, problem, params, step, drive)
    return params, optimizer


def run_reference(
    name: str, problem: Problem, *, groups: list[tuple[list[int], dict[str, Any]]] = GROUPS, **options: Any
) -> Reference:
    """Run the float64 reference of `name` over the problem."""
    reference = Reference(name, groups_of(problem.start, groups), **options)
    for step in range(problem.steps):
        reference.step(problem.gradients(step, reference.look()))
    return reference


def flat(arrays: list[Any]) -> np.ndarray:
    """All tensors or arrays as one float64 vector."""
    return np.concatenate(
        [np.asarray(a.detach().double().numpy() if isinstance(a, Tensor) else a).reshape(-1) for a in arrays]
    )


def apart(got: list[Any], expected: list[Any], start: list[Any]) -> float:
    """|got - expected| as a fraction of the distance that `expected` travelled from `start`."""
    travelled = np.linalg.norm(flat(expected) - flat(start))
    assert travelled > 0.05 * np.linalg.norm(flat(start)), "the run hardly moved: it proves nothing"
    return float(np.linalg.norm(flat(got) - flat(expected)) / travelled)


def assert_follows(got: list[Any], expected: list[Any], start: list[Any], limit: float) -> None:
    """`got` is `expected` up to `limit` of the distance travelled (numbers only in the message: arrays are long)."""
    distance = apart(got, expected, start)
    assert distance < limit, f"{distance:.2e} of the distance travelled apart, allowed {limit:.0e}"


def bits(value: Any) -> bytes:
    """The exact bytes of a tensor (any shape and dtype); of anything else its repr."""
    if not isinstance(value, Tensor):
        return repr(value).encode()
    return value.detach().reshape(-1).clone().view(torch.uint8).numpy().tobytes()


def state_bits(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], bytes]:
    """{(parameter index, key): bytes} of the whole state, for exact comparisons."""
    state = optimizer.state_dict()["state"]
    return {(index, key): bits(value) for index, entry in state.items() for key, value in entry.items()}
