"""What the native kernels are made of, as LLVM's own instructions: products of 8-bit numbers, rounding, threads.

Addresses are int64. Each name here can be called in a function that numba compiles, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

GROUP = 32  # inputs that share a scale
PART = 64  # numbers of a head that are looked at at once
TILE = 16  # outputs that are computed at once: float32 numbers of a vector
HALF_CODES, CODES = GROUP * TILE // 2, GROUP * TILE  # bytes of a tile's group in 4 and in 8 bits
STRIDE_4, STRIDE_8 = HALF_CODES + 4 * TILE, CODES + 2 * TILE  # with scales and minima, or scales, in float16

FUTEX, FUTEX_WAIT, FUTEX_WAKE = 202, 128, 129  # of Linux on x86-64, within a process

I8, I16, I32, I64, F32, F16 = (*(ir.IntType(bits) for bits in (8, 16, 32, 64)), ir.FloatType(), ir.HalfType())
INTS, FLOATS, HALVES = (ir.VectorType(kind, TILE) for kind in (I32, F32, F16))
NIBBLES, BYTES = ir.VectorType(I16, 2 * TILE), ir.VectorType(I8, TILE)


Body = Callable[[ir.Value, Sequence[ir.Value]], list[ir.Value]]


class Code:
    """Instructions at the builder's place."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def whole(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def at(self, address: ir.Value, offset: int = 0) -> ir.Value:
        return self.builder.add(address, self.whole(offset)) if offset else address

    def load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        found = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        found.align = 1
        return found

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 1

    def all(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        """A vector of one value."""
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, value, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, TILE), [0] * TILE))

    def call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        """A function of LLVM or of the C library."""
        kind = ir.FunctionType(result, [each.type for each in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def loop(self, count: ir.Value, carried: Sequence[ir.Value], body: Body) -> list[ir.Value]:
        """Carried values after `count` rounds, one at least; body gives them from the round's number and the last."""
        build, before = self.builder, self.builder.block
        inside, after = build.append_basic_block("round"), build.append_basic_block("after")
        build.branch(inside)
        build.position_at_end(inside)
        number, *values = (build.phi(each) for each in (I64, *(value.type for value in carried)))
        given = body(number, values)
        following = build.add(number, self.whole(1))
        for phi, first, later in zip((number, *values), (self.whole(0), *carried), (following, *given), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, build.block)
        build.cbranch(build.icmp_signed("<", following, count), inside, after)
        build.position_at_end(after)
        return given

    def widened(self, address: ir.Value) -> ir.Value:
        """16 numbers of bfloat16."""
        bits = self.builder.zext(self.load(address, ir.VectorType(I16, TILE)), INTS)
        return self.builder.bitcast(self.builder.shl(bits, ir.Constant(INTS, [16] * TILE)), FLOATS)

    def futex(self, address: ir.Value, operation: int, number: ir.Value) -> ir.Value:
        """Linux's own way to wait for a number in memory to change."""
        kind = ir.FunctionType(I64, [I64], var_arg=True)
        call = cgutils.get_or_insert_function(self.builder.module, kind, "syscall")
        none = self.whole(0)
        args = [self.whole(FUTEX), address, self.whole(operation), number, none, none, none]
        return self.builder.call(call, args)

    def total(self, vector: ir.Value) -> ir.Value:
        """The sum of 16 float32, halves first."""
        nothing = ir.Constant(FLOATS, ir.Undefined)
        for width in (8, 4, 2, 1):
            order = [place + width if place < width else place for place in range(TILE)]
            moved = self.builder.shuffle_vector(vector, nothing, ir.Constant(INTS, order))
            vector = self.builder.fadd(vector, moved)
        return self.builder.extract_element(vector, ir.Constant(I32, 0))

    def fma(self, one: ir.Value, other: ir.Value, added: ir.Value) -> ir.Value:
        return self.call("llvm.fma.v16f32", FLOATS, one, other, added)


def product(rows: int, bits: int) -> Any:
    """product(codes, inputs, scales, inner, out, outer, adding) for a tile of outputs and so many rows.

    codes: the tile's groups of STRIDE_4 or STRIDE_8 bytes: 16 outputs by 4 inputs side by side (in 4 bits inputs 0 to
    15 in the lower halves, 16 to 31 in the upper), then the scales, then the minima of 4 bits; 8 bits are 128 too high.
    inputs: int8 [inner / 32, rows, 32]; scales: float32 [inner / 32, rows, 2], as `quantize` makes them.
    out: float32, rows outer numbers apart; they are added to it if `adding` is not 0.
    Each row's sums are the same to the last bit, whatever `rows` is.
    """

    def emit(code: Code, args: Sequence[ir.Value]) -> None:
        codes, inputs, scales, inner, out, outer, adding = args
        build = code.builder
        outputs = [build.add(out, build.mul(outer, code.whole(4 * row))) for row in range(rows)]
        begun = build.icmp_signed("!=", adding, code.whole(0))
        zero = ir.Constant(FLOATS, [0.0] * TILE)
        before = [build.select(begun, code.load(each, FLOATS), zero) for each in outputs]
        stride = STRIDE_4 if bits == 4 else STRIDE_8

        def group(index: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
            starts = ((codes, stride), (inputs, GROUP * rows), (scales, 8 * rows))
            here = [build.add(start, build.mul(index, code.whole(size))) for start, size in starts]
            return _group(code, bits, (here[0], here[1], here[2]), sums)

        found = code.loop(build.sdiv(inner, code.whole(GROUP)), before, group)
        for value, address in zip(found, outputs, strict=True):
            code.store(value, address)

    @intrinsic
    def tile(typing: Any, codes: Any, inputs: Any, scales: Any, inner: Any, out: Any, outer: Any, adding: Any) -> Any:
        return types.void(*[types.int64] * 7), lambda context, builder, signature, args: emit(Code(builder), args)

    return tile


def _group(
    code: Code, bits: int, places: tuple[ir.Value, ir.Value, ir.Value], sums: Sequence[ir.Value]
) -> list[ir.Value]:
    """The sums of each row with one group's added."""
    (codes, inputs, scales), build, rows = places, code.builder, len(sums)
    whole: list[ir.Value] = [ir.Constant(INTS, [0] * TILE)] * rows
    for quad in range(GROUP // 4):
        place = quad % 4 if bits == 4 else quad
        found = code.load(code.at(codes, 4 * TILE * place), NIBBLES)
        if bits == 4:
            moved = build.lshr(found, ir.Constant(NIBBLES, [4] * 2 * TILE)) if quad > 3 else found
            found = build.and_(moved, ir.Constant(NIBBLES, [0x0F0F] * 2 * TILE))
        for row in range(rows):
            four = code.all(code.load(code.at(inputs, GROUP * row + 4 * quad), I32), INTS)
            name = "llvm.x86.avx512.vpdpbusd.512"
            whole[row] = code.call(name, INTS, whole[row], build.bitcast(found, INTS), four)
    size = HALF_CODES if bits == 4 else CODES
    scale = build.fpext(code.load(code.at(codes, size), HALVES), FLOATS)
    if bits == 4:
        least = build.fpext(code.load(code.at(codes, size + 2 * TILE), HALVES), FLOATS)
    else:
        least = build.fmul(scale, ir.Constant(FLOATS, [-128.0] * TILE))
    added = []
    for row in range(rows):
        factor, total = (code.all(code.load(code.at(scales, 8 * row + 4 * i), F32), FLOATS) for i in (0, 1))
        found = code.fma(least, total, sums[row])
        added.append(code.fma(scale, build.fmul(build.sitofp(whole[row], FLOATS), factor), found))
    return added


def _quantize(code: Code, args: Sequence[ir.Value]) -> None:
    numbers, codes, scales = args
    build = code.builder
    parts = [code.load(code.at(numbers, 4 * TILE * half), FLOATS) for half in (0, 1)]
    # As whole numbers the largest is found without a branch, and what is no number stays so.
    sizes = [build.and_(build.bitcast(part, INTS), ir.Constant(INTS, [0x7FFFFFFF] * TILE)) for part in parts]
    larger = build.select(build.icmp_signed(">", *sizes), *sizes)
    largest = build.bitcast(code.call("llvm.vector.reduce.smax.v16i32", I32, larger), F32)
    some = build.fcmp_unordered(">", largest, ir.Constant(F32, 0.0))
    inverse = build.select(some, build.fdiv(ir.Constant(F32, 127.0), largest), ir.Constant(F32, 0.0))
    scale = build.fmul(largest, ir.Constant(F32, 1 / 127))
    found = [
        build.fptosi(code.call("llvm.rint.v16f32", FLOATS, build.fmul(part, code.all(inverse, FLOATS))), INTS)
        for part in parts
    ]
    for half, part in enumerate(found):
        code.store(build.trunc(part, BYTES), code.at(codes, TILE * half))
    total = code.call("llvm.vector.reduce.add.v16i32", I32, build.add(*found))
    code.store(scale, scales)
    code.store(build.fmul(scale, build.sitofp(total, F32)), code.at(scales, 4))


@intrinsic
def quantize(typing: Any, numbers: Any, codes: Any, scales: Any) -> Any:
    """A group of 32 float32 numbers as int8, and two float32: their scale, and that times the sum of the codes."""
    return types.void(*[types.int64] * 3), lambda context, builder, signature, args: _quantize(Code(builder), args)


@intrinsic
def apart(typing: Any) -> Any:
    """Said in a function that is called from many places: it is compiled once, not once for each of them."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """For numba.carray."""
    return types.voidptr(types.int64), lambda context, builder, signature, args: builder.inttoptr(
        args[0], context.get_value_type(types.voidptr)
    )


@intrinsic
def alike(typing: Any, query: Any, dim: Any, keys: Any, count: Any, apart: Any, scale: Any, scores: Any) -> Any:
    """The query's scores (float32) with so many keys, `apart` bytes from each other. dim: a multiple of PART."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> Any:
        code = Code(builder)
        query, dim, keys, count, apart, scale, scores = args
        parts = builder.sdiv(dim, code.whole(PART))

        def key(index: ir.Value, _: Sequence[ir.Value]) -> list[ir.Value]:
            there = builder.add(keys, builder.mul(index, apart))

            def part(number: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
                place = builder.mul(number, code.whole(PART))
                one = builder.add(query, builder.mul(place, code.whole(4)))
                other = builder.add(there, builder.mul(place, code.whole(2)))
                return [
                    code.fma(code.load(code.at(one, 4 * i), FLOATS), code.widened(code.at(other, 2 * i)), each)
                    for i, each in zip(range(0, PART, TILE), sums, strict=True)
                ]

            one, two, three, four = code.loop(parts, [ir.Constant(FLOATS, [0.0] * TILE)] * (PART // TILE), part)
            total = code.total(builder.fadd(builder.fadd(one, two), builder.fadd(three, four)))
            code.store(builder.fmul(total, scale), builder.add(scores, builder.mul(index, code.whole(4))))
            return []

        code.loop(count, [], key)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(whole, whole, whole, whole, whole, types.float32, whole), emit


@intrinsic
def weighed(typing: Any, weights: Any, values: Any, count: Any, apart: Any, dim: Any, out: Any) -> Any:
    """Add so many values, each times its weight (float32), to `out`, float32 [dim]. apart, dim: as above."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> Any:
        code = Code(builder)
        weights, values, count, apart, dim, out = args

        def part(number: ir.Value, _: Sequence[ir.Value]) -> list[ir.Value]:
            place = builder.mul(number, code.whole(PART))
            there = builder.add(out, builder.mul(place, code.whole(4)))
            first = builder.add(values, builder.mul(place, code.whole(2)))

            def value(index: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
                weight = code.load(builder.add(weights, builder.mul(index, code.whole(4))), F32)
                here, every = builder.add(first, builder.mul(index, apart)), code.all(weight, FLOATS)
                places = range(0, 2 * PART, 2 * TILE)
                return [code.fma(every, code.widened(code.at(here, i)), x) for i, x in zip(places, sums, strict=True)]

            places = [code.at(there, i) for i in range(0, 4 * PART, 4 * TILE)]
            sums = code.loop(count, [code.load(each, FLOATS) for each in places], value)
            for each, at in zip(sums, places, strict=True):
                code.store(each, at)
            return []

        code.loop(builder.sdiv(dim, code.whole(PART)), [], part)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), emit


@intrinsic
def narrowed(typing: Any, number: Any) -> Any:
    """The bits (uint16) of the bfloat16 nearest to a float32, of equals the even one; what is no number stays so."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        bits = builder.bitcast(args[0], I32)
        high = builder.lshr(bits, ir.Constant(I32, 16))
        odd = builder.and_(high, ir.Constant(I32, 1))
        up = builder.lshr(builder.add(bits, builder.add(odd, ir.Constant(I32, 0x7FFF))), ir.Constant(I32, 16))
        odder = builder.or_(high, ir.Constant(I32, 0x40))
        return builder.trunc(builder.select(builder.fcmp_unordered("uno", args[0], args[0]), odder, up), I16)

    return types.uint16(types.float32), emit


@intrinsic
def maximum(typing: Any, one: Any, other: Any) -> Any:
    """Of two float32; of a number and none, none."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return Code(builder).call("llvm.maximum.f32", F32, *args)

    return types.float32(types.float32, types.float32), emit


@intrinsic
def exponential(typing: Any, number: Any) -> Any:
    """e to this float32, off by some 1e-7 of it; beyond what float32 holds, the least or largest it gives."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        code, real = Code(builder), lambda value: ir.Constant(F32, np.float32(value).item())
        bounded = builder.select(builder.fcmp_ordered("<", args[0], real(-87.0)), real(-87.0), args[0])
        bounded = builder.select(builder.fcmp_ordered(">", bounded, real(88.0)), real(88.0), bounded)
        power = code.call("llvm.rint.f32", F32, builder.fmul(bounded, real(math.log2(math.e))))
        rest = code.call("llvm.fma.f32", F32, power, real(-math.log(2)), bounded)
        found = real(1 / math.factorial(7))
        for order in range(6, -1, -1):
            found = code.call("llvm.fma.f32", F32, found, rest, real(1 / math.factorial(order)))
        moved = builder.shl(code.call("llvm.fptosi.sat.i32.f32", I32, power), ir.Constant(I32, 23))
        return builder.bitcast(builder.add(builder.bitcast(found, I32), moved), F32)

    return types.float32(types.float32), emit


@intrinsic
def fetched_added(typing: Any, address: Any, number: Any) -> Any:
    """What is there, to which the number is added before another thread can."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def seen(typing: Any, address: Any) -> Any:
    """What another thread has put there."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), emit


@intrinsic
def put(typing: Any, address: Any, number: Any) -> Any:
    """For other threads to see."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        builder.store_atomic(args[1], builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def pause(typing: Any) -> Any:
    """A moment of a thread that looks again and again."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        Code(builder).call("llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def sleep_while(typing: Any, address: Any, number: Any) -> Any:
    """Sleep until `wake_all`, if what is there is still this number (of both the lower 32 bits count); or a little."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return Code(builder).futex(args[0], FUTEX_WAIT, args[1])

    return types.int64(types.int64, types.int64), emit


@intrinsic
def wake_all(typing: Any, address: Any) -> Any:
    """Those who sleep there."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return Code(builder).futex(args[0], FUTEX_WAKE, ir.Constant(I64, 1 << 30))

    return types.int64(types.int64), emit
