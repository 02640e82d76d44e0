"""Regions as users write them."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.analysis.regions import in_regions, parse_region
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.selection import Region


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("6:100-200", Region("6", 100, 200)),
        ("chr6:28,477,797-33,448,354", Region("chr6", 28_477_797, 33_448_354)),
        ("mhc-grch37", Region("6", 28_477_797, 33_448_354)),
        ("MHC-GRCh38", Region("6", 28_510_120, 33_480_577)),
        ("X", Region("X", 0, 2**31 - 1)),
    ],
)
def test_what_is_understood(text, region):
    assert parse_region(text) == region


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mhc-grch36", "did you mean 'mhc-grch3"),
        ("mhc-", "neither chromosome:from-to nor one of mhc-grch37, mhc-grch38"),
        ("6:1-2-3", "is not chromosome, or chromosome:from-to"),
        ("", "is not chromosome"),
        ("6:200-100", "ends before it starts"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_region(text)


def test_both_ends_are_inside_and_chromosomes_go_by_any_spelling():
    contig = np.array(["chr6", "6", "06", "chr6", "16", "X"], dtype=object)
    position = np.array([99, 100, 200, 201, 150, 150])
    inside = in_regions(contig, position, [parse_region("6:100-200")])
    assert inside.tolist() == [False, True, True, False, False, False]
    both = in_regions(contig, position, [parse_region("6:100-200"), parse_region("chrX")])
    assert both.tolist() == [False, True, True, False, False, True]
    assert not in_regions(contig, position, []).any()
