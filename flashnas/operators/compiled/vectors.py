"""Vectors of 16 float32 numbers for compiled loops: LLVM's own vector type, which it splits where a CPU's is shorter.

LLVM vectorises a loop over arrays only after it has checked that they do not overlap, and it keeps no tile of a state
in registers. Loops over these vectors need neither.

Arrays are flat. Tensors that may be float32 or bfloat16 come as the uint16 numbers in their memory, with a flag, so that
each function is compiled once for both; `load_bits` widens, `store_bits` rounds to the nearest (even) one.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.errors import TypingError
from numba.core.extending import intrinsic, models, overload, register_model

LANES = 16
LOG2_E = np.float32(1 / math.log(2))
_FLOAT, _HALF, _INT = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), ir.IntType(16), ir.IntType(32)))
_FAST = ("contract", "reassoc", "nsz")


class Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


VECTOR = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _FLOAT)


def _expect(array: Any, number: Any) -> None:
    if array != types.Array(number, 1, "C"):
        raise TypingError(f"a flat array of {number} is needed; got {array}")


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _address(context: Any, builder: Any, kind: Any, array: Any, place: Any, vector: ir.VectorType) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, place: Any) -> Any:
    """The 16 numbers of a flat float32 array from `place` on."""
    _expect(array, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, array, *arguments, _FLOAT), align=4)
    return VECTOR(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, place: Any, value: Any) -> Any:
    """Write 16 numbers into a flat float32 array from `place` on."""
    _expect(array, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(context, builder, array, *arguments[:2], _FLOAT), align=4)
        return context.get_dummy_value()
    return types.none(array, types.intp, VECTOR), generate


@intrinsic
def load_bits(typing_context: Any, bits: Any, place: Any, half: Any) -> Any:
    """16 numbers from the number at `place` on, of an array of uint16: bfloat16 if `half`, else float32."""
    _expect(bits, types.uint16)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
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


@intrinsic
def store_bits(typing_context: Any, bits: Any, place: Any, value: Any, half: Any) -> Any:
    """What `load_bits` reads."""
    _expect(bits, types.uint16)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
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


@intrinsic
def splat(typing_context: Any, number: Any) -> Any:
    """16 times the same float32."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _spread(builder, arguments[0])
    return VECTOR(types.float32), generate


def _spread(builder: Any, number: Any) -> Any:
    nothing, first = ir.Constant(_FLOAT, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    return builder.shuffle_vector(builder.insert_element(nothing, number, first), nothing, _constant(_INT, 0))


@intrinsic
def spread(typing_context: Any, array: Any, place: Any) -> Any:
    """16 times the number at `place` of a flat float32 array."""
    _expect(array, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        one = builder.load(builder.gep(data, [arguments[1]]), align=4)
        return _spread(builder, one)
    return VECTOR(array, types.intp), generate


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(builder.fmul(*arguments[:2], flags=_FAST), arguments[2], flags=_FAST)
    return VECTOR(VECTOR, VECTOR, VECTOR), generate


@intrinsic
def total(typing_context: Any, a: Any) -> Any:
    """The sum of the 16 numbers."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _FLOAT])
        function = get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
        return builder.call(function, [ir.Constant(ir.FloatType(), 0.0), arguments[0]], fastmath=_FAST)
    return types.float32(VECTOR), generate


@intrinsic
def greatest(typing_context: Any, a: Any) -> Any:
    """The largest of the 16 numbers."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [_FLOAT])
        function = get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fmax.v16f32")
        return builder.call(function, arguments, fastmath=_FAST)
    return types.float32(VECTOR), generate


@intrinsic
def where_larger(typing_context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """`yes` where a > b, `no` elsewhere."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, yes, no = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)
    return VECTOR(VECTOR, VECTOR, VECTOR, VECTOR), generate


@intrinsic
def least(typing_context: Any, a: Any) -> Any:
    """The smallest of the 16 numbers."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [_FLOAT])
        function = get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fmin.v16f32")
        return builder.call(function, arguments, fastmath=_FAST)
    return types.float32(VECTOR), generate


@intrinsic
def transpose_16(typing_context: Any, source: Any, at: Any, stride: Any, target: Any, to: Any, step: Any) -> Any:
    """A block of 16 x 16 from one float32 matrix into another, with rows and columns exchanged.

    source, at, stride: where the block's first number is, and what lies between its rows. target, to, step: likewise.
    """
    _expect(source, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
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


def _define(symbol: Any, name: str) -> None:
    """Give vectors the operator `symbol` by LLVM's instruction `name`."""
    @intrinsic
    def operation(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments, flags=_FAST)
        return VECTOR(VECTOR, VECTOR), generate

    @overload(symbol, strict=False)
    def of_two(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: operation(a, b)
        return None


for _symbol, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                       (operator.truediv, "fdiv")):
    _define(_symbol, _name)


# exp2 of the part within [-0.5, 0.5]: minimax, relative error 2e-9 before rounding
_POWERS = (1.53458098e-4, 1.33999312e-3, 9.61848896e-3, 5.55032878e-2, 2.40226469e-1, 6.93147206e-1, 1.0)


@intrinsic
def exp2(typing_context: Any, a: Any) -> Any:
    """2 ** a to float32's precision; 0 below 2 ** -126, and the largest power above 2 ** 127."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _exp2(builder, arguments[0])
    return VECTOR(VECTOR), generate


@intrinsic
def sigmoid(typing_context: Any, a: Any) -> Any:
    """1 / (1 + exp(-a)) to float32's precision."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        power = _exp2(builder, builder.fmul(arguments[0], _constant(_FLOAT, -float(LOG2_E))))
        return builder.fdiv(_constant(_FLOAT, 1.0), builder.fadd(power, _constant(_FLOAT, 1.0)))
    return VECTOR(VECTOR), generate


def _call(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(_FLOAT, [_FLOAT] * len(values))
    return builder.call(get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32"), values)


def _exp2(builder: Any, a: Any) -> Any:
    lowest, highest = _constant(_FLOAT, -127.0), _constant(_FLOAT, 127.0)
    x = builder.select(builder.fcmp_ordered("<", a, lowest), lowest, a)  # a NaN stays one
    x = builder.select(builder.fcmp_ordered(">", x, highest), highest, x)
    whole = _call(builder, "rint", x)
    part = builder.fsub(x, whole)
    y = _constant(_FLOAT, _POWERS[0])
    for power in _POWERS[1:]:
        y = _call(builder, "fma", y, part, _constant(_FLOAT, power))
    bits = builder.shl(builder.add(builder.fptosi(whole, _INT), _constant(_INT, 127)), _constant(_INT, 23))
    return builder.fmul(y, builder.bitcast(bits, _FLOAT))
