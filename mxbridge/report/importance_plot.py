"""The picture of an attribution run: shares of the inputs per target, and how the maps of inputs go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mxbridge.formats.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_INPUT, TALLEST = 0.19, 400.0
"""Inches: height of a line of text; of the whole picture (a PNG of matplotlib ends at 65536 pixels)."""
BAR, DOT = "#9ebcda", "#4d4d4d"


def draw_importance(table: pd.DataFrame, pairs: pd.DataFrame, path: Path) -> None:
    """table, pairs: as :class:`~mxbridge.tasks.importance.ImportanceTask` makes them. One row of two panels per target.

    Raises OutputError.
    """
    every = targets_of(table)
    targets = every[: max(1, int(TALLEST / _height(table)))]
    figure = importance_figure(table, pairs, targets)
    if len(targets) < len(every):
        figure.suptitle(f"{len(targets)} of {len(every)} imputed markers; the table has all")
    with write_atomically(path) as part:
        figure.savefig(part, format="png", dpi=110)


def targets_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Target and model of all that is in the table, in its order."""
    return list(dict.fromkeys(zip(table["target"], table["model"], strict=True)))


def _height(table: pd.DataFrame) -> float:
    return max(3.4, PER_INPUT * table["input"].nunique() + 1.2)


def importance_figure(table: pd.DataFrame, pairs: pd.DataFrame, targets: Sequence[tuple[str, str]]) -> Figure:
    """Of each target (name, model) the shares of its inputs, a dot for every image, and the correlation of their maps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, _height(table) * max(1, len(targets))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(targets)), 2, squeeze=False)
    for (bars, heat), (target, model) in zip(axes, targets, strict=False):
        own = table[(table["target"] == target) & (table["model"] == model)]
        inputs = list(dict.fromkeys(own["input"]))
        shares = [own.loc[own["input"] == m, "absolute_percent"].dropna().to_numpy() for m in inputs]
        order = np.argsort([-s.mean() if s.size else 0.0 for s in shares], kind="stable")
        for place, k in enumerate(order):
            bars.barh(place, shares[k].mean() if shares[k].size else 0.0, color=BAR)
            bars.plot(shares[k], np.full(shares[k].size, place), ".", color=DOT, markersize=4)
        names = [_printable(m) for m in inputs]
        bars.set_yticks(range(len(inputs)), [names[k] for k in order], parse_math=False)
        bars.invert_yaxis()
        bars.set_xlabel("% of absolute attribution (dots: images)")
        bars.set_title(_printable(f"{target} ({model})"), parse_math=False)
        chosen = pairs[(pairs["target"] == target) & (pairs["model"] == model)]
        grid = np.full((len(inputs), len(inputs)), np.nan)
        for first, second, value in zip(chosen["first"], chosen["second"], chosen["correlation"], strict=True):
            i, j = inputs.index(first), inputs.index(second)
            grid[i, j] = grid[j, i] = value
        shown = heat.imshow(grid, vmin=-1, vmax=1, cmap="PuOr_r")
        heat.set_xticks(range(len(inputs)), names, rotation=90, parse_math=False)
        heat.set_yticks(range(len(inputs)), names, parse_math=False)
        heat.set_title("correlation of maps")
        figure.colorbar(shown, ax=heat, shrink=0.8)
    return figure


def _printable(text: str) -> str:
    """What matplotlib's own font may lack (beyond Latin, Greek and Cyrillic) becomes a question mark."""
    return "".join(c if c.isprintable() and ord(c) < 0x530 else "?" for c in text)[:60]
