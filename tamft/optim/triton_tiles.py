# mypy: ignore-errors
"""What a program does with one piece of a tensor: read, multiply, update, move. Device functions of the CUDA kernels.

A piece is CHUNK elements from `start`, of which the tensor has those below `n`; a program works on BLOCK at a time.
VARIANT = 6 p + 2 g + wide says how memory is read: p and g are the dtypes of weights and gradient (0 float32,
1 bfloat16, 2 float16; m and v are float32), wide (1) that all elements exist and the tensors are aligned to 16 bytes,
so that a thread can load as many at once.
"""

import triton
import triton.language as tl


@triton.jit
def _read(address, offsets, n, DTYPE: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr):
    """Elements as float32. STREAM: they will not be wanted again soon and may leave the L2 first."""
    policy: tl.constexpr = "evict_first" if STREAM else ""
    if DTYPE == 0:
        pointer = address.to(tl.pointer_type(tl.float32))
    elif DTYPE == 1:
        pointer = address.to(tl.pointer_type(tl.bfloat16))
    else:
        pointer = address.to(tl.pointer_type(tl.float16))
    if WIDE:
        x = tl.load(tl.multiple_of(pointer, 16) + offsets, eviction_policy=policy)
    else:
        x = tl.load(pointer + offsets, mask=offsets < n, other=0.0, eviction_policy=policy)
    return x.to(tl.float32)


@triton.jit
def _write(address, offsets, n, x, DTYPE: tl.constexpr, WIDE: tl.constexpr, STREAM: tl.constexpr):
    """Store float32 values rounded to nearest, ties to even; returns what was stored. Here weights lose digits."""
    policy: tl.constexpr = "evict_first" if STREAM else ""
    if DTYPE == 0:
        pointer = address.to(tl.pointer_type(tl.float32))
        y = x
    elif DTYPE == 1:
        pointer = address.to(tl.pointer_type(tl.bfloat16))
        # By hand: the interpreter truncates, and what is tested is to be what runs. A NaN must not be carried over.
        bits = x.to(tl.uint32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        y = tl.where(x == x, nearest, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        pointer = address.to(tl.pointer_type(tl.float16))
        y = x.to(tl.float16)
    if WIDE:
        tl.store(tl.multiple_of(pointer, 16) + offsets, y, eviction_policy=policy)
    else:
        tl.store(pointer + offsets, y, mask=offsets < n, eviction_policy=policy)
    return y.to(tl.float32)


@triton.jit
def _gradient(w, m, g, sign, l2, scale):
    """g_t at θ̃ = w - scale·m; `sign` is -1 with maximize, divided by the gradient scaler's factor."""
    return sign * g + l2 * (w - scale * m)


@triton.jit
def _fours(x, BLOCK: tl.constexpr):
    """Sums of four neighbours: they are in one thread, so that it keeps fewer running sums in registers."""
    return tl.sum(tl.reshape(x, [BLOCK // 4, 4]), axis=1)


@triton.jit
def gram(
    p, m_at, g_at, start, n, sign, l2, scale, back,
    VARIANT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A piece's share of <m,g>, <m,m>, <g,g>."""
    mg = tl.zeros([BLOCK // 4], tl.float64)
    mm = tl.zeros([BLOCK // 4], tl.float64)
    gg = tl.zeros([BLOCK // 4], tl.float64)
    for i in range(CHUNK // BLOCK):
        offsets = start + i * BLOCK + tl.arange(0, BLOCK)
        m = _read(m_at, offsets, n, 0, VARIANT % 2, False)
        g = _read(g_at, offsets, n, VARIANT // 2 % 3, VARIANT % 2, False)
        if l2 != 0:  # without coupled decay the weights need not be read
            w = _read(p, offsets, n, VARIANT // 6, VARIANT % 2, False)
            g = _gradient(w + back * m, m, g, sign, l2, scale)
        else:
            g = sign * g
        m = m.to(tl.float64)
        g = g.to(tl.float64)
        mg += _fours(m * g, BLOCK)
        mm += _fours(m * m, BLOCK)
        gg += _fours(g * g, BLOCK)
    return tl.sum(mg), tl.sum(mm), tl.sum(gg)


@triton.jit
def update(
    p, m_at, v_at, g_at, start, n, sign, l2, scale, back, beta1, weight, beta2, rest2, shrink, rate, root, eps,
    ADAM: tl.constexpr, NORM: tl.constexpr,
    VARIANT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update a piece; returns its share of |m_t|² (0 unless NORM).

    m_t = β1 m_{t-1} + weight g,  θ_t = shrink θ_{t-1} - rate m_t / (√v_t / root + eps), or - rate m_t without v.
    """
    square = tl.zeros([BLOCK // 4], tl.float64)
    for i in range(CHUNK // BLOCK):
        offsets = start + i * BLOCK + tl.arange(0, BLOCK)
        m = _read(m_at, offsets, n, 0, VARIANT % 2, True)
        g = _read(g_at, offsets, n, VARIANT // 2 % 3, VARIANT % 2, True)
        w = _read(p, offsets, n, VARIANT // 6, VARIANT % 2, True)
        w += back * m
        g = _gradient(w, m, g, sign, l2, scale)
        m = beta1 * m + weight * g
        if ADAM:
            v = _read(v_at, offsets, n, 0, VARIANT % 2, True)
            v = beta2 * v + rest2 * g * g
            _write(v_at, offsets, n, v, 0, VARIANT % 2, True)
            w = shrink * w - rate * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root) + eps)
        else:
            w = shrink * w - rate * m
        _write(m_at, offsets, n, m, 0, VARIANT % 2, True)
        _write(p, offsets, n, w, VARIANT // 6, VARIANT % 2, True)
        if NORM:
            m = m.to(tl.float64)
            square += _fours(m * m, BLOCK)
    return tl.sum(square)


@triton.jit
def move(
    p, m_at, start, n, scale,
    VARIANT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """w - scale·m for a piece. Returns the products of what was applied (after rounding) and m, as `gram` does."""
    am = tl.zeros([BLOCK // 4], tl.float64)
    aa = tl.zeros([BLOCK // 4], tl.float64)
    mm = tl.zeros([BLOCK // 4], tl.float64)
    for i in range(CHUNK // BLOCK):
        offsets = start + i * BLOCK + tl.arange(0, BLOCK)
        m = _read(m_at, offsets, n, 0, VARIANT % 2, False)
        w = _read(p, offsets, n, VARIANT // 6, VARIANT % 2, False)
        stored = _write(p, offsets, n, w - scale * m, VARIANT // 6, VARIANT % 2, False)
        if VARIANT >= 6:  # 16-bit weights
            a = (w - stored).to(tl.float64)
            m = m.to(tl.float64)
            am += _fours(a * m, BLOCK)
            aa += _fours(a * a, BLOCK)
            mm += _fours(m * m, BLOCK)
    return tl.sum(am), tl.sum(aa), tl.sum(mm)


@triton.jit
def norm_square(m_at, start, n, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """A piece's share of |m|², added up as `update` does."""
    square = tl.zeros([BLOCK // 4], tl.float64)
    for i in range(CHUNK // BLOCK):
        m = _read(m_at, start + i * BLOCK + tl.arange(0, BLOCK), n, 0, False, False).to(tl.float64)
        square += _fours(m * m, BLOCK)
    return tl.sum(square)
