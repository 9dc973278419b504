"""A packed matrix as plain numbers, for the many rows of a long prompt: cuBLAS does the rest."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bluelm.engine.gpu.unpack import offset4, place, steps4, unpack4, unpack8


@triton.jit
def _put(codes, steps, y, n, k, wanted, K: tl.constexpr, GROUP: tl.constexpr,
         GROUPS: tl.constexpr, OFFSET: tl.constexpr):  # fmt: skip
    """Codes [BN, q] of inputs k: [q], with the offset that unpacking leaves, as numbers to y."""
    at = n // 16 * (GROUPS * 16) + n % 8 * 2 + n % 16 // 8
    scale, zero = steps4(tl.load(steps + at[:, None] + (k // GROUP * 16)[None, :], mask=wanted, other=0))
    value = (codes.to(tl.float32) - OFFSET - zero) * scale
    tl.store(y + n.to(tl.int64)[:, None] * K + k[None, :], value.to(y.dtype.element_ty), mask=wanted & (k < K)[None, :])


@triton.jit
def _expand4(words, steps, y, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr,
             BW: tl.constexpr, OFFSET: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    WIDE: tl.constexpr = (K + 127) // 128 * 128
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    q = tl.program_id(1) * BW + tl.arange(0, BW)
    wanted = (n < N)[:, None] & (q < WIDE // 4)[None, :]
    tile = tl.load(words + place(n, q, WIDE * 4), mask=wanted, other=0)
    a, b, c, d = unpack4(tile, y.dtype.element_ty, OFFSET, ASM)
    k = q // 16 * 64 + q % 16
    _put(a, steps, y, n, k, wanted, K, GROUP, WIDE // GROUP, OFFSET)
    _put(b, steps, y, n, k + 16, wanted, K, GROUP, WIDE // GROUP, OFFSET)
    _put(c, steps, y, n, k + 32, wanted, K, GROUP, WIDE // GROUP, OFFSET)
    _put(d, steps, y, n, k + 48, wanted, K, GROUP, WIDE // GROUP, OFFSET)


@triton.jit
def _expand8(words, y, N: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, ASM: tl.constexpr):
    WIDE: tl.constexpr = (K + 127) // 128 * 128
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    q = tl.program_id(1) * BW + tl.arange(0, BW)
    wanted = (n < N)[:, None] & (q < WIDE // 2)[None, :]
    tile = tl.load(words + place(n, q, WIDE * 8), mask=wanted, other=0)
    a, b = unpack8(tile, y.dtype.element_ty, ASM)
    k = q // 16 * 32 + q % 16
    at = y + n.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(at, a, mask=wanted & (k < K)[None, :])
    tl.store(at + 16, b, mask=wanted & (k + 16 < K)[None, :])


def expand4(words: Tensor, steps: Tensor, inner: int, group: int, dtype: torch.dtype) -> Tensor:
    """The matrix [out, inner] that packing.pack4 packed, its columns in the order of the codes."""
    y = torch.empty(len(words) * 16, inner, dtype=dtype, device=words.device)
    grid = (triton.cdiv(len(y), 32), triton.cdiv(words.shape[1] * 16, 64))
    _expand4[grid](words, steps, y, len(y), inner, group, 32, 64, offset4(dtype), words.device.type == "cuda")
    return y


def expand8(words: Tensor, inner: int, dtype: torch.dtype) -> Tensor:
    """The codes [out, inner] that packing.pack8 packed; exact, since no code has more than 8 bits."""
    y = torch.empty(len(words) * 16, inner, dtype=dtype, device=words.device)
    grid = (triton.cdiv(len(y), 32), triton.cdiv(words.shape[1] * 16, 64))
    _expand8[grid](words, y, len(y), inner, 32, 64, words.device.type == "cuda")
    return y
