"""y = x W^T for the few rows of a decode step, on the tensor cores, at the speed at which W is read.

One program makes BN outputs of all rows, its sum running over K, or one half of K, in one fixed order, so that a
row's numbers do not depend on how many rows there are. What follows a product is done before its result is stored: the
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
from bluelm.engine.gpu.shapes import Tile, padded

PLAIN, ADD, GATED = 0, 1, 2


@triton.jit
def _fetch_ahead(w, n, K: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr):
    """Bring the first AHEAD columns of W's rows n into L2, in pieces of 512 bytes."""
    piece: tl.constexpr = 512 // (w.dtype.element_ty.primitive_bitwidth // 8)
    places = n.to(tl.int64)[:, None] * K + tl.arange(0, AHEAD // piece)[None, :] * piece
    prefetch(w + places, 512, EARLY)


@triton.jit(do_not_specialize=["rows"])
def _product(
    x, w, y, part, done, rows,
    N: tl.constexpr, K: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    PARTS: tl.constexpr, AHEAD: tl.constexpr, ACROSS: tl.constexpr, KIND: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x: [rows, K]; w: [N, K], or [2 N, K] for GATED; y: [rows, N], added to where KIND is ADD.

    ACROSS: tiles are [rows, outputs] instead of [outputs, rows]. PARTS: K is cut in so many, 1 or 2, each for a
    program of its own; part: [PARTS, M, N] float32; done: [programs] int32, zeros between launches.
    """
    LENGTH: tl.constexpr = tl.cdiv(tl.cdiv(K, 512), PARTS) * 512
    first = tl.program_id(1) * LENGTH
    count = min(LENGTH, K) if PARTS == 1 else tl.minimum(LENGTH, K - first)
    EVEN: tl.constexpr = K % BK == 0
    line = tl.program_id(0) * BN + tl.arange(0, BN)
    n = tl.where(line < N, line, 0)
    m = tl.arange(0, M)
    k = tl.arange(0, BK)
    if EARLY:
        gdc_launch_dependents()
        if AHEAD > 0:
            _fetch_ahead(w + first, n, K, AHEAD, EARLY)
            if KIND == 2:
                _fetch_ahead(w + first, n + N, K, AHEAD, EARLY)
        gdc_wait()
    w_at, x_at, real, total = _tile(x, w, n, m, first + k, rows, K, M, BN, ACROSS)
    up = total
    for start in tl.range(0, count, BK, num_stages=STAGES):
        if EVEN:
            weight = tl.load(w_at + start)
            tokens = tl.load(x_at + start, mask=real, other=0.0)
        else:
            here = (k < count - start)[:, None] if ACROSS else (k < count - start)[None, :]
            there = (k < count - start)[None, :] if ACROSS else (k < count - start)[:, None]
            weight = tl.load(w_at + start, mask=here, other=0.0)
            tokens = tl.load(x_at + start, mask=real & there, other=0.0)
        total = _dot(tokens, weight, total, ACROSS)
        if KIND == 2:
            if EVEN:
                weight = tl.load(w_at + N * K + start)
            else:
                weight = tl.load(w_at + N * K + start, mask=here, other=0.0)
            up = _dot(tokens, weight, up, ACROSS)
    places = m[:, None] * N + line[None, :] if ACROSS else m[None, :] * N + line[:, None]
    wanted = real & ((line < N)[None, :] if ACROSS else (line < N)[:, None])
    last = True
    if PARTS == 2:
        tl.store(part + tl.program_id(1) * M * N + places, total, mask=wanted)
        tl.debug_barrier()  # all of this part is written before it says so
        last = tl.atomic_add(done + tl.program_id(0), 1) == 1
        if last:
            total += tl.load(part + (1 - tl.program_id(1)) * M * N + places, mask=wanted, cache_modifier=".cg")
            tl.store(done + tl.program_id(0), 0)
    if last:
        leave(total, up, y, places, wanted, KIND)


@triton.jit
def leave(total, up, y, places, wanted, KIND: tl.constexpr):
    """A tile's sums to y: for GATED silu(total) * up, for ADD added to what is there."""
    if KIND == 2:
        total = total * tl.sigmoid(total) * up
    if KIND == 1:
        total += tl.load(y + places, mask=wanted).to(tl.float32)
    tl.store(y + places, total.to(y.dtype.element_ty), mask=wanted)


@triton.jit
def _tile(x, w, n, m, k, rows, K: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, ACROSS: tl.constexpr):
    """Where a tile's first weights and tokens are, which rows are real, and sums of zero."""
    if ACROSS:
        w_at = w + n.to(tl.int64)[None, :] * K + k[:, None]
        x_at = x + m[:, None] * K + k[None, :]
        real = m[:, None] < rows
        total = tl.zeros((M, BN), tl.float32)
    else:
        w_at = w + n.to(tl.int64)[:, None] * K + k[None, :]
        x_at = x + m[None, :] * K + k[:, None]
        real = m[None, :] < rows
        total = tl.zeros((BN, M), tl.float32)
    return w_at, x_at, real, total


@triton.jit
def _dot(tokens, weight, total, ACROSS: tl.constexpr):
    if ACROSS:
        total = tl.dot(tokens, weight, total, input_precision="ieee")
    else:
        total = tl.dot(weight, tokens, total, input_precision="ieee")
    return total


class Parts:
    """Where the halves of the sums meet: for products of `outer` outputs at most."""

    def __init__(self, rows: int, outer: int, device: torch.device) -> None:
        self.sums = torch.empty(2 * padded(rows) * outer, dtype=torch.float32, device=device)
        self.done = torch.zeros(triton.cdiv(outer, 16), dtype=torch.int32, device=device)


def product(
    x: Tensor, weight: Tensor, y: Tensor, rows: int, tile: Tile, kind: int = PLAIN, parts: Parts | None = None
) -> None:
    """y = x W^T (PLAIN), y += x W^T (ADD), y = silu(x G^T) * (x U^T) where W is G over U (GATED).

    x: [>= rows, K]; weight: [N, K], or [2 N, K] for GATED; y: [>= rows, N], any float dtype; rows: at most 64.
    parts: given, each sum is made in two halves, by two programs; not for GATED.
    """
    inner = weight.shape[1]
    outer = weight.shape[0] // 2 if kind == GATED else weight.shape[0]
    step = min(tile.inner, triton.next_power_of_2(inner))
    halves = 2 if parts and inner > 512 else 1
    aligned = inner % 512 == 0 and inner // halves >= tile.ahead
    sums, done = (parts.sums, parts.done) if parts else (y, y)
    _product[(triton.cdiv(outer, tile.outer), halves)](
        x, weight, y, sums, done, rows, outer, inner, padded(rows), tile.outer, step, tile.stages, halves,
        tile.ahead if aligned else 0, tile.across, kind, num_warps=tile.warps, num_stages=tile.stages,
        **launch.options(x.device),
    )  # fmt: skip


def reference(x: Tensor, weight: Tensor, y: Tensor, kind: int = PLAIN) -> Tensor:
    """What `product` leaves in y, in float64."""
    out = x.double() @ weight.double().T
    if kind == GATED:
        gate, up = out.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up
    return y.double() + out if kind == ADD else out
