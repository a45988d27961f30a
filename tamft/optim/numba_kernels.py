# mypy: ignore-errors
"""The fused path's kernels on a CPU where numba is installed: one pass for the cosine, one for all the rest.

torch's own kernels (`cpu_kernels.py`) need a pass for each product and one for the way back from θ̃. Here <m,g> and |g|²
come from one pass, and the way back, the update and |m_t|² from another. `numba_step.py` calls them. Symbols and
formulas are those of `updates.py`; a tensor's numbers are float32, sums over pieces and all scalars float64. A piece is
summed by one thread and pieces in their order, so the bits depend neither on the number of threads nor on the run.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tamft.optim.ops import SAFE

PIECE = 1 << 16  # elements: enough for memory to stream, few enough to be summed in float32 and shared among threads
LOW, HIGH = SAFE

# Columns of `table`, one row per tensor: addresses, elements, first piece.
P, G, M, V, N, FIRST = range(6)
# Columns of `scalars`, float64, one row per tensor: t, ŝ, D, |m|² (before and after); what `_plan` decides: (1 - η λ),
# the weight of g, the rate, what √v is multiplied by.
T, S_HAT, D_MEAN, SQUARE, SHRINK, WEIGHT, RATE, ROOT = range(8)


class Rule(NamedTuple):
    """What holds for all tensors. `away`: p is at θ - away·m. `each`: each has its own cosine, not the `shared` one."""

    adam: bool
    ema: bool
    torque: bool
    rescale: bool
    gamma: float
    torque_eps: float
    torque_steps: float
    lr: float
    beta1: float
    beta2: float
    eps: float
    decay: float
    coupled: float
    sign: float
    away: float
    each: bool
    shared: float


def kernel(function):
    """Compiled at its first call, and kept on disk where there is a place for it."""
    # Sums may be taken in any order, so that they vectorize; NaN and infinity stay, roots and quotients are exact.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's own cache
        return njit(**options)(function)


@intrinsic
def _pointer(typing, address):
    """An address as the pointer that `carray` wants."""
    return types.voidptr(types.int64), lambda context, builder, signature, args: builder.inttoptr(
        args[0], cgutils.voidptr_t
    )


@kernel
def _products(m, g, p, coupled):
    """<m,g> and |g|² of a piece."""
    mg, gg = np.float32(0), np.float32(0)
    for i in range(m.size):
        gi = g[i]
        if coupled != 0:
            gi += coupled * p[i]
        mg += m[i] * gi
        gg += gi * gi
    return mg, gg


@kernel
def _wide(m, g, p, coupled):
    """<m,g>, |m|², |g|² of a tensor in float64: right from 1e-30 to 1e30."""
    mg = mm = gg = 0.0
    for i in range(m.size):
        mi, gi = np.float64(m[i]), np.float64(g[i]) + np.float64(coupled) * np.float64(p[i])
        mg += mi * gi
        mm += mi * mi
        gg += gi * gi
    return mg, mm, gg


@kernel
def _adam(p, g, m, v, coupled, sign, away, shrink, beta1, weight, beta2, rest, rate, root, eps):
    """m_t = β1 m + w g, v_t = β2 v + (1-β2) g², θ_t = (1 - η λ) θ - η' m_t / (√v̂_t + eps); returns a piece's |m_t|²."""
    square = np.float32(0)
    for i in range(m.size):
        gi, mi = sign * g[i], m[i]
        if coupled != 0:
            gi += coupled * p[i]
        mt = beta1 * mi + weight * gi
        vt = beta2 * v[i] + rest * gi * gi
        p[i] = (p[i] + away * mi) * shrink - rate * mt / (math.sqrt(vt) * root + eps)
        m[i], v[i] = mt, vt
        square += mt * mt
    return square


@kernel
def _ball(p, g, m, coupled, sign, away, beta, weight, rate):
    """m_t = β m + w g, θ_t = θ - η' m_t; returns a piece's |m_t|²."""
    square = np.float32(0)
    for i in range(m.size):
        gi, mi = sign * g[i], m[i]
        if coupled != 0:
            gi += coupled * p[i]
        mt = beta * mi + weight * gi
        p[i] = p[i] + away * mi - rate * mt
        m[i] = mt
        square += mt * mt
    return square


@kernel
def _array(row, column):
    return carray(_pointer(row[column]), row[N], np.float32)


@kernel
def _look(row, piece, sums, rule):
    a = piece * PIECE
    b = min(a + PIECE, row[N])
    coupled = np.float32(rule.coupled * rule.sign)
    m, g, p = _array(row, M), _array(row, G), _array(row, P)
    sums[row[FIRST] + piece, 0], sums[row[FIRST] + piece, 1] = _products(m[a:b], g[a:b], p[a:b], coupled)


@kernel
def _update(row, piece, sums, scalar, rule):
    a = piece * PIECE
    b = min(a + PIECE, row[N])
    p, g, m = _array(row, P)[a:b], _array(row, G)[a:b], _array(row, M)[a:b]
    coupled, sign, away = np.float32(rule.coupled), np.float32(rule.sign), np.float32(rule.away)
    weight, rate = np.float32(scalar[WEIGHT]), np.float32(scalar[RATE])
    if rule.adam:
        shrink, root, eps = np.float32(scalar[SHRINK]), np.float32(scalar[ROOT]), np.float32(rule.eps)
        beta1, beta2, rest = np.float32(rule.beta1), np.float32(rule.beta2), np.float32(1 - rule.beta2)
        v = _array(row, V)[a:b]
        square = _adam(p, g, m, v, coupled, sign, away, shrink, beta1, weight, beta2, rest, rate, root, eps)
    else:
        square = _ball(p, g, m, coupled, sign, away, np.float32(rule.beta1), weight, rate)
    sums[row[FIRST] + piece, 0] = square


@kernel
def _total(sums, row, column):
    total = 0.0
    for i in range(row[FIRST], row[FIRST] + (row[N] + PIECE - 1) // PIECE):
        total += sums[i, column]
    return total


@kernel
def _looks(scalar, rule):
    """Whether ŝ takes in this step's cosine."""
    return rule.torque and rule.gamma < 1 and scalar[T] <= rule.torque_steps


@kernel
def _cosine(row, sums, scalar, rule):
    mg, mm, gg = rule.sign * _total(sums, row, 0), scalar[SQUARE], _total(sums, row, 1)
    if not (mm == 0 or (LOW < mm < HIGH and LOW < gg < HIGH)):
        m, g, p = _array(row, M), _array(row, G), _array(row, P)
        mg, mm, gg = _wide(m, g, p, np.float32(rule.coupled * rule.sign))
        mg *= rule.sign
    product = mm * gg
    s = mg / math.sqrt(product) if product > 0 else 0.0
    return 1.0 if s > 1 else -1.0 if s < -1 else s  # a NaN stays one


@kernel
def _plan(row, sums, scalar, rule):
    """ŝ, D and the coefficients of the update."""
    t, factor, d_hat = scalar[T], 1.0, 1.0
    if rule.torque:
        if _looks(scalar, rule):
            s = _cosine(row, sums, scalar, rule) if rule.each else rule.shared
            scalar[S_HAT] = rule.gamma * scalar[S_HAT] + (1 - rule.gamma) * s  # ŝ_t = γ ŝ_{t-1} + (1-γ) s_t
        factor = rule.torque_eps + (1 + scalar[S_HAT]) / 2  # ε + d_t, d_t = (1 + ŝ_t) / 2
        if rule.rescale:
            scalar[D_MEAN] = rule.beta1 * scalar[D_MEAN] + (1 - rule.beta1) * factor  # D_t = β D_{t-1} + (1-β)(ε + d_t)
            d_hat = scalar[D_MEAN] / (1 - rule.beta1**t)  # D̂_t
            if d_hat == 0:
                d_hat = 1.0  # then m = 0 too
    corrected = rule.adam and rule.ema
    scalar[SHRINK] = 1 - rule.lr * rule.decay
    scalar[WEIGHT] = (1 - rule.beta1) * factor if corrected else factor
    scalar[RATE] = rule.lr / d_hat / (1 - rule.beta1**t) if corrected else rule.lr / d_hat
    scalar[ROOT] = 1 / math.sqrt(1 - rule.beta2**t) if corrected else 1.0


@kernel
def _finish(row, sums, scalar):
    """|m_t|²."""
    square = _total(sums, row, 0)
    if not LOW < square < HIGH:
        m = _array(row, M)
        square = _wide(m, m, m, np.float32(0))[0]
    scalar[SQUARE] = square


@kernel
def in_turn(table, sums, scalars, rule, tensors):
    """Tensor by tensor: what the products have read is still in the cache when it is updated."""
    for k in tensors:
        row, scalar = table[k], scalars[k]
        pieces = (row[N] + PIECE - 1) // PIECE
        if _looks(scalar, rule) and rule.each:
            for piece in range(pieces):
                _look(row, piece, sums, rule)
        _plan(row, sums, scalar, rule)
        for piece in range(pieces):
            _update(row, piece, sums, scalar, rule)
        _finish(row, sums, scalar)


@kernel
def look_some(table, sums, scalars, rule, pieces, first, last):
    """The products of the pieces first … last of tensors that threads share."""
    for i in range(first, last):
        k, piece = pieces[i]
        if _looks(scalars[k], rule) and rule.each:
            _look(table[k], piece, sums, rule)


@kernel
def plan_each(table, sums, scalars, rule, tensors):
    for k in tensors:
        _plan(table[k], sums, scalars[k], rule)


@kernel
def update_some(table, sums, scalars, rule, pieces, first, last, own):
    """The update of the pieces first … last of tensors that threads share, then a thread's own tensors."""
    for i in range(first, last):
        k, piece = pieces[i]
        _update(table[k], piece, sums, scalars[k], rule)
    in_turn(table, sums, scalars, rule, own)


@kernel
def finish_each(table, sums, scalars, rule, tensors):
    for k in tensors:
        _finish(table[k], sums, scalars[k])
