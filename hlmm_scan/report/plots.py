"""Pictures of a scan, as matplotlib figures.

Every function takes the results of one phenotype, either as the opened store has them
(``xarray.open_zarr("results.zarr").sel(phenotype="height")``) or read already by
:func:`~hlmm_scan.report.trait.read_trait`, so that several pictures cost one pass. Figures belong
to no pyplot state: save them by their own ``savefig``, or show them in a notebook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri

from hlmm_scan.analysis.quantiles import expected_neg_log10_p
from hlmm_scan.errors import InputError
from hlmm_scan.report import axes as look
from hlmm_scan.report.leads import Lead
from hlmm_scan.report.trait import Trait, read_trait, shown_p
from hlmm_scan.results.tests import DISPERSION, FORMS

Float = NDArray[np.float64]

WIDE = 10.0
"""Inches; a figure beside another has half of it."""

_CLOUD = "#9c9c9c"
_NUMBERED = 12  # leads of each test that bear their number


def mirrored_manhattan(results: xr.Dataset | Trait, leads: tuple[Lead, ...] = ()) -> Figure:
    """Draw −log10 p along the genome, additive tests above and variance tests below.

    Parameters
    ----------
    results : Dataset or Trait
        Of one phenotype. From a Dataset the default tests are shown and p < 5e-8 is a hit.
    leads : tuple of Lead, optional
        Hits that are marked; the strongest are numbered.

    Returns
    -------
    Figure
        10 by 5.2 inches.

    Raises
    ------
    InputError
        If there are several phenotypes.
    """
    trait = _trait(results)
    with look.style():
        figure = look.new_figure(WIDE, 5.2)
        above, below = figure.subplots(2, 1)
        _manhattan(above, trait, "add", leads)
        _manhattan(below, trait, "var", leads, downwards=True)
        look.chromosome_axis(below, trait.genome, labels=False)
        below.spines["bottom"].set_visible(False)
        below.spines["top"].set_visible(True)
        above.set_ylabel("Additive effect\n−log₁₀ p")
        below.set_ylabel("Variance effect\n−log₁₀ p")
        figure.supxlabel("Chromosome", fontsize=9.5)
    return look.finished(figure)


def manhattan(
    results: xr.Dataset | Trait, test: str = "av", leads: tuple[Lead, ...] = ()
) -> Figure:
    """Draw −log10 p of one test along the genome.

    Parameters
    ----------
    results : Dataset or Trait
        Of one phenotype; see :func:`mirrored_manhattan`.
    test : {"av", "add", "var", "dispersion"}, default "av"
        The joint test has 2 degrees of freedom.
    leads : tuple of Lead, optional

    Returns
    -------
    Figure
        10 by 2.9 inches.

    Raises
    ------
    InputError
        If there are several phenotypes.
    KeyError
        If there is no such test.
    """
    trait = _trait(results)
    with look.style():
        figure = look.new_figure(WIDE, 2.9)
        axes = figure.subplots()
        _manhattan(axes, trait, test, leads)
        name = look.NAMES[test].capitalize()
        axes.set_ylabel(f"{name} test\n−log₁₀ p")
        axes.set_xlabel("Chromosome")
    return look.finished(figure)


def _manhattan(
    axes: Axes, trait: Trait, test: str, leads: tuple[Lead, ...], *, downwards: bool = False
) -> None:
    points = trait.points[test]
    highest = float(max(points.y.max(initial=0), trait.threshold))
    look.p_axis(axes, highest, downwards=downwards)
    look.chromosome_axis(axes, trait.genome)
    hit = points.y > trait.threshold
    odd = trait.genome.contig[points.variant] % 2 == 1
    for chosen, size, colour in (
        (~hit & ~odd, 1.9, look.COLOURS[test]),
        (~hit & odd, 1.9, look.PALE[test]),
        (hit, 3.2, look.COLOURS[test]),
    ):
        axes.plot(
            points.x[chosen],
            points.y[chosen],
            linestyle="none",
            marker="o",
            markersize=size,
            markeredgewidth=0,
            color=colour,
            rasterized=True,
        )
    axes.axhline(trait.threshold, color=look.INK, linewidth=0.8, linestyle=(0, (5, 3)))
    mine = [lead for lead in leads if test in lead.tests]
    if mine:
        _mark(axes, trait, test, mine, downwards)


def _mark(axes: Axes, trait: Trait, test: str, leads: list[Lead], downwards: bool) -> None:
    """Mark leads, the strongest with their numbers where there is room for these."""
    variants = np.array([lead.variant for lead in leads])
    x, y = trait.genome.x(variants), trait.hits.loc[variants, shown_p(test)].to_numpy()
    order = np.argsort(-y, kind="stable")
    for k in order[::-1]:
        _marker(axes, x[k], y[k], test, leads[k].gid)
    # Numbers keep clear of each other and of all hits, in shares of the picture.
    height = look.compressed if axes.get_yscale() == "function" else np.asarray

    def shares(x: Float, y: Float) -> Float:
        return np.column_stack([x / trait.genome.width, height(y) / height(max(axes.get_ylim()))])

    points = trait.points[test]
    hit = points.y > trait.threshold
    crowd = shares(points.x[hit], points.y[hit])
    for lead in look.free(shares(x, y), order, crowd)[:_NUMBERED]:
        axes.annotate(
            str(leads[lead].number),
            (x[lead], y[lead]),
            xytext=(0, -5 if downwards else 5),
            textcoords="offset points",
            ha="center",
            va="top" if downwards else "bottom",
            fontsize=8,
            fontweight="bold",
            annotation_clip=False,
        )


def _marker(axes: Axes, x: float, y: float, test: str, gid: str) -> None:
    axes.plot(
        [x],
        [y],
        marker=look.MARKERS[test],
        markersize=4.8,
        markerfacecolor=look.COLOURS[test],
        markeredgecolor=look.INK,
        markeredgewidth=0.8,
        linestyle="none",
        clip_on=False,
        gid=gid,
        zorder=5,
    )


# Calibration ------------------------------------------------------------------------------


def qq(results: xr.Dataset | Trait) -> Figure:
    """Draw observed against expected −log10 p of every test, in every form that is at hand.

    Parameters
    ----------
    results : Dataset or Trait
        Of one phenotype.

    Returns
    -------
    Figure
        10 inches wide, one panel a test. The band holds each rank with probability 95% where no
        variant has an effect and tests are independent (quantiles of the beta distribution of an
        order statistic); λ is the median χ² over its median without effects.

    Raises
    ------
    InputError
        If there are several phenotypes.
    """
    trait = _trait(results)
    with look.style():
        figure = look.new_figure(WIDE, 10.4 / len(trait.tests) + 0.25)
        panels = figure.subplots(1, len(trait.tests), squeeze=False)[0]
        for axes, test in zip(panels, trait.tests, strict=True):
            _qq(axes, trait, test)
        panels[0].set_ylabel("Observed −log₁₀ p")
        figure.supxlabel("Expected −log₁₀ p", fontsize=9.5)
    return look.finished(figure)


_FORM_LOOKS: Mapping[str, tuple[str, str]] = {
    "": ("o", ""),
    "wald": ("x", "#6b6b6b"),
    "wald_robust": ("x", "#6b6b6b"),
    "wald_sandwich": (".", "#B8860B"),
    "lrt": ("+", "#111111"),
}


def _qq(axes: Axes, trait: Trait, test: str) -> None:
    forms = ("", *FORMS)
    quantiles = {
        form: trait.quantiles[name]
        for form in forms
        if (name := f"{test}_{form}" if form else test) in trait.quantiles
        and trait.quantiles[name].n
    }
    highest = [1.0, 1.0]
    df = trait.shown[test].df
    for form, values in quantiles.items():
        ranks = values.ranks_to_show()
        expected, low, high = expected_neg_log10_p(ranks, values.n)
        observed = values.at_rank(ranks)
        highest = [max(highest[0], expected[0]), max(highest[1], observed[0])]
        marker, colour = _FORM_LOOKS[form]
        axes.plot(
            expected,
            observed,
            marker=marker,
            markersize=3.4,
            markeredgewidth=0.9 if marker in "x+" else 0,
            linestyle="none",
            color=colour or look.COLOURS[test],
            label=f"{_form_name(test, form)}, λ = {values.lambda_gc(df):.2f}",
            rasterized=True,
        )
    if quantiles:
        # All forms have about the same number of tests, so that one band serves them.
        axes.fill_between(expected, low, high, color="#dcdcdc", linewidth=0, zorder=0)
        axes.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.1, markerscale=1.5)
    look.p_axis(axes, highest[1])
    axes.set_xlim(0, highest[0] * 1.04)
    axes.plot([0, highest[0]], [0, highest[0]], color=look.INK, linewidth=0.8, zorder=1)
    axes.set_title(look.NAMES[test].capitalize() + (", 2 df" if test == "av" else ""))


def _form_name(test: str, form: str) -> str:
    return form.replace("_", " ") or ("wald" if test == DISPERSION else "score")


# Effects ----------------------------------------------------------------------------------


def additive_against_variance(results: xr.Dataset | Trait, leads: tuple[Lead, ...] = ()) -> Figure:
    """Draw variance effects against additive ones: hits over what all variants look like.

    Parameters
    ----------
    results : Dataset or Trait
        Of one phenotype.
    leads : tuple of Lead, optional
        Hits that are marked, with standard errors.

    Returns
    -------
    Figure
        5 by 4.6 inches. Where there are dispersion effects, the line is what a change in mean
        alone brings along (math.md §6).

    Raises
    ------
    InputError
        If there are several phenotypes.
    """
    trait = _trait(results)
    with look.style():
        figure = look.new_figure(WIDE / 2, 4.6)
        axes = figure.subplots()
        cloud, hits = trait.sample, trait.hits
        _scatter(axes, cloud["add"], cloud["var"], _CLOUD, "o", 1.4, "")
        for test, rest in _by_test(trait):
            label = f"{look.NAMES[test]} ({len(rest):,})"
            marker, colour = look.MARKERS[test], look.COLOURS[test]
            _scatter(axes, rest["add"], rest["var"], colour, marker, 4.0, label)
        for lead in leads:
            row = hits.loc[lead.variant].astype(float).to_dict()
            axes.errorbar(
                row["add"],
                row["var"],
                xerr=1.96 * row["add_se"],
                yerr=1.96 * row["var_se"],
                color=look.INK,
                linewidth=0.6,
                alpha=0.6,
            )
            _marker(axes, row["add"], row["var"], min(lead.tests, key=_TELLING.index), lead.gid)
        if trait.slope is not None:
            label = f"slope {trait.slope:.3g}"
            axes.axline((0, 0), slope=trait.slope, color=look.INK, linewidth=1.1, label=label)
        axes.axhline(0, color=look.FAINT, linewidth=0.6, zorder=0)
        axes.axvline(0, color=look.FAINT, linewidth=0.6, zorder=0)
        axes.set_xlim(*_range(cloud["add"], hits["add"]))
        axes.set_ylim(*_range(cloud["var"], hits["var"]))
        axes.set_xlabel(f"Additive effect ({trait.unit} per allele)")
        axes.set_ylabel("Variance effect (log variance per allele)")
        _legend_above(axes)
    return look.finished(figure)


def effect_by_frequency(results: xr.Dataset | Trait, leads: tuple[Lead, ...] = ()) -> Figure:
    """Draw the size of additive and variance effects against the minor allele's frequency.

    Parameters
    ----------
    results : Dataset or Trait
        Of one phenotype.
    leads : tuple of Lead, optional

    Returns
    -------
    Figure
        5 by 4.6 inches: hits of each test, and as a line the smallest effect that would be one,
        threshold times the median standard error at that frequency.

    Raises
    ------
    InputError
        If there are several phenotypes.
    """
    trait = _trait(results)
    with look.style():
        figure = look.new_figure(WIDE / 2, 4.6)
        panels = figure.subplots(2, 1, sharex=True)
        for axes, test in zip(panels, ("add", "var"), strict=True):
            _frequency_panel(axes, trait, test, leads)
        panels[0].set_ylabel(f"|Additive effect|\n({trait.unit})")
        panels[1].set_ylabel("|Variance effect|\n(log variance)")
        panels[1].set_xlabel("Minor allele frequency")
        panels[1].set_xscale("log")
        frequencies = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
        low = float(_minor(trait.sample).min()) if len(trait.sample) else 0.01
        shown = [f for f in frequencies if f >= low * 0.9] or [0.5]
        panels[1].set_xticks(shown, [f"{f:g}" for f in shown])
        panels[1].set_xticks([], minor=True)
        panels[1].set_xlim(low * 0.93, 0.535)
    return look.finished(figure)


def _frequency_panel(axes: Axes, trait: Trait, test: str, leads: tuple[Lead, ...]) -> None:
    cloud, hits = trait.sample, trait.hits[trait.hits[shown_p(test)] > trait.threshold]
    _scatter(axes, _minor(cloud), cloud[test].abs(), _CLOUD, "o", 1.4, "")
    _scatter(axes, _minor(hits), hits[test].abs(), look.COLOURS[test], look.MARKERS[test], 4, "")
    if len(cloud) > 50:
        edges = np.quantile(_minor(cloud), np.linspace(0, 1, 21))
        bins = np.digitize(_minor(cloud), edges[1:-1])
        lines = pd.DataFrame({"x": _minor(cloud), "y": cloud[f"{test}_se"]}).groupby(bins).median()
        z = np.sqrt(chdtri(1, 10**-trait.threshold))
        axes.plot(lines["x"], z * lines["y"], color=look.INK, linewidth=1, linestyle=(0, (5, 3)))
    for lead in leads:
        if test in lead.tests:
            row = trait.hits.loc[[lead.variant]]
            _marker(axes, float(_minor(row)[0]), float(abs(row[test].iloc[0])), test, lead.gid)


def _minor(table: pd.DataFrame) -> Float:
    frequency = table["effect_allele_frequency"].to_numpy()
    return np.asarray(np.minimum(frequency, 1 - frequency))


def random_variance(results: xr.Dataset | Trait) -> Figure:
    """Draw the random effects' share of the variance at every variant, along the genome.

    Parameters
    ----------
    results : Dataset or Trait
        Of one phenotype, scanned with random effects.

    Returns
    -------
    Figure
        10 by 2.3 inches. Where a variant's chromosome is left out of the random effects (LOCO),
        each chromosome has a level of its own.

    Raises
    ------
    InputError
        If there are several phenotypes, or no random effects.
    """
    trait = _trait(results)
    points = trait.random_variance
    if points is None:
        raise InputError(f"{trait.phenotype}: scanned without random effects")
    with look.style():
        figure = look.new_figure(WIDE, 2.3)
        axes = figure.subplots()
        odd = trait.genome.contig[points.variant] % 2 == 1
        for chosen, colour in ((~odd, "#4d4d4d"), (odd, "#a0a0a0")):
            axes.plot(
                points.x[chosen],
                points.y[chosen],
                linestyle="none",
                marker="o",
                markersize=1.9,
                markeredgewidth=0,
                color=colour,
                rasterized=True,
            )
        axes.set_ylim(*_span(points.y))
        look.chromosome_axis(axes, trait.genome)
        axes.set_xlabel("Chromosome")
        axes.set_ylabel("Random effects'\nshare of variance")
    return look.finished(figure)


# Shared -----------------------------------------------------------------------------------


def _trait(results: xr.Dataset | Trait) -> Trait:
    return results if isinstance(results, Trait) else read_trait(results)


_TELLING = ("dispersion", "var", "add", "av")
"""Tests by how much they tell of a hit, the most first."""


def _by_test(trait: Trait) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each hit once, under the most telling of the tests that find it."""
    hits = trait.hits
    left = np.ones(len(hits), dtype=bool)
    for test in _TELLING:
        if test in trait.tests:
            mine = left & (hits[shown_p(test)] > trait.threshold).to_numpy()
            left &= ~mine
            if mine.any():
                yield test, hits[mine]


def _scatter(
    axes: Axes, x: ArrayLike, y: ArrayLike, colour: str, marker: str, size: float, label: str
) -> None:
    axes.plot(
        x,
        y,
        linestyle="none",
        marker=marker,
        markersize=size,
        markeredgewidth=0,
        color=colour,
        label=label or None,
        rasterized=True,
    )


def _range(cloud: pd.Series[float], hits: pd.Series[float]) -> tuple[float, float]:
    """Return the part of an axis that holds all hits and nearly all other variants, 0 within."""
    core = np.nanquantile(cloud, [0.001, 0.999]) if len(cloud) else np.array([0.0, 0.0])
    every = np.array([*core, 0.0, hits.min(), hits.max()])
    return _span(every[np.isfinite(every)])


def _span(values: Float) -> tuple[float, float]:
    """Return the range of some values and a little more."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    room = 0.07 * (high - low) or 0.07 * abs(high) or 1.0
    return low - room, high + room


def _legend_above(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=3,
            handletextpad=0.4,
            columnspacing=1.0,
            borderaxespad=0.2,
        )
