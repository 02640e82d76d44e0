"""Power sums of dosage codes, eight people at a time.

All sums of a person are taken while their code is in registers. LLVM makes vectors half as wide of
such a loop by itself, so it is written as vectors here, as those of
:mod:`~hlmm_scan.kernels.sums.code_lanes` are.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

from hlmm_scan.kernels.sums.products import FUSED

LANES = 8
"""People in a vector."""

POWERS = 6
"""Of each column."""

PLAIN = 2
"""Powers that are summed by themselves too, the third and the fourth: counts have the others."""

cgutils: Any = untyped_cgutils
_INDEX = ir.IntType(64)
_CODES, _WHOLE, _REAL = (
    ir.VectorType(kind, LANES) for kind in (ir.IntType(16), ir.IntType(32), ir.DoubleType())
)


def _add_powers_of(columns: int) -> Any:
    """Return the step that adds the power sums of a strip of people.

    Its arguments are flat arrays and numbers: uint16 codes, of which the first `size` (a multiple
    of 8) are gone over; the code that powers are of codes less; the largest code that counts
    (others add nothing); float64 weights, `size` of each column one after the other from element
    `at` on; and float64 sums from element `to` on, a vector of each power of each column, then of
    the third power and of the fourth themselves, which are added to.
    """
    count = columns * POWERS + PLAIN

    @intrinsic
    def add_powers(
        _: Any,
        codes: Any,
        size: Any,
        middle: Any,
        most: Any,
        given: Any,
        at: Any,
        out: Any,
        to: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, size, middle, most, given, at, out, to = arguments
            data, weights, lanes = (
                context.make_array(signature.args[k])(context, builder, array).data
                for k, array in ((0, codes), (4, given), (6, out))
            )
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_REAL, [_REAL] * 3), f"llvm.fma.v{LANES}f64"
            )

            def grow(total: Any, factor: Any, column: Any) -> Any:
                if FUSED:
                    return builder.call(fma, [factor, column, total])
                return builder.fadd(builder.fmul(factor, column), total)

            def everywhere(number: Any, kind: Any) -> Any:
                nothing = ir.Constant(kind, ir.Undefined)
                one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
                first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                return builder.shuffle_vector(one, nothing, first)

            def vector_at(base: Any, place: Any, kind: Any) -> Any:
                return builder.bitcast(builder.gep(base, [place]), kind.as_pointer())

            last = everywhere(builder.trunc(most, ir.IntType(16)), _CODES)
            centre = everywhere(builder.trunc(middle, ir.IntType(32)), _WHOLE)
            nought, none = ir.Constant(_REAL, [0.0] * LANES), ir.Constant(_WHOLE, [0] * LANES)
            zero = ir.Constant(_INDEX, 0)
            before, loop = builder.block, builder.append_basic_block("people")
            after = builder.append_basic_block("people.end")
            builder.branch(loop)
            builder.position_at_end(loop)
            place, sums = builder.phi(_INDEX), [builder.phi(_REAL) for _ in range(count)]
            code = builder.load(vector_at(data, place, _CODES), align=2)
            there = builder.icmp_unsigned("<=", code, last)
            whole = builder.sub(builder.zext(code, _WHOLE), centre)
            first = builder.sitofp(builder.select(there, whole, none), _REAL)
            second = builder.fmul(first, first)
            third, fourth = builder.fmul(second, first), builder.fmul(second, second)
            powers = [first, second, third, fourth]
            powers += [builder.fmul(third, second), builder.fmul(third, third)]
            grown: list[Any] = []
            start = builder.add(at, place)
            for _ in range(columns):
                column = builder.load(vector_at(weights, start, _REAL), align=8)
                start = builder.add(start, size)
                for power in powers:
                    grown.append(grow(sums[len(grown)], power, column))
            for power in powers[2 : 2 + PLAIN]:
                grown.append(builder.fadd(sums[len(grown)], power))
            following = [builder.add(place, ir.Constant(_INDEX, LANES)), *grown]
            for value, one, other in zip(
                [place, *sums], [zero] + [nought] * count, following, strict=True
            ):
                value.add_incoming(one, before)
                value.add_incoming(other, loop)
            builder.cbranch(builder.icmp_signed("<", following[0], size), loop, after)
            builder.position_at_end(after)
            for k, value in enumerate(grown):
                where = vector_at(lanes, builder.add(to, ir.Constant(_INDEX, k * LANES)), _REAL)
                builder.store(builder.fadd(builder.load(where, align=8), value), where, align=8)
            return context.get_dummy_value()

        i = types.intp
        return types.void(codes, i, i, i, given, i, out, i), codegen

    return add_powers


add_three, add_four = (_add_powers_of(columns) for columns in (3, 4))
