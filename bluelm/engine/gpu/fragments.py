"""Instructions for the product of one row with matrices of 4 and 8 bits: a warp's share of 1 KB of words.

A lane holds four words of each of the rows r and r + 8, r = lane / 4, from two blocks (see packing.py). That is how the
instruction mma.m16n8k16 wants its left side, so that codes go straight from memory into it. Its right side has eight
columns where one row of inputs needs one: column c has the inputs that meet the codes of place c (two blocks have 4
places each, or 2 each), and what is multiplied with place c is masked down to that column. So a lane's first two sums
belong to row r, its other two to row r + 8, and the lanes of a row add up to the result.
"""

from __future__ import annotations

from typing import NamedTuple

import triton.language as tl


class _Kind(NamedTuple):
    """name: in mma; offset: what unpacked codes of 4 bits lie on; one: 1.0; each twice in a register."""

    name: str
    offset: str
    one: str


_BFLOAT16 = _Kind("bf16", "0x43004300", "0x3F803F80")  # 128 + code
_FLOAT16 = _Kind("f16", "0x64006400", "0x3C003C00")  # 1024 + code
_REGISTERS = """.reg .b32 a<4>, b<2>, m<2>, t<8>, k, s, v;
.reg .f32 d<4>, e<4>, z;
mov.f32 z, 0f00000000;"""

UNPACK4 = "shr.u32 s, {word}, {shift}; lop3.b32 {0}, s, 0x000F000F, {offset}, 0xEA;"
# A byte u = code + 128 has 8 bits, bfloat16's fraction 7: so 128 + (u & 127) - (128 if u >= 128 else 256), k = -1.0.
BYTES_BFLOAT16 = """shr.u32 s, {word}, 8;
lop3.b32 {0}, {word}, 0x007F007F, 0x43004300, 0xEA; lop3.b32 v, {word}, 0x00800080, 0x43804380, 0x6A;
fma.rn.bf16x2 {0}, v, k, {0};
lop3.b32 {1}, s, 0x007F007F, 0x43004300, 0xEA; lop3.b32 v, s, 0x00800080, 0x43804380, 0x6A;
fma.rn.bf16x2 {1}, v, k, {1};"""
# Bytes put under the exponent of 1024, from which k = 1024 + 128 is taken.
BYTES_FLOAT16 = """prmt.b32 {0}, {word}, 0x64646464, 0x4240; prmt.b32 {1}, {word}, 0x64646464, 0x4341;
sub.rn.f16x2 {0}, {0}, k; sub.rn.f16x2 {1}, {1}, k;"""
K_BFLOAT16, K_FLOAT16 = "mov.b32 k, 0xBF80BF80;", "mov.b32 k, 0x64806480;"


def _mma(kind: _Kind, out: str, left: str, right: str, added: str) -> str:
    lists = ", ".join("{" + ",".join(names.split()) + "}" for names in (out, left, right, added))
    return f"mma.sync.aligned.m16n8k16.row.col.f32.{kind.name}.{kind.name}.f32 {lists};"


def _turn(kind: _Kind, bits: int) -> str:
    """Outputs: a lane's four sums, and with 4 bits the sum of its columns' inputs. Inputs: four pairs of words, four
    inputs of the row, the masks of the places."""
    outs = 5 if bits == 4 else 4
    lines = ["{", _REGISTERS, f"mov.b64 {{b0, b1}}, ${outs + 4};"]
    if bits == 4:
        lines += [_mma(kind, "e0 e1 e2 e3", "k k k k", "b0 b1", "z z z z"), "add.f32 $4, e0, e1;"]
        lines.insert(2, f"mov.b32 k, {kind.one};")
    else:
        lines.insert(2, K_BFLOAT16 if kind is _BFLOAT16 else K_FLOAT16)
    added, place = "z z z z", 0
    for block in (0, 1):
        lines.append(f"mov.b64 {{a0, a2}}, ${outs + 2 * block}; mov.b64 {{a1, a3}}, ${outs + 2 * block + 1};")
        for part in range(4 if bits == 4 else 2):
            mask = f"${outs + 5 + place}"
            lines += [*_unpacked(kind, bits, part), f"and.b32 m0, b0, {mask}; and.b32 m1, b1, {mask};"]
            left = "t4 t5 t6 t7" if bits == 8 and part else "t0 t1 t2 t3"
            lines.append(_mma(kind, "d0 d1 d2 d3", left, "m0 m1", added))
            added, place = "d0 d1 d2 d3", place + 1
    lines += [f"mov.f32 ${i}, d{i};" for i in range(4)]
    return "\n".join([*lines, "}"])


def _unpacked(kind: _Kind, bits: int, part: int) -> list[str]:
    if bits == 4:
        return [UNPACK4.format(f"t{i}", word=f"a{i}", shift=4 * part, offset=kind.offset) for i in range(4)]
    if part:  # both bytes are there already
        return []
    form = BYTES_BFLOAT16 if kind is _BFLOAT16 else BYTES_FLOAT16
    return [form.format(f"t{i}", f"t{i + 4}", word=f"a{i}") for i in range(4)]


def _constraints(bits: int) -> str:
    outs, masks = (5, 8) if bits == 4 else (4, 4)
    return ",".join(["=f"] * outs + ["l"] * 5 + ["r"] * masks)


TURN4_BFLOAT16, TURN4_FLOAT16 = (tl.constexpr(_turn(kind, 4)) for kind in (_BFLOAT16, _FLOAT16))
TURN8_BFLOAT16, TURN8_FLOAT16 = (tl.constexpr(_turn(kind, 8)) for kind in (_BFLOAT16, _FLOAT16))
TURN4_OPERANDS, TURN8_OPERANDS = tl.constexpr(_constraints(4)), tl.constexpr(_constraints(8))

# Four numbers of 16 bits times four others.
_TIMES = """{{
.reg .b32 a<2>, b<2>, z;
mov.b64 {{a0, a1}}, $1; mov.b64 {{b0, b1}}, $2; mov.b32 z, 0x80008000;
fma.rn.{0}x2 a0, a0, b0, z; fma.rn.{0}x2 a1, a1, b1, z;
mov.b64 $0, {{a0, a1}};
}}"""
TIMES_BFLOAT16, TIMES_FLOAT16 = tl.constexpr(_TIMES.format("bf16")), tl.constexpr(_TIMES.format("f16"))

# The sum of the squares of four numbers of 16 bits.
SQUARES_BFLOAT16 = tl.constexpr("""{
.reg .b32 a<2>, h<4>; .reg .f32 f<4>, q;
mov.b64 {a0, a1}, $1;
shl.b32 h0, a0, 16; and.b32 h1, a0, 0xFFFF0000; shl.b32 h2, a1, 16; and.b32 h3, a1, 0xFFFF0000;
mov.b32 f0, h0; mov.b32 f1, h1; mov.b32 f2, h2; mov.b32 f3, h3;
mul.f32 q, f0, f0; fma.rn.f32 q, f1, f1, q; fma.rn.f32 q, f2, f2, q; fma.rn.f32 $0, f3, f3, q;
}""")
SQUARES_FLOAT16 = tl.constexpr("""{
.reg .b16 h<4>; .reg .f32 f<4>, q;
mov.b64 {h0, h1, h2, h3}, $1;
cvt.f32.f16 f0, h0; cvt.f32.f16 f1, h1; cvt.f32.f16 f2, h2; cvt.f32.f16 f3, h3;
mul.f32 q, f0, f0; fma.rn.f32 q, f1, f1, q; fma.rn.f32 q, f2, f2, q; fma.rn.f32 $0, f3, f3, q;
}""")
