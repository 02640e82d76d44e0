"""Imputed dosages made of genotype probabilities, in the steps of each container."""

from __future__ import annotations

import numpy as np

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, FINEST, MISSING_CODE, PGEN, Dosages

UNITS = {"8 bit": BGEN_8_BIT, "pgen": PGEN, "finest": FINEST}


def simulated_dosages(
    m: int, n: int, unit: float = BGEN_8_BIT, *, missing: float = 0.0, seed: int = 0
) -> Dosages:
    """Draw dosages of m variants, of mean info about 0.6, frequencies 0.05 to 0.5.

    The probability of the true genotype is beta distributed, and the others share the rest as
    under random mating.
    """
    rng = np.random.default_rng(seed)
    p = np.linspace(0.5, 0.05, m)[:, None]
    true = rng.binomial(2, p, (m, n))
    certain = rng.beta(4, 1, (m, n))
    copies = certain * true + (1 - certain) * 2 * p
    codes = np.rint(copies / unit).astype(np.int64)
    codes[rng.random((m, n)) < missing] = MISSING_CODE
    return Dosages(codes.astype(np.uint16), unit)


def of_calls(calls: np.ndarray, unit: float) -> Dosages:
    """Return hard calls, -1 where missing, as dosages."""
    one = round(2 / unit) // 2
    return Dosages(np.where(calls < 0, MISSING_CODE, calls.astype(int) * one).astype("u2"), unit)
