"""Carrying a learning rate from AdamW or SGD over to their torque versions."""

import math


def transfer_lr(lr: float, *, alignment: float = 0.0, first_moment: str = "ema", beta1: float = 0.9) -> float:
    """Return the rate at which a torque optimizer takes steps as long as its torque-free parent takes at `lr`.

    The torque multiplies gradients by d = (1 + ŝ)/2 on average, so the rate is divided by it:
    lr / E[d] with E[d] = (1 + alignment)/2, times (1 - β1) for `first_moment="sum"`, which lacks that factor.
    Decoupled decay is lr·λ: to keep its strength, scale `weight_decay` by lr / (the returned rate).

    Args:
        lr: rate of AdamW (Adam, SGD), finite, >= 0.
        alignment: expected ŝ in (-1, 1]; 0 is noise, about what fine-tuning at small batches shows.
        first_moment: "ema" or "sum", as passed to AdaTAM or AdaTAMW; "ema" for TAM.
        beta1: β1 in [0, 1); matters for "sum" alone.

    Raises:
        ValueError: an argument out of its range.
    """
    if not (math.isfinite(lr) and lr >= 0):
        raise ValueError(f"transfer_lr: lr={lr!r} is out of range: it must be a finite number >= 0")
    if not -1 < alignment <= 1:
        raise ValueError(f"transfer_lr: alignment={alignment!r} is out of range: it must be a number in (-1, 1]")
    if first_moment not in ("ema", "sum"):
        raise ValueError(f'transfer_lr: first_moment={first_moment!r} is out of range: it must be "ema" or "sum"')
    if not 0 <= beta1 < 1:
        raise ValueError(f"transfer_lr: beta1={beta1!r} is out of range: it must be a number in [0, 1)")
    mean_damping = (1 + alignment) / 2
    return lr / mean_damping * (1 - beta1 if first_moment == "sum" else 1.0)
