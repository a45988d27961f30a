"""What the fused path on a CPU computes with: torch's private fused kernels, and dot products on flat memory."""

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tamft.optim.bucket import real
from tamft.optim.ops import SAFE

_DOT = 1 << 20  # elements per dot product: 8 MiB of m and g, which the second one finds in the cache
_FADED = 1e-7  # a gradient that enters m' with less weight than this is beyond what β1' can express in float32
WORTH = 1 << 20  # elements of a model: with fewer, the compiled kernels do not repay the second that loading takes
BLOCK = 1 << 18  # elements per call where a tensor is updated in blocks: what was just written is still in the cache


def sgd(params: list[Tensor], grads: list[Tensor], ms: list[Tensor], *, lr: float, beta: float, factor: float,
        weight_decay: float, maximize: bool) -> None:  # fmt: skip
    """m = β m + factor·g, θ = θ - η m, all tensors in one call."""
    # With momentum=0 the kernel refuses to write m; the smallest double is 0 in its arithmetic.
    torch._fused_sgd_(params, grads, ms, lr=lr, momentum=beta or 5e-324, dampening=1 - factor, nesterov=False,
                      weight_decay=weight_decay, maximize=maximize, is_first_step=False)  # fmt: skip


@cache
def kernels_differ() -> str | None:
    """Why the kernels cannot be used, or None. They are private: first they must reproduce two steps that we know."""
    p, g, m, v = (torch.tensor([x, 3 * x]) for x in (1.0, 0.5, 0.25, 0.125))
    ball, moments = [x.clone() for x in (p, g, m)], [x.clone() for x in (p, g, m, v)]
    try:
        sgd(ball[:1], ball[1:2], ball[2:], lr=0.1, beta=0.8, factor=0.3, weight_decay=0.0, maximize=False)
        call: Any = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.01, "weight_decay": 0.5, "maximize": True}
        lists = [[x] for x in moments]
        torch._fused_adamw_(lists[0], lists[1], lists[2], lists[3], [], [torch.tensor(3.0)], amsgrad=False, **call)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} has no fused CPU kernels as tamft knows them ({error})"
    new = 0.8 * m + 0.3 * g
    first, second = 0.8 * m - 0.2 * g, 0.9 * v + 0.1 * g.square()
    root = (second / (1 - 0.9**3)).sqrt() + 0.01
    expected = [new, p - 0.1 * new, first, second, 0.95 * p - 0.1 / (1 - 0.8**3) * first / root]
    found = [ball[2], ball[0], moments[2], moments[3], moments[0]]
    if all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(found, expected, strict=True)):
        return None
    return f"the fused CPU kernels of torch {torch.__version__} compute something else than tamft expects"


@cache
def compiled_kernels() -> Any:
    """The module `numba_step`, or None where numba is not installed or does not work with this Python or numpy."""
    try:
        module = importlib.import_module("tamft.optim.numba_step")
        return module if module.works() else None
    except Exception:  # noqa: BLE001 - whatever is wrong with it, or with its cache on disk: torch's kernels are there
        return None


class Slot:
    """A parameter as this path sees it: flat views of its tensors in its memory order, and what is known of its m.

    Attributes:
        own: the parameter's state.
        p, g, m, v: flat; v is m where there is no second moment.
        row: addresses of p, g, m, v and the number of elements.
        sigma: m = sigma·m', and m' is what the state holds for now.
        square: |m'|², None where it has to be read from memory.
        dots: <m',g>, |m'|², |g|² of this step, once they are known.
        n: elements of the flat tensors.
        kinds: dtypes of the flat p, m, v.
        has: the state keys that were seen to be there.
    """

    __slots__ = ("_at", "_flat", "_grad", "_m", "_stride", "_v", "_version", "dots", "has", "kinds", "m", "moment", "n",
                 "own", "p", "param", "sigma", "square", "v")  # fmt: skip

    def __init__(self, param: Tensor, own: dict[str, Any], moment: str, square: float | None) -> None:
        self.param, self.own, self.moment = param, own, moment
        self.sigma, self.square = 1.0, square
        self._version = own[moment]._version
        self._grad: Tensor | None = None
        self._flat: Tensor | None = None
        self.dots: tuple[float, float, float] | None = None
        self.has: tuple[str, ...] = ()
        self._look()

    def _look(self) -> None:
        self._stride = self.param.stride()
        self.p, self.n = flat(self.param.detach()), self.param.numel() * (2 if self.param.is_complex() else 1)
        self._m, self._v = self._ordered(self.moment), None
        self.m = self.v = flat(self._m)
        if "exp_avg_sq" in self.own:
            self._v = self._ordered("exp_avg_sq")
            self.v = flat(self._v)
        self._at = self.param.data_ptr(), self._m.data_ptr(), self.v.data_ptr()
        self.kinds = self.p.dtype, self.m.dtype, self.v.dtype

    def _ordered(self, key: str) -> Tensor:
        x: Tensor = self.own[key]
        if x.shape != self.param.shape:
            shapes = f"{tuple(x.shape)}, and its parameter is {tuple(self.param.shape)}"
            raise RuntimeError(f"the state's {key} is {shapes}: it belongs to another model")
        if x.stride() != self._stride:  # a checkpoint from elsewhere may order its memory differently
            self.own[key] = x = torch.empty_like(self.param, dtype=x.dtype).copy_(x)
        return x

    def refresh(self) -> None:
        """Look again where a tensor was replaced or m was written by somebody else."""
        m, v = self.own[self.moment], self.own.get("exp_avg_sq")
        at = self.param.data_ptr(), m.data_ptr(), (m if v is None else v).data_ptr()
        if m is not self._m or v is not self._v or at != self._at or self.param.stride() != self._stride:
            self._look()
            self.square = None
        elif m._version != self._version:
            self.square = None

    def take(self, g: Tensor) -> None:
        """The gradient of this step; `refresh` is part of it."""
        self.refresh()
        self.dots = None
        if g.shape != self.param.shape:
            raise RuntimeError(f"a gradient is {tuple(g.shape)}, and its parameter is {tuple(self.param.shape)}")
        if g.is_conj() or g.is_neg():  # in memory it is not what it says
            g = g.resolve_conj().resolve_neg()
        if g.stride() != self._stride:
            g = torch.empty_like(self.param, dtype=g.dtype).copy_(g)
        self._grad, self._flat = g, None  # who needs only its address pays for no view

    def let_go(self) -> None:
        """Forget the gradient: whoever sets it to None frees its memory."""
        self._grad = self._flat = None

    @property
    def g(self) -> Tensor:
        if self._flat is None:
            assert self._grad is not None
            self._flat = flat(self._grad)
        return self._flat

    @property
    def row(self) -> tuple[int, int, int, int, int]:
        p, m, v = self._at
        assert self._grad is not None
        return p, self._grad.data_ptr(), m, v, self.n

    def wrote(self, square: float | None) -> None:
        """m' was written by us; `square`: |m'|² where it is known."""
        self._version, self.square = self._m._version, square

    def part(self, span: slice | None) -> "Part":
        """Itself and a span (None: all) of p, g, m, v."""
        if span is None:
            return self, self.p, self.g, self.m, self.v
        return self, self.p[span], self.g[span], self.m[span], self.v[span]

    def unscale(self) -> None:
        """Multiply σ back into m."""
        if self.sigma != 1.0:
            self.m.mul_(self.sigma)
            self.sigma = 1.0
            self.wrote(None)

    def norm_square(self) -> float:
        """|m'|²."""
        if self.square is None:
            self.wrote(square(self.m))
        assert self.square is not None
        return self.square


Part = tuple[Slot, Tensor, Tensor, Tensor, Tensor]


def flat(x: Tensor) -> Tensor:
    """A 1-d view of all elements of a tensor without gaps, in memory order; of a complex one as pairs of reals."""
    if x.dim() == 1 and not x.is_complex():
        return x
    x = real(x)
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))


def spans(n: int, size: int) -> Sequence[slice | None]:
    """0 … n in pieces; None for all of what is not larger than one."""
    return (None,) if n <= size else [slice(a, min(a + size, n)) for a in range(0, n, size)]


def batches(slots: list[Slot]) -> Iterator[list[Part]]:
    """About `BLOCK` elements at a time: a piece of a large tensor, or several small ones."""
    batch: list[Part] = []
    room = BLOCK
    for slot in slots:
        for span in spans(slot.m.numel(), BLOCK):
            part = slot.part(span)
            if batch and part[1].numel() > room:
                yield batch
                batch, room = [], BLOCK
            batch.append(part)
            room -= part[1].numel()
    if batch:
        yield batch


def square(x: Tensor) -> float:
    """|x|² of a flat tensor, right from 1e-30 to 1e30, summed in a fixed order."""
    total = 0.0
    for span in spans(x.numel(), _DOT):
        part = x if span is None else x[span]
        value: float = torch.dot(part, part).item()
        total += value if SAFE[0] < value < SAFE[1] else _wide_dot(part, part)
    return total


def _wide_dot(x: Tensor, y: Tensor) -> float:
    """<x,y> in float64, a quarter at a time: the copies together are no larger than a tensor."""
    size = x.numel() // 4 + 1
    return sum(
        torch.dot(a.double(), b.double()).item()
        for a, b in zip(torch.split(x, size), torch.split(y, size), strict=True)
    )


def gradient(slot: Slot, span: slice | None, decay: float, maximize: bool) -> tuple[Tensor, bool]:
    """g of a span (None: of all) in the state's precision, and whether it is still to be negated.

    `decay`: coupled decay λ. λθ̃ is added, θ̃ being where p is: at the point where the gradient was taken.
    """
    g = slot.g if span is None else slot.g[span]
    if g.dtype != slot.m.dtype:
        g = g.to(slot.m.dtype)
    if decay == 0:
        return g, maximize
    p = slot.p if span is None else slot.p[span]
    return (g.neg() if maximize else g.clone()).add_(p, alpha=decay), False


def dots(slot: Slot, decay: float, maximize: bool) -> tuple[float, float, float]:
    """<m',g>, |m'|², |g|² of a tensor: see `gradient`."""
    mg = gg = 0.0
    n, mm = slot.n, slot.square
    if mm is None:
        mm = slot.norm_square()
    trusted = SAFE[0] < mm < SAFE[1]
    if n <= _DOT and decay == 0 and trusted and slot.g.dtype == slot.m.dtype:  # nearly always
        dot, own = torch.dot(slot.m, slot.g).item(), torch.dot(slot.g, slot.g).item()
        if SAFE[0] < own < SAFE[1]:
            return -dot if maximize else dot, mm, own
    for span in spans(n, _DOT):
        m = slot.m if span is None else slot.m[span]
        g, negate = gradient(slot, span, decay, maximize)
        own = square(g)
        if mm > 0:
            dot = torch.dot(m, g).item() if trusted and SAFE[0] < own < SAFE[1] else _wide_dot(m, g)
            mg += -dot if negate else dot
        gg += own
    return mg, mm, gg


def cosine(mg: float, mm: float, gg: float) -> float:
    """s = <m,g> / (|m| |g|), 0 where either norm is 0."""
    product = mm * gg
    s = mg / math.sqrt(product) if product > 0 else 0.0
    return 1.0 if s > 1 else -1.0 if s < -1 else s  # a NaN stays one


def next_square(beta: float, weight: float, mg: float, mm: float, gg: float) -> float | None:
    """|β m + w g|² from <m,g>, |m|², |g|², or None where the terms cancel: then it is to be read from memory."""
    apart = beta * beta * mm + weight * weight * gg
    together = apart + 2 * beta * weight * mg
    return together if together >= 0.25 * apart else None


Plan = tuple[dict[str, Any] | None, float, float, float]


def planner(group: dict[str, Any], decoupled: bool) -> Callable[[Slot, float, float, float], Plan]:
    """A function of slot, t, ε + d and D̂ that says what the kernel is to be called with.

    It returns the arguments; then m' = β m' + w g and m = σ m' in the words β, w, σ. No arguments where g is too light
    for β1': σ was multiplied back, and the plain operations are to do it.
    """
    lr, decay, maximize = float(group["lr"]), group["weight_decay"], group["maximize"]
    if "momentum" in group:
        momentum = group["momentum"]

        def ball(slot: Slot, t: float, factor: float, d_hat: float) -> Plan:
            call = {"lr": lr / d_hat, "beta": momentum, "factor": factor, "weight_decay": decay, "maximize": maximize}
            return call, momentum, factor, 1.0

        return ball

    (beta1, beta2), eps = group["betas"], group["eps"]
    ema = group.get("first_moment") != "sum"

    def adam(slot: Slot, t: float, factor: float, d_hat: float) -> Plan:
        c = (1 - beta1) * factor if ema else factor
        sigma = beta1 * slot.sigma + c  # σ_t = β1 σ_{t-1} + c
        if not c > _FADED * sigma:
            slot.unscale()
            return None, 0.0, 0.0, 1.0
        beta = beta1 * slot.sigma / sigma  # β1'
        # The kernel divides by 1 - β1'^t. Without corrections ("sum") the one that it makes for v is taken back.
        correction = 1 - beta1**t if ema else math.sqrt(1 - beta2**t)
        rate = lr * sigma / d_hat * (1 - beta**t) / correction
        call = {"lr": rate, "beta1": beta, "beta2": beta2, "eps": eps if ema else eps / correction}
        # Decoupled decay is multiplied by the kernel's own rate.
        call["weight_decay"] = decay if not decoupled else lr * decay / rate if rate > 0 else 0.0
        call["amsgrad"], call["maximize"] = False, maximize
        return call, beta, c / sigma, sigma

    return adam
