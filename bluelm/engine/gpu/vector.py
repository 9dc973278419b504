"""y = x W^T for one row: no tensor cores, so that many small programs keep the memory busy all the time.

The norm before the product is folded in: every program sees the whole of x, so it knows its scale at the end. The
first part of W is on its way before the kernel that makes x has ended.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch, shapes
from bluelm.engine.gpu.products import GATED, PLAIN


@triton.jit
def _vector(
    x, w, gain, y, eps,
    N: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """x: [K]; w: [N, K], or [2 N, K] for GATED; gain: [K], the norm's weight; y: [N], added to where KIND is ADD."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    inside = n < N
    at = w + tl.where(inside, n, 0).to(tl.int64)[:, None] * K + k[None, :]
    if EARLY:
        gdc_launch_dependents()
    weight = tl.load(at, mask=(k < K)[None, :], other=0.0)
    if KIND == 2:
        other = tl.load(at + N * K, mask=(k < K)[None, :], other=0.0)
    if EARLY:
        gdc_wait()
    total = tl.zeros((BN, BK), tl.float32)
    up = tl.zeros((BN, BK), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    for start in tl.static_range(0, K, BK):
        real = k < K - start
        if start > 0:
            weight = tl.load(at + start, mask=real[None, :], other=0.0)
            if KIND == 2:
                other = tl.load(at + N * K + start, mask=real[None, :], other=0.0)
        value = tl.load(x + start + k, mask=real, other=0.0).to(tl.float32)
        if NORM:
            squares += value * value
            value *= tl.load(gain + start + k, mask=real, other=0.0).to(tl.float32)
        total += weight.to(tl.float32) * value[None, :]
        if KIND == 2:
            up += other.to(tl.float32) * value[None, :]
    out = tl.sum(total, axis=1)
    scale = tl.rsqrt(tl.sum(squares) / K + eps) if NORM else 1.0
    out *= scale
    if KIND == 2:
        out = out * tl.sigmoid(out) * (tl.sum(up, axis=1) * scale)
    if KIND == 1:
        out += tl.load(y + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + n, out.to(y.dtype.element_ty), mask=inside)


def vector(
    x: Tensor, weight: Tensor, y: Tensor, kind: int = PLAIN, *, gain: Tensor | None = None, eps: float = 0.0,
    shape: shapes.Strip = shapes.STRIP,
) -> None:  # fmt: skip
    """The first row of `products.product`; with `gain`, of rms_norm(x) * gain instead of x."""
    inner = weight.shape[1]
    outer = weight.shape[0] // 2 if kind == GATED else weight.shape[0]
    step = min(shape.inner, triton.next_power_of_2(inner))
    _vector[(triton.cdiv(outer, shape.outer),)](
        x, weight, x if gain is None else gain, y, eps, outer, inner, shape.outer, step, kind, gain is not None,
        num_warps=shape.warps, **launch.options(x.device),
    )  # fmt: skip
