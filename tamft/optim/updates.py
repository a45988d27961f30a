"""The mathematics, once, for every path. Symbols are the papers' (Torque-Aware Momentum, arXiv 2412.18790;
Momentum-SAM, arXiv 2401.12033):

    θ params   g grads   m momentum / first moment   v second moment   t steps done, this one included
    s cosine of m and g   ŝ its moving average   d = (1 + ŝ)/2 damping   D moving average of ε + d

Lists are equally long and hold real tensors; `ops` is a dialect of `ops.py`.
"""

import torch
from torch import Tensor

from tamft.optim.ops import Ops, Tensors


def gradient(
    ops: Ops,
    grads: Tensors,
    params: Tensors,
    m: Tensors,
    *,
    maximize: bool,
    weight_decay: float,
    scale: Tensor | None,
) -> list[Tensor]:
    """g_t: after `maximize` and, with coupled decay, after + λ θ̃, where θ̃ = θ - scale·m is where g was taken.

    `params` are already back at θ; `scale` is None where nothing was moved.
    """
    g = ops.negated(grads) if maximize else list(grads)
    if weight_decay != 0:
        g = ops.plus(g, params, weight_decay)  # g + λ θ
        if scale is not None:
            ops.move_(g, m, -weight_decay * scale.to(g[0].dtype))  # - λ ρ m/|m|
    return g


def cosine(gram: Tensor) -> Tensor:
    """s = <m,g> / (|m| |g|), 0 where either norm is 0. `gram`: (3, …) with <m,g>, <m,m>, <g,g>. In [-1, 1]."""
    dot, square = gram[0], gram[1] * gram[2]
    defined = square > 0
    # The inner `where` keeps the derivative finite where the outer one discards the value.
    s = dot / torch.where(defined, square, 1.0).sqrt()
    return torch.where(defined, s, 0.0).clamp(-1.0, 1.0)


def torque(s: Tensor | None, s_hat: Tensor, *, gamma: float, live: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ŝ_t and d_t of n tensors, each of shape (n,).

    `s` None: ŝ is frozen for all of them; `live` (n,) bool: frozen where False (the paper's warm-up is over).
    """
    if s is not None:
        new = gamma * s_hat + (1 - gamma) * s.to(s_hat.dtype)  # ŝ_t = γ ŝ_{t-1} + (1-γ) s_t
        s_hat = new if live is None else torch.where(live, new, s_hat)
    return s_hat, (1 + s_hat) / 2  # d_t = (1 + ŝ_t) / 2


def rescaling(factor: Tensor, d_mean: Tensor, *, beta: float, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return D_t and D̂_t, each of shape (n,): the mean weight that the torque gave to the gradients inside m."""
    d_mean = beta * d_mean + (1 - beta) * factor  # D_t = β D_{t-1} + (1-β)(ε + d_t)
    corrected = (d_mean / (1 - beta**t)).to(d_mean.dtype)  # D̂_t = D_t / (1 - β^t)
    # D̂ = 0 only if every factor so far was 0; then m = 0 too, and 0/0 is to be no update.
    return d_mean, corrected.clamp_min(torch.finfo(corrected.dtype).tiny)


def heavy_ball(
    ops: Ops,
    params: Tensors,
    g: Tensors,
    m: Tensors,
    *,
    lr: float | Tensor,
    beta: float,
    factor: Tensor | None,
    d_hat: Tensor | None,
    keep: bool,
) -> None:
    """TAM: m_t = β m_{t-1} + (ε + d_t) g_t,  θ_t = θ_{t-1} - η m_t  (m_t / D̂_t with rescale).

    `factor` (n,): ε + d_t, None for 1. `keep`: autograd will need m, so hand it a copy.
    """
    ops.decay_add_(m, beta, g, factor)
    direction = [x.clone() for x in m] if keep else m
    if d_hat is not None:
        ops.move_each_(params, direction, -lr / d_hat)
    else:
        ops.move_(params, direction, -lr)


def adam(
    ops: Ops,
    params: Tensors,
    g: Tensors,
    m: Tensors,
    v: Tensors,
    t: list[float] | list[Tensor],
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    factor: Tensor | None,
    d_hat: Tensor | None,
    first_moment: str,
    on_device: bool,
    keep: bool,
) -> None:
    """AdaTAM(W): Adam whose first moment sees the damped gradient; v always sees the raw one.

    "ema":  m_t = β1 m_{t-1} + (1-β1)(ε + d_t) g_t  with Adam's bias corrections
    "sum":  m_t = β1 m_{t-1} +       (ε + d_t) g_t  without any
            v_t = β2 v_{t-1} + (1-β2) g_t²
            θ_t = (1 - η λ) θ_{t-1} - η m̂_t / (√v̂_t + eps)  (m̂_t / D̂_t with rescale)

    `t` holds Python numbers, or float64 tensors with `capturable`: 1 - β2^t loses four digits in float32. `on_device`:
    nothing that depends on t or the learning rate may be read by the host.
    """
    beta1, beta2 = betas
    if decay != 0:
        ops.scale_(params, 1 - lr * decay)
    if first_moment == "sum":
        ops.decay_add_(m, beta1, g, factor)
    elif factor is None:
        ops.lerp_(m, g, 1 - beta1)
    else:
        ops.decay_add_(m, beta1, g, (1 - beta1) * factor)
    ops.decay_square_(v, beta2, g)

    corrected = first_moment == "ema"
    # η / (1 - β1^t) and √(1 - β2^t)
    rates = [lr / (1 - beta1**n) for n in t] if corrected else [lr for _ in t]
    roots = [(1 - beta2**n) ** 0.5 for n in t] if corrected else None
    denominator = ops.root(v, roots, eps)
    if d_hat is not None:
        ops.divide_(denominator, (1 / d_hat).unbind())
    direction = [x.clone() for x in m] if keep else m
    if on_device:
        ops.divide_(denominator, [-rate for rate in rates])
        ops.move_ratio_(params, direction, denominator, None)
    else:
        ops.move_ratio_(params, direction, denominator, [-float(rate) for rate in rates])


def reach(square: Tensor, rho: float) -> Tensor:
    """ρ / |m| as a 0-d float32 tensor, 0 where |m| = 0. `square`: |m|² over all ranks and groups, 0-d."""
    defined = square > 0
    return torch.where(defined, rho / torch.where(defined, square, 1.0).sqrt(), 0.0).to(torch.float32)


def ascend(ops: Ops, params: Tensors, m: Tensors, scale: Tensor) -> None:
    """θ̃ = θ - scale·m, with scale = ρ/|m|: where MSAM takes the gradient. With -scale, the way back."""
    ops.move_(params, m, -scale.to(device=params[0].device, dtype=m[0].dtype, non_blocking=True))
