"""Steps on a few lanes of integers that numba does not make vector instructions of by itself.

LLVM does not turn loops over the lanes of a table row into vector instructions, so the inner steps
of the class sums are written as vectors here. They lower to whatever width the machine has; on
integers that makes no difference to the result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BYTES = 8
"""Bytes in a word of codes."""


STRIDE_4 = 274
STRIDE_8 = 265
"""Rows from one byte's table to the next: off a power of two, which is one cache set."""


def _rows_at(
    context: Any, builder: Any, array_type: Any, array: Any, at: Any, lanes: int
) -> Any:  # pragma: no cover
    """Point to element `at` of a flat array of int64, as rows of `lanes` integers."""
    data = context.make_array(array_type)(context, builder, array).data
    row = ir.VectorType(ir.IntType(64), lanes)
    return builder.bitcast(builder.gep(data, [at]), row.as_pointer())


def _fill_table_of(lanes: int, stride: int) -> Any:  # pragma: no cover
    """Return the step that builds table `k`, of one byte, in rows of `lanes` integers.

    A row holds the sums of people with one copy in its lower half and with two copies in its upper
    half. Rows of bytes with a missing call are not written: those calls are recoded before.
    """
    half = lanes // 2

    @intrinsic
    def fill_table(_: Any, weights: Any, at_weights: Any, columns: Any, tables: Any, k: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            weights, at, columns, tables, k = arguments
            i64 = ir.IntType(64)
            nothing = ir.Constant(ir.VectorType(i64, half), [0] * half)
            places = ir.VectorType(ir.IntType(32), lanes)
            lower = ir.Constant(places, list(range(lanes)))
            upper = ir.Constant(places, [*range(half, lanes), *range(half)])
            by_code = []
            for _ in range(4):
                source = _rows_at(context, builder, signature.args[0], weights, at, half)
                weight = builder.load(source, align=8)
                by_code.append(
                    {
                        0: builder.shuffle_vector(weight, nothing, upper),
                        2: builder.shuffle_vector(weight, nothing, lower),
                        3: ir.Constant(ir.VectorType(i64, lanes), [0] * lanes),
                    }
                )
                at = builder.add(at, columns)

            def pairs(first: dict[int, Any], second: dict[int, Any]) -> dict[int, Any]:
                return {a + 4 * b: builder.add(first[a], second[b]) for b in second for a in first}

            low = pairs(by_code[0], by_code[1])
            high = pairs(by_code[2], by_code[3])
            start = builder.mul(k, ir.Constant(i64, stride * lanes))
            table = _rows_at(context, builder, signature.args[3], tables, start, lanes)
            for b in high:
                for a in low:
                    row = builder.gep(table, [ir.Constant(i64, a + 16 * b)])
                    builder.store(builder.add(high[b], low[a]), row, align=8)
            return context.get_dummy_value()

        return types.void(weights, types.intp, types.intp, tables, types.intp), codegen

    return fill_table


def _add_rows_of(lanes: int, stride: int) -> Any:  # pragma: no cover
    """Return the step that adds the rows of a word's eight bytes to the sums at `at_sums`."""

    @intrinsic
    def add_rows(_: Any, tables: Any, word: Any, sums: Any, at_sums: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            tables, word, sums, at_sums = arguments
            i64 = ir.IntType(64)
            start = ir.Constant(i64, 0)
            table = _rows_at(context, builder, signature.args[0], tables, start, lanes)
            target = _rows_at(context, builder, signature.args[2], sums, at_sums, lanes)
            total = builder.load(target, align=8)
            for k in range(BYTES):
                shifted = builder.lshr(word, ir.Constant(i64, 8 * k))
                byte = builder.and_(shifted, ir.Constant(i64, 255))
                row = builder.gep(builder.gep(table, [ir.Constant(i64, stride * k)]), [byte])
                total = builder.add(total, builder.load(row, align=8))
            builder.store(total, target, align=8)
            return context.get_dummy_value()

        return types.void(tables, types.uint64, sums, types.intp), codegen

    return add_rows


fill_table_4 = _fill_table_of(4, STRIDE_4)
fill_table_8 = _fill_table_of(8, STRIDE_8)
add_rows_4 = _add_rows_of(4, STRIDE_4)
add_rows_8 = _add_rows_of(8, STRIDE_8)


def _ones_step(_: Any, word: Any) -> Any:  # pragma: no cover
    """Count the bits of a word that are set."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


def _lowest_step(_: Any, word: Any) -> Any:  # pragma: no cover
    """Find the place of the lowest bit that is set; the word must not be zero."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), codegen


def _word_at_step(_: Any, flat: Any, at: Any) -> Any:  # pragma: no cover
    """Read eight bytes from anywhere in a flat array of bytes, the first into the lowest bits."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(flat, types.intp), codegen


def _add_four_step(
    _: Any, weights: Any, at_weights: Any, sums: Any, at_sums: Any
) -> Any:  # pragma: no cover
    """Add four integers of one flat array to four of another."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, at_weights, sums, at_sums = arguments
        source = _rows_at(context, builder, signature.args[0], weights, at_weights, 4)
        target = _rows_at(context, builder, signature.args[2], sums, at_sums, 4)
        total = builder.add(builder.load(target, align=8), builder.load(source, align=8))
        builder.store(total, target, align=8)
        return context.get_dummy_value()

    return types.void(weights, types.intp, sums, types.intp), codegen


def _fetch_step(_: Any, flat: Any, at: Any) -> Any:  # pragma: no cover
    """Ask for the cache line of element `at`, which need not exist."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, i32, i32, i32])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(fetch, [place, *(ir.Constant(i32, value) for value in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(flat, types.intp), codegen


# Any: the stubs take the typing context for an argument of the call.
ones: Any = intrinsic(_ones_step)
lowest: Any = intrinsic(_lowest_step)
word_at: Any = intrinsic(_word_at_step)
add_four: Any = intrinsic(_add_four_step)
fetch: Any = intrinsic(_fetch_step)
