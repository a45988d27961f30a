"""The five optimizers in float64 numpy, one line per formula of the papers. Slow and plain; nobody optimises this.

Shares no code with tamft on purpose: what both compute alike is what the papers say, not what one of them copied.

    reference = Reference("AdaTAMW", [{"params": arrays, "lr": 1e-2}, {"params": others}], gamma=0.9, rho=0.1)
    points = reference.look()          # θ̃: where the gradients are taken
    reference.step(gradients)          # one array (or None) per parameter, in the order of `params`
    reference.weights                  # θ
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_ALL: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.0, "maximize": False, "rho": 0.0, "rho_start": 0}
_BALL: dict[str, Any] = {"momentum": 0.9}
_ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "first_moment": "ema"}
_TORQUE: dict[str, Any] = {
    "torque": True,
    "gamma": 0.9,
    "torque_eps": 1e-8,
    "alignment": "tensor",
    "torque_steps": None,
    "rescale": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "TAM": _ALL | _BALL | _TORQUE,
    "AdaTAM": _ALL | _ADAM | _TORQUE,
    "AdaTAMW": _ALL | _ADAM | _TORQUE | {"weight_decay": 1e-2},
    "MSAM": _ALL | _BALL | {"torque": False, "rho": 0.3},
    "AdamWMSAM": _ALL | _ADAM | {"torque": False, "rho": 0.3, "weight_decay": 1e-2},
}
DECOUPLED = {"AdaTAMW", "AdamWMSAM"}


@dataclass
class Slot:
    """One parameter tensor with its state. All arrays are float64."""

    theta: np.ndarray
    options: dict[str, Any]
    t: int = 0  # steps this tensor has taken
    m: np.ndarray = field(init=False)  # first moment / momentum buffer
    v: np.ndarray = field(init=False)  # second moment (Adam family)
    s_hat: float = 0.0  # ŝ
    damping: float = 0.0  # D

    def __post_init__(self) -> None:
        self.theta = np.array(self.theta, dtype=np.float64)
        self.m = np.zeros_like(self.theta)
        self.v = np.zeros_like(self.theta)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * b))


def _cosine(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """cos of (m, g), each the concatenation of a list of tensors; 0 where either norm is 0."""
    m_norm = np.sqrt(sum(_dot(m, m) for m, _ in pairs))
    g_norm = np.sqrt(sum(_dot(g, g) for _, g in pairs))
    if m_norm == 0 or g_norm == 0:
        return 0.0
    return sum(_dot(m, g) for m, g in pairs) / (m_norm * g_norm)


class Reference:
    """One of TAM, AdaTAM, AdaTAMW, MSAM, AdamWMSAM; a group's own options win over `options`, as in torch.optim."""

    def __init__(self, name: str, groups: list[dict[str, Any]], **options: Any) -> None:
        unknown = set(options) - set(DEFAULTS[name])
        if unknown:
            raise TypeError(f"{name} has no option {unknown}")
        self.adam = "betas" in DEFAULTS[name]
        self.decoupled = name in DECOUPLED
        self.steps = 0
        self.groups: list[dict[str, Any]] = []
        self.slots: list[Slot] = []
        for group in groups:
            own = DEFAULTS[name] | options | {key: value for key, value in group.items() if key != "params"}
            self.groups.append(own)
            self.slots += [Slot(theta, own) for theta in group["params"]]

    @property
    def weights(self) -> list[np.ndarray]:
        """The real weights θ."""
        return [slot.theta for slot in self.slots]

    def momentum_norm(self) -> float:
        """|m| over every tensor of every group with rho > 0."""
        return float(np.sqrt(sum(_dot(slot.m, slot.m) for slot in self.slots if slot.options["rho"] > 0)))

    def look(self) -> list[np.ndarray]:
        """θ̃ = θ - ρ m / |m|: where this step's gradient is taken. ρ/|m| is a float32, as the design stores it."""
        norm = self.momentum_norm()
        points = []
        for slot in self.slots:
            rho = slot.options["rho"] if self.steps >= slot.options["rho_start"] else 0.0
            scale = float(np.float32(rho / norm)) if norm > 0 else 0.0
            points.append(slot.theta - scale * slot.m)
        return points

    def step(self, gradients: list[np.ndarray | None]) -> None:
        """One update with the gradients taken at `look()`; None leaves its tensor alone."""
        points = self.look()
        self.steps += 1
        live: list[tuple[Slot, np.ndarray]] = []
        for slot, point, raw in zip(self.slots, points, gradients, strict=True):
            if raw is None:
                continue
            g = np.asarray(raw, dtype=np.float64)
            if slot.options["maximize"]:
                g = -g
            if not self.decoupled:
                g = g + slot.options["weight_decay"] * point
            live.append((slot, g))
        whole_model = _cosine([(slot.m, g) for slot, g in live])
        for slot, g in live:
            slot.t += 1
            factor = self._factor(slot, g, whole_model)
            (self._adam if self.adam else self._heavy_ball)(slot, g, factor)

    def _factor(self, slot: Slot, g: np.ndarray, whole_model: float) -> float:
        """ε + d_t, or 1 without torque."""
        o = slot.options
        if not o["torque"]:
            return 1.0
        s = whole_model if o["alignment"] == "global" else _cosine([(slot.m, g)])
        if o["torque_steps"] is None or slot.t <= o["torque_steps"]:
            slot.s_hat = o["gamma"] * slot.s_hat + (1 - o["gamma"]) * s
        d = (1 + slot.s_hat) / 2
        return o["torque_eps"] + d

    def _rescaled(self, slot: Slot, m: np.ndarray, beta: float, factor: float) -> np.ndarray:
        """m / D̂ with `rescale`, else m."""
        if not (slot.options["torque"] and slot.options["rescale"]):
            return m
        slot.damping = beta * slot.damping + (1 - beta) * factor
        return m / (slot.damping / (1 - beta**slot.t))

    def _heavy_ball(self, slot: Slot, g: np.ndarray, factor: float) -> None:
        o = slot.options
        beta = o["momentum"]
        slot.m = beta * slot.m + factor * g
        slot.theta = slot.theta - o["lr"] * self._rescaled(slot, slot.m, beta, factor)

    def _adam(self, slot: Slot, g: np.ndarray, factor: float) -> None:
        o = slot.options
        beta1, beta2 = o["betas"]
        if self.decoupled:
            slot.theta = slot.theta - o["lr"] * o["weight_decay"] * slot.theta
        slot.v = beta2 * slot.v + (1 - beta2) * g * g
        if o["first_moment"] == "ema":
            slot.m = beta1 * slot.m + (1 - beta1) * factor * g
            m_hat = slot.m / (1 - beta1**slot.t)
            v_hat = slot.v / (1 - beta2**slot.t)
        else:
            slot.m = beta1 * slot.m + factor * g
            m_hat, v_hat = slot.m, slot.v
        m_hat = self._rescaled(slot, m_hat, beta1, factor)
        slot.theta = slot.theta - o["lr"] * m_hat / (np.sqrt(v_hat) + o["eps"])
