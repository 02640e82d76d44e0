"""Gram matrices of whole numbers beside those of standardised columns."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.kernels.exact.class_grams import Totals, _gathered, class_grams
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.null.eigen import SharedEigenstructure


def standardised(calls: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; missing calls (−1) at the mean."""
    columns = np.where(calls < 0, np.nan, calls.astype(np.float64))
    columns = columns - np.nanmean(columns, axis=0)
    columns = np.nan_to_num(columns)
    return np.ascontiguousarray(columns / columns.std(axis=0))


def drawn(n: int, k: int, seed: int = 1) -> np.ndarray:
    """Calls of rare, common and very common effect alleles."""
    rng = np.random.default_rng(7)
    return rng.binomial(2, np.linspace(0.02, 0.98, k), (n, k))


@pytest.mark.parametrize("missing", [0.0, 0.02], ids=["complete", "imputed"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("m", [1, 7, 2_048, 5_001])
def test_sums_are_those_of_the_columns(dtype, m: int, missing: float) -> None:
    calls = drawn(6_001, 23)
    rng = np.random.default_rng(2)
    calls[:, 5:20][rng.random((6_001, 15)) < missing] = -1
    columns = standardised(calls)
    people, y = np.sort(rng.choice(6_001, m, replace=False)), 3e5 * rng.standard_normal(m)
    lattice = CallLattice.of(columns.astype(dtype))
    assert lattice is not None
    assert lattice.lacking.tolist() == (list(range(5, 20)) if missing else [])
    gram, linear = lattice.gathered(people, y)
    reference, sums = _gathered(columns, people, y)
    # Origin and step of single precision are themselves 1e-7 off.
    rounding = 1e-13 if dtype == np.float64 else 2e-6
    assert np.abs(gram - reference).max() <= rounding * np.abs(np.diag(reference)).max()
    scale = np.array([m, np.abs(y).sum()]) * np.abs(columns).max()
    assert (np.abs(linear - sums) <= (rounding + 3e-10 * np.array([0, 1])) * scale).all()


def test_gram_matrices_do_not_depend_on_the_order_of_people() -> None:
    columns = standardised(drawn(5_000, 11))
    lattice = CallLattice.of(columns)
    people, y = np.arange(5_000), np.random.default_rng(3).standard_normal(5_000)
    shuffled = np.random.default_rng(4).permutation(5_000)
    one, sums = lattice.gathered(people, y)
    other, others = lattice.gathered(shuffled, y[shuffled])
    assert np.array_equal(one, other)
    assert np.array_equal(sums, others)


@pytest.mark.parametrize(
    "columns",
    [
        np.random.default_rng(6).standard_normal((300, 3)),
        standardised(np.column_stack([drawn(300, 2), np.arange(300) % 4])),
    ],
    ids=["dosages", "four values"],
)
def test_other_columns_have_no_lattice(columns: np.ndarray) -> None:
    assert CallLattice.of(columns) is None


def test_two_values_are_a_lattice() -> None:
    calls = np.column_stack(
        [np.repeat([0, 2], 50), np.repeat([0, 1, 1, 1], 25), np.arange(100) % 2]
    )
    columns = standardised(calls)
    lattice = CallLattice.of(columns)
    gram, sums = lattice.gathered(np.arange(100), np.full(100, 2.0))
    assert np.allclose(sums, np.outer(columns.sum(axis=0), [1, 2]), atol=1e-12 * 100)
    assert np.allclose(gram, columns.T @ columns, atol=1e-12 * 100)


def test_class_grams_with_and_without() -> None:
    n, k = 3_001, 19
    rng = np.random.default_rng(7)
    columns, y = standardised(drawn(n, k)), rng.standard_normal(n)
    eigen = SharedEigenstructure(columns, ["1"] * 10 + ["2"] * 9).without("1")
    genotype = rng.binomial(2, 0.3, n).astype(float)
    genotype[rng.random(n) < 0.03] = np.nan
    totals = Totals.of(eigen, y)
    plain, people = class_grams(eigen, totals, y, genotype)
    fast, same = class_grams(eigen, totals, y, genotype, lattice=CallLattice.of(columns))
    assert all(np.array_equal(a, b) for a, b in zip(people, same, strict=True))
    for name in ("sums", "products", "grams"):
        one, other = getattr(plain, name), getattr(fast, name)
        assert np.abs(one - other).max() <= 1e-8 * np.abs(one).max()
