"""Vectors of float32 as values in compiled code, of any number of lanes; LLVM maps them to the registers
there are.

Numba vectorises loops by chance; kernels written with these do not depend on it. `lanes` is a constant of the
kernel, 16 where nothing is said. Places count float32 from the start of a flat array, or from an address,
which is an integer.

    x = load(array, place);  y = fill(1.0, 64);  z = fma(x, x, z);  store(array, place, z)

Tensors that may be in float32 or bfloat16 come as the uint16 numbers in their memory, or as its address, with
a flag, so that each function is compiled once for both; `load_bits` widens, `store_bits` rounds to the
nearest (even) one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

LANES = 16
FLAGS = ("contract", "reassoc", "nsz")
LOG2_E = np.float32(1 / math.log(2))
# 2^x for -0.5 <= x <= 0.5: minimax, relative error 2e-9 before rounding
POWERS_OF_TWO = (1.53458098e-4, 1.33999312e-3, 9.61848896e-3, 5.55032878e-2, 2.40226469e-1, 6.93147206e-1,
                 1.0)
# (exp(x) - 1 - x) / x^2 for |x| <= ln(2) / 2, and ln(2) in two parts, the first without lower digits; Cephes'
# expf
EXPONENTIALS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
                5.0000001201e-1)
LN_2 = (0.693359375, -2.12194440e-4)
primitive: Callable[[Callable[..., Any]], Any] = intrinsic(prefer_literal=True)
_FLOAT, _HALF, _INT = ir.FloatType(), ir.IntType(16), ir.IntType(32)


class Vector(types.Type):
    """The type of a vector with that many lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"vector{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(_FLOAT, vector.lanes))


VECTOR = Vector(LANES)


def _lanes(lanes):
    """The vector that a primitive returns, and the type of its last argument, which may have been left out.
    """
    return (Vector(lanes), types.intp) if isinstance(lanes, int) else (Vector(lanes.literal_value), lanes)


def _expect(array, number=types.float32):
    if not isinstance(array, types.Integer) and array != types.Array(number, 1, "C"):
        raise TypingError(f"a flat array of {number} or an address is needed; got {array}")


def _address(context, builder, kind, array, place, lanes=0, unit=_FLOAT, entry=None):
    """A pointer to the number at `place`, counted in `unit`; to a vector of `entry` (a unit) if there are
    lanes."""
    if isinstance(kind, types.Integer):
        data = builder.inttoptr(array, unit.as_pointer())
    else:
        data = context.make_array(kind)(context, builder, array).data
    pointer = builder.gep(data, [place])
    return builder.bitcast(pointer, ir.VectorType(entry or unit, lanes).as_pointer()) if lanes else pointer


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _splat(builder, number, lanes):
    nothing = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, nothing, _constant(ir.VectorType(_INT, lanes), 0))


def _call(builder, name, *values, flags=()):
    kind = values[0].type
    function = get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(values)),
                                      f"llvm.{name}.v{kind.count}f32")
    return builder.call(function, values, fastmath=flags)


@primitive
def load(typing_context, array, place, lanes=LANES):
    """The vector from `place` on."""
    _expect(array)
    result, last = _lanes(lanes)

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, array, arguments[0], arguments[1], result.lanes),
                            align=4)
    return result(array, types.intp, last), generate


@primitive
def store(typing_context, array, place, value):
    """Writes a vector from `place` on, or one float32."""
    _expect(array)
    lanes = value.lanes if isinstance(value, Vector) else 0

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _address(context, builder, array, arguments[0], arguments[1], lanes),
                      align=4)
        return context.get_dummy_value()
    return types.void(array, types.intp, value if lanes else types.float32), generate


@primitive
def scalar(typing_context, array, place):
    """The float32 at `place`."""
    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, array, arguments[0], arguments[1]), align=4)
    return types.float32(array, types.intp), generate


@primitive
def repeat(typing_context, array, place, lanes=LANES):
    """The float32 at `place`, in all lanes."""
    _expect(array)
    result, last = _lanes(lanes)

    def generate(context, builder, signature, arguments):
        number = builder.load(_address(context, builder, array, arguments[0], arguments[1]), align=4)
        return _splat(builder, number, result.lanes)
    return result(array, types.intp, last), generate


@primitive
def spread(typing_context, array, place, stride, count, lanes):
    """`count` float32, `stride` apart, each in `lanes` lanes one after the other: a column of a tile [count,
    lanes]."""
    size, result = count.literal_value, Vector(count.literal_value * lanes.literal_value)

    def generate(context, builder, signature, arguments):
        base, rows = _address(context, builder, array, arguments[0], arguments[1]), []
        for n in range(size):
            address = builder.gep(base, [builder.mul(arguments[2], ir.Constant(arguments[2].type, n))])
            rows.append(_splat(builder, builder.load(address, align=4), lanes.literal_value))
        return _joined(builder, rows)
    return result(array, types.intp, types.intp, count, lanes), generate


@primitive
def load_bits(typing_context, bits, place, half):
    """16 numbers from the number at `place` on, of uint16: bfloat16 if `half`, else float32."""
    _expect(bits, types.uint16)

    def generate(context, builder, signature, arguments):
        data, place, half = arguments
        with builder.if_else(half) as (narrow, wide):
            with narrow:
                pointer = _address(context, builder, bits, data, place, LANES, _HALF)
                converted, narrow_end = _widened(builder, builder.load(pointer, align=2)), builder.block
            with wide:
                pointer = _address(context, builder, bits, data, _double(builder, place), LANES, _HALF,
                                   _FLOAT)
                plain, wide_end = builder.load(pointer, align=2), builder.block
        value = builder.phi(plain.type)
        value.add_incoming(converted, narrow_end)
        value.add_incoming(plain, wide_end)
        return value
    return VECTOR(bits, types.intp, types.boolean), generate


@primitive
def store_bits(typing_context, bits, place, value, half):
    """Writes what `load_bits` reads."""
    _expect(bits, types.uint16)

    def generate(context, builder, signature, arguments):
        data, place, vector, half = arguments
        with builder.if_else(half) as (narrow, wide):
            with narrow:
                pointer = _address(context, builder, bits, data, place, LANES, _HALF)
                builder.store(_rounded(builder, vector), pointer, align=2)
            with wide:
                pointer = _address(context, builder, bits, data, _double(builder, place), LANES, _HALF,
                                   _FLOAT)
                builder.store(vector, pointer, align=2)
        return context.get_dummy_value()
    return types.none(bits, types.intp, VECTOR, types.boolean), generate


def _double(builder, place):
    return builder.shl(place, ir.Constant(place.type, 1))


def _widened(builder, half):
    kind = ir.VectorType(_INT, LANES)
    bits = builder.shl(builder.zext(half, kind), _constant(kind, 16))
    return builder.bitcast(bits, ir.VectorType(_FLOAT, LANES))


def _rounded(builder, value):
    """bfloat16 bits, ties to even; a NaN stays one."""
    kind = ir.VectorType(_INT, LANES)
    bits = builder.bitcast(value, kind)
    odd = builder.and_(builder.lshr(bits, _constant(kind, 16)), _constant(kind, 1))
    bits = builder.add(bits, builder.add(odd, _constant(kind, 0x7FFF)))
    nan = builder.fcmp_unordered("uno", value, value)
    bits = builder.select(nan, _constant(kind, 0x7FC00000), bits)
    return builder.trunc(builder.lshr(bits, _constant(kind, 16)), ir.VectorType(_HALF, LANES))


@primitive
def transpose_16(typing_context, source, place, stride, target, to, step):
    """A block of 16 x 16, whose rows are `stride` apart, into another matrix, rows and columns exchanged."""
    _expect(source)
    _expect(target)

    def generate(context, builder, signature, arguments):
        data, place, stride, out, to, step = arguments
        rows = []
        for _ in range(LANES):
            rows.append(builder.load(_address(context, builder, source, data, place, LANES), align=4))
            place = builder.add(place, stride)
        for half in (1, 2, 4, 8):  # exchange the off-diagonal quarters of blocks of 2, 4, 8 and 16
            first = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
            second = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
            for n in (n for n in range(LANES) if not n & half):
                pair = rows[n], rows[n + half]
                rows[n], rows[n + half] = (builder.shuffle_vector(*pair, _mask(lanes))
                                           for lanes in (first, second))
        for row in rows:
            builder.store(row, _address(context, builder, target, out, to, LANES), align=4)
            to = builder.add(to, step)
        return context.get_dummy_value()
    return types.none(source, types.intp, types.intp, target, types.intp, types.intp), generate


@primitive
def fill(typing_context, number, lanes=LANES):
    """The same float32 in all lanes."""
    result, last = _lanes(lanes)

    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[0], result.lanes)
    return result(types.float32, last), generate


@primitive
def tile(typing_context, vector, count):
    """The vector `count` times: a row of a tile [count, lanes]."""
    def generate(context, builder, signature, arguments):
        return _joined(builder, [arguments[0]] * count.literal_value)
    return Vector(count.literal_value * vector.lanes)(vector, count), generate


@primitive
def fold(typing_context, vector, count):
    """The sum of `count` vectors that lie one after the other: a tile [count, lanes] summed over its rows."""
    result = Vector(vector.lanes // count.literal_value)

    def generate(context, builder, signature, arguments):
        undefined = ir.Constant(arguments[0].type, ir.Undefined)
        rows = [builder.shuffle_vector(arguments[0], undefined, _mask(range(first, first + result.lanes)))
                for first in range(0, vector.lanes, result.lanes)]
        while len(rows) > 1:
            rows = [builder.fadd(*pair, flags=FLAGS) for pair in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]
    return result(vector, count), generate


def _mask(lanes):
    return ir.Constant(ir.VectorType(_INT, len(lanes)), list(lanes))


def _joined(builder, parts):
    while len(parts) > 1:
        mask = _mask(range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(*pair, mask) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _operator(python: Callable[..., Any], instruction: str) -> None:
    @type_callable(python)
    def type_of(context):
        def typer(x: types.Type, y: types.Type) -> types.Type | None:
            return x if isinstance(x, Vector) and x == y else None
        return typer

    @lower_builtin(python, Vector, Vector)
    def generate(context, builder, signature, arguments):
        return getattr(builder, instruction)(*arguments, flags=FLAGS)


for _python, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                              (operator.truediv, "fdiv")):
    _operator(_python, _instruction)


@primitive
def fma(typing_context, x, y, z):
    """x y + z, rounded once where the machine can."""
    def generate(context, builder, signature, arguments):
        return _call(builder, "fmuladd", *arguments, flags=FLAGS)
    return x(x, x, x), generate


def _reduction(name: str, *start: float) -> Any:
    @primitive
    def reduce(typing_context, x):
        def generate(context, builder, signature, arguments):
            values = [*(ir.Constant(_FLOAT, value) for value in start), arguments[0]]
            kind = ir.FunctionType(_FLOAT, [value.type for value in values])
            function = get_or_insert_function(builder.module, kind,
                                              f"llvm.vector.reduce.{name}.v{x.lanes}f32")
            return builder.call(function, values, fastmath=FLAGS)
        return types.float32(x), generate
    return reduce


total, least, greatest = _reduction("fadd", 0.0), _reduction("fmin"), _reduction("fmax")  # of all lanes


@primitive
def where_larger(typing_context, x, y, yes, no):
    """`yes` where x > y, `no` elsewhere."""
    def generate(context, builder, signature, arguments):
        x, y, yes, no = arguments
        return builder.select(builder.fcmp_ordered(">", x, y), yes, no)
    return x(x, x, x, x), generate


@primitive
def exp2(typing_context, x):
    """2^x to float32's precision; 2^-127 and 2^127 beyond them."""
    def generate(context, builder, signature, arguments):
        return _exp2(builder, arguments[0])
    return x(x), generate


@primitive
def sigmoid(typing_context, x):
    """1 / (1 + exp(-x)) to float32's precision."""
    def generate(context, builder, signature, arguments):
        one = _constant(arguments[0].type, 1.0)
        power = _exp2(builder, builder.fmul(arguments[0], _constant(one.type, -float(LOG2_E))))
        return builder.fdiv(one, builder.fadd(power, one))
    return x(x), generate


def _exp2(builder, x):
    lowest, highest = _constant(x.type, -127.0), _constant(x.type, 127.0)
    x = builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)  # a NaN stays one
    x = builder.select(builder.fcmp_ordered(">", x, highest), highest, x)
    whole = _call(builder, "rint", x)
    part, y = builder.fsub(x, whole), _constant(x.type, POWERS_OF_TWO[0])
    for power in POWERS_OF_TWO[1:]:
        y = _call(builder, "fma", y, part, _constant(x.type, power))
    return builder.fmul(y, _whole_power(builder, whole))


@primitive
def exponential(typing_context, x):
    """exp of each lane to one unit in the last place, for x from -87 to 88; beyond, that of the nearest
    bound."""
    def generate(context, builder, signature, arguments):
        def rounded_once(*values: Any) -> Any:
            return _call(builder, "fmuladd", *(value if hasattr(value, "type") else _constant(kind, value)
                                               for value in values), flags=FLAGS)

        kind = arguments[0].type
        x = _call(builder, "maximum", arguments[0], _constant(kind, -87.0))  # NaN stays one
        x = _call(builder, "minimum", x, _constant(kind, 88.0))
        whole = _call(builder, "floor", rounded_once(x, 1.4426950408889634, 0.5))
        rest = rounded_once(whole, -LN_2[1], rounded_once(whole, -LN_2[0], x))
        y = _constant(kind, EXPONENTIALS[0])
        for factor in EXPONENTIALS[1:]:
            y = rounded_once(y, rest, factor)
        y = builder.fadd(rounded_once(y, builder.fmul(rest, rest, flags=FLAGS), rest), _constant(kind, 1.0),
                         flags=FLAGS)
        return builder.fmul(y, _whole_power(builder, whole), flags=FLAGS)
    return x(x), generate


def _whole_power(builder, whole):
    """2^n for lanes that hold whole numbers from -127 to 127."""
    kind = ir.VectorType(_INT, whole.type.count)
    exponent = builder.add(builder.fptosi(whole, kind), _constant(kind, 127))
    return builder.bitcast(builder.shl(exponent, _constant(kind, 23)), whole.type)
