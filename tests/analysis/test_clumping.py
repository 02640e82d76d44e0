"""Lead variants: by distance, by linkage, ties, chromosome ends."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.analysis.clumping import clump

variants = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 60), st.integers(8, 12)), min_size=1, max_size=40
)


def arrays(drawn):
    contig, position, strength = (np.array(c) for c in zip(*drawn, strict=True))
    return contig, position, strength.astype(float)


def plainly(contig, position, strength, distance, linked=None):
    """The definition, pair by pair."""
    free, found = set(range(len(position))), {}
    for lead in sorted(free, key=lambda k: (-strength[k], k)):
        if lead not in free:
            continue
        free.discard(lead)
        mine = {
            k
            for k in free
            if contig[k] == contig[lead]
            and abs(position[k] - position[lead]) <= distance
            and (linked is None or linked[lead, k])
        }
        free -= mine
        found[lead] = len(mine)
    return found


@given(variants, st.integers(0, 30))
def test_leads_are_those_of_the_definition(drawn, distance):
    contig, position, strength = arrays(drawn)
    leads, taken = clump(contig, position, strength, distance)
    expected = plainly(contig, position, strength, distance)
    assert dict(zip(leads.tolist(), taken.tolist(), strict=True)) == expected
    assert len(leads) + taken.sum() == len(drawn)
    assert (np.diff(leads) > 0).all()


@given(variants, st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_with_linkage_too(drawn, distance, seed):
    contig, position, strength = arrays(drawn)
    linked = np.random.default_rng(seed).random((len(drawn),) * 2) < 0.5
    leads, taken = clump(contig, position, strength, distance, lambda k, others: linked[k, others])
    expected = plainly(contig, position, strength, distance, linked)
    assert dict(zip(leads.tolist(), taken.tolist(), strict=True)) == expected


@given(variants, st.integers(0, 30))
def test_by_distance_no_two_leads_are_near(drawn, distance):
    contig, position, strength = arrays(drawn)
    leads, _ = clump(contig, position, strength, distance)
    for a in leads:
        for b in leads[leads > a]:
            assert contig[a] != contig[b] or abs(position[a] - position[b]) > distance


def test_neighbouring_chromosomes_and_their_ends_are_kept_apart():
    contig = np.array([0, 0, 1, 1], np.int16)
    position = np.array([2**31 - 1, 2**31 - 2, 1, 2], np.int32)
    leads, taken = clump(contig, position, np.array([9.0, 8.0, 8.0, 9.0]), 250_000)
    assert leads.tolist() == [0, 3]
    assert taken.tolist() == [1, 1]


def test_nothing_significant_leads_nothing():
    leads, taken = clump(np.empty(0, int), np.empty(0, int), np.empty(0), 10)
    assert leads.shape == taken.shape == (0,)
