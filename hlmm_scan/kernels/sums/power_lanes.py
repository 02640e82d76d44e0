"""Power sums of dosage codes, sixteen people at a time.

All sums of a person are taken while their code is in registers. LLVM makes narrower vectors of such
a loop by itself, and none of the two precisions side by side, so it is written as vectors here, as
those of :mod:`~hlmm_scan.kernels.sums.code_lanes` are.

The first two powers, of which scores are made, are summed in double precision. The others count for
how far a class's weight is from a parabola in its copies, b³/6 and less: they are taken in single
precision, a strip of people at a time, which moves effects by 1e-7·b²/6 standard errors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

from hlmm_scan.kernels.sums.products import FUSED

LANES = 16
"""People in a vector."""

POWERS = 6
"""Of each column."""

_EXACT = 2
"""Powers in double precision."""

PLAIN = 2
"""Powers that are summed by themselves too, the third and the fourth: counts have the others."""

cgutils: Any = untyped_cgutils
_HALF = LANES // 2
_INDEX, _PLACE = ir.IntType(64), ir.IntType(32)
_CODES, _WHOLE, _SINGLE, _WIDE = (
    ir.VectorType(kind, LANES)
    for kind in (ir.IntType(16), ir.IntType(32), ir.FloatType(), ir.DoubleType())
)
_DOUBLE = ir.VectorType(ir.DoubleType(), _HALF)


def vectors(columns: int) -> int:
    """Return how many vectors of sums there are of so many columns."""
    return columns * POWERS + PLAIN


def _add_powers_of(columns: int) -> Any:
    """Return the step that adds the power sums of a strip of people.

    Its arguments are flat arrays and numbers: uint16 codes, of which the first `size` (a multiple
    of 16) are gone over; the code that powers are of codes less; the largest code that counts
    (others add nothing); float64 weights, `size` of each column one after the other from element
    `at` on, and the same in float32; and float64 sums from element `to` on, which are added to: a
    vector of each power of each column (of the first two powers, the first half of it), then of the
    third power and of the fourth themselves.
    """

    @intrinsic
    def add_powers(
        _: Any,
        codes: Any,
        size: Any,
        middle: Any,
        most: Any,
        given: Any,
        single: Any,
        at: Any,
        out: Any,
        to: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, size, middle, most, given, single, at, out, to = arguments
            data, weights, short, lanes = (
                context.make_array(signature.args[k])(context, builder, array).data
                for k, array in ((0, codes), (4, given), (5, single), (7, out))
            )
            fused = {
                kind: cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.{name}"
                )
                for kind, name in ((_DOUBLE, f"v{_HALF}f64"), (_SINGLE, f"v{LANES}f32"))
            }

            def grow(total: Any, factor: Any, column: Any) -> Any:
                if FUSED:
                    return builder.call(fused[total.type], [factor, column, total])
                return builder.fadd(builder.fmul(factor, column), total)

            def everywhere(number: Any, kind: Any) -> Any:
                nothing = ir.Constant(kind, ir.Undefined)
                one = builder.insert_element(nothing, number, ir.Constant(_PLACE, 0))
                first = ir.Constant(ir.VectorType(_PLACE, LANES), [0] * LANES)
                return builder.shuffle_vector(one, nothing, first)

            def vector_at(base: Any, place: Any, kind: Any) -> Any:
                return builder.bitcast(builder.gep(base, [place]), kind.as_pointer())

            def half(vector: Any, first: int) -> Any:
                places = ir.Constant(
                    ir.VectorType(_PLACE, _HALF), list(range(first, first + _HALF))
                )
                return builder.shuffle_vector(vector, vector, places)

            last = everywhere(builder.trunc(most, ir.IntType(16)), _CODES)
            centre = everywhere(builder.trunc(middle, _PLACE), _WHOLE)
            kinds = ([_DOUBLE] * _EXACT + [_SINGLE] * (POWERS - _EXACT)) * columns
            kinds += [_SINGLE] * PLAIN
            zero = ir.Constant(_INDEX, 0)
            before, loop = builder.block, builder.append_basic_block("people")
            after = builder.append_basic_block("people.end")
            builder.branch(loop)
            builder.position_at_end(loop)
            place, sums = builder.phi(_INDEX), [builder.phi(kind) for kind in kinds]
            code = builder.load(vector_at(data, place, _CODES), align=2)
            there = builder.icmp_unsigned("<=", code, last)
            whole = builder.sub(builder.zext(code, _WHOLE), centre)
            whole = builder.select(there, whole, ir.Constant(_WHOLE, [0] * LANES))
            first = builder.sitofp(whole, _SINGLE)
            second = builder.fmul(first, first)
            third, fourth = builder.fmul(second, first), builder.fmul(second, second)
            fifth, sixth = builder.fmul(third, second), builder.fmul(third, third)
            halves = []
            for k in (0, _HALF):
                one = builder.sitofp(half(whole, k), _DOUBLE)
                halves.append((one, builder.fmul(one, one)))
            grown: list[Any] = []
            start = builder.add(at, place)
            for _ in range(columns):
                exact = sums[len(grown) : len(grown) + _EXACT]
                for k, powers in zip((0, _HALF), halves, strict=True):
                    source = builder.add(start, ir.Constant(_INDEX, k))
                    column = builder.load(vector_at(weights, source, _DOUBLE), align=8)
                    exact = [grow(s, u, column) for s, u in zip(exact, powers, strict=True)]
                grown += exact
                column = builder.load(vector_at(short, start, _SINGLE), align=4)
                for power in (third, fourth, fifth, sixth):
                    grown.append(grow(sums[len(grown)], power, column))
                start = builder.add(start, size)
            for power in (third, fourth):
                grown.append(builder.fadd(sums[len(grown)], power))
            following = [builder.add(place, ir.Constant(_INDEX, LANES)), *grown]
            nothing = [zero, *(ir.Constant(kind, [0.0] * kind.count) for kind in kinds)]
            for value, none, other in zip([place, *sums], nothing, following, strict=True):
                value.add_incoming(none, before)
                value.add_incoming(other, loop)
            builder.cbranch(builder.icmp_signed("<", following[0], size), loop, after)
            builder.position_at_end(after)
            for k, (value, kind) in enumerate(zip(grown, kinds, strict=True)):
                found = value if kind is _DOUBLE else builder.fpext(value, _WIDE)
                target = builder.add(to, ir.Constant(_INDEX, k * LANES))
                where = vector_at(lanes, target, found.type)
                builder.store(builder.fadd(builder.load(where, align=8), found), where, align=8)
            return context.get_dummy_value()

        i = types.intp
        return types.void(codes, i, i, i, given, single, i, out, i), codegen

    return add_powers


add_three, add_four = (_add_powers_of(columns) for columns in (3, 4))
