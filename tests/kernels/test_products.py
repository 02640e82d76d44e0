"""Products in single precision: the same sums wherever a number stands, whoever multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from by_chromosome import (
    fit_random_screen,
    fit_scoring,
    fit_second_order,
    fit_weighted,
    second_order_bases,
)
from screened_cohorts import screened_cohort
from test_hlm_scoring import cohort
from test_hlmm_eigen import eigenstructures
from test_hlmm_screen import designs_of
from test_hlmm_weighted import FEW, MORE, bases_of, make_null

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.sums import products

SHAPES = [
    (1, 1, 1), (2, 3, 5), (5, 7, 16), (6, 40, 33), (13, products.RUN, 64), (24, 30, 129),
    (25, 300, 161), (31, 2 * products.RUN + 1, 530),
]  # fmt: skip
"""Rows, terms and columns: whole tiles and their edges, columns near and copied, many runs."""


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_is_the_sum_that_it_is_alone(shape):
    m, k, w = shape
    left, right = drawn(m, k), drawn(k, w)
    whole, total = products.multiply(left, right), np.zeros((m, w))
    products.add_product(left, right, total)
    size = np.abs(left).astype(float) @ np.abs(right)
    assert (np.abs(whole - left.astype(float) @ right) <= 1e-6 * size).all()
    np.testing.assert_array_equal(total.astype(np.float32), whole)
    rng = np.random.default_rng(0)
    for i, j in zip(rng.integers(0, m, 40), rng.integers(0, w, 40), strict=True):
        assert products.multiply(left[[i]], right[:, [j]]) == whole[i, j]
        alone = np.zeros((1, 1))
        products.add_product(left[[i]], right[:, [j]], alone)
        assert alone == total[i, j]
    products.add_product(left, right, total)
    assert (np.abs(total - 2.0 * whole) <= 1e-6 * size).all()


def test_rows_and_columns_that_are_alike_have_like_products():
    """So it is not of most libraries' products."""
    for m, k, w in SHAPES:
        left, right = np.repeat(drawn(1, k), m, 0), np.repeat(drawn(k, 1), w, 1)
        found = products.multiply(left, right)
        assert (found == found[0, 0]).all()


def test_terms_are_rounded_once_and_added_in_their_order():
    near = 1 + 2.0**-12  # its square is 1 + 2⁻¹¹ + 2⁻²⁴, of which single precision has no end
    left, right = np.array([[near, 1.0], [1.0, near]], np.float32), np.float32([[near], [-1.0]])
    assert products.multiply(left[:1], right) == 2.0**-11
    end = 2.0**-24 if products.FUSED else 0.0
    assert products.multiply(left[1:], np.float32([[-1.0], [near]])) == 2.0**-11 + end


@pytest.mark.parametrize("shape", SHAPES)
def test_layouts_make_no_difference(shape):
    m, k, w = shape
    left, right = drawn(m, k), drawn(k, w)
    whole = products.multiply(left, right)
    wider = np.zeros((k, m + 3), np.float32)
    wider[:, 2:-1] = left.T
    every_second = np.zeros((k, 2 * w), np.float32)
    every_second[:, ::2] = right
    out = np.empty((m, w), np.float32)
    for one in (left, np.asfortranarray(left), wider[:, 2:-1].T):
        for other in (right, np.asfortranarray(right), every_second[:, ::2]):
            assert products.multiply(one, other, out) is out
            np.testing.assert_array_equal(out, whole)
    np.testing.assert_array_equal(products.combine(left, right.T), whole)


def test_what_is_not_a_number_stays_in_its_row_and_column():
    left, right = drawn(9, 20), drawn(20, 70)
    left[4, 3], right[5, 66] = np.nan, np.inf
    found = products.multiply(left, right)
    bad = np.zeros((9, 70), bool)
    bad[4], bad[:, 66] = True, True
    np.testing.assert_array_equal(~np.isfinite(found), bad)


def test_nothing_to_add_is_zero():
    left, right = np.zeros((3, 0), np.float32), np.zeros((0, 20), np.float32)
    np.testing.assert_array_equal(products.multiply(left, right), np.zeros((3, 20)))


def test_double_precision_is_left_to_the_library():
    left, right = drawn(5, 6).astype(float), drawn(6, 7).astype(float)
    np.testing.assert_array_equal(products.multiply(left, right), left @ right)
    np.testing.assert_array_equal(products.combine(left, right.T), left @ right)
    total = np.ones((5, 7))
    products.add_product(left, right, total)
    np.testing.assert_array_equal(total, 1 + left @ right)


class ByPlace(np.ndarray):
    """Single-precision numbers that the library multiplies as OpenBLAS does for Haswell.

    There the outer eight columns of a product's first six rows out of twelve are added up in
    another order than the rest.
    """

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        given = [x.view(np.ndarray) if isinstance(x, ByPlace) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(x.view(np.ndarray) for x in out)
        found = getattr(ufunc, method)(*given, **options)
        if ufunc is np.matmul and found.dtype == np.float32 and found.ndim == 2:
            row, column = np.indices(found.shape)
            outer = (column < 8) | (column >= found.shape[1] - 8)
            found[(row % 12 < 6) & outer] *= np.float32(1 + 2.0**-22)
        return found


def by_place(design: Any) -> None:
    """Let the library multiply what a design holds in single precision by place."""
    for name, value in list(vars(design).items()):
        if isinstance(value, tuple):
            vars(design)[name] = tuple(
                x.view(ByPlace) if isinstance(x, np.ndarray) and x.ndim == 2 else x for x in value
            )
        elif isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim == 2:
            vars(design)[name] = value.view(ByPlace)


def scoring() -> Any:
    frequencies = np.random.default_rng(4).uniform(0.05, 0.5, 70)
    design, genotypes = cohort(1100, 14, 13, frequencies=frequencies, missing=0.01)
    prepared = ScoringDesign.of(design)
    by_place(prepared.columns)
    inference = Inference(sandwich=True)
    return lambda rows: fit_scoring(prepared, genotypes[:, rows], inference)


def screened(**kind: Any) -> Any:
    null, calls = screened_cohort(c=2, v=2, l_random=40, m=70, missing=0.01, **kind)
    packed, contigs, designs = HardCalls.of(calls), np.full(70, "3", object), designs_of(null)
    for design in designs.values():
        by_place(design)
    return lambda rows: fit_random_screen(null, packed.take(rows), contigs[rows], designs)


def second_order() -> Any:
    null, calls = make_null(603, FEW, 0, 0.3)
    many = np.concatenate([np.roll(calls, shift, axis=1) for shift in range(14)])
    packed, contigs, eigen = HardCalls.of(many), np.full(70, "3", object), eigenstructures(null)
    bases = second_order_bases(null, eigen, [""])
    by_place(bases[""])
    inference = Inference(sandwich=True)
    return lambda rows: fit_second_order(
        null, packed.take(rows), contigs[rows], eigen, inference, tolerance=1.0, bases=bases
    )


def weighted(random_effects: list[str]) -> Any:
    null, calls = make_null(303, random_effects, 1, 0.4)
    many = np.concatenate([np.roll(calls, shift, axis=1) for shift in range(14)])
    packed, contigs, bases = HardCalls.of(many), np.full(70, "3", object), bases_of(null)
    for basis in bases.values():
        # Worked out at first sight.
        _ = basis.rows, basis.series_rows, basis.start, basis.null_across, basis.null_fitted
        by_place(basis)
        by_place(basis.leverage)
    return lambda rows: fit_weighted(
        null, packed.take(rows), contigs[rows], bases, tolerance=1.0, exact_beyond=np.inf
    )


KERNELS = {
    "scoring": scoring,
    "screen of random effects": lambda: screened(n=603),
    "screen, everything written out": lambda: screened(n=604),
    "second order": second_order,
    "weights by person": lambda: weighted(FEW),
    "weights by person, pairs": lambda: weighted(MORE),
}


def moves(fit: Any) -> float:
    """Return by how many standard errors effects move with their place in a block, at most."""
    whole, order = fit(np.arange(70)), np.random.default_rng(1).permutation(70)
    parts = Estimates.empty(70)
    for rows in (order[:37], order[37:69], order[69:]):
        parts.put(rows, fit(rows))
    np.testing.assert_array_equal(parts.status, whole.status)
    return max(
        float(np.nanmax(np.abs(getattr(parts, k) - getattr(whole, k)) / np.sqrt(variance)))
        for k, variance in (("add", whole.add_variance), ("var", whole.var_variance))
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_kernel_leaves_single_precision_to_the_library(kernel, monkeypatch):
    """And one that did would be found out."""
    monkeypatch.setattr("hlmm_scan.kernels.limits.SINGLE_PRECISION_PEOPLE", 100)
    people = 0 if kernel == "screen of random effects" else 5000
    monkeypatch.setattr("hlmm_scan.kernels.limits.WRITTEN_OUT_PEOPLE", people)
    fit = KERNELS[kernel]()
    assert moves(fit) < 1e-10

    def multiplied(left: Any, right: Any, out: Any = None) -> Any:
        return np.matmul(left, right, out=out)

    def added(left: Any, right: Any, total: Any) -> None:
        total += left @ right

    monkeypatch.setattr(products, "multiply", multiplied)
    monkeypatch.setattr(products, "add_product", added)
    assert moves(fit) > 1e-10


def test_matrices_from_read_only_files_take_the_code_that_is_there():
    """Compiling in a task would take its memory and half a minute."""
    rng = np.random.default_rng(8)
    left, right = (rng.standard_normal(s).astype(np.float32) for s in ((5, 300), (300, 20)))
    expected = products.multiply(left, right)
    known = len(products._multiply.signatures)
    left.flags.writeable = right.flags.writeable = False
    np.testing.assert_array_equal(products.multiply(left, right), expected)
    assert len(products._multiply.signatures) == known
    assert not right.flags.writeable
