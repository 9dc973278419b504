"""Codes to numbers in the registers of a kernel: for two or four codes an instruction or three, none that converts.

On a card in inline assembly, two words of 16 bits a register; elsewhere (Triton's interpreter, float32) in plain
operations that give the same numbers. The layouts are packing.py's.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl

from bluelm.engine.gpu.launch import prefetch

# (r & 0x000F000F) | 0x43004300 is 128 + code twice in bfloat16, with 0x64006400 1024 + code in float16.
_FOUR = """{{
.reg .b32 t;
lop3.b32 $0, $4, 0x000F000F, {0}, 0xEA;
shr.u32 t, $4, 4;
lop3.b32 $1, t, 0x000F000F, {0}, 0xEA;
shr.u32 t, $4, 8;
lop3.b32 $2, t, 0x000F000F, {0}, 0xEA;
shr.u32 t, $4, 12;
lop3.b32 $3, t, 0x000F000F, {0}, 0xEA;
}}"""
FOUR_BFLOAT16 = tl.constexpr(_FOUR.format("0x43004300"))
FOUR_FLOAT16 = tl.constexpr(_FOUR.format("0x64006400"))

# A byte u = code + 128 has 8 bits, bfloat16's fraction 7: so 128 + (u & 127) - (128 if u >= 128 else 256).
TWO_BFLOAT16 = tl.constexpr("""{
.reg .b32 k, s, t, u;
mov.b32 k, 0xBF80BF80;
lop3.b32 t, $2, 0x007F007F, 0x43004300, 0xEA;
lop3.b32 u, $2, 0x00800080, 0x43804380, 0x6A;
fma.rn.bf16x2 $0, u, k, t;
shr.u32 s, $2, 8;
lop3.b32 t, s, 0x007F007F, 0x43004300, 0xEA;
lop3.b32 u, s, 0x00800080, 0x43804380, 0x6A;
fma.rn.bf16x2 $1, u, k, t;
}""")
# Bytes put under the exponent of 1024, from which 1024 + 128 is taken.
TWO_FLOAT16 = tl.constexpr("""{
.reg .b32 s, t;
mov.b32 s, 0x64806480;
prmt.b32 t, $2, 0x64646464, 0x4240;
sub.rn.f16x2 $0, t, s;
prmt.b32 t, $2, 0x64646464, 0x4341;
sub.rn.f16x2 $1, t, s;
}""")


@triton.jit
def place(n, q, TILE: tl.constexpr):
    """Where words q of outputs n are, [n, q]. q: counted from the first of a block; TILE: words of 16 outputs."""
    return (n // 16).to(tl.int64)[:, None] * TILE + (n % 16 * 16)[:, None] + (q // 16 * 256 + q % 16)[None, :]


def offset4(dtype: torch.dtype) -> int:
    """What `unpack4` adds to each code: a power of two whose neighbours the dtype tells apart."""
    return {torch.bfloat16: 128, torch.float16: 1024}.get(dtype, 0)


@triton.jit
def unpack4(words, KIND: tl.constexpr, OFFSET: tl.constexpr, ASM: tl.constexpr):
    """int16 words of four codes each as four tiles of OFFSET + code in KIND, those of the lowest bits first."""
    if ASM and tl.bfloat16 == KIND:
        a, b, c, d = tl.inline_asm_elementwise(
            FOUR_BFLOAT16, "=r,=r,=r,=r,r", [words],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
        )  # fmt: skip
    elif ASM and tl.float16 == KIND:
        a, b, c, d = tl.inline_asm_elementwise(
            FOUR_FLOAT16, "=r,=r,=r,=r,r", [words],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        a = ((words & 15) + OFFSET).to(KIND)
        b = (((words >> 4) & 15) + OFFSET).to(KIND)
        c = (((words >> 8) & 15) + OFFSET).to(KIND)
        d = (((words >> 12) & 15) + OFFSET).to(KIND)
    return a, b, c, d


@triton.jit
def unpack8(words, KIND: tl.constexpr, ASM: tl.constexpr):
    """int16 words of two codes each as two tiles of codes in KIND, those of the lower bytes first."""
    if ASM and tl.bfloat16 == KIND:
        a, b = tl.inline_asm_elementwise(
            TWO_BFLOAT16, "=r,=r,r", [words], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=2
        )
    elif ASM and tl.float16 == KIND:
        a, b = tl.inline_asm_elementwise(
            TWO_FLOAT16, "=r,=r,r", [words], dtype=(tl.float16, tl.float16), is_pure=True, pack=2
        )
    else:
        a = ((words & 255) - 128).to(KIND)
        b = (((words >> 8) & 255) - 128).to(KIND)
    return a, b


@triton.jit
def steps4(words):
    """int32 words of a scale and a zero point as two tiles of float32."""
    scale = (words & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    zero = (words >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return scale, zero


@triton.jit
def tokens(x_at, real, k, K: tl.constexpr, AT: tl.constexpr, EVEN: tl.constexpr):
    """The inputs [q, M] that meet the codes at AT of each word; k: [q], where the first of them stand."""
    mask = real[None, :] if EVEN else real[None, :] & (k + AT < K)[:, None]
    return tl.load(x_at + AT, mask=mask, other=0.0)


@triton.jit
def fetch_ahead(
    words, first, N: tl.constexpr, TILE: tl.constexpr, BN: tl.constexpr, AHEAD: tl.constexpr, KIND: tl.constexpr
):
    """Bring AHEAD bytes from word `first` on, of each 16 of a program's outputs, into L2; TILE: words of 16 outputs."""
    tile = tl.program_id(0).to(tl.int64) * (BN // 16) + tl.arange(0, BN // 16)
    ahead = words + tl.where(tile < N // 16, tile, 0) * TILE + first
    prefetch(ahead, AHEAD, True)
    if KIND == 2:
        prefetch(ahead + N // 16 * TILE, AHEAD, True)
