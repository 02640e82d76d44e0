"""Kernels on variants of several chromosomes, with what they leave undone, as a block does it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates
from hlmm_scan.kernels.exact import gram_fit
from hlmm_scan.kernels.exact.fit import fit_exact as fit_exact_set
from hlmm_scan.kernels.exact.gram_fit import GramBasis
from hlmm_scan.kernels.joint.fit import fit_joint
from hlmm_scan.kernels.scoring import fit as scoring
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.screen import random_effects as random_screen
from hlmm_scan.kernels.second_order import fit as second_order
from hlmm_scan.kernels.second_order.basis import SecondOrderBasis
from hlmm_scan.kernels.variants import by_left_out
from hlmm_scan.kernels.weighted import fit as weighted
from hlmm_scan.schema import Status


def _by_set(null, genotypes, contigs, fit: Callable[..., Estimates]) -> Estimates:
    found = Estimates.empty(len(genotypes))
    for key, rows in by_left_out(null, contigs):
        found.put(rows, fit(key, genotypes.take(rows)))
    return found


def second_order_bases(null, eigen, keys, lattice=None) -> dict[str, SecondOrderBasis]:
    return {k: SecondOrderBasis.of(eigen[k], null.y, null.fits[k], lattice=lattice) for k in keys}


def fit_exact(null, genotypes, contigs, inference=DEFAULT_INFERENCE) -> Estimates:
    def fit(key, some):
        return fit_exact_set(null, key, some, inference)

    return _by_set(null, genotypes, contigs, fit)


def fit_grams(null, calls, contigs, eigen, inference=DEFAULT_INFERENCE, *, bases=None):
    def fit(key, some):
        basis = bases[key] if bases else GramBasis.of(eigen[key], null.y, null.fits[key])
        return gram_fit.fit_grams(basis, some.packed, null.samples, inference)

    return _by_set(null, calls, contigs, fit)


def fit_second_order(
    null, calls, contigs, eigen, inference=DEFAULT_INFERENCE, *, tolerance=None, bases=None
) -> Estimates:
    def fit(key, some):
        basis = (bases or second_order_bases(null, eigen, [key]))[key]
        return second_order.fit_second_order(
            null, basis, some.packed, inference, tolerance=tolerance
        )

    return _by_set(null, calls, contigs, fit)


def fit_random_screen(null, genotypes, contigs, designs) -> Estimates:
    def fit(key, some):
        return random_screen.fit_random_screen(designs[key], some)

    return _by_set(null, genotypes, contigs, fit)


def fit_weighted(null, genotypes, contigs, bases, inference=DEFAULT_INFERENCE, **how) -> Estimates:
    """What does not converge is fitted plainly."""

    def fit(key, some):
        return weighted.fit_weighted(bases[key], some, null.samples, inference, **how)

    found = _by_set(null, genotypes, contigs, fit)
    left = np.flatnonzero(found.status == Status.PENDING)
    if len(left):
        found.put(left, fit_exact(null, genotypes.take(left), contigs[left], inference))
    return found


def fit_scoring(design, genotypes, inference=DEFAULT_INFERENCE) -> Estimates:
    """What is not finished is fitted by the plain kernel."""
    found = scoring.fit_scoring(design, genotypes, inference)
    left = np.flatnonzero(found.status == Status.PENDING)
    if len(left):
        plain = design.joint if isinstance(design, ScoringDesign) else design
        found.put(left, fit_joint(plain, of_people(genotypes, left), inference))
    return found


def of_people(genotypes, rows):
    """Some variants as numbers, shape (n, rows)."""
    if isinstance(genotypes, np.ndarray):
        return genotypes[:, rows]
    return genotypes.block.take(rows).copies(genotypes.samples).T
