"""What a product in 4 bits needs of its inputs beforehand: normed, in the order of the codes, and summed by groups."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch
from bluelm.engine.gpu.shapes_packed import SPAN

_PIECE = 2048  # numbers of a row that one program prepares


@triton.jit(do_not_specialize=["width"])
def _prepare(
    x, gain, order, y, sums, eps, width,
    K: tl.constexpr, WHOLE: tl.constexpr, PIECE: tl.constexpr, GROUP: tl.constexpr,
    NORMED: tl.constexpr, ORDERED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * (PIECE // GROUP) + tl.arange(0, PIECE // GROUP)
    at = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    source = tl.load(order + at, mask=at < K, other=0) if ORDERED else at
    if NORMED:
        weight = tl.load(gain + source, mask=at < K, other=0.0).to(tl.float32)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    value = tl.load(x + row * K + source, mask=at < K, other=0.0)
    if NORMED:
        every = tl.arange(0, WHOLE)
        numbers = tl.load(x + row * K + every, mask=every < K, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(numbers * numbers) / K + eps)
        value = (value.to(tl.float32) * scale * weight).to(y.dtype.element_ty)
    if NORMED or ORDERED:
        tl.store(y + row * K + at, value, mask=at < K)
    tl.store(
        sums + group * width + row, tl.sum(value.to(tl.float32), axis=1), mask=group * GROUP < (K + 127) // 128 * 128
    )


def prepare(
    x: Tensor, y: Tensor, sums: Tensor, rows: int, group: int,
    *, gain: Tensor | None = None, order: Tensor | None = None, eps: float = 0.0,
) -> Tensor:  # fmt: skip
    """The inputs [rows, K] to multiply with: y, or x itself where there is nothing to do but to sum.

    With `gain` y[row] = rms_norm(x[row]) * gain; with `order` (int32 [K]) y[row, i] = that of order[i]. Both is fine.
    sums: float32 [>= groups, >= rows], gets the sums of the groups of K, padded to whole 128s. x, y: [>= rows, K].
    """
    inner = x.shape[1]
    whole = triton.next_power_of_2(inner)
    piece = min(_PIECE, max(whole, SPAN))
    _prepare[(rows, triton.cdiv(-(-inner // SPAN) * SPAN, piece))](
        x, x if gain is None else gain, x if order is None else order, y, sums, eps, sums.stride(0),
        inner, whole, piece, group, gain is not None, order is not None, num_warps=8,
        **launch.options(x.device),
    )  # fmt: skip
    return x if gain is None and order is None else y
