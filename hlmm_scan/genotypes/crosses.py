"""Genotype probabilities of intercrosses and backcrosses, at markers and between them.

A hidden Markov model along each chromosome (Lander & Green 1987; Broman & Sen, A Guide to QTL
Mapping with R/qtl, 2009): what an animal's genotype is follows from that at the locus before, by
recombination; what was called follows from what it is, but for errors. Conventions are R/qtl's
(``calc.genoprob``), so that its probabilities are found again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_scan.array_types import Bool, Float, Int
from hlmm_scan.errors import InputError

logger = logging.getLogger(__name__)

Kind = Literal["f2", "backcross"]
MapFunction = Literal["haldane", "kosambi", "c-f", "morgan"]

AA, AB, BB, NOT_BB, NOT_AA, MISSING = 0, 1, 2, 3, 4, -1
"""Codes of calls: the three genotypes, the two of dominant markers, none."""

_N_STATES: dict[Kind, int] = {"f2": 3, "backcross": 2}
_LEAST_RECOMBINATION = 1e-14  # of markers at one place
_LEAST_ERROR = 1e-50

# What a call is in a chain of two states, by its code; the last is that of a missing one.
_BACKCROSS = np.array([0, 1, -1, -1, 1, -1], np.int8)
_REVERSED = np.array([-1, 1, 0, 1, -1, -1], np.int8)
_HEMIZYGOUS = np.array([0, -1, 1, 0, 1, -1], np.int8)
_HEMIZYGOUS_BACKCROSS = np.array([0, 1, 1, 0, 1, -1], np.int8)


@dataclass(frozen=True)
class Loci:
    """Where on a chromosome probabilities are asked for.

    Attributes
    ----------
    positions : ndarray, shape (k,)
        In centimorgans, ascending.
    markers : ndarray of int, shape (k,)
        Which marker each is; −1 for a place between markers.
    """

    positions: Float
    markers: Int

    def __len__(self) -> int:
        return len(self.positions)


def loci(positions: ArrayLike, step: float = 0.0, off_end: float = 0.0) -> Loci:
    """Return the markers of a chromosome and a grid of places between them.

    Parameters
    ----------
    positions : array_like, shape (m,)
        Of the markers, in centimorgans, ascending.
    step : float, default 0
        Centimorgans between the grid's places, counted from the first marker. 0: no grid.
    off_end : float, default 0
        How far the grid goes beyond the first and the last marker.

    Returns
    -------
    Loci

    Raises
    ------
    InputError
        If positions do not ascend or are not finite, or a distance is negative.

    Notes
    -----
    The grid is that of R/qtl's ``calc.genoprob`` with ``stepwidth="fixed"``, but for a chromosome
    of one marker, which R/qtl always gives places 5 cM beyond.
    """
    markers = np.atleast_1d(np.asarray(positions, np.float64))
    if markers.ndim != 1 or not len(markers) or not np.isfinite(markers).all():
        raise InputError("positions of markers are one or more numbers, in centimorgans")
    if (np.diff(markers) < 0).any():
        raise InputError("positions of markers do not ascend")
    if not (0 <= step < np.inf and 0 <= off_end < np.inf):
        raise InputError("the step and the distance beyond the ends cannot be negative")
    length = markers[-1] - markers[0]
    if step > 0:
        start = np.floor(-off_end)
        end = length if off_end == 0 else np.ceil(length + off_end + step)
        grid = start + step * np.arange(int((end - start) / step + 1e-10) + 1)
        if off_end > 0:  # one place at most is as far beyond the last marker, or farther
            grid = grid[: np.searchsorted(grid, length + off_end) + 1]
    elif off_end > 0:
        grid = np.array([np.floor(-off_end), np.ceil(length + off_end)])
    else:
        grid = np.empty(0)
    grid = grid + markers[0]
    grid = grid[~np.isclose(grid[:, np.newaxis], markers, rtol=0, atol=1e-9).any(axis=1)]
    places = np.concatenate([markers, grid])
    numbers = np.concatenate([np.arange(len(markers)), np.full(len(grid), -1)])
    order = np.argsort(places, kind="stable")
    return Loci(places[order], numbers[order].astype(np.int64))


def recombination(centimorgans: ArrayLike, map_function: MapFunction = "haldane") -> Float:
    """Return the recombination fractions of distances on the genetic map.

    Parameters
    ----------
    centimorgans : array_like
        Not negative.
    map_function : {"haldane", "kosambi", "c-f", "morgan"}, default "haldane"
        No interference, Kosambi's (1944), Carter & Falconer's (1951), or no second crossover.

    Returns
    -------
    ndarray
        From 0 to ½.

    Raises
    ------
    InputError
        If there is no such map function.
    """
    if map_function not in _MAP_FUNCTIONS:
        raise InputError(f"unknown map function '{map_function}': {', '.join(_MAP_FUNCTIONS)}")
    return _MAP_FUNCTIONS[map_function](np.asarray(centimorgans, np.float64))


def _carter_falconer(d: Float) -> Float:
    """Invert d = 12.5·(log(1 + 2r) − log(1 − 2r)) + 25·arctan(2r), in which d′ = 100/(1 − 16r⁴)."""
    low, high = np.zeros_like(d), np.full_like(d, 0.5)
    for _ in range(60):  # halving: the derivative grows without bound
        middle = (low + high) / 2
        u = 2 * middle
        below = 25 * (np.arctanh(np.minimum(u, 1 - 1e-16)) + np.arctan(u)) < d
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)


_MAP_FUNCTIONS: dict[str, Callable[[Float], Float]] = {
    "haldane": lambda d: -0.5 * np.expm1(-0.02 * d),
    "kosambi": lambda d: 0.5 * np.tanh(0.02 * d),
    "c-f": _carter_falconer,
    "morgan": lambda d: np.minimum(0.01 * d, 0.5),
}


def x_calls(
    calls: ArrayLike, males: ArrayLike, kind: Kind = "f2", reverse: ArrayLike = False
) -> NDArray[np.int8]:
    """Return calls on chromosome X as the two genotypes that are possible for each animal.

    Its probabilities are then those of a backcross: one meiosis, that of the mother.

    Parameters
    ----------
    calls : array_like of int, shape (n, m)
        As for :func:`genotype_probabilities`; hemizygous males as AA and BB.
    males : array_like of bool, shape (n,)
    kind : {"f2", "backcross"}, default "f2"
    reverse : array_like of bool, shape (n,), default False
        Whether an intercross female's X of her father is B (R/qtl's ``pgm`` of 1): (B×A)×(B×A).

    Returns
    -------
    ndarray of int8, shape (n, m)
        0 and 1, −1 where missing. 0 is AA of females, BB of reverse ones, AY of males; 1 is AB or
        BY. What cannot be (heterozygous males, say) is missing, and warned of.
    """
    codes = _coded(calls)
    male = np.broadcast_to(np.asarray(males, bool), len(codes))
    turned = np.broadcast_to(np.asarray(reverse, bool), len(codes)) & ~male
    hemizygous = _HEMIZYGOUS if kind == "f2" else _HEMIZYGOUS_BACKCROSS
    found = np.where(
        male[:, np.newaxis],
        hemizygous[codes],
        np.where(turned[:, np.newaxis] & (kind == "f2"), _REVERSED[codes], _BACKCROSS[codes]),
    )
    # A dominant marker may say nothing where two genotypes are possible; a genotype may be none.
    _warn_of_impossible((found < 0) & (codes >= AA) & (codes <= BB), "on X")
    return np.asarray(found, np.int8)


def genotype_probabilities(
    calls: ArrayLike,
    places: Loci,
    kind: Kind = "f2",
    *,
    error: float = 1e-4,
    map_function: MapFunction = "haldane",
) -> Float:
    """Return the probabilities of genotypes at loci of one chromosome, given all its calls.

    Parameters
    ----------
    calls : array_like of int, shape (n, m)
        At the markers: 0, 1, 2 for AA, AB, BB; 3 for "not BB", 4 for "not AA"; −1 where missing.
    places : Loci
        By :func:`loci`; its markers are the columns of `calls`.
    kind : {"f2", "backcross"}, default "f2"
        Backcross to A: AA and AB. For chromosome X see :func:`x_calls`.
    error : float, default 1e-4
        Probability that a genotype is called another one, each other as likely.
    map_function : {"haldane", "kosambi", "c-f", "morgan"}, default "haldane"

    Returns
    -------
    ndarray, shape (n, k, 3) or (n, k, 2)
        Of AA, AB and BB; of AA and AB in a backcross.

    Raises
    ------
    InputError
        If a call, the kind or the map function is none, the numbers of markers differ, or the
        error is not from 1e-50 to ½.
    """
    if kind not in _N_STATES:
        raise InputError(f"unknown kind of cross '{kind}': {' or '.join(_N_STATES)}")
    if not _LEAST_ERROR <= error < 0.5:
        raise InputError(f"the probability {error:g} of genotyping errors is not from 1e-50 to 0.5")
    codes = _coded(calls)
    n_markers = int((places.markers >= 0).sum())
    if codes.shape[1] != n_markers:
        raise InputError(f"calls of {codes.shape[1]} markers for a map of {n_markers}")
    if kind == "backcross":
        _warn_of_impossible(codes == BB, "of a backcross")
        codes = _BACKCROSS[codes]
    seen = _emissions(kind, error)[codes]
    fractions = recombination(np.diff(places.positions), map_function)
    steps = [_transitions(kind, r) for r in np.maximum(fractions, _LEAST_RECOMBINATION)]
    silent = np.ones((len(codes), _N_STATES[kind]))
    emissions = [silent if marker < 0 else seen[:, marker] for marker in places.markers]
    return _forward_backward(_priors(kind), steps, emissions)


def additive_dominance(probabilities: Float) -> Float:
    """Return the expected additive and dominance scores of genotypes.

    Parameters
    ----------
    probabilities : ndarray, shape (..., 3) or (..., 2)

    Returns
    -------
    ndarray, shape (..., 2) or (..., 1)
        Copies of B less one and heterozygosity; of two genotypes the probability of the second.
    """
    if probabilities.shape[-1] == 2:
        return probabilities[..., 1:]
    return np.stack([probabilities[..., 2] - probabilities[..., 0], probabilities[..., 1]], axis=-1)


def _coded(calls: ArrayLike) -> NDArray[np.int8]:
    found = np.asarray(calls)
    if found.ndim != 2 or not np.isin(found, (AA, AB, BB, NOT_BB, NOT_AA, MISSING)).all():
        raise InputError("calls of a cross are a table of numbers from -1 to 4")
    return found.astype(np.int8)


def _warn_of_impossible(impossible: Bool, where: str) -> None:
    if count := int(impossible.sum()):
        logger.warning("%s calls %s are of impossible genotypes, and left out", f"{count:,}", where)


def _priors(kind: Kind) -> Float:
    return np.array([0.25, 0.5, 0.25] if kind == "f2" else [0.5, 0.5])


def _transitions(kind: Kind, r: float) -> Float:
    """Return the probabilities of genotypes (columns) given those one locus before (rows)."""
    s = 1 - r
    if kind == "backcross":
        return np.array([[s, r], [r, s]])
    return np.array(
        [
            [s * s, 2 * r * s, r * r],
            [r * s, s * s + r * r, r * s],
            [r * r, 2 * r * s, s * s],
        ]
    )


def _emissions(kind: Kind, error: float) -> Float:
    """Return the probability of each call (by code, the last is missing) given each genotype."""
    if kind == "backcross":
        called = np.full((6, 2), 1.0)
        called[:2] = np.where(np.eye(2, dtype=bool), 1 - error, error)
        return called
    called = np.full((6, 3), 1.0)
    called[:3] = np.where(np.eye(3, dtype=bool), 1 - error, error / 2)
    called[NOT_BB] = 1 - error / 2, 1 - error / 2, error
    called[NOT_AA] = error, 1 - error / 2, 1 - error / 2
    return called


def _forward_backward(prior: Float, steps: list[Float], emissions: list[Float]) -> Float:
    """Return the probabilities of states, (n, k, s), given all that was seen."""
    forward = [_normalised(prior * emissions[0])]
    for step, seen in zip(steps, emissions[1:], strict=True):
        forward.append(_normalised((forward[-1] @ step) * seen))
    backward = np.ones_like(emissions[-1])
    found = [forward[-1]]
    for k in range(len(steps) - 1, -1, -1):
        backward = _normalised((emissions[k + 1] * backward) @ steps[k].T)
        found.append(_normalised(forward[k] * backward))
    return np.stack(found[::-1], axis=1)


def _normalised(weights: Float) -> Float:
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
