# mypy: ignore-errors
"""The fused path's kernels on a CPU where numba is installed: one pass for the cosine, one for all the rest.

torch's own kernels (`cpu_kernels.py`) need a pass for each product and one for the way back from θ̃. Here <m,g> and |g|²
come from one pass, and the way back, the update and |m_t|² from another. Symbols and formulas are those of
`updates.py`; a tensor's numbers are float32, sums over pieces and all scalars float64. A piece is summed by one thread
and pieces in their order, so the bits depend neither on the number of threads nor on the run.
"""

import heapq
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.core.errors import NumbaError
from numba.extending import intrinsic

PIECE = 1 << 16  # elements: enough for memory to stream, few enough to be summed in float32 and shared among threads
ALONE = 1 << 20  # elements that a thread must have to do: with fewer it costs more to wake it up
LOW, HIGH = 1e-24, 1e36  # float32 sums of squares between these lost nothing to underflow or overflow

# Columns of `table`, one row per tensor: addresses, elements, first piece.
P, G, M, V, N, FIRST = range(6)
# Columns of `scalars`, float64, one row per tensor: t, ŝ, D, |m|² (before and after; NaN where it must be read); what
# `_plan` decides: (1 - η λ), the weight of g, the rate, what √v is multiplied by.
T, S_HAT, D_MEAN, SQUARE, SHRINK, WEIGHT, RATE, ROOT = range(8)
COLUMNS = 8


class Rule(NamedTuple):
    """What holds for all tensors. `away`: p is at θ - away·m. `shared`: one cosine for the model; NaN: each its own."""

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
    """m, v and θ of a piece; returns |m|²."""
    square = np.float32(0)
    for i in range(m.size):
        gi, mi = sign * g[i], m[i]
        if coupled != 0:
            gi += coupled * p[i]
        mt = beta1 * mi + weight * gi
        vt = beta2 * v[i] + rest * (gi * gi)
        p[i] = (p[i] + away * mi) * shrink - rate * mt / (math.sqrt(vt) * root + eps)
        m[i], v[i] = mt, vt
        square += mt * mt
    return square


@kernel
def _ball(p, g, m, coupled, sign, away, beta, weight, rate):
    """m and θ of a piece; returns |m|²."""
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
    """Whether ŝ takes in this step's cosine of the tensor itself."""
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
            s = rule.shared if not math.isnan(rule.shared) else _cosine(row, sums, scalar, rule)
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
def _in_turn(table, sums, scalars, rule, tensors):
    """Tensor by tensor: what the products have read is still in the cache when it is updated."""
    for k in tensors:
        row, scalar = table[k], scalars[k]
        pieces = (row[N] + PIECE - 1) // PIECE
        if _looks(scalar, rule) and math.isnan(rule.shared):
            for piece in range(pieces):
                _look(row, piece, sums, rule)
        _plan(row, sums, scalar, rule)
        for piece in range(pieces):
            _update(row, piece, sums, scalar, rule)
        _finish(row, sums, scalar)


@kernel
def _some(table, sums, scalars, rule, pieces, first, last, updating):
    """The pieces first … last of tensors that threads share: their products, or their update."""
    for i in range(first, last):
        k, piece = pieces[i]
        if updating:
            _update(table[k], piece, sums, scalars[k], rule)
        elif _looks(scalars[k], rule) and math.isnan(rule.shared):
            _look(table[k], piece, sums, rule)


@kernel
def _each(table, sums, scalars, rule, tensors, updated):
    for k in tensors:
        if updated:
            _finish(table[k], sums, scalars[k])
        else:
            _plan(table[k], sums, scalars[k], rule)


@cache
def _pool(threads, process):
    """Threads that wait for work. `process`: a forked child has none of its parent's threads, and starts its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="tamft-step")


@lru_cache(maxsize=16)
def _shares(sizes, threads):
    """Who does what: tensors that all share, (tensor, piece) of those, and for each thread whole tensors of its own."""
    limit = sum(sizes) // (2 * threads)
    shared = [k for k, n in enumerate(sizes) if n > limit]
    least, own = [(0, i) for i in range(threads)], [[] for _ in range(threads)]
    for k in sorted((k for k, n in enumerate(sizes) if n <= limit), key=lambda k: -sizes[k]):
        load, i = heapq.heappop(least)
        own[i].append(k)
        heapq.heappush(least, (load + sizes[k], i))
    pieces = [(k, piece) for k in shared for piece in range(-(-sizes[k] // PIECE))]
    return (
        np.array(shared, np.int64),
        np.array(pieces, np.int64).reshape(-1, 2),
        [np.array(sorted(tensors), np.int64) for tensors in own],
    )


def step(rows, scalars_of, rule, threads):
    """One step of many float32 tensors, in place. Returns ŝ, D and |m|² after it, lists of one number per tensor.

    Args:
        rows: addresses of p, g, m, v (m where there is none) and the number of elements, per tensor.
        scalars_of: t, ŝ, D and |m|² (NaN where it is not known) before the step, per tensor; a number stands for all.
        rule: what is the same for all of them.
        threads: at most so many work, each on ALONE elements or more.
    """
    table, scalars = np.empty((len(rows), FIRST + 1), np.int64), np.zeros((len(rows), COLUMNS))
    table[:, :FIRST] = rows
    for column, values in enumerate(scalars_of):
        scalars[:, column] = values
    pieces = -(-table[:, N] // PIECE)
    table[:, FIRST] = np.cumsum(pieces) - pieces
    work = table, np.empty((int(pieces.sum()), 2)), scalars, rule
    threads = min(threads, int(table[:, N].sum()) // ALONE)
    if threads <= 1:
        _in_turn(*work, np.arange(len(rows)))
    else:
        _together(work, *_shares(tuple(table[:, N].tolist()), threads), threads)
    return scalars[:, S_HAT].tolist(), scalars[:, D_MEAN].tolist(), scalars[:, SQUARE].tolist()


def _together(work, shared, pieces, own, threads):
    """The products of the large tensors, all threads at once; then their update, and each thread its own tensors."""
    pool, ends = _pool(threads - 1, os.getpid()), [len(pieces) * i // threads for i in range(threads + 1)]

    def part(i, updating):
        _some(*work, pieces, ends[i], ends[i + 1], updating)
        if updating:
            _in_turn(*work, own[i])

    for updating in (False, True):
        if len(shared) or updating:
            others = [pool.submit(part, i, updating) for i in range(1, threads)]
            part(0, updating)
            for other in others:
                other.result()
            _each(*work, shared, updating)


@cache
def works():
    """Whether this numba compiles the kernels to a step that is known."""
    p, g, m, v = (np.array([x, 3 * x, 2 * x], np.float32) for x in (1.0, 0.5, 0.25, 0.125))
    g[1] = -g[1]
    mg, mm, gg = float(m @ g), float(m @ m), float(g @ g)
    s_hat = 0.75 * 0.5 + 0.25 * mg / math.sqrt(mm * gg)
    first, second = 0.5 * m + 0.5 * (1 + s_hat) / 2 * g, 0.75 * v + 0.25 * g * g
    moved = 0.9 * (p + 0.5 * m) - 0.1 / 0.75 * first / (np.sqrt(second / (1 - 0.75**2)) + 0.01)
    rule = Rule(
        adam=True, ema=True, torque=True, rescale=False, gamma=0.75, torque_eps=0.0, torque_steps=math.inf, lr=0.1,
        beta1=0.5, beta2=0.75, eps=0.01, decay=1.0, coupled=0.0, sign=1.0, away=0.5, shared=math.nan,
    )  # fmt: skip
    row = (*(x.ctypes.data for x in (p, g, m, v)), 3)
    try:
        found, _, square = step([row], ([2.0], [0.5], 0.0, [mm]), rule, threads=1)
    except NumbaError:
        return False
    pairs = ((p, moved), (m, first), (v, second), (found, [s_hat]), (square, [float(first @ first)]))
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)
