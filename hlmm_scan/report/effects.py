"""Pictures of effects: variance against mean, and both against frequency.

Results are given as to :mod:`hlmm_scan.report.manhattan`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import chdtri

from hlmm_scan.array_types import Float
from hlmm_scan.report import axes as look
from hlmm_scan.report.leads import Lead
from hlmm_scan.report.trait import Trait, shown_p, trait_of

_CLOUD = "#9c9c9c"

_TELLING = ("dispersion", "var", "add", "av")
"""Tests by how much they tell of a hit, the most first."""


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
    trait = trait_of(results)
    with look.style():
        figure = look.new_figure(look.WIDE / 2, 4.6)
        axes = figure.subplots()
        cloud, hits = trait.sample, trait.hits
        look.scatter(axes, cloud["add"], cloud["var"], _CLOUD, "o", 1.4, "")
        for test, rest in _by_test(trait):
            label = f"{look.NAMES[test]} ({len(rest):,})"
            marker, colour = look.MARKERS[test], look.COLOURS[test]
            look.scatter(axes, rest["add"], rest["var"], colour, marker, 4.0, label)
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
            look.marker(axes, row["add"], row["var"], min(lead.tests, key=_TELLING.index), lead.gid)
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
    trait = trait_of(results)
    with look.style():
        figure = look.new_figure(look.WIDE / 2, 4.6)
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
    look.scatter(axes, _minor(cloud), cloud[test].abs(), _CLOUD, "o", 1.4, "")
    look.scatter(
        axes, _minor(hits), hits[test].abs(), look.COLOURS[test], look.MARKERS[test], 4, ""
    )
    if len(cloud) > 50:
        edges = np.quantile(_minor(cloud), np.linspace(0, 1, 21))
        bins = np.digitize(_minor(cloud), edges[1:-1])
        lines = pd.DataFrame({"x": _minor(cloud), "y": cloud[f"{test}_se"]}).groupby(bins).median()
        z = np.sqrt(chdtri(1, 10**-trait.threshold))
        axes.plot(lines["x"], z * lines["y"], color=look.INK, linewidth=1, linestyle=(0, (5, 3)))
    for lead in leads:
        if test in lead.tests:
            row = trait.hits.loc[[lead.variant]]
            look.marker(axes, float(_minor(row)[0]), float(abs(row[test].iloc[0])), test, lead.gid)


def _minor(table: pd.DataFrame) -> Float:
    frequency = table["effect_allele_frequency"].to_numpy()
    return np.asarray(np.minimum(frequency, 1 - frequency))


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


def _range(cloud: pd.Series[float], hits: pd.Series[float]) -> tuple[float, float]:
    """Return the part of an axis that holds all hits and nearly all other variants, 0 within."""
    core = np.nanquantile(cloud, [0.001, 0.999]) if len(cloud) else np.array([0.0, 0.0])
    every = np.array([*core, 0.0, hits.min(), hits.max()])
    return look.span(every[np.isfinite(every)])


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
