"""y = x W^T for the few rows of a decode step, on the tensor cores, at the speed at which W is read.

One program makes BN outputs of all rows, its sum running over the whole of K in one fixed order, so that a row's
numbers do not depend on how many rows there are. What follows a product is done before its result is stored: the
gate of the feed-forward layer, the addition to the residual.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch
from bluelm.engine.gpu.launch import prefetch
from bluelm.engine.gpu.shapes import ROWS_PER_TILE, Tile

PLAIN, ADD, GATED = 0, 1, 2


@triton.jit
def _fetch_ahead(w, n, K: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr):
    """Bring the first AHEAD columns of W's rows n into L2, in pieces of 512 bytes."""
    piece: tl.constexpr = 512 // (w.dtype.element_ty.primitive_bitwidth // 8)
    places = n.to(tl.int64)[:, None] * K + tl.arange(0, AHEAD // piece)[None, :] * piece
    prefetch(w + places, 512, EARLY)


@triton.jit(do_not_specialize=["rows"])
def _product(
    x, w, y, rows,
    N: tl.constexpr, K: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    AHEAD: tl.constexpr, KIND: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x: [rows, K]; w: [N, K], or [2 N, K] for GATED; y: [rows, N], added to where KIND is ADD."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.arange(0, M)
    k = tl.arange(0, BK)
    inside = n < N
    at = tl.where(inside, n, 0)
    if EARLY:
        gdc_launch_dependents()
        if AHEAD > 0:
            _fetch_ahead(w, at, K, AHEAD, EARLY)
            if KIND == 2:
                _fetch_ahead(w, at + N, K, AHEAD, EARLY)
        gdc_wait()
    w_at = w + at.to(tl.int64)[:, None] * K + k[None, :]
    x_at = x + m[None, :] * K + k[:, None]
    total = tl.zeros((BN, M), tl.float32)
    up = tl.zeros((BN, M), tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES):
        if K % BK == 0:
            weight = tl.load(w_at + start)
            tokens = tl.load(x_at + start, mask=m[None, :] < rows, other=0.0)
        else:
            weight = tl.load(w_at + start, mask=(k < K - start)[None, :], other=0.0)
            tokens = tl.load(x_at + start, mask=(m[None, :] < rows) & (k < K - start)[:, None], other=0.0)
        total = tl.dot(weight, tokens, total, input_precision="ieee")
        if KIND == 2:
            if K % BK == 0:
                weight = tl.load(w_at + N * K + start)
            else:
                weight = tl.load(w_at + N * K + start, mask=(k < K - start)[None, :], other=0.0)
            up = tl.dot(weight, tokens, up, input_precision="ieee")
    y_at = y + m[None, :] * N + n[:, None]
    wanted = inside[:, None] & (m[None, :] < rows)
    if KIND == 2:
        total = total * tl.sigmoid(total) * up
    if KIND == 1:
        total = tl.load(y_at, mask=wanted).to(tl.float32) + total
    tl.store(y_at, total.to(y.dtype.element_ty), mask=wanted)


def product(x: Tensor, weight: Tensor, y: Tensor, rows: int, tile: Tile, kind: int = PLAIN) -> None:
    """y = x W^T (PLAIN), y += x W^T (ADD), y = silu(x G^T) * (x U^T) where W is G over U (GATED).

    x: [>= rows, K]; weight: [N, K], or [2 N, K] for GATED; y: [>= rows, N], any float dtype; rows: at most 64.
    """
    inner = weight.shape[1]
    outer = weight.shape[0] // 2 if kind == GATED else weight.shape[0]
    padded = max(ROWS_PER_TILE, triton.next_power_of_2(rows))
    step = min(tile.inner, triton.next_power_of_2(inner))
    aligned = inner % 512 == 0 and inner >= tile.ahead
    _product[(triton.cdiv(outer, tile.outer),)](
        x, weight, y, rows, outer, inner, padded, tile.outer, step, tile.stages,
        AHEAD=tile.ahead if aligned else 0, KIND=kind, num_warps=tile.warps, num_stages=tile.stages,
        **launch.options(x.device),
    )  # fmt: skip


def reference(x: Tensor, weight: Tensor, y: Tensor, kind: int = PLAIN) -> Tensor:
    """What `product` leaves in y, in float64."""
    out = x.double() @ weight.double().T
    if kind == GATED:
        gate, up = out.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up
    return y.double() + out if kind == ADD else out
