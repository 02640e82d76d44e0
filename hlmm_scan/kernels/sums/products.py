"""Products of matrices in single precision, in which a number's place makes no difference.

A library's product adds up what stands in the middle of a matrix in another order than what stands
at an edge, and which order that is depends on the library, on the processor and on the shape. In
single precision that is 4e-7 of a standard error between a variant and the same variant in another
block. So kernels multiply in single precision here and nowhere else: every element of a product is
the same sum, person after person (or covariate after covariate), each term rounded once, in runs of
:data:`RUN` that are added up in float64. That holds to the last bit on every processor with fused
multiplication, which is all since 2013.

It costs next to nothing: a tile of a product stays in vector registers as it does in a library, and
matrices as narrow as those of kernels need not be copied first (DESIGN.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from hlmm_scan.array_types import Float

Real = NDArray[Any]
"""float32 or float64."""

RUN = 256
"""Terms that are added up in single precision before they go into float64."""

LANES = 16
"""Columns of a product in one vector."""

# Six rows of so many vectors keep the registers of a processor full: 32 of 16 numbers with AVX-512,
# 16 of 8 numbers with AVX2, 32 of 4 numbers on aarch64. No sum depends on it.
_VECTORS = 4 if get_host_cpu_features().get("avx512f") else 1
_WIDE = LANES * _VECTORS
_COPIED_ROWS = 24  # from which copying columns side by side pays for itself
_NEAR = 512  # columns that are copied at a time: they fill a second-level cache
_ONE = np.ones(1, np.float32)
_FAR = 128  # numbers between two rows of a matrix up to which its columns are near anyway

FUSED = bool(get_host_cpu_features().get("fma", True))
"""Whether terms are rounded once; emulating that would take a hundred times as long."""

cgutils: Any = untyped_cgutils
_FLOAT = ir.VectorType(ir.FloatType(), LANES)
_DOUBLE = ir.VectorType(ir.DoubleType(), LANES)
_FIRST = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)


def multiply(left: Real, right: Real, out: Real | None = None) -> Real:
    """Return left @ right.

    Parameters
    ----------
    left : ndarray of float32, shape (m, k)
        Or both of float64: then the library multiplies.
    right : ndarray of float32, shape (k, w)
        Copied if it is not row-major.
    out : ndarray of float32, shape (m, w), row-major, optional
        Where the product goes.
    """
    if left.dtype != np.float32:
        return np.matmul(left, right, out=out)
    shape = len(left), right.shape[1]
    if 0 < left.shape[1] <= RUN:
        product = np.empty(shape, np.float32) if out is None else out
        _multiply(given(left), given(np.ascontiguousarray(right)), product)
        return product
    total = np.zeros(shape)
    add_product(left, right, total)
    if out is None:
        return total.astype(np.float32)
    out[:] = total
    return out


def add_product(left: Real, right: Real, total: Float) -> None:
    """Add left @ right to a matrix.

    Parameters
    ----------
    left, right
        As for :func:`multiply`.
    total : ndarray of float64, shape (m, w), row-major
    """
    if left.dtype != np.float32:
        total += left @ right
        return
    _multiply(given(left), given(np.ascontiguousarray(right)), total)


def combine(coefficients: Real, columns: Real) -> Real:
    """Return coefficients @ columns.T, row-major, without a copy of the columns.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (m, k)
        Or both of float64.
    columns : ndarray of float32, shape (n, k)
    """
    if columns.dtype != np.float32:
        return coefficients @ columns.T
    return np.ascontiguousarray(multiply(columns, coefficients.T).T)


class _Given:
    """The memory of an array, as of one that may be written."""

    def __init__(self, values: Real) -> None:
        self.values = values  # keeps the memory alive
        address = (values.__array_interface__["data"][0], False)
        self.__array_interface__ = {**values.__array_interface__, "data": address}


def given(values: Real) -> Real:
    """Return the same numbers as an array of the type that is compiled for.

    Random effects are mapped from read-only files, and numba compiles anew for those. Nothing here
    writes into what is multiplied.
    """
    return values if values.flags.writeable else np.asarray(_Given(values))


def _tile_of(rows: int, vectors: int) -> Any:
    """Return the step that makes so many rows and vectors of a product.

    Its arguments are the flat arrays with the elements where each begins and how far it is to the
    next row: of `left`, also how far it is to the next term. `left` and `right` are float32; into
    `out` the sums of `count` terms are put where it is float32, and added where it is float64.
    """

    @intrinsic
    def tile(
        _: Any,
        left: Any,
        at_left: Any,
        left_row: Any,
        left_term: Any,
        right: Any,
        at_right: Any,
        right_term: Any,
        count: Any,
        out: Any,
        at_out: Any,
        out_row: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, at_left, left_row, left_term, _, at_right, right_term, count, _, at_out, out_row = (
                arguments
            )
            start = [
                builder.gep(
                    context.make_array(signature.args[k])(context, builder, arguments[k]).data, [at]
                )
                for k, at in ((0, at_left), (4, at_right), (8, at_out))
            ]
            index = at_left.type
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_FLOAT, [_FLOAT] * 3), f"llvm.fma.v{LANES}f32"
            )

            def grow(total: Any, factor: Any, column: Any) -> Any:
                if FUSED:
                    return builder.call(fma, [factor, column, total])
                return builder.fadd(builder.fmul(factor, column), total)

            def place(base: Any, row: Any, vector: int, kind: Any) -> Any:
                at = builder.add(row, ir.Constant(index, LANES * vector))
                return builder.bitcast(builder.gep(base, [at]), kind.as_pointer())

            def broadcast(number: Any) -> Any:
                nothing = ir.Constant(_FLOAT, ir.Undefined)
                one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(one, nothing, _FIRST)

            none = ir.Constant(index, 0)
            before, loop = builder.block, builder.append_basic_block("terms")
            after = builder.append_basic_block("terms.end")
            builder.branch(loop)
            builder.position_at_end(loop)
            # Sums as values of the loop, not in memory: they are to stay in registers.
            term = builder.phi(index)
            at = [builder.phi(pointer.type) for pointer in start[:2]]
            sums = [builder.phi(_FLOAT) for _ in range(rows * vectors)]
            columns = [builder.load(place(at[1], none, k, _FLOAT), align=4) for k in range(vectors)]
            grown = []
            for row in range(rows):
                offset = builder.mul(left_row, ir.Constant(index, row))
                factor = broadcast(builder.load(builder.gep(at[0], [offset]), align=4))
                for k in range(vectors):
                    grown.append(grow(sums[row * vectors + k], factor, columns[k]))
            following = [
                builder.add(term, ir.Constant(index, 1)),
                *(builder.gep(at[k], [step]) for k, step in enumerate((left_term, right_term))),
                *grown,
            ]
            zero = ir.Constant(_FLOAT, [0.0] * LANES)
            first = [none, *start[:2], *[zero] * len(sums)]
            for value, one, other in zip((term, *at, *sums), first, following, strict=True):
                value.add_incoming(one, before)
                value.add_incoming(other, loop)
            builder.cbranch(builder.icmp_signed("<", following[0], count), loop, after)
            builder.position_at_end(after)
            for row in range(rows):
                offset = builder.mul(out_row, ir.Constant(index, row))
                for k in range(vectors):
                    value = grown[row * vectors + k]
                    if signature.args[8].dtype == types.float32:
                        builder.store(value, place(start[2], offset, k, _FLOAT), align=4)
                        continue
                    where = place(start[2], offset, k, _DOUBLE)
                    wide = builder.fpext(value, _DOUBLE)
                    total = builder.fadd(builder.load(where, align=8), wide)
                    builder.store(total, where, align=8)
            return context.get_dummy_value()

        i = types.intp
        return types.void(left, i, i, i, right, i, i, i, out, i, i), codegen

    return tile


_six, _two, _one = (_tile_of(rows, 1) for rows in (6, 2, 1))
_six_wide, _two_wide, _one_wide = (_tile_of(rows, _VECTORS) for rows in (6, 2, 1))


@njit(nogil=True, cache=True)
def _columns(
    left: Any,
    at: int,
    right: Any,
    at_right: int,
    right_term: int,
    count: int,
    out: Any,
    at_out: int,
    out_row: int,
) -> None:  # pragma: no cover
    """Make one vector of columns of a product, in all rows of `left`."""
    m, row, term = len(left), left.strides[0] // 4, left.strides[1] // 4
    i = 0
    while i + 6 <= m:
        a, o = at + i * row, at_out + i * out_row
        _six(left, a, row, term, right, at_right, right_term, count, out, o, out_row)
        i += 6
    while i + 2 <= m:
        a, o = at + i * row, at_out + i * out_row
        _two(left, a, row, term, right, at_right, right_term, count, out, o, out_row)
        i += 2
    if i < m:
        a, o = at + i * row, at_out + i * out_row
        _one(left, a, row, term, right, at_right, right_term, count, out, o, out_row)


@njit(nogil=True, cache=True)
def _wide_columns(
    left: Any,
    at: int,
    right: Any,
    at_right: int,
    right_term: int,
    count: int,
    out: Any,
    at_out: int,
    out_row: int,
) -> None:  # pragma: no cover
    """Make as many vectors of columns of a product as registers hold."""
    m, row, term = len(left), left.strides[0] // 4, left.strides[1] // 4
    i = 0
    while i + 6 <= m:
        a, o = at + i * row, at_out + i * out_row
        _six_wide(left, a, row, term, right, at_right, right_term, count, out, o, out_row)
        i += 6
    while i + 2 <= m:
        a, o = at + i * row, at_out + i * out_row
        _two_wide(left, a, row, term, right, at_right, right_term, count, out, o, out_row)
        i += 2
    if i < m:
        a, o = at + i * row, at_out + i * out_row
        _one_wide(left, a, row, term, right, at_right, right_term, count, out, o, out_row)


@njit(nogil=True, cache=True)
def _multiply(left: Any, right: Any, out: Any) -> None:  # pragma: no cover
    """Put the product where `out` is float32 (of at most RUN terms), add it where it is float64."""
    (m, terms), w = left.shape, right.shape[1]
    term, given, flat = left.strides[1] // 4, right.reshape(-1), out.reshape(-1)
    # Rows far apart share cache sets, and each is a page of its own.
    copied = m >= _COPIED_ROWS and w > _FAR
    near = np.empty(RUN * (_NEAR if copied else _WIDE), np.float32)
    # Of the columns beyond whole tiles one or two whole vectors, and what is left, filled up with
    # zeros.
    rest = w % _WIDE
    tiles = w - rest
    vectors = rest // LANES if rest < 3 * LANES else 0
    whole = tiles + vectors * LANES
    rest = w - whole
    side = LANES if rest <= LANES else _WIDE
    edge = np.zeros(m * side, out.dtype)
    for start in range(0, terms, RUN):
        count, a = min(RUN, terms - start), start * term
        for first in range(0, tiles, _NEAR):
            last = min(first + _NEAR, tiles)
            if copied:
                for k in range(count):
                    for j in range(first, last, _WIDE):
                        to = (j - first) * RUN + k * _WIDE
                        _one_wide(_ONE, 0, 0, 0, given, (start + k) * w + j, 0, 1, near, to, 0)
            for j in range(first, last, _WIDE):
                source, at, step = given, start * w + j, w
                if copied:
                    source, at, step = near, (j - first) * RUN, _WIDE
                _wide_columns(left, a, source, at, step, count, flat, j, w)
        for j in range(tiles, whole, LANES):
            _columns(left, a, given, start * w + j, w, count, flat, j, w)
        if whole < w:
            for k in range(count):
                row = near[k * side : (k + 1) * side]
                row[:rest] = right[start + k, whole:]
                row[rest:] = 0.0
            for i in range(m):
                edge[i * side : i * side + rest] = out[i, whole:]
            if side > LANES:
                _wide_columns(left, a, near, 0, side, count, edge, 0, side)
            else:
                _columns(left, a, near, 0, side, count, edge, 0, side)
            for i in range(m):
                out[i, whole:] = edge[i * side : i * side + rest]
