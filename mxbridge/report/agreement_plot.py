"""The picture of two ways to measure percent positive: Bland and Altman's differences over means, and one against the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mxbridge.metrics.quantification import agreement
from mxbridge.report.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 20
"""Images that are named in a picture."""


def bland_altman(
    percents: Mapping[str, tuple[Sequence[str], Sequence[float], Sequence[float]]],
) -> Figure:
    """percents: by method, names of the images, truth and prediction in percent; not finite ones are left out.

    A row per method: predicted minus truth over their mean, with the bias and the limits of agreement; predicted over truth.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.6 * max(1, len(percents))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, len(percents)), 2, squeeze=False)
    for (left, right), (method, (names, truth, predicted)) in zip(grid, percents.items(), strict=False):
        found = agreement(truth, predicted)
        x, y = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
        there = np.isfinite(x) & np.isfinite(y)
        middle, apart = ((x + y) / 2)[there], (y - x)[there]
        left.plot(middle, apart, "o", color=COLOURS[0], markersize=5)
        for level, style in ((found.bias, "-"), (found.low, "--"), (found.high, "--")):
            if math.isfinite(level):
                left.axhline(level, color=COLOURS[6], linestyle=style, linewidth=1)
        left.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        shown = [name for name, kept in zip(names, there, strict=True) if kept]
        for name, at, difference in zip(shown, middle, apart, strict=True):
            if len(shown) <= MOST_NAMED:
                left.annotate(_printable(name), (at, difference), fontsize=7, xytext=(4, 3), textcoords="offset points")
        left.set(xlabel="mean of truth and prediction, % positive", ylabel="prediction - truth")
        left.set_title(_printable(f"{method}: bias {found.bias:.1f}"), fontsize=10, parse_math=False)
        right.plot([0, 100], [0, 100], color="#bbbbbb", linewidth=0.8)
        right.plot(x[there], y[there], "o", color=COLOURS[0], markersize=5)
        right.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="truth, % positive", ylabel="prediction, % positive")
        agreed = found.why_not or f"concordance {found.concordance:.2f}"
        right.set_title(agreed, fontsize=10)
    return figure


def _printable(text: str) -> str:
    """What matplotlib's own font may lack becomes a question mark, and nothing is taken for mathematics."""
    return "".join(c if c.isprintable() and ord(c) < 0x530 and c != "$" else "?" for c in text)[:60]
