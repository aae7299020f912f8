"""Figures of matplotlib as SVG documents for pages: the same bytes at every time, words that can be searched and read.

as_svg(draw, "loss")
"""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure


def as_svg(draw: Callable[[], Figure], name: str) -> str:
    """A figure as an SVG document, the same at every time, its words as text; `name` tells it from others of a page."""
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 11}):
        file = io.StringIO()
        draw().savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue()
