"""Drawings with one row per name: dots on a common scale, the range that is usual behind them. Forty rows stay readable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.report.blocks import Plot
from mxbridge.report.texts import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches: that of the page."""

ROW, EDGES = 0.24, 0.9
"""Inches: height of a row; of axis and legend together."""

MOST_ROWS = 120
"""Rows of a drawing; the table beside it has all."""

MOST_SHAPES = 600
"""Dots that are drawn as shapes; more become pixels, which keeps a page small."""


@dataclass(frozen=True)
class Dots:
    """One kind of dot. places: which row each lies in, values: where; low, high: whiskers, NaN for none. shape: of matplotlib."""

    name: str
    colour: str
    places: Sequence[float] | NDArray[Any]
    values: Sequence[float] | NDArray[Any]
    low: Sequence[float] | NDArray[Any] = ()
    high: Sequence[float] | NDArray[Any] = ()
    shape: str = "o"
    size: float = 4.5


@dataclass(frozen=True)
class DotRows:
    """names: of the rows, from the top. ranges: by row, the range that is usual. scale: what the numbers are."""

    names: Sequence[str]
    scale: str
    dots: Sequence[Dots]
    ranges: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    limits: tuple[float, float] | None = None

    def plot(self, alt: str, caption: str = "") -> Plot:
        """As a block of a report."""
        from mxbridge.report.plotting import to_svg

        return Plot(to_svg(self.figure()), alt, caption)

    def figure(self) -> Figure:
        """Rows beyond :data:`MOST_ROWS` are left out and told on the scale."""
        count = min(len(self.names), MOST_ROWS)
        with page_axes(EDGES + ROW * max(2, count)) as (figure, axes):
            axes.set_yticks(range(count), [short(name) for name in self.names[:count]], parse_math=False)
            axes.set_ylim(count - 0.4, -0.6)
            axes.set_xlabel(self.scale + (f" ({count} of {len(self.names)} rows)" if count < len(self.names) else ""))
            axes.grid(axis="x")
            axes.set_axisbelow(True)
            if self.limits is not None:
                axes.set_xlim(*self.limits)
            for row, ends in self.ranges.items():
                if row < count and np.isfinite(ends).all():
                    axes.plot(ends, [row, row], color="#c3d9ec", linewidth=8, solid_capstyle="butt", zorder=1)
            pixels = sum(len(one.values) for one in self.dots) > MOST_SHAPES
            for number, one in enumerate(self.dots):  # the first lies above all others
                _draw(axes, one, count, pixels, above=len(self.dots) - number)
            named = [one for one in self.dots if one.name]
            if len(named) > 1:
                figure.legend(loc="outside upper center", ncols=7, fontsize=8, columnspacing=1.2, handletextpad=0.2)
        return figure


def _draw(axes: Axes, one: Dots, count: int, pixels: bool, *, above: int) -> None:
    places, values = np.asarray(one.places, float), np.asarray(one.values, float)
    there = np.isfinite(values) & (places < count - 0.5)
    if len(one.low):
        low, high = np.asarray(one.low, float), np.asarray(one.high, float)
        sure = there & np.isfinite(low) & np.isfinite(high)
        axes.hlines(places[sure], low[sure], high[sure], color=one.colour, linewidth=1.1, alpha=0.8, zorder=2)
    axes.plot(
        values[there],
        places[there],
        one.shape,
        color=one.colour,
        markersize=one.size,
        alpha=0.85,
        label=one.name or None,
        rasterized=pixels,
        zorder=2 + above,
    )


@contextmanager
def page_axes(height: float, width: float = WIDTH) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes in the style of reports, to be drawn into while the block lasts. Sizes in inches."""
    import matplotlib

    from mxbridge.report.plotting import STYLE, new_figure

    figure = new_figure(width, height)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings
        yield figure, figure.add_subplot()
