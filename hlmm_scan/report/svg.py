"""Figures as SVG that stands within a page: no foreign ids, no links out, marks that can be met."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from hlmm_scan.report.axes import style

_RASTER_DPI = 190
_COLOURS_IN_RASTER = 64


def inline_svg(figure: Figure, name: str, label: str, hits: Mapping[str, str]) -> str:
    """Return a figure as an ``<svg>`` element of an HTML page.

    Parameters
    ----------
    figure : Figure
    name : str
        Unique in the page; letters, digits and dashes. All ids begin with it.
    label : str
        What the picture shows, for those who do not see it.
    hits : mapping of str to str
        Title (plain text) of each mark by its gid. Their groups get the class ``hit``, the
        attribute ``data-hit`` and the title.
    """
    file = io.StringIO()
    with style(), warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": name}):
        # A contig may be named in letters that the font lacks.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(file, format="svg", dpi=_RASTER_DPI)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'"data:image/png;base64,([^"]+)"', _smaller, text)
    for gid, title in hits.items():
        text = text.replace(
            f'<g id="{gid}">',
            f'<g class="hit" data-hit="{gid}"><title>{escape(title)}</title>',
        )
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    # The page sets the width; height follows from the view box.
    head = re.sub(r' (?:width|height|version|xmlns)="[^"]*"', "", text[: text.index(">")])
    return f'{head} role="img" aria-label="{escape(label)}"' + text[text.index(">") :]


def _smaller(match: re.Match[str]) -> str:
    """Return an embedded picture with a palette: a fraction of the bytes."""
    data = re.sub(r"\s", "", match[1])
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    few = picture.convert("RGBA").quantize(_COLOURS_IN_RASTER, method=Image.Quantize.FASTOCTREE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return f'"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"'
