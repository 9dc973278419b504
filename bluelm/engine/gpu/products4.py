"""y = x W^T for W in 4 bits: codes go through the tensor cores as they are, scales and zero points to the groups' sums.

Of a group with scale s and zero point z, sum s (code - z) x = s (sum (offset + code) x - (offset + z) sum x): so the
codes are multiplied with the offset that unpacking leaves on them, and the sums of x are taken once for all outputs
(`inputs.prepare`). Each output is summed in one fixed order, whatever the number of rows.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch
from bluelm.engine.gpu.finish import Parts, finish
from bluelm.engine.gpu.products import GATED, PLAIN
from bluelm.engine.gpu.shapes_packed import PARTS, Tile, padded, turns
from bluelm.engine.gpu.unpack import fetch_ahead, offset4, place, steps4, tokens, unpack4


@triton.jit
def _scaled(total, codes_x, words, sums, OFFSET: tl.constexpr):
    """total with a group's sums [BN, M] added; words: [BN]; sums: of the group's inputs, [M]."""
    scale, zero = steps4(words)
    return total + (codes_x - (zero + OFFSET)[:, None] * sums[None, :]) * scale[:, None]


@triton.jit
def _span(total, words, steps, sums, width, x_at, k, real, K: tl.constexpr,
          GROUP: tl.constexpr, EVEN: tl.constexpr, OFFSET: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """total with one span of inputs added: 128 where GROUP is, else 64. words: pointers [BN, q]; steps: [BN]."""
    KIND: tl.constexpr = x_at.dtype.element_ty
    a, b, c, d = unpack4(tl.load(words), KIND, OFFSET, ASM)
    out = tl.dot(a, tokens(x_at, real, k, K, 0, EVEN), input_precision="ieee")
    out = tl.dot(b, tokens(x_at, real, k, K, 16, EVEN), out, input_precision="ieee")
    if GROUP == 32:
        total = _scaled(total, out, tl.load(steps), tl.load(sums, mask=real, other=0.0), OFFSET)
        out = tl.dot(c, tokens(x_at, real, k, K, 32, EVEN), input_precision="ieee")
        out = tl.dot(d, tokens(x_at, real, k, K, 48, EVEN), out, input_precision="ieee")
        total = _scaled(total, out, tl.load(steps + 16), tl.load(sums + width, mask=real, other=0.0), OFFSET)
    else:
        out = tl.dot(c, tokens(x_at, real, k, K, 32, EVEN), out, input_precision="ieee")
        out = tl.dot(d, tokens(x_at, real, k, K, 48, EVEN), out, input_precision="ieee")
        total = _scaled(total, out, tl.load(steps), tl.load(sums, mask=real, other=0.0), OFFSET)
    return total


@triton.jit(do_not_specialize=["rows", "width"])
def _product4(
    x, sums, words, steps, y, part, done, rows, width,
    N: tl.constexpr, K: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr,
    SPANS: tl.constexpr, STAGES: tl.constexpr, LENGTH: tl.constexpr, PARTS: tl.constexpr, AHEAD: tl.constexpr,
    KIND: tl.constexpr, OFFSET: tl.constexpr, ASM: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x: [rows, K]; sums: [groups, width]; words, steps: of N outputs, or of 2 N for GATED; y: [rows, N].

    SPANS: spans of inputs in a turn of the loop; PARTS: programs that share an output's sum, LENGTH spans each; AHEAD:
    bytes of the words of each 16 outputs that are fetched into L2 before the inputs are ready.
    """
    SPAN: tl.constexpr = 128 if GROUP == 128 else 64
    ALL: tl.constexpr = (K + 127) // 128 * (128 // SPAN)
    EACH: tl.constexpr = SPAN // GROUP
    TILE: tl.constexpr = ALL * SPAN * 4  # words of 16 outputs
    GROUPS: tl.constexpr = ALL * EACH
    first = tl.program_id(1) * LENGTH
    line = tl.program_id(0) * BN + tl.arange(0, BN)
    n = tl.where(line < N, line, 0)
    m = tl.program_id(2) * M + tl.arange(0, M)
    q = tl.arange(0, SPAN // 4)
    k = q // 16 * 64 + q % 16
    real = m < rows
    words_at = words + place(n, q, TILE)
    steps_at = steps + n // 16 * (GROUPS * 16) + n % 8 * 2 + n % 16 // 8
    if EARLY:
        gdc_launch_dependents()
        if AHEAD > 0:
            fetch_ahead(words, first * (SPAN * 4), N, TILE, BN, AHEAD, KIND)
        gdc_wait()
    x_at = x + m[None, :] * K + k[:, None]
    total = tl.zeros((BN, M), tl.float32)
    up = total
    for start in tl.range(first, tl.minimum(first + LENGTH, ALL), SPANS, num_stages=STAGES):
        for i in tl.static_range(SPANS):
            at = start + i
            left = k + at * SPAN
            here, step, sum = words_at + at * (SPAN * 4), steps_at + at * EACH * 16, sums + at * EACH * width + m
            total = _span(
                total, here, step, sum, width, x_at + at * SPAN, left, real, K, GROUP, K % 128 == 0, OFFSET, ASM
            )
            if KIND == 2:
                up = _span(up, here + N // 16 * TILE, step + N // 16 * GROUPS * 16, sum, width, x_at + at * SPAN, left,
                           real, K, GROUP, K % 128 == 0, OFFSET, ASM)  # fmt: skip
    finish(total, up, y, part, done, m, line, rows, N, M, PARTS, KIND)


def product4(
    x: Tensor, sums: Tensor, words: Tensor, steps: Tensor, y: Tensor, rows: int, group: int, tile: Tile,
    kind: int = PLAIN, parts: Parts | None = None,
) -> None:  # fmt: skip
    """What `products.product` computes, for a matrix as packing.pack4 leaves it.

    x: [>= rows, K]; sums: float32 [>= K / group, >= rows], the groups' sums of x; y: [>= rows, N]. Any number of rows;
    parts: given, PARTS programs share each sum, for as many rows as parts are for; not for GATED.
    """
    inner = x.shape[1]
    outer = len(words) * 16 // (2 if kind == GATED else 1)
    spans = -(-inner // 128) * (1 if group == 128 else 2)
    shared = PARTS if parts and kind != GATED else 1
    turn, length = turns(spans, tile.spans, shared)
    block = padded(rows)
    ahead = min(tile.ahead, max(spans - length * (shared - 1), 0) * 512)  # of the last part
    held, done = (parts.sums, parts.done) if parts else (sums, sums)
    _product4[(triton.cdiv(outer, tile.outer), shared, triton.cdiv(rows, block))](
        x, sums, words, steps, y, held, done, rows, sums.stride(0), outer, inner, block, tile.outer, group, turn,
        tile.stages, length, shared, ahead, kind, offset4(x.dtype), x.device.type == "cuda",
        num_warps=tile.warps, num_stages=tile.stages, **launch.options(x.device),
    )  # fmt: skip
