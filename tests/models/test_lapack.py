"""Decompositions in place against numpy's, of matrices of which half is anything."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.models.lapack import cholesky_in_place, inverse_in_place


def positive(n: int) -> np.ndarray:
    A = np.random.default_rng(n).standard_normal((n, n + 3))
    return A @ A.T


def half_of(A: np.ndarray) -> np.ndarray:
    half = np.tril(A)
    half[np.triu_indices(len(A), 1)] = np.nan
    return half


@pytest.mark.parametrize("n", [1, 2, 40, 300])
def test_only_the_lower_triangle_is_read_and_written(n):
    A = positive(n)
    found = half_of(A)
    cholesky_in_place(found)
    np.testing.assert_allclose(np.tril(found), np.linalg.cholesky(A), atol=1e-11)
    assert np.isnan(found[np.triu_indices(n, 1)]).all()
    inverse_in_place(found)
    expected = np.tril(np.linalg.inv(A))
    np.testing.assert_allclose(np.tril(found), expected, atol=1e-9 * np.abs(expected).max())
    assert np.isnan(found[np.triu_indices(n, 1)]).all()


def test_the_first_people_can_be_decomposed_alone():
    A = positive(50)
    found = half_of(A)
    cholesky_in_place(found, 49)
    np.testing.assert_allclose(np.tril(found[:49, :49]), np.linalg.cholesky(A[:49, :49]))
    np.testing.assert_array_equal(found[49], A[49])


def test_what_is_not_positive_definite_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        cholesky_in_place(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        inverse_in_place(np.zeros((2, 2)))


@pytest.mark.parametrize("wrong", ["columns first", "single", "not square", "read-only"])
def test_memory_that_it_would_misread_is_refused(wrong):
    A = positive(4)
    if wrong == "read-only":
        A.flags.writeable = False
    made = {
        "columns first": np.asfortranarray(A),
        "single": A.astype(np.float32),
        "not square": A[:3],
    }.get(wrong, A)
    with pytest.raises(ValueError, match="square row-major matrix of float64"):
        cholesky_in_place(made)
