"""What the pictures have in common: colours, scales, and chromosomes along an axis."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.report.genome import Genome

COLOURS = {"add": "#0072B2", "var": "#D55E00", "av": "#009E73", "dispersion": "#AA4499"}
"""By test, after Okabe and Ito: told apart by colour-blind people, and by their shade on paper."""

PALE = {"add": "#7FB8DA", "var": "#EBAE80", "av": "#80CEB9", "dispersion": "#D5A2CC"}
"""The same for every other chromosome."""

MARKERS = {"add": "o", "var": "D", "av": "s", "dispersion": "^"}
"""A shape for each test, so that nothing hangs on colour alone."""

NAMES = {"add": "additive", "var": "variance", "av": "joint", "dispersion": "dispersion"}

WIDE = 10.0
"""Inches; a figure beside another has half of it."""

INK, FAINT = "#222222", "#8a8a8a"

KNEE = 20.0
"""−log10 p above which an axis goes on logarithmically, where it has to reach 40 or more."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Make figures in our style; settings of the caller's session do not matter, nor change."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) that no pyplot state knows."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def compressed(y: ArrayLike) -> Float:
    """Return heights that grow with y up to :data:`KNEE`, with its logarithm above."""
    values = np.asarray(y, dtype=np.float64)
    above = np.maximum(values, KNEE)
    return np.asarray(np.where(values <= KNEE, values, KNEE * (1 + np.log10(above / KNEE))))


def expanded(height: ArrayLike) -> Float:
    """Undo :func:`compressed`."""
    values = np.asarray(height, dtype=np.float64)
    above = np.maximum(values, KNEE)
    return np.asarray(np.where(values <= KNEE, values, KNEE * 10 ** (above / KNEE - 1)))


def p_axis(axes: Axes, highest: float, *, downwards: bool = False) -> None:
    """Scale a y axis for −log10 p from 0 to a little above the highest.

    Parameters
    ----------
    axes : Axes
    highest : float
    downwards : bool, default False
        Whether the axis grows downwards.
    """
    ticks: list[float]
    if highest < 2 * KNEE:
        top = highest * 1.08 + 0.3
        step = next(s for s in (1, 2, 5, 10) if top / s <= 9)
        ticks = list(np.arange(0, top, step))
    else:
        axes.set_yscale("function", functions=(compressed, expanded))
        # Room above the highest, for its number.
        top = float(expanded(compressed(highest) * 1.08))
        ticks = [0, 5, 10, 15, KNEE]
        ticks += [m * 10.0**e for e in range(1, 6) for m in (1, 2, 5) if 2 * KNEE < m * 10**e < top]
        axes.axhline(KNEE, color=FAINT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        axes.annotate(
            f"log {'↓' if downwards else '↑'}",
            (1, KNEE),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="top" if downwards else "bottom",
            fontsize=7,
            color=FAINT,
        )
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim((top, 0) if downwards else (0, top))


def chromosome_axis(axes: Axes, genome: Genome, *, labels: bool = True) -> None:
    """Put chromosomes on an x axis: names in the middle of each, those left out that do not fit."""
    margin = 0.008 * genome.width
    axes.set_xlim(-margin, genome.width + margin)
    middles = (genome.starts + genome.stops) / 2
    axes.tick_params(axis="x", length=0)
    if not labels:
        axes.set_xticks([])
        axes.tick_params(axis="x", labelbottom=False)
        return
    figure = axes.figure
    # Of a figure 10 inches wide some 9 are axis; a character at 8.5 points takes 0.08 inches.
    inches = 0.9 * figure.get_figure(root=True).get_size_inches()[0]
    shown, right = [], -np.inf
    for name, middle in zip(genome.contigs, middles, strict=True):
        half = (0.038 * len(name) + 0.01) / inches * genome.width
        if middle - half > right:
            shown.append((middle, name))
            right = middle + half
    axes.set_xticks([m for m, _ in shown], [name for _, name in shown])


def free(places: Float, order: NDArray[np.intp], crowd: Float) -> list[int]:
    """Return which marks have room for a number beyond them, first come first served.

    Parameters
    ----------
    places : ndarray, shape (k, 2)
        Of the marks, in shares of the picture's width and height.
    order : ndarray of int, shape (k,)
        Who comes first.
    crowd : ndarray, shape (m, 2)
        Of what a number must not stand on, the marks among it.
    """
    having: list[int] = []
    for k in order.tolist():
        away = crowd - places[k]
        covered = (np.abs(away[:, 0]) < 0.012) & (away[:, 1] > 0.015) & (away[:, 1] < 0.13)
        numbers = np.abs(places[having] - places[k]) < (0.022, 0.12)
        if not covered.any() and not numbers.all(axis=1).any():
            having.append(k)
    return having


def marker(axes: Axes, x: float, y: float, test: str, gid: str) -> None:
    """Mark a hit by the shape and colour of the test that found it."""
    axes.plot(
        [x],
        [y],
        marker=MARKERS[test],
        markersize=4.8,
        markerfacecolor=COLOURS[test],
        markeredgecolor=INK,
        markeredgewidth=0.8,
        linestyle="none",
        clip_on=False,
        gid=gid,
        zorder=5,
    )


def scatter(
    axes: Axes, x: ArrayLike, y: ArrayLike, colour: str, marker: str, size: float, label: str
) -> None:
    """Draw points, as one raster."""
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


def span(values: Float) -> tuple[float, float]:
    """Return the range of some values and a little more."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    room = 0.07 * (high - low) or 0.07 * abs(high) or 1.0
    return low - room, high + room


def finished(figure: Figure) -> Figure:
    """Return a figure after laying it out once: ticks take their looks when they are first made."""
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.draw_without_rendering()
    return figure
