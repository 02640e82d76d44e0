"""Pictures along the genome: −log10 p, and what random effects take of the variance.

Every function takes the results of one phenotype, either as the opened store has them
(``xarray.open_zarr("results.zarr").sel(phenotype="height")``) or read already by
:func:`~hlmm_scan.report.trait.read_trait`, so that several pictures cost one pass. Figures belong
to no pyplot state: save them by their own ``savefig``, or show them in a notebook.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError
from hlmm_scan.report import axes as look
from hlmm_scan.report.leads import Lead
from hlmm_scan.report.trait import Trait, shown_p, trait_of

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
    trait = trait_of(results)
    with look.style():
        figure = look.new_figure(look.WIDE, 5.2)
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
    trait = trait_of(results)
    with look.style():
        figure = look.new_figure(look.WIDE, 2.9)
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
        look.marker(axes, x[k], y[k], test, leads[k].gid)
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
    trait = trait_of(results)
    points = trait.random_variance
    if points is None:
        raise InputError(f"{trait.phenotype}: scanned without random effects")
    with look.style():
        figure = look.new_figure(look.WIDE, 2.3)
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
        axes.set_ylim(*look.span(points.y))
        look.chromosome_axis(axes, trait.genome)
        axes.set_xlabel("Chromosome")
        axes.set_ylabel("Random effects'\nshare of variance")
    return look.finished(figure)
