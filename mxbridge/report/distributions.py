"""How scores are distributed, and how they go with intensities: counted image by image, drawn once for all."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mxbridge.report.blocks import Plot
from mxbridge.report.cell_pictures import viridis
from mxbridge.report.plots import COLOURS
from mxbridge.report.plotting import STYLE, new_figure, to_svg
from mxbridge.report.texts import short

BINS = 40
SCORE_BINS = 40
"""Of the picture of scores against intensities; it is small, and of forty markers there are forty."""
MEAN_EDGES = np.logspace(-2.5, 0.5, 49)
"""Mean intensities in units of the factor; what lies beyond counts in the first or last bin."""
MOST_LINES = 8
"""Images with a line each; of more the middle one and the middle eighty percent are drawn."""
LONGEST_TITLE, LONGEST_NAME = 60, 24
"""Characters above a plot, and of an image in its legend."""
CUT_COLOUR = "#D55E00"


@dataclass
class Distribution:
    """Scores 0..1 of one marker, counted. lines: by image its name and counts in BINS bins. against: counts ``(means, scores)``."""

    threshold: float | None
    lines: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)
    against: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(MEAN_EDGES) - 1, SCORE_BINS), np.int64))

    def add(self, image: str, scores: NDArray[np.floating], units: NDArray[np.floating] | None) -> None:
        """One image. units: mean intensities of the same cells in units of the factor, None where there are none."""
        known = np.isfinite(scores)
        self.lines.append((image, np.histogram(np.clip(scores[known], 0, 1), BINS, (0, 1))[0].astype(np.int64)))
        if units is not None:
            both = known & np.isfinite(units)
            inside = np.clip(units[both], MEAN_EDGES[0], MEAN_EDGES[-1])
            found, _, _ = np.histogram2d(
                inside, np.clip(scores[both], 0, 1), (MEAN_EDGES, SCORE_BINS), ((0, 1), (0, 1))
            )
            self.against += found.astype(np.int64)

    @property
    def cells(self) -> int:
        return int(sum(counts.sum() for _, counts in self.lines))


def plot_distribution(
    title: str, of: Distribution, score_name: str = "score", unit: str = "factor", objects: str = "cells"
) -> Plot:
    """The distribution with the threshold, and beside it scores against intensities where these are known.

    score_name, objects: what people call the scores and what has them. unit: of intensities.
    """
    import matplotlib

    pair = bool(of.against.any())
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings
        figure = new_figure(6.4 if pair else 3.3, 2.3)
        name = figure.suptitle(short(title, LONGEST_TITLE), x=0.01, ha="left", fontsize=10, fontweight="bold")
        name.set_parse_math(False)
        grid = figure.subplots(1, 2 if pair else 1, squeeze=False)[0]
        _draw_lines(grid[0], of, score_name, objects)
        if pair:
            _draw_against(grid[1], of, score_name, unit)
        svg = to_svg(figure)
    cut = "" if of.threshold is None else f" The threshold is {of.threshold:.3g}."
    told = f"{title}: distribution of {score_name} over {of.cells} {objects} of {len(of.lines)} images.{cut}"
    return Plot(svg, told)


def _draw_lines(axes, of: Distribution, score_name: str, objects: str) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    edges = np.linspace(0, 1, BINS + 1)
    shares = np.array([counts / max(1, counts.sum()) * 100 for _, counts in of.lines])
    if len(shares) <= MOST_LINES:
        for k, row in enumerate(shares):
            axes.stairs(
                row, edges, color=COLOURS[k % len(COLOURS)], linewidth=1.2, label=short(of.lines[k][0], LONGEST_NAME)
            )
    else:
        low, middle, high = np.quantile(shares, (0.1, 0.5, 0.9), axis=0)
        axes.stairs(high, edges, baseline=low, fill=True, color=COLOURS[4], alpha=0.45, label="80 % of images")
        axes.stairs(middle, edges, color=COLOURS[0], linewidth=1.2, label="median image")
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.3)
    axes.set(xlim=(0, 1), ylim=(0, 100), xlabel=score_name, ylabel=f"% of {objects}")
    axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"], minor=False)
    axes.yaxis.minorticks_off()
    if of.threshold is not None:
        axes.axvline(of.threshold, color=CUT_COLOUR, linewidth=1.4, linestyle="--")
    if len(shares) > 1:
        legend = axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.2)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_against(axes, of: Distribution, score_name: str, unit: str) -> None:  # type: ignore[no-untyped-def]
    counts = np.log1p(of.against.T.astype(float))
    level = np.rint(counts / max(counts.max(), 1e-9) * 255).astype(int)
    colours = np.concatenate([viridis()[::-1][level], np.full((*level.shape, 1), 255, np.uint8)], axis=-1)
    colours[of.against.T == 0] = 255
    ends = np.log10(MEAN_EDGES[[0, -1]])
    axes.imshow(colours, origin="lower", extent=(*ends, 0, 1), aspect="auto", interpolation="nearest")
    ticks = [0.01, 0.1, 1.0]
    axes.set_xticks(np.log10(ticks), [f"{t:g}" for t in ticks])
    axes.set(xlabel=f"mean intensity ÷ {unit}", ylabel=score_name)
    if of.threshold is not None:
        axes.axhline(of.threshold, color=CUT_COLOUR, linewidth=1.4, linestyle="--")
