"""Which hits are marked and numbered: the strongest of each neighbourhood."""

from __future__ import annotations

import numpy as np

from hlmm_scan.report.plots import Lead
from hlmm_scan.report.trait import Trait, shown_p

APART = 500_000
"""Base pairs within which the strongest hit of a test stands for the others."""

MOST = 40
"""Leads of one test."""


def choose_leads(trait: Trait, apart: int = APART, most: int = MOST) -> tuple[Lead, ...]:
    """Return the strongest hits of every test, in the order of the genome.

    Parameters
    ----------
    trait : Trait
    apart : int, default 500,000
    most : int, default 40
    """
    variants = trait.hits.index.to_numpy()
    contig = trait.genome.contig[variants]
    position = trait.genome.position[variants].astype(np.int64)
    chosen: set[int] = set()
    for test in trait.tests:
        p = trait.hits[shown_p(test)].to_numpy(copy=True)
        for _ in range(most):
            if not len(p) or not (best := int(np.argmax(np.nan_to_num(p, nan=-1)))) >= 0:
                break
            if not p[best] >= trait.threshold:
                break
            chosen.add(best)
            near = (contig == contig[best]) & (np.abs(position - position[best]) <= apart)
            p[near] = -np.inf
    order = sorted(chosen, key=lambda k: (contig[k], position[k], variants[k]))
    found = {test: trait.hits[shown_p(test)].to_numpy() >= trait.threshold for test in trait.tests}
    return tuple(
        Lead(int(variants[k]), rank + 1, tuple(t for t in trait.tests if found[t][k]))
        for rank, k in enumerate(order)
    )
