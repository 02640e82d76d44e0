"""Observed quantiles of −log10 p against those of no effects.

Results are given as to :mod:`hlmm_scan.report.manhattan`.
"""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hlmm_scan.analysis.quantiles import expected_neg_log10_p
from hlmm_scan.report import axes as look
from hlmm_scan.report.trait import Trait, trait_of
from hlmm_scan.results.tests import DISPERSION, FORMS

_FORM_LOOKS: Mapping[str, tuple[str, str]] = {
    "": ("o", ""),
    "wald": ("x", "#6b6b6b"),
    "wald_robust": ("x", "#6b6b6b"),
    "wald_sandwich": (".", "#B8860B"),
    "lrt": ("+", "#111111"),
}


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
    trait = trait_of(results)
    with look.style():
        figure = look.new_figure(look.WIDE, 10.4 / len(trait.tests) + 0.25)
        panels = figure.subplots(1, len(trait.tests), squeeze=False)[0]
        for axes, test in zip(panels, trait.tests, strict=True):
            _qq(axes, trait, test)
        panels[0].set_ylabel("Observed −log₁₀ p")
        figure.supxlabel("Expected −log₁₀ p", fontsize=9.5)
    return look.finished(figure)


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
