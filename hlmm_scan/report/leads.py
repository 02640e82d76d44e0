"""Which hits are marked in the pictures and numbered: the leads of every test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hlmm_scan.analysis.clumping import clump
from hlmm_scan.analysis.hits import CALIBRATION_FLAGS, DISTANCE
from hlmm_scan.report.trait import Trait, shown_p

MOST = 40
"""Leads of one test that are shown, the strongest; `hlmm-scan hits` lists them all."""


@dataclass(frozen=True)
class Lead:
    """A hit that is marked in the pictures.

    Attributes
    ----------
    variant : int
        Index along the dimension ``variant``.
    number : int
        As in the table of hits, along the genome from 1.
    tests : tuple of str
        Those it leads, of :data:`~hlmm_scan.report.trait.TESTS`.
    doubt : str
        What else could make its variance effect, and what its trait's calibration does not show;
        empty where nothing is known.
    """

    variant: int
    number: int
    tests: tuple[str, ...]
    doubt: str = ""

    @property
    def gid(self) -> str:
        """Id of its marks in an SVG file."""
        return f"hit-{self.number}"


def choose_leads(
    trait: Trait, hits: pd.DataFrame | None = None, most: int = MOST
) -> tuple[Lead, ...]:
    """Return the strongest leads of every test, in the order of the genome.

    Parameters
    ----------
    trait : Trait
    hits : DataFrame, optional
        What :func:`hlmm_scan.analysis.hits.hits` found for this phenotype. Without it leads are
        told apart by distance alone.
    most : int, default 40
        Of one test.
    """
    found: dict[int, list[str]] = {}
    for test in trait.tests:
        strength = trait.hits[shown_p(test)]
        if hits is None:
            variants = _by_distance(trait, strength)
        else:
            variants = hits.loc[hits["test"] == trait.shown[test].name, "row"].to_numpy()
        strongest = strength.loc[pd.Index(variants)].sort_values(ascending=False, kind="stable")
        for variant in strongest.index[:most].tolist():
            found.setdefault(variant, []).append(test)
    doubts = {} if hits is None else dict(_doubts(hits))
    genome = trait.genome
    order = sorted(found, key=lambda v: (genome.contig[v], genome.position[v], v))
    return tuple(
        Lead(variant, rank, tuple(found[variant]), doubts.get(variant, ""))
        for rank, variant in enumerate(order, 1)
    )


def _by_distance(
    trait: Trait, strength: pd.Series[float]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    hit = strength[strength > trait.threshold]
    rows = hit.index.to_numpy()
    contig, position = trait.genome.contig[rows], trait.genome.position[rows]
    leads, _ = clump(contig, position, np.asarray(hit, dtype=np.float64), DISTANCE)
    return np.asarray(rows[leads], dtype=np.int64)


def _doubts(hits: pd.DataFrame) -> Iterator[tuple[int, str]]:
    """Yield the row of each hit that is in doubt, and why: of all tests that it leads."""
    found: dict[int, dict[str, None]] = {}
    for hit in hits.to_dict("records"):
        words = {
            "neighbour": f"{hit['neighbour']} (r² {hit['neighbour_r2']:.2f})",
            "low_info": "poor imputation",
            "few_tests_count": "few tests at its allele count",
            "inflated_count": "inflated at its allele count",
            "few_tests_info": "few tests at its info",
            "inflated_info": "inflated at its info",
            "jumps": "few values of the trait, few carriers",
            "outlier": "one person has most of the variance, few carriers",
            "at_bound": "p at its bound",
        }
        flags = f"{hit['flags']},{hit.get(CALIBRATION_FLAGS, '')}".split(",")
        found.setdefault(hit["row"], {}).update({words.get(f, f): None for f in flags if f})
    for row, doubts in found.items():
        if doubts:
            yield row, ", ".join(doubts)
