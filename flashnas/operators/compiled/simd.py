"""Vectors of float32 as values in compiled code, of any number of lanes; LLVM maps them to the registers there are.

Numba vectorises loops by chance; kernels written with these do not depend on it. `lanes` is a constant of the kernel.
Offsets count float32 from the start of an array's data, whatever its shape, or from an address, which is an integer.

    x = load(array, offset, lanes);  y = fill(1.0, lanes);  z = multiply_add(x, y, z);  store(array, offset, z)
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, overload, register_model, type_callable

ROWS = 8  # of a product at once
ENTRIES = 16 * ROWS
FLAGS = ("contract", "reassoc", "nsz")
primitive: Callable[[Callable[..., Any]], Any] = intrinsic(prefer_literal=True)
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)


class Vector(types.Type):
    """The type of a vector with that many lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"vector{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_FLOAT, vector.lanes))


def _vector(lanes: int) -> ir.VectorType:
    return ir.VectorType(_FLOAT, lanes)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    one = builder.insert_element(ir.Constant(_vector(lanes), ir.Undefined), scalar, ir.Constant(_INT, 0))
    zeros = ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(_vector(lanes), ir.Undefined), zeros)


def _address(context: Any, builder: ir.IRBuilder, array: types.Type, value: ir.Value, offset: ir.Value) -> ir.Value:
    if isinstance(array, types.Integer):
        return builder.gep(builder.inttoptr(value, _FLOAT.as_pointer()), [offset])
    return builder.gep(context.make_array(array)(context, builder, value).data, [offset])


@primitive
def load(typing_context, array, offset, lanes):
    """The vector at that offset."""
    result = Vector(lanes.literal_value)

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, array, arguments[0], arguments[1])
        return builder.load(builder.bitcast(address, _vector(result.lanes).as_pointer()), align=4)
    return result(array, types.intp, lanes), generate


@primitive
def store(typing_context, array, offset, vector):
    """Writes the vector at that offset."""
    def generate(context, builder, signature, arguments):
        address = _address(context, builder, array, arguments[0], arguments[1])
        builder.store(arguments[2], builder.bitcast(address, arguments[2].type.as_pointer()), align=4)
        return context.get_dummy_value()
    return types.void(array, types.intp, vector), generate


@primitive
def scalar(typing_context, array, offset):
    """The float32 at that offset."""
    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, array, arguments[0], arguments[1]), align=4)
    return types.float32(array, types.intp), generate


@primitive
def fill(typing_context, value, lanes):
    """The same float32 in all lanes."""
    result = Vector(lanes.literal_value)

    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[0], result.lanes)
    return result(types.float32, lanes), generate


@primitive
def repeat(typing_context, array, offset, lanes):
    """The float32 at that offset, in all lanes."""
    result = Vector(lanes.literal_value)

    def generate(context, builder, signature, arguments):
        value = builder.load(_address(context, builder, array, arguments[0], arguments[1]), align=4)
        return _splat(builder, value, result.lanes)
    return result(array, types.intp, lanes), generate


@primitive
def put(typing_context, array, offset, value):
    """Writes one float32 at that offset."""
    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _address(context, builder, array, arguments[0], arguments[1]), align=4)
        return context.get_dummy_value()
    return types.void(array, types.intp, types.float32), generate


@primitive
def spread(typing_context, array, offset, stride, count, lanes):
    """`count` float32, `stride` apart, each in `lanes` lanes one after the other: a column of a tile [count, lanes]."""
    size, result = count.literal_value, Vector(count.literal_value * lanes.literal_value)

    def generate(context, builder, signature, arguments):
        base, rows = _address(context, builder, array, arguments[0], arguments[1]), []
        for n in range(size):
            address = builder.gep(base, [builder.mul(arguments[2], ir.Constant(arguments[2].type, n))])
            rows.append(_splat(builder, builder.load(address, align=4), lanes.literal_value))
        return _joined(builder, rows)
    return result(array, types.intp, types.intp, count, lanes), generate


@primitive
def tile(typing_context, vector, count):
    """The vector `count` times: a row of a tile [count, lanes]."""
    result = Vector(count.literal_value * vector.lanes)

    def generate(context, builder, signature, arguments):
        return _joined(builder, [arguments[0]] * count.literal_value)
    return result(vector, count), generate


@primitive
def fold(typing_context, vector, count):
    """The sum of `count` vectors that lie one after the other: a tile [count, lanes] summed over its rows."""
    size = count.literal_value
    result = Vector(vector.lanes // size)

    def generate(context, builder, signature, arguments):
        rows, undefined = [], ir.Constant(arguments[0].type, ir.Undefined)
        for n in range(size):
            lanes = range(n * result.lanes, (n + 1) * result.lanes)
            mask = ir.Constant(ir.VectorType(_INT, result.lanes), list(lanes))
            rows.append(builder.shuffle_vector(arguments[0], undefined, mask))
        while len(rows) > 1:
            rows = [builder.fadd(*pair, flags=FLAGS) for pair in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]
    return result(vector, count), generate


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        mask = ir.Constant(ir.VectorType(_INT, lanes), list(range(lanes)))
        parts = [builder.shuffle_vector(*pair, mask) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@primitive
def multiply_add(typing_context, x, y, z):
    """x y + z, rounded once where the machine can."""
    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        name = f"llvm.fmuladd.v{x.lanes}f32"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(function, arguments, fastmath=FLAGS)
    return x(x, x, x), generate


@primitive
def total(typing_context, x):
    """The sum of all lanes."""
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_FLOAT, [_FLOAT, arguments[0].type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{x.lanes}f32")
        return builder.call(function, [ir.Constant(_FLOAT, 0.0), arguments[0]], fastmath=FLAGS)
    return types.float32(x), generate


@primitive
def transpose(typing_context, array, stride, result, result_stride):
    """Writes the 16 x 16 entries at address `array`, whose rows are `stride` apart, transposed to `result`."""
    def generate(context, builder, signature, arguments):
        rows, pointer = [], _vector(16).as_pointer()
        source, step, target, target_step = arguments
        for n in range(16):
            address = _address(context, builder, array, source, builder.mul(step, ir.Constant(step.type, n)))
            rows.append(builder.load(builder.bitcast(address, pointer), align=4))
        for width in (1, 2, 4, 8):  # of the blocks that rows n and n + width exchange
            keep = [lane if not lane & width else lane - width + 16 for lane in range(16)]
            give = [lane + width if not lane & width else lane + 16 for lane in range(16)]
            for n in range(16):
                if not n & width:
                    pair = rows[n], rows[n + width]
                    for place, lanes in ((n, keep), (n + width, give)):
                        mask = ir.Constant(ir.VectorType(_INT, 16), lanes)
                        rows[place] = builder.shuffle_vector(*pair, mask)
        for n, row in enumerate(rows):
            address = _address(context, builder, result, target, builder.mul(target_step, ir.Constant(step.type, n)))
            builder.store(row, builder.bitcast(address, pointer), align=4)
        return context.get_dummy_value()
    return types.void(types.intp, types.intp, types.intp, types.intp), generate


def _operator(python: Callable[..., Any], instruction: str) -> None:
    @type_callable(python)
    def type_of(context: Any) -> Callable[..., Any]:
        def typer(x: types.Type, y: types.Type) -> types.Type | None:
            return x if isinstance(x, Vector) and x == y else None
        return typer

    @lower_builtin(python, Vector, Vector)
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return getattr(builder, instruction)(*arguments, flags=FLAGS)


for _python, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                              (operator.truediv, "fdiv")):
    _operator(_python, _instruction)


def _unary(name: str) -> Callable[..., Any]:
    @primitive
    def call(typing_context, x):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]),
                                                      f"llvm.{name}.v{x.lanes}f32")
            return builder.call(function, arguments)
        return x(x), generate
    return call


def _binary(name: str) -> Callable[..., Any]:
    @primitive
    def call(typing_context, x, y):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 2),
                                                      f"llvm.{name}.v{x.lanes}f32")
            return builder.call(function, arguments)
        return x(x, x), generate
    return call


round_down = _unary("floor")
smaller, larger = _binary("minimum"), _binary("maximum")  # nan if one is


@primitive
def _power_of_two(typing_context, whole):
    """2^n for lanes that hold whole numbers from -126 to 127."""
    def generate(context, builder, signature, arguments):
        kind = ir.VectorType(_INT, whole.lanes)
        exponent = builder.add(builder.fptosi(arguments[0], kind), ir.Constant(kind, [127] * whole.lanes))
        return builder.bitcast(builder.shl(exponent, ir.Constant(kind, [23] * whole.lanes)), arguments[0].type)
    return whole(whole), generate


@primitive
def like(typing_context, x, value):
    """The number in all lanes of a vector like x."""
    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[1], x.lanes)
    return x(x, types.float32), generate


@numba.njit
def exponential(x):
    """exp of each lane to one unit in the last place, for x from -87 to 88; beyond, that of the nearest bound."""
    x = smaller(larger(x, like(x, -87.0)), like(x, 88.0))
    whole = round_down(multiply_add(x, like(x, 1.4426950408889634), like(x, 0.5)))
    rest = multiply_add(whole, like(x, -0.693359375), x)
    rest = multiply_add(whole, like(x, 2.12194440e-4), rest)
    y = like(x, 1.9875691500e-4)
    y = multiply_add(y, rest, like(x, 1.3981999507e-3))
    y = multiply_add(y, rest, like(x, 8.3334519073e-3))
    y = multiply_add(y, rest, like(x, 4.1665795894e-2))
    y = multiply_add(y, rest, like(x, 1.6666665459e-1))
    y = multiply_add(y, rest, like(x, 5.0000001201e-1))
    return (multiply_add(y, rest * rest, rest) + like(x, 1.0)) * _power_of_two(whole)


@numba.njit
def dot(x, y, size):
    """The inner product of `size` float32 at two addresses; size is a multiple of 16."""
    part = load(x, 0, 16) * load(y, 0, 16)
    for i in range(16, size, 16):
        part = multiply_add(load(x, i, 16), load(y, i, 16), part)
    return total(part)


def add_product(width: int, left: int, right: int, out: int, rows: int) -> None:
    """out += left right, in compiled code, for left [rows, width], right [width, 16] and out [rows, 16] at addresses;
    `rows` and the constant `width` are multiples of 16."""
    raise NotImplementedError("add_product can be called from compiled code only")


@overload(add_product, prefer_literal=True)
def _add_product(width, left, right, out, rows):
    size = width.literal_value  # so that LLVM knows how far apart the rows are

    def add(width, left, right, out, rows):
        for i in range(0, rows, ROWS):
            y = load(out, 16 * i, ENTRIES)
            for j in range(size):
                y = multiply_add(spread(left, i * size + j, size, ROWS, 16), tile(load(right, 16 * j, 16), ROWS), y)
            store(out, 16 * i, y)
    return add


@numba.njit
def clear(out, count):
    """Writes 0 to `count` float32, a multiple of 16."""
    for i in range(0, count, 16):
        store(out, i, fill(0.0, 16))
