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

SUBSETS = 6
"""People to a table of the sums of any of them."""

TABLES = 11
"""Tables to a word of 64 people: four people are left for the last."""

TABLE_ROWS = 10 * 64 + 16
"""Rows of all of them."""


def _rows_at(
    context: Any, builder: Any, array_type: Any, array: Any, at: Any, lanes: int, bits: int = 64
) -> Any:  # pragma: no cover
    """Point to element `at` of a flat array of integers, as rows of `lanes` of them."""
    data = context.make_array(array_type)(context, builder, array).data
    row = ir.VectorType(ir.IntType(bits), lanes)
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
            start = builder.mul(k, ir.Constant(i64, stride * lanes))
            table = _rows_at(context, builder, signature.args[3], tables, start, lanes)
            _store_table(builder, by_code, table)
            return context.get_dummy_value()

        return types.void(weights, types.intp, types.intp, tables, types.intp), codegen

    return fill_table


def _store_table(
    builder: Any, by_code: list[dict[int, Any]], table: Any
) -> None:  # pragma: no cover
    """Store the sum of four people's rows for every byte that their codes can make."""

    def pairs(first: dict[int, Any], second: dict[int, Any]) -> dict[int, Any]:
        return {a + 4 * b: builder.add(first[a], second[b]) for b in second for a in first}

    low = pairs(by_code[0], by_code[1])
    high = pairs(by_code[2], by_code[3])
    for b in high:
        for a in low:
            row = builder.gep(table, [ir.Constant(ir.IntType(64), a + 16 * b)])
            builder.store(builder.add(high[b], low[a]), row, align=8)


def _fill_subsets_step(
    _: Any, weights: Any, at_weights: Any, tables: Any, k: Any
) -> Any:  # pragma: no cover
    """Build table `k` of a word: the sums of any of six people, in rows of sixteen 32-bit integers.

    The last table has four people, and reads no more.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, at, tables, k = arguments
        i64 = ir.IntType(64)
        at = builder.add(at, builder.mul(k, ir.Constant(i64, 16 * SUBSETS)))
        source = _rows_at(context, builder, signature.args[0], weights, at, 16, 32)
        start = builder.mul(k, ir.Constant(i64, 16 << SUBSETS))
        table = _rows_at(context, builder, signature.args[2], tables, start, 16, 32)
        nothing = ir.Constant(source.type.pointee, [0] * 16)

        def subsets(first: int, last: int) -> list[Any]:
            sums = [nothing]
            for i in range(first, last):
                person = builder.load(builder.gep(source, [ir.Constant(i64, i)]), align=4)
                sums += [builder.add(so_far, person) for so_far in sums]
            return sums

        def store(low: list[Any], high: list[Any]) -> None:
            for j, other in enumerate(high):
                for i, one in enumerate(low):
                    row = builder.gep(table, [ir.Constant(i64, len(low) * j + i)])
                    builder.store(builder.add(one, other), row, align=8)

        whole = builder.icmp_signed("<", k, ir.Constant(i64, TABLES - 1))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                store(subsets(0, 3), subsets(3, 6))
            with otherwise:
                store(subsets(0, 2), subsets(2, 4))
        return context.get_dummy_value()

    return types.void(weights, types.intp, tables, types.intp), codegen


def _add_subsets_step(
    _: Any, tables: Any, word: Any, sums: Any, at_sums: Any
) -> Any:  # pragma: no cover
    """Add to sixteen 32-bit sums the rows that a word of bits names, six bits at a time."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tables, word, sums, at_sums = arguments
        i64, i8 = ir.IntType(64), ir.IntType(8)
        start = ir.Constant(i64, 0)
        table = _rows_at(context, builder, signature.args[0], tables, start, 16, 32)
        target = _rows_at(context, builder, signature.args[2], sums, at_sums, 16, 32)
        total = builder.load(target, align=8)
        memory = builder.bitcast(table, i8.as_pointer())
        for k in range(TABLES):
            # A row has 64 bytes, so that the six bits in their place are where it begins.
            shift = SUBSETS * (k - 1)
            how = builder.shl if shift < 0 else builder.lshr
            moved = how(word, ir.Constant(i64, abs(shift))) if shift else word
            begin = builder.and_(moved, ir.Constant(i64, (2**SUBSETS - 1) << 6))
            place = builder.gep(memory, [begin])
            place = builder.gep(place, [ir.Constant(i64, 64 * 2**SUBSETS * k)])
            row = builder.bitcast(place, table.type)
            total = builder.add(total, builder.load(row, align=8))
        builder.store(total, target, align=8)
        return context.get_dummy_value()

    return types.void(tables, types.uint64, sums, types.intp), codegen


def _add_groups_of(groups: int) -> Any:  # pragma: no cover
    """Return the step that adds up rows of people one by one, in so many groups of columns.

    Its arguments are the flat weights with the element where the first group begins and how far it
    is to the next; the places of `count` people; and 64-bit sums with the element of the first.
    """

    @intrinsic
    def add_groups(
        _: Any,
        weights: Any,
        at_weights: Any,
        stride: Any,
        places: Any,
        count: Any,
        sums: Any,
        at_sums: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            weights, at, stride, places, count, sums, at_sums = arguments
            i64 = ir.IntType(64)
            place_of = context.make_array(signature.args[3])(context, builder, places).data
            rows = []
            for _ in range(groups):
                rows.append(_rows_at(context, builder, signature.args[0], weights, at, 16, 32))
                at = builder.add(at, stride)
            nothing = ir.Constant(rows[0].type.pointee, [0] * 16)
            before, loop = builder.block, builder.append_basic_block("people")
            after = builder.append_basic_block("people.end")
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(i64)
            so_far = [builder.phi(nothing.type) for _ in rows]
            person = builder.load(builder.gep(place_of, [k]))
            grown = [
                builder.add(total, builder.load(builder.gep(row, [person]), align=4))
                for total, row in zip(so_far, rows, strict=True)
            ]
            following = builder.add(k, ir.Constant(i64, 1))
            for value, one, other in zip(
                (k, *so_far),
                (ir.Constant(i64, 0), *[nothing] * groups),
                (following, *grown),
                strict=True,
            ):
                value.add_incoming(one, before)
                value.add_incoming(other, loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            builder.position_at_end(after)
            for total in grown:
                target = _rows_at(context, builder, signature.args[5], sums, at_sums, 16)
                wide = builder.sext(total, target.type.pointee)
                builder.store(builder.add(builder.load(target, align=8), wide), target, align=8)
                at_sums = builder.add(at_sums, ir.Constant(i64, 16))
            return context.get_dummy_value()

        i = types.intp
        return types.void(weights, i, i, places, i, sums, i), codegen

    return add_groups


def _add_rows_of(lanes: int, stride: int) -> Any:  # pragma: no cover
    """Return the step that adds the rows of a word's eight bytes to the sums at `at_sums`."""

    @intrinsic
    def add_rows(_: Any, tables: Any, word: Any, sums: Any, at_sums: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            tables, word, sums, at_sums = arguments
            start = ir.Constant(ir.IntType(64), 0)
            table = _rows_at(context, builder, signature.args[0], tables, start, lanes)
            target = _rows_at(context, builder, signature.args[2], sums, at_sums, lanes)
            total = builder.load(target, align=8)
            total = _plus_rows(builder, total, table, word, stride)
            builder.store(total, target, align=8)
            return context.get_dummy_value()

        return types.void(tables, types.uint64, sums, types.intp), codegen

    return add_rows


def _plus_rows(
    builder: Any, total: Any, table: Any, word: Any, stride: int
) -> Any:  # pragma: no cover
    """Add to `total` the rows of a word's bytes, whose tables begin with the one named `first`."""
    i64 = ir.IntType(64)
    for k in range(BYTES):
        byte = builder.and_(builder.lshr(word, ir.Constant(i64, 8 * k)), ir.Constant(i64, 255))
        own = builder.gep(table, [ir.Constant(i64, stride * k)])
        total = builder.add(total, builder.load(builder.gep(own, [byte]), align=8))
    return total


fill_table_4 = _fill_table_of(4, STRIDE_4)
fill_table_8 = _fill_table_of(8, STRIDE_8)
add_rows_4 = _add_rows_of(4, STRIDE_4)
add_rows_8 = _add_rows_of(8, STRIDE_8)
fill_subsets: Any = intrinsic(_fill_subsets_step)
add_subsets: Any = intrinsic(_add_subsets_step)
add_four_groups, add_group = _add_groups_of(4), _add_groups_of(1)


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


def _add_widened_step(
    _: Any, rows: Any, at_rows: Any, sums: Any, at_sums: Any
) -> Any:  # pragma: no cover
    """Add sixteen 32-bit integers of one flat array to sixteen 64-bit ones of another."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, at_rows, sums, at_sums = arguments
        source = _rows_at(context, builder, signature.args[0], rows, at_rows, 16, 32)
        target = _rows_at(context, builder, signature.args[2], sums, at_sums, 16)
        wide = builder.sext(builder.load(source, align=4), target.type.pointee)
        builder.store(builder.add(builder.load(target, align=8), wide), target, align=8)
        return context.get_dummy_value()

    return types.void(rows, types.intp, sums, types.intp), codegen


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
add_widened: Any = intrinsic(_add_widened_step)
fetch: Any = intrinsic(_fetch_step)
