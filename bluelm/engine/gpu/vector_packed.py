"""y = x W^T for one row and W in 4 or 8 bits: every warp streams words from memory into its registers on its own.

No shared memory and no waiting for other warps until the end, so that many small requests keep the memory busy; the
warps of a program take turns along the input. The first words are loaded before the kernel that makes x has ended. The
norm before the product is folded in. Unpacking and multiplying are fragments.py's instructions on a card; elsewhere
plain operations give the same sums.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch
from bluelm.engine.gpu.fragments import (
    SQUARES_BFLOAT16,
    SQUARES_FLOAT16,
    TIMES_BFLOAT16,
    TIMES_FLOAT16,
    TURN4_BFLOAT16,
    TURN4_FLOAT16,
    TURN4_OPERANDS,
    TURN8_BFLOAT16,
    TURN8_FLOAT16,
    TURN8_OPERANDS,
)
from bluelm.engine.gpu.products import GATED, PLAIN
from bluelm.engine.gpu.unpack import offset4


@triton.jit
def _words(at, i, warp, TURNS: tl.constexpr, WARPS: tl.constexpr):
    """The lanes' words of a warp's i-th turn: rows 0 to 7 and 8 to 15 of one block, then of the other. Any words
    behind the last turn, where all inputs are zeros."""
    here = at + i * WARPS * 128
    real = warp + i * WARPS < TURNS
    return (
        tl.load(here, mask=real), tl.load(here + 32, mask=real),
        tl.load(here + 64, mask=real), tl.load(here + 96, mask=real),
    )  # fmt: skip


@triton.jit
def _steps(at, i, warp, TURNS: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr, BITS: tl.constexpr):
    """With 4 bits: of the group of a lane's two columns, those of its two rows."""
    if BITS == 4:
        steps = tl.load(at + i * WARPS * EACH * 8, mask=warp + i * WARPS < TURNS, other=0)
    else:
        steps = at.to(tl.int64) * 0
    return steps


@triton.jit
def _inputs(at, i, lane, warp, K: tl.constexpr, INPUTS: tl.constexpr, WARPS: tl.constexpr):
    """Four of x's numbers of 16 bits a lane; zeros behind the last."""
    first = (warp + i * WARPS) * INPUTS + lane * 4
    return tl.load(at + i * WARPS * (INPUTS // 4), mask=(first < K) & (lane * 4 < INPUTS), other=0)


@triton.jit
def _normed(x, gain, KIND: tl.constexpr):
    """x * gain in 16 bits, and the sum of x's squares."""
    if tl.bfloat16 == KIND:
        out = tl.inline_asm_elementwise(TIMES_BFLOAT16, "=l,l,l", [x, gain], dtype=tl.int64, is_pure=True, pack=1)
        squares = tl.inline_asm_elementwise(SQUARES_BFLOAT16, "=f,l", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        out = tl.inline_asm_elementwise(TIMES_FLOAT16, "=l,l,l", [x, gain], dtype=tl.int64, is_pure=True, pack=1)
        squares = tl.inline_asm_elementwise(SQUARES_FLOAT16, "=f,l", [x], dtype=tl.float32, is_pure=True, pack=1)
    return out, squares


@triton.jit
def _half(word, SHIFT: tl.constexpr):
    return (word >> SHIFT).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _multiplied(total, words, step, x, masks, KIND: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr):
    """total, a lane's sums for its two rows, with a turn added."""
    w0, w1, w2, w3 = words
    m0, m1, m2, m3, m4, m5, m6, m7 = masks
    if BITS == 4:
        a, b, c, d, sum = tl.inline_asm_elementwise(
            TURN4_BFLOAT16 if tl.bfloat16 == KIND else TURN4_FLOAT16, TURN4_OPERANDS,
            [w0, w1, w2, w3, x, m0, m1, m2, m3, m4, m5, m6, m7],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32, tl.float32), is_pure=False, pack=1,
        )  # fmt: skip
        first = total[0] + _half(step, 0) * (a + b - (_half(step, 16) + OFFSET) * sum)
        second = total[1] + _half(step, 32) * (c + d - (_half(step, 48) + OFFSET) * sum)
    else:
        a, b, c, d = tl.inline_asm_elementwise(
            TURN8_BFLOAT16 if tl.bfloat16 == KIND else TURN8_FLOAT16, TURN8_OPERANDS,
            [w0, w1, w2, w3, x, m0, m1, m2, m3],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=False, pack=1,
        )  # fmt: skip
        first = total[0] + (a + b)
        second = total[1] + (c + d)
    return first, second


@triton.jit
def _masks(row):
    """All bits where a lane's inputs belong to place 0, 1, ..."""
    return (tl.where(row == 0, -1, 0), tl.where(row == 1, -1, 0), tl.where(row == 2, -1, 0),
            tl.where(row == 3, -1, 0), tl.where(row == 4, -1, 0), tl.where(row == 5, -1, 0),
            tl.where(row == 6, -1, 0), tl.where(row == 7, -1, 0))  # fmt: skip


@triton.jit
def _plainly(total, words, x, gain, steps, first, row, t, K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr,
             NORMED: tl.constexpr):  # fmt: skip
    """What _multiplied and _normed do, on any machine. x, gain: pointers; steps: of the tile's first group; first:
    the turn's first input."""
    one, two = total
    squares = tl.zeros_like(one)
    e = tl.arange(0, 4)[None, :]
    for place in tl.static_range(32 // BITS):
        at = first + place * 16 + t * 4
        inside = at[:, None] + e < K
        value = tl.load(x + at[:, None] + e, mask=inside, other=0.0)
        if NORMED:
            squares += tl.where(row == 0, tl.sum(value.to(tl.float32) * value.to(tl.float32), axis=1), 0.0)
            value = value * tl.load(gain + at[:, None] + e, mask=inside, other=0.0)
        value = value.to(tl.float32)
        shift = (16 * e + BITS * (place % (16 // BITS))).to(tl.int64)
        low = (words[place * BITS // 16 * 2][:, None] >> shift) & (2**BITS - 1)
        high = (words[place * BITS // 16 * 2 + 1][:, None] >> shift) & (2**BITS - 1)
        if BITS == 4:
            step = tl.load(steps + at // GROUP * 8 + row, mask=at < K, other=0)
            one += tl.sum((low - _half(step, 16)[:, None]) * value, axis=1) * _half(step, 0)
            two += tl.sum((high - _half(step, 48)[:, None]) * value, axis=1) * _half(step, 32)
        else:
            one += tl.sum((low - 128).to(tl.float32) * value, axis=1)
            two += tl.sum((high - 128).to(tl.float32) * value, axis=1)
    return (one, two), squares


@triton.jit
def _row_sums(total, WARPS: tl.constexpr):
    return tl.sum(tl.sum(tl.reshape(total, (WARPS, 8, 4)), axis=2), axis=0)


@triton.jit
def _finish(total, up, scales, scale, y, n, N: tl.constexpr, WARPS: tl.constexpr, BITS: tl.constexpr,
            KIND: tl.constexpr):  # fmt: skip
    out = _row_sums(total, WARPS) * scale
    if BITS == 8:
        out *= tl.load(scales + n)
    if KIND == 2:
        other = _row_sums(up, WARPS) * scale
        if BITS == 8:
            other *= tl.load(scales + N + n)
        out = out * tl.sigmoid(out) * other
    if KIND == 1:
        out += tl.load(y + n).to(tl.float32)
    tl.store(y + n, out.to(y.dtype.element_ty))


@triton.jit
def _turn(total, squares, words, step, inputs, x, gain, steps, i, lane, row, warp,
          K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, WARPS: tl.constexpr, NORMED: tl.constexpr,
          FRESH: tl.constexpr, OFFSET: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """total and squares with a warp's i-th turn added, and its inputs, normed. FRESH: they are not yet."""
    KIND: tl.constexpr = x.dtype.element_ty
    INPUTS: tl.constexpr = 512 // BITS
    if ASM:
        if NORMED and FRESH:
            g_at = gain.to(tl.pointer_type(tl.int64)) + warp * (INPUTS // 4) + lane
            inputs, more = _normed(inputs, _inputs(g_at, i, lane, warp, K, INPUTS, WARPS), KIND)
            squares += more
        total = _multiplied(total, words, step, inputs, _masks(row), KIND, BITS, OFFSET)
    else:
        first = (warp + i * WARPS) * INPUTS
        total, more = _plainly(total, words, x, gain, steps, first, row, lane % 4, K, GROUP, BITS, NORMED)
        squares += more
    return total, squares, inputs


@triton.jit
def _vector(
    x, gain, words, steps, y, eps,
    N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, WARPS: tl.constexpr,
    KIND: tl.constexpr, NORMED: tl.constexpr, OFFSET: tl.constexpr, ASM: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x, gain: [K]; words, steps: as packing gives them for N outputs, or for 2 N where KIND is GATED; y: [N].

    A program makes 16 outputs. Its loop goes along two streams of words: gate and up, or a warp's turns in pairs.
    """
    INPUTS: tl.constexpr = 512 // BITS
    TURNS: tl.constexpr = (K + 127) // 128 * (128 // INPUTS)
    EACH: tl.constexpr = 128 // GROUP  # groups
    TILE: tl.constexpr = TURNS * 128
    GROUPS: tl.constexpr = TURNS * EACH if BITS == 4 else 0
    UPS: tl.constexpr = N // 16 * GROUPS * 8
    BOTH: tl.constexpr = KIND == 2
    STRIDE: tl.constexpr = 1 if BOTH else 2
    tile = tl.program_id(0)
    lane = tl.arange(0, WARPS * 32) % 32
    warp = tl.arange(0, WARPS * 32) // 32
    row = lane // 4
    at = words.to(tl.pointer_type(tl.int64)) + tile.to(tl.int64) * TILE + warp * 128 + lane
    also = at + (N // 16 * TILE if BOTH else WARPS * 128)
    s_tile = steps.to(tl.pointer_type(tl.int64)) + tile * GROUPS * 8
    s_at = s_tile + (warp * EACH + lane % 4 * 32 // GROUP) * 8 + row
    s_also = s_at + (UPS if BOTH else WARPS * EACH * 8)
    x_at = x.to(tl.pointer_type(tl.int64)) + warp * (INPUTS // 4) + lane
    second = warp if BOTH else warp + WARPS  # the other stream's turn
    if EARLY:
        gdc_launch_dependents()
    a = _words(at, 0, warp, TURNS, WARPS)
    b = _words(also, 0, second, TURNS, WARPS)
    squares = tl.zeros((WARPS * 32,), tl.float32)
    total = (squares, squares)
    up = total
    sa = _steps(s_at, 0, warp, TURNS, WARPS, EACH, BITS)
    sb = _steps(s_also, 0, second, TURNS, WARPS, EACH, BITS)
    if EARLY:
        gdc_wait()
    xa = _inputs(x_at, 0, lane, warp, K, INPUTS, WARPS)
    xb = _inputs(x_at, 1, lane, warp, K, INPUTS, WARPS)
    for i in tl.range(0, (TURNS + WARPS - 1) // WARPS, STRIDE, num_stages=1):
        total, squares, xa = _turn(total, squares, a, sa, xa, x, gain, s_tile, i, lane, row, warp,
                                   K, GROUP, BITS, WARPS, NORMED, True, OFFSET, ASM)  # fmt: skip
        a = _words(at, i + STRIDE, warp, TURNS, WARPS)
        sa = _steps(s_at, i + STRIDE, warp, TURNS, WARPS, EACH, BITS)
        if BOTH:
            up, _, _ = _turn(up, squares, b, sb, xa, x, gain, s_tile + UPS, i, lane, row, warp,
                             K, GROUP, BITS, WARPS, NORMED, False, OFFSET, ASM)  # fmt: skip
        else:
            total, squares, _ = _turn(total, squares, b, sb, xb, x, gain, s_tile, i + 1, lane, row, warp,
                                      K, GROUP, BITS, WARPS, NORMED, True, OFFSET, ASM)  # fmt: skip
            xb = _inputs(x_at, i + 3, lane, warp, K, INPUTS, WARPS)
        b = _words(also, i + STRIDE, second, TURNS, WARPS)
        sb = _steps(s_also, i + STRIDE, second, TURNS, WARPS, EACH, BITS)
        xa = _inputs(x_at, i + STRIDE, lane, warp, K, INPUTS, WARPS)
    scale = tl.rsqrt(tl.sum(squares) / K + eps) if NORMED else 1.0
    for half in tl.static_range(2):
        n = tile * 16 + half * 8 + tl.arange(0, 8)
        _finish(total[half], up[half], steps, scale, y, n, N, WARPS, BITS, KIND)


def vector(
    x: Tensor, words: Tensor, steps: Tensor, y: Tensor, bits: int, group: int, warps: int, kind: int = PLAIN,
    *, gain: Tensor | None = None, eps: float = 0.0,
) -> None:  # fmt: skip
    """The first row of `products.product`, for a matrix as packing packs it; with `gain`, of rms_norm(x) * gain.

    x: [>= 1, K], K a multiple of 4, in 16 bits on a card. steps: for 8 bits the outputs' scales in float32.
    """
    outer = words.shape[0] * 16 // (2 if kind == GATED else 1)
    _vector[(outer // 16,)](
        x, x if gain is None else gain, words, steps, y, eps, outer, x.shape[1], group, bits, warps, kind,
        gain is not None, offset4(x.dtype), x.device.type == "cuda", num_warps=warps, num_stages=1,
        **launch.options(x.device),
    )  # fmt: skip
