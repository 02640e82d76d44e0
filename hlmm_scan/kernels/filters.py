"""Which variants are fitted: frequencies, counts, information and Hardy–Weinberg proportions.

All are counted in the people of one phenotype. The filters apply in the order of their status
codes (:class:`hlmm_scan.schema.Status`), and the first that takes a variant is its reason:
monomorphic, minor allele frequency, minor allele count, missing, info, Hardy–Weinberg.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Int
from hlmm_scan.genotypes.blocks import GenotypeBlock, HardCalls
from hlmm_scan.genotypes.packing import count_genotypes
from hlmm_scan.kernels.sums.dosage_codes import count_dosages
from hlmm_scan.schema import Status


@dataclass(frozen=True)
class Filters:
    """Bounds on what is fitted.

    Attributes
    ----------
    min_maf : float
        Smallest minor allele frequency of a kept variant.
    min_mac : float
        Smallest minor allele count of a kept variant.
    max_missing : float
        Largest fraction of missing calls of a kept variant.
    min_info : float, default −∞
        Smallest info score, 0 for none.
    min_hwe_p : float, default 0
        Smallest p of the Hardy–Weinberg test, 0 for none.
    """

    min_maf: float = 0.01
    min_mac: float = 20
    max_missing: float = 0.05
    min_info: float = field(default=-np.inf, kw_only=True)
    min_hwe_p: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class GenotypeCounts:
    """Counts of m variants in the people of a phenotype.

    Hard calls are dosages in steps of one copy.

    Attributes
    ----------
    people : int
        With and without a call.
    steps : int
        Code of two copies.
    called : ndarray of int64, shape (m,)
        People with a call.
    codes, squares : ndarray of int64, shape (m,)
        Σ codes and Σ codes² in them.
    genotypes : ndarray of int64, shape (m, 3)
        People with 0, 1 and 2 copies; for dosages, by the nearest whole number.
    ranges : ndarray of int64, shape (m, 2), optional
        The least and the largest code of dosages.
    haploid : GenotypeCounts, optional
        Of those among them who have one allele, coded as two: they count once in frequencies and
        allele counts, and not in Hardy–Weinberg proportions.
    """

    people: int
    steps: int
    called: Int
    codes: Int
    squares: Int
    genotypes: Int
    ranges: Int | None = None
    haploid: GenotypeCounts | None = None

    @classmethod
    def of(cls, genotypes: GenotypeBlock, samples: Int) -> GenotypeCounts:
        """Count a block of either kind."""
        if isinstance(genotypes, HardCalls):
            found = count_genotypes(genotypes.packed, genotypes.n_samples, samples)
            return cls.of_calls(found[:, :3], len(samples))
        found = count_dosages(genotypes, samples)
        called, codes, squares = found.T[:3]
        nearest, ranges = found[:, 3:6], found[:, 6:]
        return cls(len(samples), genotypes.steps, called, codes, squares, nearest, ranges)

    @classmethod
    def of_calls(cls, genotypes: Int, people: int) -> GenotypeCounts:
        """Return counts of hard calls.

        Parameters
        ----------
        genotypes : ndarray of int64, shape (m, 3)
            People with 0, 1 and 2 copies.
        people : int
        """
        one, two = genotypes[:, 1], genotypes[:, 2]
        called = genotypes.sum(axis=1)
        return cls(people, 2, called, one + 2 * two, one + 4 * two, genotypes)

    def take(self, rows: Int) -> GenotypeCounts:
        """Return the counts of some of the variants."""
        names = ("called", "codes", "squares", "genotypes")
        haploid = None if self.haploid is None else self.haploid.take(rows)
        ranges = None if self.ranges is None else self.ranges[rows]
        own = {n: getattr(self, n)[rows] for n in names}
        return replace(self, ranges=ranges, haploid=haploid, **own)

    @property
    def diploid(self) -> GenotypeCounts:
        """Counts of people who have two alleles."""
        if self.haploid is None:
            return self
        once, names = self.haploid, ("people", "called", "codes", "squares", "genotypes")
        return replace(
            self,
            ranges=None,
            haploid=None,
            **{n: getattr(self, n) - getattr(once, n) for n in names},
        )

    @property
    def alleles(self) -> tuple[Int, Int]:
        """Effect alleles and all alleles of people called, in units of 1/steps, (m,) each."""
        effect, everything = 2 * self.codes, 2 * self.steps * self.called
        if self.haploid is not None:
            effect = effect - self.haploid.codes
            everything = everything - self.steps * self.haploid.called
        return effect, everything

    @property
    def frequency(self) -> Float:
        """Frequency of the effect allele, shape (m,); NaN where nobody is called."""
        effect, everything = self.alleles
        with np.errstate(invalid="ignore"):
            return np.asarray(effect / everything)

    @property
    def mean_copies(self) -> Float:
        """Copies per person called, shape (m,); 0 where nobody is."""
        return self.codes * (2 / self.steps) / np.maximum(self.called, 1)

    def moments(self, third: Float, fourth: Float) -> Float:
        """Return what the tests' normal forms take of genotypes, shape (5, m).

        Parameters
        ----------
        third, fourth : ndarray, shape (m,)
            Σh³ and Σh⁴, h copies less their mean, which counts do not know.

        Returns
        -------
        ndarray
            People called, mean copies, Σh², Σh³, Σh⁴.
        """
        # About a whole number of copies, in whole steps: exact, and no difference of large numbers.
        middle = np.rint(self.mean_copies).astype(np.int64) * (self.steps // 2)
        first = (self.codes - middle * self.called).astype(np.float64)
        second = self.squares - 2 * middle * self.codes + middle**2 * self.called
        called = np.maximum(self.called, 1)
        spread = (second - first * first / called) * (2 / self.steps) ** 2
        return np.stack([self.called, self.mean_copies, spread, third, fourth])

    @property
    def info(self) -> Float:
        """Info score by the dosages alone, shape (m,); NaN where all have the same allele.

        Variance of the dosages over 2p(1 − p), which the genotypes themselves would have under
        random mating (MaCH's r²): about 1 where they are certain, above it by chance. Hard calls
        are what they are: their score is 1, as one from probabilities would be, and departures
        from random mating are left to the test for them.
        """
        if self.steps == 2:
            return np.where(self.called > 0, 1.0, np.nan)
        if self.haploid is not None:
            return self.diploid.info  # of none where everybody is haploid
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.codes / self.called
            variance = self.squares / self.called - mean**2
            p = mean / self.steps
            return np.asarray(variance * (2 / self.steps) ** 2 / (2 * p * (1 - p)))

    def status(
        self, filters: Filters, info: Float | None = None, hwe: Float | None = None
    ) -> NDArray[np.int8]:
        """Return why each variant is not fitted, or PENDING where it is.

        Parameters
        ----------
        filters : Filters
        info, hwe : ndarray, shape (m,), optional
            Info score and −log10 p of the Hardy–Weinberg test; NaN takes no variant.

        Notes
        -----
        A variant nobody has a call for is not monomorphic but missing.
        """
        effect, everything = self.alleles
        minor = np.minimum(effect, everything - effect)
        some = self.called > 0
        missing = (self.people - self.called) / max(self.people, 1)
        status = np.full(len(self.called), Status.PENDING, np.int8)
        # Last to first, so that the first reason stands.
        if hwe is not None and filters.min_hwe_p > 0:
            status[hwe > -np.log10(filters.min_hwe_p)] = Status.HWE
        if info is not None:
            status[info < filters.min_info] = Status.LOW_INFO
        status[(missing > filters.max_missing) | ~some] = Status.HIGH_MISSING
        status[(minor / self.steps < filters.min_mac) & some] = Status.LOW_MAC
        # A quotient is rounded as the user's decimal is: 7 of 100 alleles are not below 0.07.
        maf = minor / np.maximum(everything, 1)
        status[(maf < filters.min_maf) & some] = Status.LOW_MAF
        status[(minor == 0) & some] = Status.MONOMORPHIC
        return status
