"""HLM without covariates, on dosages: class sums with as many classes as a variant has values.

Dosages are whole steps (:mod:`hlmm_scan.genotypes.blocks`): an 8-bit BGEN has at most 511 values,
PGEN 32,769. People of one value form a class, and everything the fits need are their sums
(:mod:`hlmm_scan.kernels.classes.fit`); finer dosages only make more classes, never as many as there
are people. So there is one path for all of them, and nothing is rounded.

Sums are kept in 64-bit integers, exact in any order, as :mod:`hlmm_scan.kernels.sums.class_sums`
keeps them: a variant's numbers depend on its own people's values only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Int
from hlmm_scan.genotypes.blocks import Dosages
from hlmm_scan.kernels.classes.fit import COLUMNS, Asked, fit_one, powers_needed
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.scores.design import class_scores
from hlmm_scan.kernels.sums.class_sums import quantised
from hlmm_scan.kernels.sums.lanes import add_four

_LANES = 4  # columns added at once


class DosageSumsPlan(NamedTuple):
    """What sums over the people of a phenotype need, whichever the variant.

    Attributes
    ----------
    samples : ndarray of int64, shape (n,)
        People analysed.
    weights : ndarray of int64, shape (n, 4 or 8)
        1, y, y², … in quanta; zeros up to a multiple of four columns.
    quanta : ndarray, shape (1 + powers,)
        Of 1, y, y², …
    """

    samples: Int
    weights: Int
    quanta: Float

    @classmethod
    def of(cls, samples: Int, y: Float, powers: int = 2) -> DosageSumsPlan:
        """Prepare one phenotype.

        Parameters
        ----------
        samples : ndarray of int64, shape (n,)
        y : ndarray, shape (n,)
            Best of mean near 0.
        powers : int, default 2
            Highest power of y to sum, 2 or 4; the sandwich covariance needs 4.
        """
        weights = np.zeros((len(y), -(-(1 + powers) // _LANES) * _LANES), np.int64)
        weights[:, 0] = 1
        quanta = np.ones(1 + powers)
        values = np.ones_like(y)
        for power in range(1, 1 + powers):
            values = values * y
            weights[:, power], quanta[power] = quantised(values)
        return cls(samples, weights, quanta)


@njit(nogil=True, cache=True)
def _add_up(
    codes: Any, samples: Any, weights: Any, columns: int, last: int, tables: Any
) -> None:  # pragma: no cover
    """Add each person's weights to the row of their code, `last` for those without one.

    `tables` has two tables of last + 1 rows, one after the other: with one, people of the same
    code, as most are, would wait for one another's sum.
    """
    other = (last + 1) * columns
    n = len(samples)
    for i in range(0, n - 1, 2):
        first: Any = np.int64(codes[samples[i]])
        second: Any = np.int64(codes[samples[i + 1]])
        one, two = min(first, last) * columns, min(second, last) * columns + other
        at = i * columns
        for c in range(0, columns, _LANES):
            add_four(weights, at + c, tables, one + c)
            add_four(weights, at + columns + c, tables, two + c)
    if n % 2:
        code: Any = np.int64(codes[samples[n - 1]])
        one = min(code, last) * columns
        for c in range(0, columns, _LANES):
            add_four(weights, (n - 1) * columns + c, tables, one + c)


@njit(nogil=True, cache=True)
def _collect(
    tables: Any, columns: int, last: int, quanta: Any, steps: int, sums: Any, copies: Any
) -> int:  # pragma: no cover
    """Put the classes that have people into the first rows of `sums` and `copies`; clear tables."""
    size, other = 0, (last + 1) * columns
    for code in range(last + 1):
        at = code * columns
        people = tables[at] + tables[other + at]
        if people == 0:
            continue
        for c in range(columns):
            if c < len(quanta) and code < last:
                sums[size, c] = (tables[at + c] + tables[other + at + c]) * quanta[c]
            tables[at + c] = 0
            tables[other + at + c] = 0
        if code < last:
            copies[size] = code * 2.0 / steps
            size += 1
    return size


@njit(nogil=True, cache=True)
def _fit_all(
    codes: Any,
    steps: int,
    plan: DosageSumsPlan,
    null: tuple[float, float],
    asked: Asked,
    out: Float,
    scores: Float,
    status: NDArray[np.int8],
) -> None:  # pragma: no cover
    samples, quanta, columns = plan.samples, plan.quanta, plan.weights.shape[1]
    weights = plan.weights.reshape(-1)
    last, most = steps + 1, min(len(samples), steps + 1)
    tables = np.zeros(2 * (last + 1) * columns, np.int64)
    sums, copies = np.empty((most, len(quanta))), np.empty(most)
    q_c, class_c = np.empty(most), np.empty(6 * most)
    for j in range(len(codes)):
        _add_up(codes[j], samples, weights, columns, last, tables)
        size = _collect(tables, columns, last, quanta, steps, sums, copies)
        class_scores(sums[:size], copies[:size], *null, asked.fourth_moment, scores[j])
        status[j] = fit_one(
            sums[:size], copies[:size], asked,
            0.0, q_c[:size], class_c[: 6 * size].reshape(6, size), out[j],
        )  # fmt: skip


def fit_dosages(
    plan: DosageSumsPlan,
    dosages: Dosages,
    moments: tuple[float, float] = (0.0, 3.0),
    inference: Inference = DEFAULT_INFERENCE,
    null: tuple[float, float] = (0.0, 1.0),
) -> Estimates:
    """Fit the HLM with intercept-only designs to dosages.

    Parameters
    ----------
    plan : DosageSumsPlan
        With the powers that the inference needs.
    dosages : Dosages
        Of everybody in the dataset; m variants.
    moments, inference
        As for :func:`~hlmm_scan.kernels.classes.fit.fit_class_sums`.
    null : tuple of float, default (0, 1)
        Mean and variance of the null model, at which scores are taken.

    Returns
    -------
    Estimates
        m rows, statuses as from that function.

    Raises
    ------
    ValueError
        If the plan lacks powers of y.
    """
    if len(plan.quanta) < 1 + powers_needed(inference):
        raise ValueError(f"the plan has no powers of y beyond {len(plan.quanta) - 1}")
    m = len(dosages)
    estimates = Estimates.empty(m)
    out, scores = np.full((m, len(COLUMNS)), np.nan), np.full((m, 3), np.nan)
    asked = Asked.of(moments, inference)
    _fit_all(dosages.codes, dosages.steps, plan, null, asked, out, scores, estimates.status)
    estimates.put_scores(np.arange(m), scores)
    for k, name in enumerate(COLUMNS):
        getattr(estimates, name)[:] = out[:, k]
    return estimates


def work_bytes(n: int, steps: int) -> int:
    """Return the memory of a plan and of fitting with it, dosages not, whatever the variants.

    Parameters
    ----------
    n : int
        People.
    steps : int
        Code of two copies.
    """
    most = min(n, steps + 1)
    return 8 * (n * 13 + 2 * (steps + 2) * 8 + most * 13)
