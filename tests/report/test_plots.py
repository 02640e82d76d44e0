"""Pictures: right numbers at the right places, axes that say what they are, whatever the data."""

from __future__ import annotations

import sys
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from report_results import NASTY_VARIANT, by_hand

from hlmm_scan.errors import InputError
from hlmm_scan.report import axes
from hlmm_scan.report.effects import additive_against_variance, effect_by_frequency
from hlmm_scan.report.leads import choose_leads
from hlmm_scan.report.manhattan import manhattan, mirrored_manhattan, random_variance
from hlmm_scan.report.qq import qq
from hlmm_scan.report.svg import inline_svg
from hlmm_scan.report.trait import read_trait
from hlmm_scan.schema import Status

PICTURES = {
    "mirrored": mirrored_manhattan,
    "joint": manhattan,
    "qq": qq,
    "effects": additive_against_variance,
    "frequency": effect_by_frequency,
}


def drawn(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("n", "hits"), [(0, 0), (1, 0), (1, 1), (3, 3), (2000, 0), (2000, 30)])
def test_every_picture_can_be_drawn_of_much_or_nothing(picture, n, hits):
    figure = PICTURES[picture](by_hand(n, hits=hits))
    assert drawn(figure).std() > 0
    for part in figure.axes:
        assert part.get_ylabel() or part.get_title() or part.get_xlabel()


def test_no_pyplot_and_nothing_of_the_users_settings():
    with matplotlib.rc_context({"font.size": 40.0, "axes.facecolor": "black"}):
        figure = manhattan(by_hand(500))
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]
    reference = manhattan(by_hand(500))
    np.testing.assert_array_equal(drawn(figure), drawn(reference))
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_the_variance_tests_hang_below_and_every_hit_is_there():
    results = by_hand(3000, hits=40)
    above, below = mirrored_manhattan(results).axes
    assert above.get_ylim()[0] == 0 < above.get_ylim()[1]
    assert below.get_ylim()[0] > below.get_ylim()[1] == 0
    for part, test in ((above, "add"), (below, "var")):
        p = results[f"{test}_neg_log10_p"].values
        heights = np.concatenate([line.get_ydata() for line in part.lines])
        assert set(p[p >= 7.31]) <= set(heights.tolist())
        assert max(part.get_ylim()) > p.max()
        assert [t.get_text() for t in above.get_xticklabels()] == ["1", "2", "10"]


def test_a_chromosome_too_many_to_name_is_not_named():
    results = by_hand(4000, contigs=tuple(f"scaffold{k}" for k in range(400)))
    (part,) = manhattan(results).axes
    names = [t.get_text() for t in part.get_xticklabels()]
    assert 5 < len(names) < 25
    figure = part.figure
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in part.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_the_compressed_scale_goes_there_and_back():
    y = np.array([0, 3.0, 20, 21, 300, 1e4])
    np.testing.assert_allclose(axes.expanded(axes.compressed(y)), y)
    assert axes.compressed(300) < 44
    results = by_hand(100, hits=0)
    results["av_neg_log10_p"].values[5] = 1234.0
    (part,) = manhattan(results).axes
    assert part.get_ylim()[1] > 1234
    assert {0, 20, 1000} <= {float(t) for t in part.get_yticks()}


def test_random_variance_needs_random_effects():
    results = by_hand(300)
    with pytest.raises(InputError, match="without random effects"):
        random_variance(results)
    results["random_variance_fraction"] = "variant", np.linspace(0.2, 0.3, 300)
    low, high = random_variance(results).axes[0].get_ylim()
    assert 0.18 < low < 0.2 < 0.3 < high < 0.32


def test_tests_of_which_nothing_can_be_trusted_make_empty_pictures():
    results = by_hand(60)
    results["status"].values[:] = Status.NOT_CONVERGED
    trait = read_trait(results)
    for picture in PICTURES.values():
        assert drawn(picture(trait)).std() > 0


def test_an_svg_is_whole_small_and_escaped():
    results = by_hand(3000, hits=12, contigs=("1", "2&<b>"))
    trait = read_trait(results)
    leads = choose_leads(trait)
    titles = {lead.gid: f"{NASTY_VARIANT} <{lead.number}>" for lead in leads}
    text = inline_svg(mirrored_manhattan(trait, leads), "p0-m", 'a "b" <c>', titles)
    assert text.startswith("<svg ")
    assert text.rstrip().endswith("</svg>")
    root = ElementTree.fromstring(text.replace("xlink:href", "href"))
    marks = [g for g in root.iter() if g.get("class") == "hit"]
    shown = {lead.gid for lead in leads if {"add", "var"} & set(lead.tests)}
    assert {mark.get("data-hit") for mark in marks} == shown
    assert {mark.find("title").text for mark in marks} == {titles[gid] for gid in shown}
    ids = [g.get("id") for g in root.iter() if g.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("p0-m-") for name in ids)
    assert root.get("aria-label") == 'a "b" <c>'
    assert len(text) < 300_000


def test_numbers_keep_clear_of_each_other_and_of_the_marks():
    places = np.array([[0.5, 0.9], [0.505, 0.8], [0.6, 0.5], [0.605, 0.55], [0.9, 0.1]])
    assert axes.free(places, np.arange(5), places) == [0, 3, 4]
    assert axes.free(places, np.arange(5), np.array([[0.9, 0.15]])) == [0, 2]
    assert axes.free(places[:0], np.arange(0), places[:0]) == []
    assert axes.free(places[[0, 0]], np.arange(2), places[[0, 0]]) == [0]


def test_effects_are_in_the_unit_the_phenotype_was_analysed_in():
    results = by_hand(300, hits=2)
    results["add"].attrs["units"] = "rank-normal units"
    figures = additive_against_variance(results), effect_by_frequency(results)
    labels = [figures[0].axes[0].get_xlabel(), figures[1].axes[0].get_ylabel()]
    assert all("rank-normal units" in label for label in labels)
