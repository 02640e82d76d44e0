"""Counts and sums of dosage codes, 32 codes at a time.

Most of what a block wants to know of a variant's codes is how many of them lie above some edge, and
their sum: how many are called, whose nearest whole number of copies is two, which of a few classes
people fall into. Everything is whole numbers, so no order matters. numba does not make vector
instructions of such loops (its integers are 64 bits wide as soon as they are added up), so the loop
is written as vectors here, as those of :mod:`~hlmm_scan.kernels.sums.lanes` are.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

CODES = 32
"""Codes in a vector."""

STRIP = 4096
"""Codes that may be gone over at once: their sums are to fit into 32 bits in every lane."""

CLASSES = 7
"""Classes that a variant's dosages are put into for tests."""

cgutils: Any = untyped_cgutils
_INDEX, _INT = ir.IntType(64), ir.IntType(32)
_CODES, _SUMS, _SQUARES = (ir.VectorType(ir.IntType(bits), CODES) for bits in (16, 32, 64))


def _reduced(builder: Any, vector: Any, how: str) -> Any:  # pragma: no cover
    """Return the sum, the least or the largest of a vector's integers, in 64 bits."""
    kind = vector.type.element
    name = f"llvm.vector.reduce.{how}.v{CODES}i{kind.width}"
    function = ir.FunctionType(kind, [vector.type])
    reduce = cgutils.get_or_insert_function(builder.module, function, name)
    found = builder.call(reduce, [vector])
    return found if kind == _INDEX else builder.zext(found, _INDEX)


def _code_sums_of(edges: int, *, described: bool) -> Any:
    """Return the step that counts and adds up codes from each of so many edges on.

    Its arguments are flat arrays and numbers: uint16 codes, of which the first `size` (a multiple
    of 32, at most a strip) are gone over; the uint16 edges; the largest code that counts; and
    64-bit integers that take for each edge how many codes are not below it, then their sums. Where
    codes are `described`, only the first of the sums does, then Σ code², and the least (65,535
    without any) and the largest code.
    """
    summed = 1 if described else edges

    @intrinsic
    def code_sums(_: Any, codes: Any, size: Any, limits: Any, most: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, size, limits, most, out = arguments
            data, low, to = (
                context.make_array(signature.args[k])(context, builder, array).data
                for k, array in ((0, codes), (2, limits), (4, out))
            )

            def at(base: Any, place: int) -> Any:
                return builder.gep(base, [ir.Constant(_INDEX, place)])

            def everywhere(number: Any) -> Any:
                nothing = ir.Constant(_CODES, ir.Undefined)
                one = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
                return builder.shuffle_vector(one, nothing, ir.Constant(_SUMS, [0] * CODES))

            bounds = [everywhere(builder.load(at(low, k))) for k in range(edges)]
            last = everywhere(builder.trunc(most, ir.IntType(16)))
            none, zero = ir.Constant(_CODES, [0] * CODES), ir.Constant(_INDEX, 0)
            first = [zero] * (1 + edges) + [ir.Constant(_SUMS, [0] * CODES)] * summed
            if described:
                farthest = ir.Constant(_CODES, [2**16 - 1] * CODES)
                first += [ir.Constant(_SQUARES, [0] * CODES), farthest, none]
            before, loop = builder.block, builder.append_basic_block("codes")
            after = builder.append_basic_block("codes.end")
            builder.branch(loop)
            builder.position_at_end(loop)
            so_far = [builder.phi(value.type) for value in first]
            place, counts = so_far[0], so_far[1 : 1 + edges]
            sums = so_far[1 + edges : 1 + edges + summed]
            where = builder.bitcast(builder.gep(data, [place]), _CODES.as_pointer())
            code = builder.load(where, align=2)
            there = builder.icmp_unsigned("<=", code, last)
            more, added = [], []
            for k, (bound, count) in enumerate(zip(bounds, counts, strict=True)):
                chosen = builder.and_(there, builder.icmp_unsigned(">=", code, bound))
                bits = builder.ctpop(builder.bitcast(chosen, ir.IntType(CODES)))
                more.append(builder.add(count, builder.zext(bits, _INDEX)))
                if k < summed:
                    values = builder.zext(builder.select(chosen, code, none), _SUMS)
                    added.append(builder.add(sums[k], values))
            following = [builder.add(place, ir.Constant(_INDEX, CODES)), *more, *added]
            if described:
                squares, least, largest = so_far[-3:]
                values = builder.zext(builder.select(there, code, none), _SUMS)
                square = builder.zext(builder.mul(values, values), _SQUARES)
                smaller = builder.and_(there, builder.icmp_unsigned("<", code, least))
                larger = builder.and_(there, builder.icmp_unsigned(">", code, largest))
                following += [
                    builder.add(squares, square),
                    builder.select(smaller, code, least),
                    builder.select(larger, code, largest),
                ]
            for value, one, other in zip(so_far, first, following, strict=True):
                value.add_incoming(one, before)
                value.add_incoming(other, loop)
            builder.cbranch(builder.icmp_signed("<", following[0], size), loop, after)
            builder.position_at_end(after)
            found = [*more, *(_reduced(builder, total, "add") for total in added)]
            if described:
                ways = ("add", "umin", "umax")
                found += [
                    _reduced(builder, vector, how)
                    for vector, how in zip(following[-3:], ways, strict=True)
                ]
            for k, number in enumerate(found):
                builder.store(number, at(to, k))
            return context.get_dummy_value()

        return types.void(codes, types.intp, limits, types.intp, out), codegen

    return code_sums


describe_codes = _code_sums_of(3, described=True)
class_codes = _code_sums_of(CLASSES, described=False)
