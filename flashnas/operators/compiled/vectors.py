"""Vectors of 16 float32 out of flat arrays, in float32 or bfloat16; on top of simd.py, whose vectors have any length.

Tensors that may be in either dtype come as the uint16 numbers in their memory, or as its address, with a flag, so that
each function is compiled once for both; `load_bits` widens, `store_bits` rounds to the nearest (even) one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.errors import TypingError

from flashnas.operators.compiled.simd import FLAGS, Vector, multiply_add, primitive
from flashnas.operators.compiled.simd import total as sum_of_lanes

fma, total = multiply_add, sum_of_lanes  # of any vectors
LANES = 16
LOG2_E = np.float32(1 / math.log(2))
VECTOR = Vector(LANES)
_FLOAT, _HALF, _INT = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), ir.IntType(16), ir.IntType(32)))
# 2^x for -0.5 <= x <= 0.5: minimax, relative error 2e-9 before rounding
_POWERS = (1.53458098e-4, 1.33999312e-3, 9.61848896e-3, 5.55032878e-2, 2.40226469e-1, 6.93147206e-1, 1.0)


def _expect(array: Any, number: Any) -> None:
    if array != types.Array(number, 1, "C"):
        raise TypingError(f"a flat array of {number} is needed; got {array}")


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _expect_bits(bits: Any) -> None:
    if not isinstance(bits, types.Integer):
        _expect(bits, types.uint16)


def _address(context: Any, builder: Any, kind: Any, array: Any, place: Any, vector: ir.VectorType) -> Any:
    if isinstance(kind, types.Integer):
        data = builder.inttoptr(array, ir.IntType(16).as_pointer())
    else:
        data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def _call(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(_FLOAT, [_FLOAT] * len(values))
    return builder.call(get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32"), values)


# -- memory ------------------------------------------------------------------------------------------------------------


@primitive
def load(typing_context, array, place):
    """The 16 numbers of a float32 array from `place` on."""
    _expect(array, types.float32)

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, array, arguments[0], arguments[1], _FLOAT), align=4)
    return VECTOR(array, types.intp), generate


@primitive
def store(typing_context, array, place, value):
    """Write 16 numbers into a float32 array from `place` on."""
    _expect(array, types.float32)

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _address(context, builder, array, arguments[0], arguments[1], _FLOAT), align=4)
        return context.get_dummy_value()
    return types.none(array, types.intp, VECTOR), generate


@primitive
def spread(typing_context, array, place):
    """16 times the number at `place` of a float32 array."""
    _expect(array, types.float32)

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        return _spread(builder, builder.load(builder.gep(data, [arguments[1]]), align=4))
    return VECTOR(array, types.intp), generate


@primitive
def load_bits(typing_context, bits, place, half):
    """16 numbers from the number at `place` on, of uint16 in an array or at an address: bfloat16 if `half`,
    else float32."""
    _expect_bits(bits)

    def generate(context, builder, signature, arguments):
        data, at, half = arguments
        with builder.if_else(half) as (narrow, wide):
            with narrow:
                pointer = _address(context, builder, bits, data, at, _HALF)
                converted, narrow_end = _widened(builder, builder.load(pointer, align=2)), builder.block
            with wide:
                pointer = _address(context, builder, bits, data, _double(builder, at), _FLOAT)
                plain, wide_end = builder.load(pointer, align=2), builder.block
        value = builder.phi(_FLOAT)
        value.add_incoming(converted, narrow_end)
        value.add_incoming(plain, wide_end)
        return value
    return VECTOR(bits, types.intp, types.boolean), generate


@primitive
def store_bits(typing_context, bits, place, value, half):
    """Write what `load_bits` reads."""
    _expect_bits(bits)

    def generate(context, builder, signature, arguments):
        data, at, vector, half = arguments
        with builder.if_else(half) as (narrow, wide):
            with narrow:
                pointer = _address(context, builder, bits, data, at, _HALF)
                builder.store(_rounded(builder, vector), pointer, align=2)
            with wide:
                pointer = _address(context, builder, bits, data, _double(builder, at), _FLOAT)
                builder.store(vector, pointer, align=2)
        return context.get_dummy_value()
    return types.none(bits, types.intp, VECTOR, types.boolean), generate


def _double(builder: Any, place: Any) -> Any:
    return builder.shl(place, ir.Constant(place.type, 1))


def _widened(builder: Any, half: Any) -> Any:
    bits = builder.shl(builder.zext(half, _INT), _constant(_INT, 16))
    return builder.bitcast(bits, _FLOAT)


def _rounded(builder: Any, value: Any) -> Any:
    """bfloat16 bits, ties to even; a NaN stays one."""
    bits = builder.bitcast(value, _INT)
    odd = builder.and_(builder.lshr(bits, _constant(_INT, 16)), _constant(_INT, 1))
    bits = builder.add(bits, builder.add(odd, _constant(_INT, 0x7FFF)))
    nan = builder.fcmp_unordered("uno", value, value)
    bits = builder.select(nan, _constant(_INT, 0x7FC00000), bits)
    return builder.trunc(builder.lshr(bits, _constant(_INT, 16)), _HALF)


@primitive
def transpose_16(typing_context, source, at, stride, target, to, step):
    """A block of 16 x 16 from one float32 matrix into another, with rows and columns exchanged.

    source, at, stride: where the block's first number is, and what lies between its rows. target, to, step: likewise.
    """
    _expect(source, types.float32)
    _expect(target, types.float32)

    def generate(context, builder, signature, arguments):
        data, at, stride, out, to, step = arguments
        rows = []
        for _ in range(LANES):
            rows.append(builder.load(_address(context, builder, source, data, at, _FLOAT), align=4))
            at = builder.add(at, stride)
        for half in (1, 2, 4, 8):  # exchange the off-diagonal quarters of blocks of 2, 4, 8 and 16
            first = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
            second = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
            for n in (n for n in range(LANES) if not n & half):
                a, b = rows[n], rows[n + half]
                rows[n], rows[n + half] = (builder.shuffle_vector(a, b, ir.Constant(_INT, mask))
                                           for mask in (first, second))
        for row in rows:
            builder.store(row, _address(context, builder, target, out, to, _FLOAT), align=4)
            to = builder.add(to, step)
        return context.get_dummy_value()
    return types.none(source, types.intp, types.intp, target, types.intp, types.intp), generate


# -- numbers -----------------------------------------------------------------------------------------------------------


@primitive
def splat(typing_context, number):
    """16 times the same float32."""
    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0])
    return VECTOR(types.float32), generate


def _spread(builder: Any, number: Any) -> Any:
    nothing, first = ir.Constant(_FLOAT, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    return builder.shuffle_vector(builder.insert_element(nothing, number, first), nothing, _constant(_INT, 0))


def _reduction(name: str) -> Any:
    @primitive
    def reduce(typing_context, a):
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.FloatType(), [_FLOAT])
            function = get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{name}.v16f32")
            return builder.call(function, arguments, fastmath=FLAGS)
        return types.float32(VECTOR), generate
    return reduce


least, greatest = _reduction("fmin"), _reduction("fmax")


@primitive
def where_larger(typing_context, a, b, yes, no):
    """`yes` where a > b, `no` elsewhere."""
    def generate(context, builder, signature, arguments):
        a, b, yes, no = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)
    return VECTOR(VECTOR, VECTOR, VECTOR, VECTOR), generate


@primitive
def exp2(typing_context, a):
    """2^a to float32's precision; 2^-127 and 2^127 beyond them."""
    def generate(context, builder, signature, arguments):
        return _exp2(builder, arguments[0])
    return VECTOR(VECTOR), generate


@primitive
def sigmoid(typing_context, a):
    """1 / (1 + exp(-a)) to float32's precision."""
    def generate(context, builder, signature, arguments):
        power = _exp2(builder, builder.fmul(arguments[0], _constant(_FLOAT, -float(LOG2_E))))
        return builder.fdiv(_constant(_FLOAT, 1.0), builder.fadd(power, _constant(_FLOAT, 1.0)))
    return VECTOR(VECTOR), generate


def _exp2(builder: Any, a: Any) -> Any:
    lowest, highest = _constant(_FLOAT, -127.0), _constant(_FLOAT, 127.0)
    x = builder.select(builder.fcmp_ordered("<", a, lowest), lowest, a)  # a NaN stays one
    x = builder.select(builder.fcmp_ordered(">", x, highest), highest, x)
    whole = _call(builder, "rint", x)
    part, y = builder.fsub(x, whole), _constant(_FLOAT, _POWERS[0])
    for power in _POWERS[1:]:
        y = _call(builder, "fma", y, part, _constant(_FLOAT, power))
    bits = builder.shl(builder.add(builder.fptosi(whole, _INT), _constant(_INT, 127)), _constant(_INT, 23))
    return builder.fmul(y, builder.bitcast(bits, _FLOAT))
