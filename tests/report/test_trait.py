"""What pictures are made from: the axis, thinning that keeps every hit, one pass in pieces."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_results import by_hand

from hlmm_scan.errors import InputError
from hlmm_scan.report.genome import Genome, contig_order
from hlmm_scan.report.leads import choose_leads
from hlmm_scan.report.thinning import KEEP, Thinner
from hlmm_scan.report.trait import read_trait, shown_p
from hlmm_scan.schema import Status


def test_chromosomes_stand_in_natural_order():
    names = ["MT", "chr10", "X", "2", "scaffold_10", "chrY", "1", "scaffold_9", "22", "chrUn"]
    assert sorted(names, key=contig_order) == [
        *("1", "2", "chr10", "22", "X", "chrY", "MT", "scaffold_9", "scaffold_10", "chrUn")
    ]


def test_names_that_begin_with_digits_or_letters_can_be_compared():
    names = ["1a", "a1", "-", "GL000192.1", "1_random", "", "é9", "²"]
    in_order = sorted(names, key=contig_order)
    assert in_order == sorted(set(names), key=contig_order)
    assert in_order[:2] == ["", "1_random"]


def test_the_axis_has_chromosomes_side_by_side_and_unknown_positions_at_their_start():
    contig = np.array([0, 0, 1, 1, 1], np.int32)
    position = np.array([500, 900, 100, 300, -9], np.int32)
    genome = Genome.of(contig, position, ["2", "1"])
    assert genome.contigs == ("1", "2")
    x = genome.x(slice(None))
    assert x[2:].tolist() == [0, 200, 0]
    assert x[1] - x[0] == 400
    assert x[0] > 200  # a gap between chromosomes
    assert genome.width == x[1]


def test_a_chromosome_of_which_no_position_is_known_has_a_place():
    genome = Genome.of(np.array([0, 1], np.int32), np.array([0, 7], np.int32), ["1", "2"])
    assert np.isfinite(genome.x(slice(None))).all()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3000),
    pieces=st.integers(1, 5),
    scale=st.sampled_from([0.3, 1.0, 5.0]),
    seed=st.integers(0, 1000),
)
def test_thinning_keeps_every_high_point_whatever_the_pieces(n, pieces, scale, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1e6, n), rng.exponential(scale, n)
    y[rng.random(n) < 0.1] = np.nan
    rows = np.arange(n)
    whole, parts = Thinner(1e6), Thinner(1e6)
    whole.add(x, y, rows)
    for part in np.array_split(rows, pieces):
        parts.add(x[part], y[part], part)
    kept = whole.points()
    for one, other in zip(kept, parts.points(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(np.flatnonzero(y >= KEEP)) <= set(kept[2].tolist())
    np.testing.assert_array_equal(kept[1], y[kept[2]])
    if (y < KEEP).any():  # and of the others a neighbour within a cell
        dull = np.flatnonzero(y < KEEP)
        low = kept[1] < KEEP
        for k in dull[:50]:
            near = (np.abs(kept[0][low] - x[k]) <= 1e6 / 1600) & (
                np.abs(kept[1][low] - y[k]) < 0.05
            )
            assert near.any()


def test_a_million_dull_points_become_few():
    rng = np.random.default_rng(0)
    thinner = Thinner(1.0)
    thinner.add(rng.uniform(size=1_000_000), rng.exponential(0.43, 1_000_000), np.arange(1_000_000))
    assert 10_000 < len(thinner.points()[0]) < 160_000


def test_one_pass_in_pieces_is_one_pass():
    results = by_hand(4001)
    results["status"].values[:50] = Status.NOT_CONVERGED
    results["add_neg_log10_p"].values[3] = 99.0  # not to be trusted
    one, many = (read_trait(results, rows_per_read=rows) for rows in (10_000, 333))
    assert one.statuses == many.statuses == {"ok": 3951, "not_converged": 50}
    pd.testing.assert_frame_equal(one.hits, many.hits)
    pd.testing.assert_frame_equal(one.sample, many.sample)
    for test in one.tests:
        np.testing.assert_array_equal(one.points[test].variant, many.points[test].variant)
    assert 3 not in one.hits.index
    assert one.n_tested == 3951


@pytest.mark.parametrize(
    ("tests", "forms"),
    [
        ((), ("", "", "")),
        (("lrt",), ("_lrt", "_lrt", "_lrt")),
        (("var_lrt", "add"), ("", "_lrt", "")),
    ],
)
def test_hits_are_all_there_is_beyond_the_threshold(tests, forms):
    results = by_hand(3000, hits=20)
    trait = read_trait(results, tests=tests, threshold=1e-3)
    columns = zip(("add", "var", "av"), forms, strict=True)
    p = np.stack([results[f"{test}{form}_neg_log10_p"] for test, form in columns])
    assert trait.hits.index.tolist() == np.flatnonzero((p >= 3).any(axis=0)).tolist()
    for k, test in enumerate(("add", "var", "av")):
        np.testing.assert_array_equal(trait.hits[shown_p(test)], p[k][trait.hits.index])
        points = trait.points[test]
        assert set(np.flatnonzero(p[k] >= 3)) <= set(points.variant.tolist())


def test_what_is_missing_or_wrong_is_said():
    results = by_hand(10)
    with pytest.raises(InputError, match=r"no test 'wald_sandwich' in it .* add, var, av, "):
        read_trait(results, tests=["wald_sandwich"])
    with pytest.raises(InputError, match="'add' and 'add_lrt' ask the same"):
        read_trait(results, tests=["add", "add_lrt"])
    with pytest.raises(InputError, match="between 0 and 1"):
        read_trait(results, threshold=0.0)
    two = results.expand_dims(phenotype=["a", "b"])
    with pytest.raises(InputError, match="choose one phenotype"):
        read_trait(two)
    assert read_trait(two.sel(phenotype=["b"])).phenotype == "b"


def test_leads_are_the_strongest_of_their_neighbourhood_in_genome_order():
    results = by_hand(6, contigs=("2", "1"), hits=0)
    results["position"].values[:] = [100, 200_000, 900_000, 100, 200, 3_000_000]
    results["add_neg_log10_p"].values[:] = [9, 12, 8, 10, 9, 1]
    results["var_neg_log10_p"].values[:] = [1, 1, 1, 1, 11, 1]
    results["av_neg_log10_p"].values[:] = 1
    leads = choose_leads(read_trait(results))
    assert [(lead.variant, lead.number, lead.tests) for lead in leads] == [
        (3, 1, ("add",)),
        (4, 2, ("var",)),
        (1, 3, ("add",)),
        (2, 4, ("add",)),
    ]
    assert [lead.variant for lead in choose_leads(read_trait(results), most=1)] == [4, 1]
    assert choose_leads(read_trait(by_hand(50, hits=0))) == ()


def test_leads_are_those_of_the_table_of_hits_and_bear_its_doubts():
    results = by_hand(5, contigs=("1",), hits=0)
    results["position"].values[:] = [10, 20, 30, 10**6, 2 * 10**6]
    for test in ("add", "var", "av"):
        results[f"{test}_neg_log10_p"].values[:] = [9, 1, 8, 1, 1]
    for name, values in (
        ("dispersion", np.zeros(5)),
        ("dispersion_se", np.ones(5)),
        ("dispersion_neg_log10_p", np.array([1, 1, 8, 9, 1.0])),
    ):
        results[name] = "variant", values
    trait = read_trait(results)
    assert trait.tests == ("add", "var", "av", "dispersion")
    table = pd.DataFrame(
        {
            "test": ["add", "var", "dispersion", "dispersion"],
            "row": [0, 2, 2, 3],
            "flags": ["", "neighbour,dominance", "neighbour,dominance", ""],
            "neighbour": ["", "rs0", "rs0", ""],
            "neighbour_r2": [np.nan, 0.25, 0.25, np.nan],
        }
    )
    leads = choose_leads(trait, table)
    assert [(lead.variant, lead.tests, lead.doubt) for lead in leads] == [
        (0, ("add",), ""),
        (2, ("var", "dispersion"), "rs0 (r² 0.25), dominance"),
        (3, ("dispersion",), ""),
    ]
