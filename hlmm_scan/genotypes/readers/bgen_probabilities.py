"""From a BGEN variant's probabilities to dosages and their information.

What biobanks write, unphased probabilities of 8 or 16 bits of people with two chromosomes, is
decoded here as whole numbers. Everything else (other depths, haplotypes, mixed ploidy) goes through
the library `bgen`, with which the tests compare the first way too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, FINEST, MISSING_CODE
from hlmm_scan.genotypes.calls import encode_dosages, information
from hlmm_scan.genotypes.dosage_coding import code_probabilities

BITS_OF_255 = (1, 2, 4, 8)
"""Bits of a probability whose steps are whole steps of 1/255."""

_DIPLOID, _MISSING_BIT = 2, 0x80
_STEPS_OF_8_BITS = 255
_TOO_MUCH = "its probabilities sum to more than 1"
_OFF_SUM = 1e-5

Decoded = tuple[NDArray[np.uint16], float]
"""Codes of the second allele's dosages, shape (n,), and their information."""


def unit_of(bits: int) -> float:
    """Return the unit in which dosages of probabilities of some bits are kept."""
    return BGEN_8_BIT if bits in BITS_OF_255 else FINEST


def decode_usual(body: bytes, n_samples: int, unit: float) -> Decoded | None:
    """Decode an unpacked block of unphased diploid probabilities of 8 or 16 bits.

    Parameters
    ----------
    body : bytes
        Of a record of two alleles and ``n_samples`` people.
    n_samples : int
    unit : float

    Returns
    -------
    (codes, info), or None
        None where the block is of another kind.

    Raises
    ------
    ValueError
        If its size is wrong, or probabilities sum to more than 1.
    """
    n = n_samples
    bits, phased = body[9 + n], body[8 + n]
    if bits not in (8, 16) or phased or body[6:8] != bytes((_DIPLOID, _DIPLOID)):
        return None
    if len(body) != 10 + n + 2 * n * (bits // 8):
        raise ValueError(f"{len(body)} bytes of probabilities of {n} people")
    ploidy = np.frombuffer(body, np.uint8, n, 8)
    stored = np.frombuffer(body, np.uint8 if bits == 8 else "<u2", 2 * n, 10 + n)
    if bits == 8 and unit == BGEN_8_BIT:
        return _eight_bits(ploidy, stored)
    missing = ploidy >= _MISSING_BIT
    n_missing = int(np.count_nonzero(missing))
    steps = (1 << bits) - 1
    none = stored[::2].astype(np.uint16 if bits == 8 else np.uint32)  # p0
    both = none + stored[1::2]  # p0 + p1
    if n_missing:
        np.putmask(none, missing, 0)
        np.putmask(both, missing, 0)
    if both.max() > steps:
        raise ValueError(_TOO_MUCH)
    sum_none, sum_both = int(none.sum(dtype=np.int64)), int(both.sum(dtype=np.int64))
    dosages = np.subtract(2 * steps, both, out=both)  # p1 + 2·p2, in steps
    dosages -= none
    copies = dosages.astype(np.float64)
    # Who is missing stands at two copies here, and is taken out of the sums.
    squares = float(np.square(copies, out=copies).sum()) - n_missing * float(2 * steps) ** 2
    if unit == BGEN_8_BIT:
        codes = dosages.astype(np.uint16, copy=False)
    else:
        # 2·steps·32767 fits 32 bits, and as steps is odd no dosage lies midway between two codes.
        scaled = dosages.astype(np.uint32, copy=False)
        scaled *= np.uint32(32767)
        scaled += np.uint32(steps // 2)
        scaled //= np.uint32(steps)
        codes = scaled.astype(np.uint16)
    if n_missing:
        np.putmask(codes, missing, MISSING_CODE)
    return codes, _info(steps, n - n_missing, sum_none, sum_both, squares)


def _eight_bits(ploidy: NDArray[np.uint8], stored: NDArray[np.uint8]) -> Decoded:
    """Do the same of 8 bits in one pass, kept in their own unit."""
    codes = np.empty(len(ploidy), np.uint16)
    missing, largest, first, both, squares = code_probabilities(ploidy, stored, codes)
    if largest > _STEPS_OF_8_BITS:
        raise ValueError(_TOO_MUCH)
    return codes, _info(_STEPS_OF_8_BITS, len(ploidy) - missing, first, both, float(squares))


def _info(steps: int, called: int, sum_none: int, sum_both: int, squares: float) -> float:
    """Return the information of the people called.

    Of their probabilities in `steps` a one: sums of p0, of p0 + p1, and of squared dosages.
    """
    total = 2 * steps * called - sum_both - sum_none
    expected_squares = 4 * steps * called - 3 * sum_both - sum_none  # p1 + 4·p2
    if not called:
        return float("nan")
    if total in (0, 2 * called * steps):
        return 1.0
    frequency = total / (2 * called * steps)
    uncertain = expected_squares / steps - squares / steps**2
    return min(1.0, 1.0 - uncertain / (2 * called * frequency * (1 - frequency)))


def decode_any(record: Any, unit: float) -> Decoded:
    """Decode a variant of the library `bgen`, of whatever kind.

    Parameters
    ----------
    record : bgen.BgenVar
        Of two alleles.
    unit : float

    Raises
    ------
    ValueError
        If its probabilities make no sense, or somebody has more than two chromosomes.
    """
    p = record.probabilities
    # The library takes what is left for the last one, and cuts it off at 0.
    if not record.is_phased and np.nansum(p, axis=1).max(initial=0.0) > 1 + _OFF_SUM:
        raise ValueError(_TOO_MUCH)
    ploidy = record.ploidy & 0x3F
    if ploidy.size and ploidy.max() > _DIPLOID:
        raise ValueError(f"{ploidy.max()} chromosomes a person; at most two are read")
    if record.is_phased:
        one, two = p[:, 1], (p[:, 3] if p.shape[1] > 3 else np.full(len(p), np.nan))
        second = np.where(ploidy == _DIPLOID, two, 0.0)
        mean = one + second
        square = one * (1 - one) + second * (1 - second) + mean**2
    else:
        two = np.where(ploidy == _DIPLOID, p[:, 2], 0.0) if p.shape[1] > 2 else 0.0
        mean = p[:, 1] + 2 * two
        square = p[:, 1] + 4 * two
    # None at all is no call: so plink2 writes females on Y.
    mean = np.where(ploidy == 0, np.nan, mean)
    doubled = np.where(ploidy == 1, 2 * mean, mean)
    return encode_dosages(doubled, unit), information(mean, square, ploidy)


def flipped(codes: NDArray[np.uint16], unit: float) -> NDArray[np.uint16]:
    """Return the codes of the first allele's dosages."""
    return np.where(codes == MISSING_CODE, codes, round(2 / unit) - codes).astype(np.uint16)
