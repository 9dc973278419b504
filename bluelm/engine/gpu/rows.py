"""Kernels that work on each token's row alone: embedding, norm, rotary embedding and cache write."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bluelm.engine.gpu import launch
from bluelm.engine.gpu.launch import begin


@triton.jit
def _embed(slots, token, table, x, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    row = tl.program_id(0)
    id = tl.maximum(tl.load(token + tl.load(slots + row)), 0).to(tl.int64)  # a failed row has no token
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + row * HIDDEN + at, tl.load(table + id * HIDDEN + at, mask=at < HIDDEN), mask=at < HIDDEN)


def embed(slots: Tensor, token: Tensor, table: Tensor, x: Tensor, rows: int) -> None:
    """x[row] = table[token[slots[row]]]. slots: [>= rows] int32; token: [states] int32; table: [vocab, hidden]."""
    hidden = table.shape[1]
    _embed[(rows, triton.cdiv(hidden, 1024))](slots, token, table, x, hidden, 1024, **launch.options(x.device))


@triton.jit
def _norm(x, weight, y, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    at = tl.arange(0, BLOCK)
    gain = tl.load(weight + at, mask=at < HIDDEN, other=0.0).to(tl.float32)
    begin(EARLY)
    row = tl.program_id(0).to(tl.int64)
    value = tl.load(x + row * HIDDEN + at, mask=at < HIDDEN, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / HIDDEN + eps)
    tl.store(y + row * HIDDEN + at, (value * scale * gain).to(y.dtype.element_ty), mask=at < HIDDEN)


def norm(x: Tensor, weight: Tensor, y: Tensor, rows: int, eps: float) -> None:
    """y[row] = rms_norm(x[row]) * weight, in float32 inside. x, y: [>= rows, hidden]; weight: [hidden]."""
    hidden = weight.shape[0]
    block = triton.next_power_of_2(hidden)
    warps = min(max(block // 512, 1), 16)
    _norm[(rows,)](x, weight, y, eps, hidden, block, num_warps=warps, **launch.options(x.device))


@triton.jit
def turned(at, cos, sin, d, D: tl.constexpr):
    """The head at `at` after rotary embedding, float32 [D]. cos, sin: [D] of its position, sin's first half < 0."""
    here = tl.load(at + d).to(tl.float32)
    there = tl.load(at + (d + D // 2) % D).to(tl.float32)
    return here * cos + there * sin


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])  # these are parts of one tensor, of any length
def _rotate(
    qkv, positions, slots, cos, sin, query, keys, values,
    HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, SOME: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * SOME + tl.arange(0, SOME)[:, None]
    d = tl.arange(0, D)
    slot = tl.load(slots + token)
    turn = tl.load(positions + token) * D + d
    source = qkv + (token * (HEADS + 2 * KV) + head) * D
    real = head < HEADS + 2 * KV
    here = tl.load(source + d[None, :], mask=real, other=0.0)
    there = tl.load(source + ((d + D // 2) % D)[None, :], mask=real, other=0.0).to(tl.float32)
    value = here.to(tl.float32) * tl.load(cos + turn)[None, :] + there * tl.load(sin + turn)[None, :]
    value = value.to(here.dtype)
    tl.store(query + (token * HEADS + head) * D + d[None, :], value, mask=head < HEADS)
    tl.store(keys + (slot * KV + head - HEADS) * D + d[None, :], value, mask=(head >= HEADS) & (head < HEADS + KV))
    tl.store(values + (slot * KV + head - HEADS - KV) * D + d[None, :], here, mask=real & (head >= HEADS + KV))


def rotate_and_keep(
    qkv: Tensor, positions: Tensor, slots: Tensor, cos: Tensor, sin: Tensor, query: Tensor, keys: Tensor, values: Tensor
) -> None:
    """For a prompt's tokens: the turned queries to `query`, keys (turned) and values to their cache slots.

    qkv: [n, (heads + 2 kv_heads) * D]; positions, slots: [n] int64; query: [n, heads, D]; keys, values: one layer's.
    """
    heads, dim, kv = query.shape[1], query.shape[2], keys.shape[1]
    some = 16
    _rotate[(qkv.shape[0], triton.cdiv(heads + 2 * kv, some))](
        qkv, positions, slots, cos, sin, query, keys, values, heads, kv, dim, some, num_warps=4,
        **launch.options(qkv.device),
    )  # fmt: skip


@triton.jit
def _gate(gate_up, y, INNER: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * INNER + at, mask=at < INNER).to(tl.float32)
    up = tl.load(gate_up + row * 2 * INNER + INNER + at, mask=at < INNER).to(tl.float32)
    tl.store(y + row * INNER + at, (gate * tl.sigmoid(gate) * up).to(y.dtype.element_ty), mask=at < INNER)


def gate(gate_up: Tensor, y: Tensor) -> None:
    """y = silu(first half) * second half. gate_up: [n, 2 * inner]; y: [n, inner]."""
    rows, inner = y.shape
    _gate[(rows, triton.cdiv(inner, 2048))](gate_up, y, inner, 2048, **launch.options(y.device))
