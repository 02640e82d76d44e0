"""Weighted sums of single-precision columns over genotype classes, whose people are bits.

What :mod:`~hlmm_scan.kernels.sums.products` makes of weights times class indicators, without
writing either out: only the people of a class are gone through, in their order and in the same
runs. Adding nought times a number changes no bit of a sum, so that both give the same to the last
bit. Of three classes one is left out, and a person is in one of the others at most, so that it is a
third of the work or less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.extending import intrinsic

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.sums.bit_planes import BITS, Words
from hlmm_scan.kernels.sums.products import FUSED, LANES, RUN, Real, cgutils, given

# Sums of one class that stay in registers beside the columns and the weight: 64 people's columns
# then lie in the first-level cache.
_MOST_VECTORS = 8 if get_host_cpu_features().get("avx512f") else 4

_FLOAT = ir.VectorType(ir.FloatType(), LANES)
_FIRST = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)


def add_chosen(planes: Words, weights: Real, columns: Real, total: Float) -> None:
    """Add the weighted sums of columns over the people of each plane.

    Parameters
    ----------
    planes : ndarray of uint64, shape (m, ⌈n/64⌉), row-major
    weights : ndarray of float32, shape (n,)
    columns : ndarray of float32, shape (n, w)
        Copied if it is not row-major.
    total : ndarray of float64, shape (m, w), row-major
    """
    _add_chosen(planes, given(weights), given(np.ascontiguousarray(columns)), total)


def add_chosen_reference(planes: Words, weights: Real, columns: Real, total: Float) -> None:
    """Do what `add_chosen` does, in plain numpy and float64."""
    chosen = np.unpackbits(planes.view(np.uint8), axis=1, bitorder="little")[:, : len(weights)]
    total += (chosen * weights.astype(np.float64)) @ columns


def _grow_by_people(
    _: Any, word: Any, weights: Any, first: Any, near: Any, vectors: Any, sums: Any, at: Any
) -> Any:
    """Add Σ weight·columns over the people of a word, which has some, to sums at `at`.

    `first` is where in `weights` they begin; `near` has their columns, `vectors` vectors a person.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, _, first, _, vectors, _, at = arguments
        weights, near, sums = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data
            for k in (1, 3, 5)
        )
        weights, sums = builder.gep(weights, [first]), builder.gep(sums, [at])
        index, bits = at.type, word.type
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOAT, [_FLOAT] * 3), f"llvm.fma.v{LANES}f32"
        )

        def vector(base: Any, at: Any, k: int) -> Any:
            place = builder.gep(base, [builder.add(at, ir.Constant(index, LANES * k))])
            return builder.bitcast(place, _FLOAT.as_pointer())

        def grow(total: Any, weight: Any, column: Any) -> Any:
            if FUSED:
                return builder.call(fma, [weight, column, total])
            return builder.fadd(builder.fmul(weight, column), total)

        after = builder.append_basic_block("people.end")
        starts = [builder.append_basic_block(f"people.{k}") for k in range(_MOST_VECTORS)]
        choice = builder.switch(vectors, starts[-1])
        for width, start in enumerate(starts, 1):
            if width < _MOST_VECTORS:
                choice.add_case(ir.Constant(index, width), start)
            builder.position_at_end(start)
            none = ir.Constant(index, 0)
            given_sums = [builder.load(vector(sums, none, k), align=4) for k in range(width)]
            loop = builder.append_basic_block("person")
            builder.branch(loop)
            builder.position_at_end(loop)
            # Sums as values of the loop, not in memory: they are to stay in registers.
            left = builder.phi(bits)
            totals = [builder.phi(_FLOAT) for _ in range(width)]
            person = builder.cttz(left, ir.Constant(ir.IntType(1), 1))
            nothing = ir.Constant(_FLOAT, ir.Undefined)
            one = builder.insert_element(
                nothing,
                builder.load(builder.gep(weights, [person]), align=4),
                ir.Constant(ir.IntType(32), 0),
            )
            weight = builder.shuffle_vector(one, nothing, _FIRST)
            row = builder.mul(person, ir.Constant(index, LANES * width))
            grown = [
                grow(totals[k], weight, builder.load(vector(near, row, k), align=4))
                for k in range(width)
            ]
            following = builder.and_(left, builder.sub(left, ir.Constant(bits, 1)))
            for value, given_value, other in zip(
                [left, *totals], [word, *given_sums], [following, *grown], strict=True
            ):
                value.add_incoming(given_value, start)
                value.add_incoming(other, loop)
            done = builder.append_basic_block("person.end")
            builder.cbranch(
                builder.icmp_unsigned("!=", following, ir.Constant(bits, 0)), loop, done
            )
            builder.position_at_end(done)
            for k in range(width):
                builder.store(grown[k], vector(sums, none, k), align=4)
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    i = types.intp
    return types.void(types.uint64, weights, i, near, i, sums, i), codegen


_grow: Any = intrinsic(_grow_by_people)


@njit(nogil=True, cache=True)
def _add_chosen(planes: Any, weights: Any, columns: Any, total: Any) -> None:  # pragma: no cover
    """Go through all planes for 64 people, and through these for as many columns as fit."""
    m, (n, w) = len(planes), columns.shape
    vectors = (w + LANES - 1) // LANES
    blocks = (vectors + _MOST_VECTORS - 1) // _MOST_VECTORS
    vectors = (vectors + blocks - 1) // blocks
    wide = vectors * LANES
    # Vectors that lie across two lines of the cache take twice as long to load.
    room = np.zeros((BITS + m) * wide + LANES, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    near, sums = room[skip : skip + BITS * wide], room[skip + BITS * wide :]
    for start in range(0, n, RUN):
        stop = min(start + RUN, n)
        for column in range(0, w, wide):
            width = min(wide, w - column)
            sums[:] = 0.0
            for first in range(start, stop, BITS):
                for person in range(min(BITS, stop - first)):
                    to = near[person * wide : person * wide + width]
                    source = columns[first + person, column : column + width]
                    for k in range(len(to)):
                        to[k] = source[k]
                for i in range(m):
                    word = planes[i, first // BITS]
                    if word:
                        _grow(word, weights, first, near, vectors, sums, i * wide)
            for i in range(m):
                row, added = total[i, column : column + width], sums[i * wide : i * wide + width]
                for k in range(len(row)):
                    row[k] += added[k]
