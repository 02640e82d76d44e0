"""Variants to condition on: covariates of mean and variance that come from the genotypes.

A large additive effect looks like a variance effect of a neighbour in incomplete linkage: within
each of the neighbour's genotypes the locus still varies, and more in one than in another. With the
locus in both designs it does not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.design import centre_and_scale
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.ploidy import HaploidRegions, Ploidy, recode
from hlmm_scan.genotypes.variant_names import VariantName

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Genotypes to condition on.

    Attributes
    ----------
    variant_ids : tuple of str, length k
    copies : ndarray of float64, shape (k, n_reference)
        Copies of the effect allele of all people of the genotypes, NaN where missing.
    """

    variant_ids: tuple[str, ...]
    copies: Float

    def columns(self, samples: NDArray[np.int64], phenotype: str) -> Float:
        """Return covariates of some people: copies, the mean over these people where missing.

        Parameters
        ----------
        samples : ndarray of int64, shape (n,)
            Rows of the reference samples.
        phenotype : str
            For messages.

        Returns
        -------
        ndarray of float64, shape (n, k)

        Raises
        ------
        InputError
            If a variant does not vary among them.
        """
        copies = np.ascontiguousarray(self.copies[:, samples].T)
        missing = np.isnan(copies)
        for k, variant_id in enumerate(self.variant_ids):
            called = copies[~missing[:, k], k]
            if not len(called) or centre_and_scale(called[:, None])[1][0] == 0:
                raise InputError(
                    f"condition: variant {variant_id} does not vary among the {len(samples):,} "
                    f"people analysed for {phenotype}; leave it out"
                )
            if len(called) < len(copies):
                logger.debug(
                    "%s: %d people without a call of %s get its mean",
                    phenotype,
                    len(copies) - len(called),
                    variant_id,
                )
                copies[missing[:, k], k] = called.mean()
        return copies

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns in the designs."""
        return tuple(f"variant {variant_id}" for variant_id in self.variant_ids)


def read_conditioning(
    dataset: Genotypes,
    variants: Sequence[str | VariantName],
    regions: HaploidRegions | None = None,
    sex: NDArray[np.int8] | None = None,
) -> Conditioning:
    """Read the variants to condition on.

    Parameters
    ----------
    dataset : Genotypes or JoinedGenotypes
        Hard calls or dosages.
    variants : sequence of str or VariantName
        As :meth:`~hlmm_scan.genotypes.dataset.GenotypeDataset.find_variants` takes them.
    regions : HaploidRegions, optional
        Where people are haploid: calls they cannot have are missing, as where such a variant is
        tested. Without it everybody is diploid.
    sex : ndarray of int8, shape (n_samples,), optional
        PLINK's codes; by default those of the dataset.

    Returns
    -------
    Conditioning
        In the order of `variants`.

    Raises
    ------
    InputError
        If an id is given twice, is unknown or at several variants.
    """
    names = tuple(map(str, variants))
    positions = dataset.find_variants(variants)
    for k, position in enumerate(positions.tolist()):
        if position in positions[:k]:
            raise InputError(f"condition: variant {names[k]} is given twice")
    copies = np.empty((len(positions), dataset.n_samples))
    for row, position in enumerate(positions.tolist()):
        block = dataset.read_block(position, position + 1)
        if regions is not None:
            here = dataset.variants(position, position + 1)
            ploidy = Ploidy(int(regions.classify(str(here.contig[0]), here.position)[0]))
            if ploidy is not Ploidy.DIPLOID:
                block, _ = recode(block, ploidy, dataset.samples.sex if sex is None else sex, ())
        copies[row] = block.copies()[0]
    copies.flags.writeable = False
    return Conditioning(names, copies)
