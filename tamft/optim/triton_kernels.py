# mypy: ignore-errors
# ruff: noqa: SIM102 - a condition for the compiler and one for the device cannot share an `if`
"""The CUDA kernels of the fused path: a whole optimizer step of any number of tensors in one launch.

The launch is persistent: programs take tickets, in order, from a queue of items, each a piece of CHUNK elements:

    REDUCE  leaves the piece's share of <m,g>, <m,m>, <g,g>; who comes last of a tensor adds the shares up in a fixed
            order, writes the cosine s and raises the tensor's flag
    WAITING waits for that flag, then updates its piece      (tickets are taken in order and REDUCE never waits, so the
            flag's raisers are always under way: no deadlock, however many programs are resident)
    WHOLE   both at once, for a tensor of one piece
    PLAIN   updates without a cosine, or, without a gradient, only brings the weights back

Symbols and formulas are those of `updates.py`. Arithmetic is float32 (products that are summed: float64, which holds
the squares of 1e-30 … 1e30), scalars are float64. Only integers are added atomically, so every run gives the same bits.
What one program writes and another reads in the same launch goes by volatile loads, between a release and an acquire.
"""

import triton
import triton.language as tl

from tamft.optim.triton_tiles import gram, move, norm_square, update

# Items of the queue: kind + 4 * tensor + 2**32 * piece
REDUCE, WHOLE, WAITING, PLAIN = (tl.constexpr(i) for i in range(4))
# Columns of `rows`, int64, one row per tensor: addresses, number of elements, group, code of the dtypes (3 p + g of
# 0 float32, 1 bfloat16, 2 float16), first piece's slot, number of pieces, place in `squares`, and whether the weights
# must be brought back by adding scale·m (1) or are back already (0).
P, M, V, S, D, STEP, N, GROUP, DTYPES, FIRST, PIECES, SQUARE, MOVED, ROW = (tl.constexpr(i) for i in range(14))
# Columns of `refs`, int64, one row per group: addresses of the scale ρ/|m| and of a tensor learning rate, or 0.
SCALE, RATE, REFS = (tl.constexpr(i) for i in range(3))
# Columns of `hyper`, float64, one row per group. LOG is ln β; SIGN is -1 with maximize; DECAY is decoupled, L2 coupled.
LR, BETA1, BETA2, LOG1, LOG2, EPS, DECAY, L2, GAMMA, TORQUE_EPS, SIGN, RHO, HYPER = (tl.constexpr(i) for i in range(13))


@triton.jit
def _arrive(counter):
    """Announce that this program is done with its piece; returns how many had done so before."""
    tl.debug_barrier()  # what all threads read and wrote comes before the one thread's release
    return tl.atomic_add(counter, 1, sem="acq_rel")


@triton.jit
def _total(shares, count, SUM: tl.constexpr):
    """Sum of `count` float64 numbers that other programs wrote, always in the same order."""
    total = tl.zeros([SUM], tl.float64)
    for start in range(0, count, SUM):
        offsets = start + tl.arange(0, SUM)
        total += tl.load(shares + offsets, mask=offsets < count, other=0.0, volatile=True)
    return tl.sum(total)


@triton.jit
def _cosine(mg, mm, gg):
    square = mm * gg
    s = mg / tl.sqrt(tl.where(square > 0, square, 1.0))
    s = tl.where(s > 1.0, 1.0, tl.where(s < -1.0, -1.0, s))  # a NaN stays one
    return tl.where(square > 0, s, 0.0)


@triton.jit
def _scalar(address, empty):
    """The float32 at an address as float64; `empty` where the address is 0."""
    return tl.load(address.to(tl.pointer_type(tl.float32)), mask=address != 0, other=empty).to(tl.float64)


@triton.jit
def _put(address, x):
    tl.store(address.to(tl.pointer_type(tl.float32)), x.to(tl.float32), mask=address != 0)


@triton.jit
def _live(t, torque_steps):
    return (torque_steps == 0) | (t <= torque_steps)


@triton.jit
def _torque(row, h, t, s, torque_steps):
    """ŝ_t, the weight ε + d_t of the gradient, and D_t; 0, 1 and 0 where the state has no ŝ, or no D."""
    s_hat_at = tl.load(row + S)
    d_mean_at = tl.load(row + D)
    gamma = tl.load(h + GAMMA)
    beta = tl.load(h + BETA1)
    s_hat = _scalar(s_hat_at, 0.0)
    s_hat = tl.where(_live(t, torque_steps), gamma * s_hat + (1 - gamma) * s, s_hat)  # ŝ_t = γ ŝ_{t-1} + (1-γ) s_t
    factor = tl.where(s_hat_at != 0, tl.load(h + TORQUE_EPS) + (1 + s_hat) / 2, 1.0)  # ε + d_t = ε + (1 + ŝ_t)/2
    d_mean = beta * _scalar(d_mean_at, 0.0) + (1 - beta) * factor  # D_t = β D_{t-1} + (1-β)(ε + d_t)
    return s_hat, factor, d_mean


@triton.jit(
    do_not_specialize=("n_items", "n_slots", "n_tensors", "torque_steps"),
    do_not_specialize_on_alignment=("grad_scale", "found_inf"),
)
def step_kernel(
    items, rows, grads, refs, hyper, work, shares, squares, grad_scale, found_inf,
    n_items, n_slots, n_tensors, torque_steps,
    ADAM: tl.constexpr, EMA: tl.constexpr, GLOBAL: tl.constexpr, NORM: tl.constexpr, KINDS: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The step. See the module's text, and `fused_cuda.py` for the tables.

    work: int32 zeros: the ticket, padded to 32, then per tensor pieces reduced, flag, pieces updated. shares: float64,
    4 per piece (mg, mm, gg, |m_t|²), then the cosine of each tensor (of the model with GLOBAL). squares: |m_t|², kept
    for the next perturbation. torque_steps 0: no limit. KINDS: which dtype codes occur, as bits.
    """
    usable = tl.full((), 1, tl.int1)
    if found_inf is not None:
        usable = tl.load(found_inf) != 1.0
    unscaled = tl.full((), 1.0, tl.float64)
    if grad_scale is not None:
        unscaled = 1.0 / tl.load(grad_scale).to(tl.float64)
    arrived = work + 32
    flags = arrived + n_tensors
    updated = flags + n_tensors
    cosines = shares + 4 * n_slots

    ticket = tl.atomic_add(work, 1, sem="relaxed")
    while ticket < n_items:
        item = tl.load(items + ticket)
        kind = item & 3
        tensor = (item & 0xFFFFFFFF) >> 2
        piece = item >> 32

        row = rows + tensor * ROW
        p = tl.load(row + P)
        m = tl.load(row + M)
        v = tl.load(row + V)
        g = tl.load(grads + tensor)
        n = tl.load(row + N)
        group = tl.load(row + GROUP)
        h = hyper + group * HYPER
        start = piece * CHUNK
        variant = 2 * tl.load(row + DTYPES) + ((((p | m | v | g) & 15) == 0) & (start + CHUNK <= n))
        scale = _scalar(tl.load(refs + group * REFS + SCALE), 0.0).to(tl.float32)
        back = tl.where(tl.load(row + MOVED) != 0, scale, 0.0)
        sign = (tl.load(h + SIGN) * unscaled).to(tl.float32)
        l2 = tl.load(h + L2).to(tl.float32)
        t = _scalar(tl.load(row + STEP), 0.0) + 1
        s = tl.full((), 0.0, tl.float64)

        if kind <= WHOLE:
            mg = tl.full((), 0.0, tl.float64)
            mm = tl.full((), 0.0, tl.float64)
            gg = tl.full((), 0.0, tl.float64)
            if usable & (_live(t, torque_steps) | GLOBAL):
                for K in tl.static_range(18):
                    if (KINDS >> (K // 2)) & 1:
                        if variant == K:
                            mg, mm, gg = gram(p, m, g, start, n, sign, l2, scale, back, K, CHUNK, 2 * BLOCK)
            if kind == REDUCE:
                first = tl.load(row + FIRST)
                slot = first + piece
                tl.store(shares + slot, mg)
                tl.store(shares + n_slots + slot, mm)
                tl.store(shares + 2 * n_slots + slot, gg)
                unit = tensor
                lowest = first
                count = tl.load(row + PIECES)
                if GLOBAL:
                    unit = tensor * 0
                    lowest = first * 0
                    count = count * 0 + n_slots
                if _arrive(arrived + unit) == count - 1:
                    mg = _total(shares + lowest, count, SUM)
                    mm = _total(shares + n_slots + lowest, count, SUM)
                    gg = _total(shares + 2 * n_slots + lowest, count, SUM)
                    tl.store(cosines + unit, _cosine(mg, mm, gg))
                    tl.debug_barrier()
                    tl.atomic_xchg(flags + unit, 1, sem="release")
            else:
                s = _cosine(mg, mm, gg)

        if kind == WAITING:
            unit = tensor
            if GLOBAL:
                unit = tensor * 0
            raised = tl.atomic_add(flags + unit, 0, sem="acquire")
            while raised == 0:
                raised = tl.atomic_add(flags + unit, 0, sem="acquire")
            s = tl.load(cosines + unit, volatile=True)

        if (kind != REDUCE) & usable & (g != 0):
            s_hat, factor, d_mean = _torque(row, h, t, s, torque_steps)
            beta1 = tl.load(h + BETA1)
            once = 1 - tl.exp(t * tl.load(h + LOG1))
            # D̂_t = D_t / (1 - β^t)
            d_hat = tl.where(tl.load(row + D) != 0, tl.maximum(d_mean / once, 1.1754943508222875e-38), 1.0)
            rate_at = tl.load(refs + group * REFS + RATE)
            lr = tl.where(rate_at != 0, _scalar(rate_at, 0.0), tl.load(h + LR))
            shrink = 1 - lr * tl.load(h + DECAY)
            rate = lr / d_hat
            root = tl.full((), 1.0, tl.float64)
            weight = factor
            if EMA:
                weight = (1 - beta1) * factor
                rate = rate / once
                root = tl.sqrt(1 - tl.exp(t * tl.load(h + LOG2)))
            rate = tl.minimum(rate, 3e38).to(tl.float32)  # with D̂ = 0, m is 0 too: not inf * 0
            eps = tl.load(h + EPS).to(tl.float32)
            beta2 = tl.load(h + BETA2)  # 1 - β2 in float32 would be wrong in the fifth digit
            square = tl.full((), 0.0, tl.float64)
            for K in tl.static_range(18):
                if (KINDS >> (K // 2)) & 1:
                    if variant == K:
                        square = update(
                            p, m, v, g, start, n, sign, l2, scale, back, beta1.to(tl.float32), weight.to(tl.float32),
                            beta2.to(tl.float32), (1 - beta2).to(tl.float32), shrink.to(tl.float32), rate,
                            root.to(tl.float32), eps, ADAM, NORM, K, CHUNK, BLOCK,
                        )  # fmt: skip
            first = tl.load(row + FIRST)
            pieces = tl.load(row + PIECES)
            if NORM:
                tl.store(shares + 3 * n_slots + first + piece, square)
            # Who updates a tensor's last piece counts the step: until then the other pieces need the old scalars.
            if _arrive(updated + tensor) == pieces - 1:
                if NORM:
                    square = _total(shares + 3 * n_slots + first, pieces, SUM)
                    tl.store(squares + tl.load(row + SQUARE), square)
                s_hat, factor, d_mean = _torque(row, h, t, s, torque_steps)
                tl.debug_barrier()  # every thread has read them
                _put(tl.load(row + S), s_hat)
                _put(tl.load(row + D), d_mean)
                _put(tl.load(row + STEP), t)
        elif (kind != REDUCE) & (back != 0):
            for K in tl.static_range(0, 18, 2):  # rare: one way to read for all
                if (KINDS >> (K // 2)) & 1:
                    if variant // 2 == K // 2:
                        move(p, m, start, n, -back, K, CHUNK, BLOCK)

        ticket = tl.atomic_add(work, 1, sem="relaxed")


@triton.jit(
    do_not_specialize=("n_items", "n_counted", "n_groups"),
    do_not_specialize_on_alignment=("started",),
)
def move_kernel(
    items, rows, refs, hyper, squares, counted, started, shares, n_items, n_counted, n_groups,
    AHEAD: tl.constexpr, KINDS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """AHEAD: θ̃ = θ - ρ m/|m|, with |m|² the sum of squares[counted], and leave ρ/|m| at each group's SCALE address.

    Otherwise: back by the scale that is there. `started` (bool, or None for true): False makes every scale 0.
    shares: float64, 3 per item: products of what was applied to 16-bit weights, and m.
    """
    norm = tl.full((), 0.0, tl.float64)
    if AHEAD:
        total = tl.zeros([SUM], tl.float64)
        for first in range(0, n_counted, SUM):
            offsets = first + tl.arange(0, SUM)
            there = offsets < n_counted
            total += tl.load(squares + tl.load(counted + offsets, mask=there, other=0), mask=there, other=0.0)
        norm = tl.sqrt(tl.sum(total))
        if started is not None:
            norm = tl.where(tl.load(started), norm, 0.0)
        if tl.program_id(0) == 0:
            for group in range(n_groups):
                rho = tl.load(hyper + group * HYPER + RHO)
                scale = tl.where(norm > 0, rho / tl.where(norm > 0, norm, 1.0), 0.0).to(tl.float32)
                scale_at = tl.load(refs + group * REFS + SCALE)
                tl.store(scale_at.to(tl.pointer_type(tl.float32)), scale, mask=scale_at != 0)

    index = tl.program_id(0)
    while index < n_items:
        item = tl.load(items + index)
        tensor = (item & 0xFFFFFFFF) >> 2
        start = (item >> 32) * CHUNK
        row = rows + tensor * ROW
        p = tl.load(row + P)
        m = tl.load(row + M)
        n = tl.load(row + N)
        group = tl.load(row + GROUP)
        variant = 2 * tl.load(row + DTYPES) + ((((p | m) & 15) == 0) & (start + CHUNK <= n))
        if AHEAD:
            rho = tl.load(hyper + group * HYPER + RHO)
            scale = tl.where(norm > 0, rho / tl.where(norm > 0, norm, 1.0), 0.0).to(tl.float32)
        else:
            scale = -_scalar(tl.load(refs + group * REFS + SCALE), 0.0).to(tl.float32)
        am = tl.full((), 0.0, tl.float64)
        aa = tl.full((), 0.0, tl.float64)
        mm = tl.full((), 0.0, tl.float64)
        for K in tl.static_range(18):
            if (KINDS >> (K // 2)) & 1:
                if variant == K:
                    am, aa, mm = move(p, m, start, n, scale, K, CHUNK, BLOCK)
        tl.store(shares + index, am)
        tl.store(shares + n_items + index, aa)
        tl.store(shares + 2 * n_items + index, mm)
        index += tl.num_programs(0)


@triton.jit(do_not_specialize=("n_slots", "n_tensors"))
def square_kernel(
    items, rows, work, shares, squares, n_slots, n_tensors,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """|m|² of tensors whose m this path did not write last (a loaded state), summed as the step sums it."""
    item = tl.load(items + tl.program_id(0))
    tensor = (item & 0xFFFFFFFF) >> 2
    piece = item >> 32
    row = rows + tensor * ROW
    m_at = tl.load(row + M)
    n = tl.load(row + N)
    first = tl.load(row + FIRST)
    pieces = tl.load(row + PIECES)
    square = norm_square(m_at, piece * CHUNK, n, CHUNK, BLOCK)
    tl.store(shares + 3 * n_slots + first + piece, square)
    if _arrive(work + 32 + 2 * n_tensors + tensor) == pieces - 1:
        tl.store(squares + tl.load(row + SQUARE), _total(shares + 3 * n_slots + first, pieces, SUM))
