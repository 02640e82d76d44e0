"""Standardised scores of a block at the null model, whatever the model, and the tests of them.

The one place where a kernel's numbers become p-values: the same scores, and so the same tests,
whether effects are then estimated by maximum likelihood or by one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock, HardCalls
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.scores.p_values import GenotypeShapes, ScoreTests, shape_tests
from hlmm_scan.kernels.scores.residual_bins import ResidualBins
from hlmm_scan.kernels.sums.code_lanes import CLASSES
from hlmm_scan.kernels.sums.dosage_codes import dosage_classes, third_and_fourth
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import ScoreFlag

FINE = 31  # classes of dosages where one person decides
_DECIDES = 0.1
"""Share of one person in Σq² (or Σs²) from which their own dosage decides a score's tail. A class
of seven is up to 0.35 standard deviations of g to both sides of its mean, which that person's part
of the score, of a deviation of the root of the share, is off by."""


@dataclass(frozen=True, eq=False)
class ScoreDesign:
    """What the tests need of a null model and one set of random effects, worked out once.

    Attributes
    ----------
    bins : ResidualBins
    freedom : tuple of float
        What scores of the mean and of the variance are multiplied by, for the degrees of freedom
        that covariates take and, with covariates of the variance, for the residuals' own size
        (math.md §7): the root of (n − c)/(n − 1), or of n·E Σs²/((n − 1)Σs²), and of
        (n − v)/(n − 1).
    two_valued : bool
        Whether the trait has two values: then its variance is a function of its mean.
    classes : int, default 7
        Of equal width, that dosages are put into: 31 where a tenth of the variance of either score
        or more is one person's.
    """

    bins: ResidualBins
    freedom: tuple[float, float]
    two_valued: bool
    classes: int = CLASSES

    @classmethod
    def of(cls, null: NullModel, s: Float, q: Float, expected: float) -> ScoreDesign:
        """Prepare the tests.

        Parameters
        ----------
        null : NullModel
        s, q : ndarray, shape (n,)
            Residuals of the mean, Σ₀⁻¹r₀, and of the variance, k₀/D₀ − 1.
        expected : float
            What the null model expects of Σs²; not looked at where all variances are alike.
        """
        n, c, v = null.n, null.mean_design.shape[1], null.variance_design.shape[1]
        mean = (n - c) if v == 1 else n * expected / float(s @ s)
        freedom = float(np.sqrt(mean / (n - 1))), float(np.sqrt((n - v) / (n - 1)))
        return cls(ResidualBins.of(s, q), freedom, null.two_valued, classes_for(s, q))

    def tests(self, scores: Float, genotypes: GenotypeShapes) -> ScoreTests:
        """Test m variants.

        Parameters
        ----------
        scores : ndarray, shape (m, 3)
            Standardised by the null model: additive, plain variance, variance.
        genotypes : GenotypeShapes
        """
        mean_freedom, variance_freedom = self.freedom
        unit = variance_freedom * float(self.bins.moments[2])
        tests = shape_tests(self.bins, genotypes, scores, (mean_freedom, unit, unit))
        if not self.two_valued:
            return tests
        tested = np.isfinite(tests.add)
        flags = tests.flags & np.int8(ScoreFlag.ADD_AT_BOUND)
        flags[tested] |= np.int8(ScoreFlag.VAR_UNKNOWN)
        return ScoreTests(tests.add, np.full(len(scores), np.nan), tests.add, flags)


def classes_for(s: Float, q: Float) -> int:
    """Return how many classes dosages are put into for residuals of shape (n,): 7 or 31."""
    share = max(float((r**2).max() / max((r**2).sum(), 1e-300)) for r in (s, q))
    return FINE if share > _DECIDES else CLASSES


def genotype_classes(
    genotypes: GenotypeBlock,
    rows: NDArray[np.intp],
    counts: GenotypeCounts,
    samples: NDArray[np.int64],
    classes: int = CLASSES,
) -> tuple[Float, Float]:
    """Return the people and the copies of the classes of some variants.

    Parameters
    ----------
    genotypes : HardCalls or Dosages
    rows : ndarray of intp, shape (k,)
        Variants wanted.
    counts : GenotypeCounts
        Of all m.
    samples : ndarray of int64, shape (n,)
    classes : int, default 7
        Of equal width over their range, that dosages are put into; the largest is then split in two
        (:func:`with_all_squares`).

    Returns
    -------
    people, copies : ndarrays, shapes (k, 3) or (k, classes + 1)
    """
    if isinstance(genotypes, HardCalls):
        people = counts.genotypes[rows].astype(np.float64)
        return people, np.broadcast_to(np.arange(3.0), people.shape)
    assert counts.ranges is not None
    people, copies = dosage_classes(genotypes, rows, samples, counts.ranges[rows], classes)
    unit = 2.0 / genotypes.steps
    squares = counts.squares[rows].astype(np.float64) * unit**2
    ends = counts.ranges[rows].astype(np.float64) * unit
    return with_all_squares(people, copies, squares, ends)


def genotype_shapes(
    genotypes: GenotypeBlock,
    rows: NDArray[np.intp],
    counts: GenotypeCounts,
    samples: NDArray[np.int64],
    classes: int = CLASSES,
    higher: Float | None = None,
) -> GenotypeShapes:
    """Return what tests take of some variants.

    Parameters
    ----------
    genotypes, rows, counts, samples, classes
        As for :func:`genotype_classes`.
    higher : ndarray, shape (k, 2), optional
        Σh³ and Σh⁴ of dosages, h copies less their mean, where sums have them already; else NaN.
    """
    if isinstance(genotypes, HardCalls):
        return GenotypeShapes.of(*genotype_classes(genotypes, rows, counts, samples))
    own = counts.take(rows)
    higher = np.full((len(rows), 2), np.nan) if higher is None else higher.copy()
    left = np.flatnonzero(np.isnan(higher).any(axis=1))
    if len(left):
        higher[left] = third_and_fourth(genotypes, rows[left], samples, own.mean_copies[left])
    return GenotypeShapes(
        own.moments(*higher.T),
        lambda some: genotype_classes(genotypes, rows[some], counts, samples, classes),
    )


def with_all_squares(
    people: Float, copies: Float, squares: Float, ends: Float
) -> tuple[Float, Float]:
    """Split each variant's largest class in two, so that Σg² is that of the dosages themselves.

    Parameters
    ----------
    people, copies : ndarray, shape (k, c)
        Of classes, the outermost first and last; copies are their means.
    squares : ndarray, shape (k,)
        Σg² of the dosages, in copies.
    ends : ndarray, shape (k, 2)
        The least and the largest dosage, in copies.

    Returns
    -------
    people, copies : ndarray, shape (k, c + 1)
        Numbers of people need not be whole.

    Notes
    -----
    Most people of a rare imputed allele have next to none of it, each their own part. Were they all
    to have their mean, the score of a skew trait's variance would end elsewhere: log-normal traits
    were rejected six times too often at 1e-3. An outermost class is split into people at the end of
    the range and people of one other dosage, which keeps Σ1, Σg and Σg² (math.md §7); one in the
    middle, into halves to both sides of its mean. One whose people are all at the end stays whole,
    and one whose other dosage would be beyond the range.
    """
    k, last = len(people), people.shape[1] - 1
    people = np.concatenate([people, np.zeros((k, 1))], axis=1)
    copies = np.concatenate([copies, np.zeros((k, 1))], axis=1)
    lost = np.maximum(squares - (people * copies**2).sum(axis=1), 0.0)
    rows, largest = np.arange(k), people.argmax(axis=1)
    n, mean = people[rows, largest], copies[rows, largest]
    outer = (largest == 0) | (largest == last)
    end = np.where(largest == 0, ends[:, 0], ends[:, 1])
    away = mean - end
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(lost / n)
        second = n * away**2 + lost
        moved = np.where(outer, (n * away) ** 2 / second, n / 2)
        to = np.where(outer, end + second / (n * away), mean + spread)
        stay = np.where(outer, end, mean - spread)
    # Where all are at the end, the other dosage is not a number or infinite.
    split = (lost > 0) & (to >= ends[:, 0]) & (to <= ends[:, 1])
    rows, largest = rows[split], largest[split]
    people[rows, largest] -= moved[split]
    people[rows, -1] = moved[split]
    copies[rows, largest], copies[rows, -1] = stay[split], to[split]
    return people, copies


@njit(nogil=True, cache=True, error_model="numpy")
def class_scores(
    sums: Any, copies: Any, mean: float, variance: float, fourth: float, out: Any
) -> None:  # pragma: no cover
    """Fill the standardised scores of a variant from its class sums, without covariates.

    Parameters
    ----------
    sums : ndarray, shape (c, 3 or more)
        People, Σy and Σy² of each class.
    copies : ndarray, shape (c,)
    mean, variance : float
        Of the null model.
    fourth : float
        m₄ of its residuals.
    out : ndarray, shape (3,)
        Additive, plain variance, variance; NaN where the genotype does not vary.
    """
    n = total = 0.0
    for c in range(len(copies)):
        n += sums[c, 0]
        total += sums[c, 0] * copies[c]
    centre = total / n
    root = math.sqrt(variance)
    G2 = G3 = S1 = S2 = S3 = 0.0
    for c in range(len(copies)):
        people = sums[c, 0]
        g = copies[c] - centre
        s = (sums[c, 1] - people * mean) / root
        q = (sums[c, 2] - 2.0 * mean * sums[c, 1] + people * mean * mean) / variance - people
        G2 += people * g * g
        G3 += people * g * g * g
        S1 += g * s
        S2 += g * q
        S3 += g * g * s
    alpha = S1 / G2
    out[0] = S1 / math.sqrt(G2)
    # Of two equally frequent values r² does not vary.
    spread = math.sqrt(max(fourth - 1.0, 0.0) * G2)
    out[1] = S2 / spread if spread > 0.0 else 0.0
    out[2] = (S2 - 2.0 * alpha * S3 + alpha * alpha * G3) / spread if spread > 0.0 else 0.0


@njit(nogil=True, cache=True)
def all_class_scores(
    sums: Any, mean: float, variance: float, fourth: float, out: Any
) -> None:  # pragma: no cover
    """Fill the scores of m variants of hard calls, from sums of shape (m, 3, 3 or more)."""
    copies = np.arange(3.0)
    for j in range(len(sums)):
        class_scores(sums[j], copies, mean, variance, fourth, out[j])
