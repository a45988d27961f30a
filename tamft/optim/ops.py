"""The tensor-list verbs that `updates.py` speaks, in two dialects: `Loop` (one kernel per tensor) and `Foreach`.

Each verb of a dialect issues the same operations in the same order as torch.optim's path of the same name, so that
with the torque off the result is torch's, bit for bit. Lists hold real tensors (complex ones come as views).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
Scalars = Sequence[float | Tensor]

# A float32 dot product of 1e-23 values is 0 and one of 1e18 values is inf. Between these bounds every square that
# was lost to underflow is below the rounding error of the sum.
SAFE = (1e-24, 1e36)


class Ops(Protocol):
    """What a dialect offers. `a_` verbs change their first argument in place."""

    def negated(self, xs: Tensors) -> list[Tensor]: ...
    def plus(self, xs: Tensors, ys: Tensors, alpha: float) -> list[Tensor]: ...
    def scale_(self, xs: Tensors, a: float | Tensor) -> None: ...
    def count_(self, steps: Tensors) -> None: ...
    def assign_(self, xs: Tensors, ys: Tensors) -> None: ...
    def lerp_(self, ms: Tensors, gs: Tensors, weight: float) -> None: ...
    def decay_add_(self, ms: Tensors, beta: float, gs: Tensors, factors: Tensor | None) -> None: ...
    def decay_square_(self, vs: Tensors, beta: float, gs: Tensors) -> None: ...
    def root(self, vs: Tensors, divisors: Scalars | None, eps: float) -> list[Tensor]: ...
    def divide_(self, xs: Tensors, divisors: Scalars) -> None: ...
    def move_(self, ps: Tensors, ms: Tensors, scale: float | Tensor) -> None: ...
    def move_each_(self, ps: Tensors, ms: Tensors, scales: Tensor) -> None: ...
    def move_ratio_(self, ps: Tensors, ms: Tensors, ds: Tensors, values: Sequence[float] | None) -> None: ...


class Loop:
    """One operation per tensor, in Python: the fastest on a CPU, and the only one that autograd can follow."""

    def negated(self, xs: Tensors) -> list[Tensor]:
        return [-x for x in xs]

    def plus(self, xs: Tensors, ys: Tensors, alpha: float) -> list[Tensor]:
        return [x.add(y, alpha=alpha) for x, y in zip(xs, ys, strict=True)]

    def scale_(self, xs: Tensors, a: float | Tensor) -> None:
        for x in xs:
            x.mul_(a)

    def count_(self, steps: Tensors) -> None:
        for step in steps:
            step += 1

    def assign_(self, xs: Tensors, ys: Tensors) -> None:
        for x, y in zip(xs, ys, strict=True):
            x.copy_(y)

    def lerp_(self, ms: Tensors, gs: Tensors, weight: float) -> None:
        for m, g in zip(ms, gs, strict=True):
            m.lerp_(g, weight)

    def decay_add_(self, ms: Tensors, beta: float, gs: Tensors, factors: Tensor | None) -> None:
        for i, (m, g) in enumerate(zip(ms, gs, strict=True)):
            if factors is None:
                m.mul_(beta).add_(g)
            else:
                m.mul_(beta).addcmul_(g, factors[i])

    def decay_square_(self, vs: Tensors, beta: float, gs: Tensors) -> None:
        for v, g in zip(vs, gs, strict=True):
            v.mul_(beta).addcmul_(g, g, value=1 - beta)

    def root(self, vs: Tensors, divisors: Scalars | None, eps: float) -> list[Tensor]:
        if divisors is None:
            return [v.sqrt() + eps for v in vs]
        return [(v.sqrt() / a).add_(eps) for v, a in zip(vs, divisors, strict=True)]

    def divide_(self, xs: Tensors, divisors: Scalars) -> None:
        for x, a in zip(xs, divisors, strict=True):
            x.div_(a)

    def move_(self, ps: Tensors, ms: Tensors, scale: float | Tensor) -> None:
        for p, m in zip(ps, ms, strict=True):
            if isinstance(scale, Tensor):
                p.addcmul_(m, scale)
            else:
                p.add_(m, alpha=scale)

    def move_each_(self, ps: Tensors, ms: Tensors, scales: Tensor) -> None:
        for i, (p, m) in enumerate(zip(ps, ms, strict=True)):
            p.addcmul_(m, scales[i])

    def move_ratio_(self, ps: Tensors, ms: Tensors, ds: Tensors, values: Sequence[float] | None) -> None:
        for i, (p, m, d) in enumerate(zip(ps, ms, ds, strict=True)):
            p.addcdiv_(m, d, value=1.0 if values is None else values[i])


class Foreach:
    """torch's multi-tensor operations: few launches on an accelerator, at the price of temporaries for all tensors.

    Verbs with one device scalar per tensor fall back to one kernel per tensor inside torch: no multi-tensor operation
    reads a scalar per tensor from the device.
    """

    def negated(self, xs: Tensors) -> list[Tensor]:
        return list(torch._foreach_neg(list(xs)))

    def plus(self, xs: Tensors, ys: Tensors, alpha: float) -> list[Tensor]:
        return list(torch._foreach_add(list(xs), list(ys), alpha=alpha))

    def scale_(self, xs: Tensors, a: float | Tensor) -> None:
        torch._foreach_mul_(list(xs), a)

    def count_(self, steps: Tensors) -> None:
        torch._foreach_add_(list(steps), 1)

    def assign_(self, xs: Tensors, ys: Tensors) -> None:
        torch._foreach_copy_(list(xs), list(ys))

    def lerp_(self, ms: Tensors, gs: Tensors, weight: float) -> None:
        torch._foreach_lerp_(list(ms), list(gs), weight)

    def decay_add_(self, ms: Tensors, beta: float, gs: Tensors, factors: Tensor | None) -> None:
        torch._foreach_mul_(list(ms), beta)
        if factors is None:
            torch._foreach_add_(list(ms), list(gs), alpha=1)
        else:
            torch._foreach_addcmul_(list(ms), list(gs), list(factors.unbind()))

    def decay_square_(self, vs: Tensors, beta: float, gs: Tensors) -> None:
        torch._foreach_mul_(list(vs), beta)
        torch._foreach_addcmul_(list(vs), list(gs), list(gs), 1 - beta)

    def root(self, vs: Tensors, divisors: Scalars | None, eps: float) -> list[Tensor]:
        roots = list(torch._foreach_sqrt(list(vs)))
        if divisors is not None:
            self.divide_(roots, divisors)
        torch._foreach_add_(roots, eps)
        return roots

    def divide_(self, xs: Tensors, divisors: Scalars) -> None:
        torch._foreach_div_(list(xs), list(divisors))  # type: ignore[arg-type]

    def move_(self, ps: Tensors, ms: Tensors, scale: float | Tensor) -> None:
        if isinstance(scale, Tensor):
            torch._foreach_add_(list(ps), list(torch._foreach_mul(list(ms), scale)))
        else:
            torch._foreach_add_(list(ps), list(ms), alpha=scale)

    def move_each_(self, ps: Tensors, ms: Tensors, scales: Tensor) -> None:
        torch._foreach_addcmul_(list(ps), list(ms), list(scales.unbind()))

    def move_ratio_(self, ps: Tensors, ms: Tensors, ds: Tensors, values: Sequence[float] | None) -> None:
        if values is None:
            torch._foreach_addcdiv_(list(ps), list(ms), list(ds))
        else:
            torch._foreach_addcdiv_(list(ps), list(ms), list(ds), list(values))


def wide(tensor: Tensor) -> torch.dtype:
    """The dtype that reductions are returned in: float64, float32 where the device has none (Apple's MPS)."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def gram(xs: Tensors, ys: Tensors) -> Tensor:
    """Return <x,y>, <x,x> and <y,y> of each pair as a (3, n) tensor in `wide` precision, without synchronising.

    Right for entries from 1e-30 to 1e30: see `SAFE`. There is no multi-tensor dot product in torch, so both dialects
    share this text.
    """
    return torch.stack([_gram(x.reshape(-1), y.reshape(-1)) for x, y in zip(xs, ys, strict=True)], dim=1)


def squares(xs: Tensors) -> Tensor:
    """Return the sum over all tensors of |x|², a 0-d tensor in `wide` precision on the first tensor's device."""
    device, dtype = xs[0].device, wide(xs[0])
    # One pass per tensor, then a sum in a fixed order: bitwise reproducible.
    parts = [square(x.reshape(-1)).to(device=device, dtype=dtype, non_blocking=True) for x in xs]
    return torch.stack(parts).sum()


def _gram(x: Tensor, y: Tensor) -> Tensor:
    if _may_ask(x):
        fast = torch.stack([torch.dot(x, y), torch.dot(x, x), torch.dot(y, y)]).to(torch.float64)
        if all(SAFE[0] < value < SAFE[1] for value in fast[1:].tolist()):
            return fast
    x, y = x.to(wide(x)), y.to(wide(y))
    return torch.stack([torch.dot(x, y), torch.dot(x, x), torch.dot(y, y)])


def square(x: Tensor) -> Tensor:
    """|x|² of a 1-d tensor, 0-d: right for entries from 1e-30 to 1e30, as `gram` is."""
    if _may_ask(x):
        fast = torch.dot(x, x)
        if SAFE[0] < fast.item() < SAFE[1]:
            return fast
    x = x.to(wide(x))
    return torch.dot(x, x)


def _may_ask(x: Tensor) -> bool:
    """Whether looking at a value is free: on a CPU, in float32, outside a compiler and outside autograd."""
    return x.is_cpu and x.dtype == torch.float32 and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
