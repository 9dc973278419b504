"""y = x W^T for W in 8 bits: the codes go through the tensor cores, each output's scale to its sum."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch
from bluelm.engine.gpu.finish import Parts, finish
from bluelm.engine.gpu.products import GATED, PLAIN
from bluelm.engine.gpu.shapes_packed import PARTS, SPAN, Tile, padded, turns
from bluelm.engine.gpu.unpack import fetch_ahead, place, tokens, unpack8


@triton.jit(do_not_specialize=["rows"])
def _product8(
    x, words, scales, y, part, done, rows,
    N: tl.constexpr, K: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    LENGTH: tl.constexpr, PARTS: tl.constexpr, AHEAD: tl.constexpr, KIND: tl.constexpr, ASM: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """x: [rows, K]; words, scales: of N outputs, or of 2 N for GATED; y: [rows, N]. As _product4."""
    INPUT: tl.constexpr = x.dtype.element_ty
    WIDE: tl.constexpr = (K + 127) // 128 * 128
    TILE: tl.constexpr = WIDE * 8  # words of 16 outputs
    first = tl.program_id(1) * LENGTH
    line = tl.program_id(0) * BN + tl.arange(0, BN)
    n = tl.where(line < N, line, 0)
    m = tl.program_id(2) * M + tl.arange(0, M)
    q = tl.arange(0, BK // 2)
    k = q // 16 * 32 + q % 16
    real = m < rows
    words_at = words + place(n, q, TILE)
    if EARLY:
        gdc_launch_dependents()
        if AHEAD > 0:
            fetch_ahead(words, first * 8, N, TILE, BN, AHEAD, KIND)
        gdc_wait()
    x_at = x + m[None, :] * K + k[:, None]
    total = tl.zeros((BN, M), tl.float32)
    up = total
    for at in tl.range(first, tl.minimum(first + LENGTH, WIDE), BK, num_stages=STAGES):
        low = tokens(x_at + at, real, k + at, K, 0, K % 128 == 0)
        high = tokens(x_at + at, real, k + at, K, 16, K % 128 == 0)
        a, b = unpack8(tl.load(words_at + at * 8), INPUT, ASM)
        total = tl.dot(a, low, total, input_precision="ieee")
        total = tl.dot(b, high, total, input_precision="ieee")
        if KIND == 2:
            a, b = unpack8(tl.load(words_at + N // 16 * TILE + at * 8), INPUT, ASM)
            up = tl.dot(a, low, up, input_precision="ieee")
            up = tl.dot(b, high, up, input_precision="ieee")
    total *= tl.load(scales + n)[:, None]
    if KIND == 2:
        up *= tl.load(scales + N + n)[:, None]
    finish(total, up, y, part, done, m, line, rows, N, M, PARTS, KIND)


def product8(
    x: Tensor, words: Tensor, scales: Tensor, y: Tensor, rows: int, tile: Tile, kind: int = PLAIN,
    parts: Parts | None = None,
) -> None:  # fmt: skip
    """What `products.product` computes, for a matrix as packing.pack8 leaves it; scales: float32 [outputs].

    x: [>= rows, K]; y: [>= rows, N]. Any number of rows; parts: as for product4.
    """
    inner = x.shape[1]
    outer = len(words) * 16 // (2 if kind == GATED else 1)
    shared = PARTS if parts and kind != GATED else 1
    spans = -(-inner // SPAN)
    turn, length = turns(spans, tile.spans, shared)
    block = padded(rows)
    ahead = min(tile.ahead, max(spans - length * (shared - 1), 0) * 2048)  # of the last part
    held, done = (parts.sums, parts.done) if parts else (scales, scales)
    _product8[(triton.cdiv(outer, tile.outer), shared, triton.cdiv(rows, block))](
        x, words, scales, y, held, done, rows, outer, inner, block, tile.outer, turn * SPAN, tile.stages,
        length * SPAN, shared, ahead, kind, x.device.type == "cuda", num_warps=tile.warps,
        num_stages=tile.stages, **launch.options(x.device),
    )  # fmt: skip
