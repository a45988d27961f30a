"""Hands a step of float32 parameters on a CPU to the compiled kernels: tables of addresses, and threads."""

import heapq
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from tamft.optim import numba_kernels as kernels
from tamft.optim.cpu_kernels import Slot

ALONE = 1 << 20  # elements that a thread must have to do: with fewer it costs more to wake it up

Scalars = Sequence[float] | float  # a number stands for all tensors
Work = tuple[Any, Any, Any, kernels.Rule]


def update(
    group: dict[str, Any],
    slots: list[Slot],
    times: list[float],
    s_hats: list[float],
    means: list[float],
    *,
    decay: float,
    coupled: float,
    away: float | None,
    shared: float | None,
) -> tuple[list[float], list[float]]:
    """One step of a group's tensors, t counted from 1. Returns ŝ and D after it, empty where they came empty.

    `decay`, `coupled`: the two kinds of weight decay. `away`: they are at θ - away·m. `shared`: one cosine for all.
    """
    for slot in slots:
        slot.unscale()
    ball = "momentum" in group
    beta1, beta2 = (group["momentum"], 0.0) if ball else group["betas"]
    rule = kernels.Rule(
        adam=not ball, ema=group.get("first_moment", "ema") == "ema", torque=bool(s_hats), rescale=bool(means),
        gamma=float(group.get("gamma", 1.0)), torque_eps=float(group.get("torque_eps", 0.0)),
        torque_steps=float(group.get("torque_steps") or math.inf), lr=float(group["lr"]), beta1=float(beta1),
        beta2=float(beta2), eps=float(group.get("eps", 0.0)), decay=float(decay), coupled=float(coupled),
        sign=-1.0 if group["maximize"] else 1.0, away=float(away or 0.0), each=shared is None,
        shared=float(shared or 0.0),
    )  # fmt: skip
    squares: Scalars = [slot.norm_square() for slot in slots] if s_hats else 0.0

    def writes() -> None:
        # Ctrl-C comes out of the kernels when they are done: then |m|² is another, and the weights are back at θ.
        for slot in slots:
            slot.square = None
        group["moved"] = False

    scalars = (times, s_hats or 0.0, means or 0.0, squares)
    s_after, d_after, squares = step([slot.row for slot in slots], scalars, rule, torch.get_num_threads(), writes)
    for slot, square in zip(slots, squares, strict=True):
        slot.wrote(square)
    return s_after if s_hats else [], d_after if means else []


def step(
    rows: Sequence[tuple[int, ...]],
    scalars_of: Iterable[Scalars],
    rule: kernels.Rule,
    threads: int,
    writes: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[float], list[float]]:
    """One step of many tensors, in place. Returns ŝ, D and |m|² after it, lists of one number per tensor.

    Args:
        rows: addresses of p, g, m, v (m where there is none) and the number of elements, per tensor.
        scalars_of: t, ŝ, D and |m|² before the step, per tensor.
        rule: what is the same for all of them.
        threads: at most so many work, each on ALONE elements or more.
        writes: called right before the first weight is written.
    """
    table = np.empty((len(rows), kernels.FIRST + 1), np.int64)
    table[:, : kernels.FIRST] = rows
    scalars = np.zeros((len(rows), kernels.ROOT + 1))
    for column, values in enumerate(scalars_of):
        scalars[:, column] = values
    pieces = -(-table[:, kernels.N] // kernels.PIECE)
    table[:, kernels.FIRST] = np.cumsum(pieces) - pieces
    work = table, np.empty((int(pieces.sum()), 2)), scalars, rule
    busy = min(threads, int(table[:, kernels.N].sum()) // ALONE)
    pool = _pool(threads - 1) if busy > 1 else None
    if pool is None:
        writes()
        kernels.in_turn(*work, np.arange(len(rows)))
    else:
        _together(pool, work, busy, writes)
    return scalars[:, kernels.S_HAT].tolist(), scalars[:, kernels.D_MEAN].tolist(), scalars[:, kernels.SQUARE].tolist()


def _together(pool: ThreadPoolExecutor, work: Work, threads: int, writes: Callable[[], None]) -> None:
    """The products of the largest tensors, all threads at once; then their update, and each thread its own tensors."""
    table, _, _, rule = work
    shared, pieces, own = _shares(tuple(table[:, kernels.N].tolist()), threads)
    ends = [len(pieces) * i // threads for i in range(threads + 1)]
    if len(shared) and rule.torque and rule.gamma < 1 and rule.each:
        _spread(pool, threads, lambda i: kernels.look_some(*work, pieces, ends[i], ends[i + 1]))
    kernels.plan_each(*work, shared)
    writes()
    _spread(pool, threads, lambda i: kernels.update_some(*work, pieces, ends[i], ends[i + 1], own[i]))
    kernels.finish_each(*work, shared)


def _spread(pool: ThreadPoolExecutor, parts: int, part: Callable[[int], None]) -> None:
    """`part` of 0 … parts, the first here and each other on a thread."""
    others: list[Future[None]] = []
    try:
        for i in range(1, parts):
            others.append(pool.submit(part, i))
    except RuntimeError:  # the interpreter is on its way out, and threads get no work any more
        pass
    try:
        for i in (0, *range(len(others) + 1, parts)):
            part(i)
    finally:
        wait(others)  # also after Ctrl-C: nobody writes into weights that somebody else looks at
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor | None:
    """Threads that wait for work, all of them started; None where so many cannot be had."""
    pool, met = ThreadPoolExecutor(threads, thread_name_prefix="tamft-step"), threading.Barrier(threads + 1)
    try:
        for _ in range(threads):
            pool.submit(met.wait)
    except RuntimeError:
        met.abort()
        pool.shutdown(wait=False)
        return None
    met.wait()
    return pool


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads, and starts its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


@lru_cache(maxsize=16)
def _shares(sizes: tuple[int, ...], threads: int) -> tuple[Any, Any, list[Any]]:
    """Who does what: tensors that all share, (tensor, piece) of those, and for each thread whole tensors of its own."""
    limit = sum(sizes) // (2 * threads)
    shared = [k for k, n in enumerate(sizes) if n > limit]
    own: list[list[int]] = [[] for _ in range(threads)]
    least = [(0, i) for i in range(threads)]
    for k in sorted((k for k, n in enumerate(sizes) if n <= limit), key=lambda k: -sizes[k]):
        load, i = heapq.heappop(least)
        own[i].append(k)
        heapq.heappush(least, (load + sizes[k], i))
    pieces = [(k, piece) for k in shared for piece in range(-(-sizes[k] // kernels.PIECE))]
    return (
        np.array(shared, np.int64),
        np.array(pieces, np.int64).reshape(-1, 2),
        [np.array(sorted(tensors), np.int64) for tensors in own],
    )


def works() -> bool:
    """Whether this numba compiles the kernels to two steps that are known."""
    generator = np.random.default_rng(0)
    for adam in (True, False):
        p, g, m, v = (generator.standard_normal(kernels.PIECE + 1000, np.float32) for _ in range(4))
        v = np.abs(v)
        mg, mm, gg = (float(np.dot(x.astype(np.float64), y)) for x, y in ((m, g), (m, m), (g, g)))
        s_hat = 0.75 * 0.5 + 0.25 * mg / math.sqrt(mm * gg)
        weight = (0.5 if adam else 1.0) * (1 + s_hat) / 2
        first, second, theta = 0.5 * m + weight * g, 0.75 * v + 0.25 * g * g, p + 0.5 * m
        if adam:
            theta = 0.9 * theta - 0.1 / 0.75 * first / (np.sqrt(second / (1 - 0.75**2)) + 0.01)
        else:
            theta, second = theta - 0.1 * first, v.copy()
        rule = kernels.Rule(
            adam=adam, ema=True, torque=True, rescale=False, gamma=0.75, torque_eps=0.0, torque_steps=math.inf, lr=0.1,
            beta1=0.5, beta2=0.75, eps=0.01, decay=1.0, coupled=0.0, sign=1.0, away=0.5, each=True, shared=0.0,
        )  # fmt: skip
        row = (*(x.ctypes.data for x in (p, g, m, v)), len(p))
        found, _, squares = step([row], ([2.0], [0.5], 0.0, [mm]), rule, threads=1)
        pairs: Any = ((p, theta), (m, first), (v, second), (found, [s_hat]), (squares, [float(first @ first)]))
        if not all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs):
            return False
    return True
