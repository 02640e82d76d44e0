"""What the second-order HLMM needs of the data: products of F with genotype class indicators.

:mod:`~hlmm_scan.kernels.second_order.likelihood` says what they are good for, and what the symbols
are. All are sums over people of single-precision columns, for many variants in one matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Float32
from hlmm_scan.kernels.second_order.basis import REFINED_WIDTH, TERMS, SecondOrderBasis
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.bit_planes import BITS, Words, add_shared
from hlmm_scan.kernels.sums.call_counts import (
    PEOPLE_PER_STRIP,
    WIDTH,
    CallCounts,
    class_planes,
    plain,
    strips,
)
from hlmm_scan.kernels.sums.chosen import add_chosen
from hlmm_scan.kernels.sums.class_sums import plan_class_sums

CODES = [3, 2, 0]
"""PLINK's, of 0, 1 and 2 copies."""


@njit(nogil=True, cache=True)
def _fill(
    classes: Words, probe: Float32, centre: Float32, probed: Float32
) -> None:  # pragma: no cover
    """Write (g − ḡ)·probe, 0 without a call.

    `classes` is what `class_planes` returns, `centre` has shape (m,), `probed` (WIDTH, people).
    """
    one = np.uint64(1)
    missing = len(classes) == 3
    for j in range(len(centre)):
        row, mean = probed[j], centre[j]
        for w in range(classes.shape[2]):
            first = BITS * w
            here, start = row[first : first + BITS], probe[first : first + BITS]
            single, double = classes[0, j, w], classes[1, j, w]
            for i in range(len(here)):
                place = np.uint64(i)
                copies = ((single >> place) & one) + ((double >> place) & one) * np.uint64(2)
                here[i] = start[i] * (np.float32(np.int32(copies)) - mean)
            if missing and classes[2, j, w]:
                absent = classes[2, j, w]
                for i in range(len(here)):
                    here[i] *= np.float32(np.int32(one - ((absent >> np.uint64(i)) & one)))


@njit(nogil=True, cache=True)
def _fill_refined(
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    residual: Float,
    change: Float32,
    block: Float32,
    elementary: Float,
) -> None:  # pragma: no cover
    """Write e·1₁, e·1₂, e·1₃ with each variant's own e = residual − change, and add up e and e².

    `change` has shape (people, width), `block` (people, 3·width), `elementary` (m, 4, 2).
    """
    zero = np.float32(0.0)
    for i in range(samples.shape[0]):
        byte, bit = samples[i] >> 2, 2 * (samples[i] & 3)
        row = block[i]
        for j in range(packed.shape[0]):
            code = (packed[j, byte] >> bit) & 3
            exact = residual[i] - change[i, j]
            e = np.float32(exact)
            row[3 * j] = e if code == 2 else zero
            row[3 * j + 1] = e if code == 0 else zero
            row[3 * j + 2] = e if code == 1 else zero
            elementary[j, code, 0] += exact
            elementary[j, code, 1] += exact * exact


@dataclass(frozen=True)
class SecondOrderSums:
    """Sums over the genotype classes of m variants.

    Attributes
    ----------
    counts, residuals, squares : ndarray, shape (m, 3)
        People, Σe and Σe².
    sums, products : ndarray, shape (m, 3, r)
        ΣFᵢ and ΣFᵢeᵢ.
    series : ndarray, shape (m, 4, TERMS)
        Chebyshev coefficients of R̃_c/R̄; class 3 is a missing call.
    ratio : ndarray, shape (m,)
        tr M² over its mean, for M linear in the genotype.
    beta : ndarray, shape (m, r)
        The β that e = y − a₀ − Fβ is left by.
    refined : bool
        Whether that is each variant's own.
    """

    counts: Float
    residuals: Float
    squares: Float
    sums: Float
    products: Float
    series: Float
    ratio: Float
    beta: Float
    refined: bool = False

    def take(self, rows: NDArray[np.integer]) -> SecondOrderSums:
        """Return the sums of some of the variants."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "refined"}
        return replace(self, **{name: values[rows] for name, values in arrays.items()})


def second_order_sums(
    basis: SecondOrderBasis,
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    counted: CallCounts | None = None,
) -> SecondOrderSums:
    """Make the class sums of m variants; 2·n·k operations in float32, and as many in the classes.

    Parameters
    ----------
    basis : SecondOrderBasis
    packed : ndarray of uint8, shape (m, bytes)
    samples : ndarray of int64, shape (n,)
    counted : CallCounts, optional
        Of these variants: filled, where random effects are hard calls.

    Notes
    -----
    The classes of 0 copies are what the others leave of the totals.
    """
    m, r, n = len(packed), len(basis.beta), len(samples)
    packed, samples = plain(packed), plain(samples)
    plan = plan_class_sums(packed.shape[1], [samples], [basis.residual])
    counts, residuals, squares = np.moveaxis(plan.sums(packed)[0], -1, 0)
    called = counts.sum(axis=1)
    centre = (counts @ np.arange(3.0)) / np.maximum(called, 1)
    sums, on_residual = np.zeros((m, 3, r)), np.zeros((m, 3, r))
    series, probed = np.zeros((m, 4, TERMS)), np.zeros(m)
    phi = 1 / (1 + basis.kappa * basis.eigen.values)
    for missing in (False, True):
        group = np.flatnonzero((called < n) == missing)
        for start in range(0, len(group), WIDTH):
            rows = group[start : start + WIDTH]
            of_class = np.column_stack((counts[rows, 1:], n - called[rows]))[:, : 2 + missing]
            own = None if counted is None else counted.take(rows)
            weighted, indicators, coefficients = _multiplied(
                basis, packed[rows], samples, centre[rows], of_class, own
            )
            # The rotation is the same product whatever the neighbours.
            F, S = (_by_variant(basis.eigen.rotate(x), len(rows)) for x in (weighted, indicators))
            sums[rows, 1:], on_residual[rows, 1:] = S[:, :2], F[:, :2]
            sums[rows, 0], on_residual[rows, 0] = basis.sums, basis.products
            series[rows, 1 : 3 + missing] = _by_variant(coefficients, len(rows))
            if missing:
                sums[rows, 0] -= S[:, 2]
                on_residual[rows, 0] -= F[:, 3]
            # In rows: numpy adds up in an order that depends on how an array is laid out.
            probed[rows] = (np.ascontiguousarray(F[:, 2]) ** 2 * phi).sum(axis=1)
    sums[:, 0] -= sums[:, 1] + sums[:, 2]
    on_residual[:, 0] -= on_residual[:, 1] + on_residual[:, 2]
    series[:, 0] = -(series[:, 1] + series[:, 2] + series[:, 3])
    spread = (counts * (np.arange(3) - centre[:, None]) ** 2).sum(axis=1)
    mean = _mean_square(basis)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(spread * mean > 0, probed / (spread * mean), 1.0)
    return SecondOrderSums(
        np.ascontiguousarray(counts),
        np.ascontiguousarray(residuals),
        np.ascontiguousarray(squares),
        sums,
        on_residual,
        series,
        ratio,
        np.broadcast_to(basis.beta, (m, r)),
    )


def _by_variant(columns: Float, m: int) -> Float:
    """Turn columns of all kinds, WIDTH variants each, shape (r, kinds·WIDTH), to (m, kinds, r)."""
    return columns.reshape(len(columns), -1, WIDTH).transpose(2, 1, 0)[:m]


def refine_sums(
    basis: SecondOrderBasis,
    sums: SecondOrderSums,
    shift: Float,
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
) -> SecondOrderSums:
    """Move each variant's β to where its own quadratic form is smallest; four products.

    Parameters
    ----------
    basis : SecondOrderBasis
    sums : SecondOrderSums
        Of these variants, as :func:`second_order_sums` made them.
    shift : ndarray, shape (m, r)
        h2·Λ₀⁻¹γ at a first fit.
    packed, samples
        As for :func:`second_order_sums`.

    Notes
    -----
    From β + h2·Λ₀⁻¹γ, the gradient is γ' = γ − Λ·Λ₀⁻¹γ = −κΔΛ₀⁻¹γ: of second order, so that Λ₀ in
    place of Λ is an error of fifth; and again with the next refinement.
    """
    m, r, n = shift.shape[0], len(basis.beta), len(samples)
    beta = sums.beta + shift
    shift = beta - basis.beta
    packed, samples, residual = plain(packed), plain(samples), plain(basis.residual)
    on_residual = np.empty((m, 3, r))
    elementary = np.zeros((m, 4, 2))
    totals = basis.products - basis.eigen.values * shift
    for start in range(0, m, REFINED_WIDTH):
        rows = slice(start, min(start + REFINED_WIDTH, m))
        size = rows.stop - start
        spread = basis.spread(shift[rows])
        linear = np.zeros((basis.columns.shape[1], 3 * REFINED_WIDTH))
        block = np.zeros((min(n, PEOPLE_PER_STRIP), 3 * REFINED_WIDTH), np.float32)
        for first in range(0, n, PEOPLE_PER_STRIP):
            strip = slice(first, min(first + PEOPLE_PER_STRIP, n))
            part = block[: strip.stop - first]
            columns = basis.columns[strip]
            _fill_refined(
                packed[rows],
                samples[strip],
                residual[strip],
                products.multiply(columns, spread),
                part,
                elementary[rows],
            )
            products.add_product(columns.T, part, linear)
        F = basis.eigen.rotate(linear).reshape(r, REFINED_WIDTH, 3).transpose(1, 2, 0)[:size]
        on_residual[rows, 1:] = F[:, :2]
        on_residual[rows, 0] = totals[rows] - F.sum(axis=1)
    return replace(
        sums,
        residuals=elementary[:, CODES, 0],
        squares=elementary[:, CODES, 1],
        products=on_residual,
        beta=beta,
        refined=True,
    )


def _mean_square(basis: SecondOrderBasis) -> float:
    """Φ at the null κ."""
    n, values = len(basis.residual), basis.eigen.values
    low, high = basis.log_range
    x = 2 * (math.log(basis.kappa + 1 / values[0]) - low) / (high - low) - 1
    shrunk = values / (1 + basis.kappa * values)
    relative = float(np.polynomial.chebyshev.chebval(x, basis.squares))
    own = relative * float(shrunk.sum() / n) ** 2
    all_pairs = float((shrunk**2).sum())
    return (own - (all_pairs - own) / (n - 1)) / n


def _multiplied(
    basis: SecondOrderBasis,
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    centre: Float,
    of_class: Float,
    counted: CallCounts | None,
) -> tuple[Float, Float, Float]:
    """Multiply for one group of at most WIDTH variants.

    `of_class` has the people with 1 and 2 copies and, where there are any, without a call, shape
    (m, 2 or 3).

    Returns columnsᵀB of e·1₁, e·1₂, (g − ḡ)·probe and, if there is a third class, e·1₃, and of 1₁,
    1₂, 1₃ alone, and seriesᵀB of the latter, shapes (k or TERMS, kinds·WIDTH).
    """
    n, (m, kinds) = len(samples), of_class.shape
    residual, probe = basis.residual.astype(np.float32), plain(basis.probe)
    k, lattice = basis.columns.shape[1], basis.lattice
    single, ones = centre.astype(np.float32), np.ones(min(n, PEOPLE_PER_STRIP), np.float32)
    room = np.zeros((WIDTH, len(ones)), np.float32)
    weighted, probed = np.zeros((kinds * WIDTH, k)), np.zeros((WIDTH, k))
    sums, series = np.zeros((kinds * WIDTH, k)), np.zeros((kinds * WIDTH, TERMS))
    shared = None if lattice is None else lattice.none_shared(kinds * WIDTH)
    for strip in strips(n):
        classes = class_planes(packed, samples[strip], kinds)
        people, one = classes.reshape(kinds * WIDTH, -1), ones[: strip.stop - strip.start]
        filled, columns = room[:, : len(one)], basis.columns[strip]
        _fill(classes, probe[strip], single, filled)
        products.add_product(filled, columns, probed)
        add_chosen(people, residual[strip], columns, weighted)
        add_chosen(people, one, basis.series[strip], series)
        if lattice is None or shared is None:
            add_chosen(people, one, columns, sums)
        else:
            add_shared(lattice.planes(strip), people, shared)
    if lattice is not None and shared is not None:
        people_of = np.zeros((kinds, WIDTH))
        people_of[:, :m] = of_class.T
        sums = lattice.sums(lattice.folded(shared), people_of.ravel()).T
        if counted is not None:
            counted.put(np.arange(m), shared)
    linear = np.concatenate([weighted[: 2 * WIDTH], probed, weighted[2 * WIDTH :]])
    return linear.T, sums.T, series.T
