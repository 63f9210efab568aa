"""Pictures of an evaluation, drawn from numbers alone. Colours are those of Okabe and Ito, which colour-blind people tell apart.

Everything is drawn on :class:`matplotlib.figure.Figure` objects; nothing touches the global state of a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.report.plotting import as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#999999", "#E69F00", "#CC79A7", "#56B4E9", "#009E73", "#D55E00", "#F0E442", "#000000")

FEWEST_FOR_VIOLIN = 4
"""Fewer values are drawn as points alone."""

ACROSS = 4
"""Small pictures in a row."""

MOST_NAMED = 30
"""Points that are named in a picture."""


def violins(
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    markers: Sequence[str],
    colours: Mapping[str, str],
) -> Figure:
    """values: by metric, marker and method, one per image; one row of axes per metric. What is not finite is left out.

    colours: of the methods, in the order in which they are drawn.
    """
    methods = list(colours)
    width = min(60.0, 2.5 + 0.16 * (len(methods) + 1.5) * len(markers) + 1.5)
    figure = _figure(width, 2.4 * len(values) + 0.6)
    rows = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, by_marker) in zip(rows, values.items(), strict=True):
        for k, marker in enumerate(markers):
            for j, method in enumerate(methods):
                at = k * (len(methods) + 1.5) + j
                _violin(axes, at, by_marker.get(marker, {}).get(method, ()), colours[method])
        axes.set_ylabel(metric)
        axes.margins(x=0.01)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    middles = [k * (len(methods) + 1.5) + (len(methods) - 1) / 2 for k in range(len(markers))]
    rows[-1].set_xticks(
        middles, markers, rotation=30 if len(markers) > 4 else 0, ha="right" if len(markers) > 4 else "center"
    )
    _legend(figure, colours)
    return as_written(figure)


def _violin(axes: Axes, at: float, values: Sequence[float], colour: str) -> None:
    there = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    if len(there) >= FEWEST_FOR_VIOLIN and np.ptp(there) > 0:
        drawn = axes.violinplot([there], [at], widths=0.9, showextrema=False)
        bodies: Any = drawn["bodies"]
        for body in bodies:
            body.set_facecolor(colour)
            body.set_alpha(0.35)
    if len(there):
        axes.plot(np.full(len(there), at), there, ".", color=colour, markersize=4, alpha=0.7)
        axes.plot([at - 0.3, at + 0.3], [np.median(there)] * 2, color=colour, linewidth=1.6)


def paired_errors(pairs: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]) -> Figure:
    """pairs: by marker and baseline, absolute errors of the same pixels: the baseline's, the model's. Below the line the
    model is closer."""
    baselines = list(dict.fromkeys(b for by_baseline in pairs.values() for b in by_baseline))
    figure = _figure(3.1 * len(baselines), 2.8 * len(pairs))
    grid = figure.subplots(len(pairs), len(baselines), squeeze=False)
    for row, (marker, by_baseline) in zip(grid, pairs.items(), strict=True):
        for axes, baseline in zip(row, baselines, strict=True):
            x, y = by_baseline[baseline]
            top = float(np.quantile(np.concatenate([x, y]), 0.999)) or 1.0
            axes.hexbin(
                x, y, gridsize=40, extent=(0, top, 0, top), bins="log", mincnt=1, cmap="viridis", linewidths=0.1
            )
            axes.plot([0, top], [0, top], color=COLOURS[6], linewidth=1)
            axes.set(xlim=(0, top), ylim=(0, top), xlabel=f"error, {baseline}", ylabel="error, model")
            closer = 100 * float((y < x).mean())
            axes.set_title(f"{marker}: closer in {closer:.0f} %", fontsize=9)
    return as_written(figure)


def precision_recall_curves(
    curves: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]],
    prevalence: Mapping[str, float],
    colours: Mapping[str, str],
) -> Figure:
    """curves: by marker and method, recall and precision, from the highest score down. prevalence: what guessing reaches."""
    across = min(ACROSS, len(curves))
    down = math.ceil(len(curves) / across)
    figure = _figure(3.0 * across + 0.4, 2.7 * down + 0.6)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    methods = dict.fromkeys(m for by_method in curves.values() for m in by_method)
    for axes, (marker, by_method) in zip(grid, curves.items(), strict=False):
        for method, (recall, precision) in reversed(by_method.items()):  # the first on top of the others
            axes.step(recall, precision, where="pre", color=colours[method], linewidth=1.4)
        axes.axhline(prevalence[marker], color="#777777", linestyle=":", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.set_title(f"{marker}: {100 * prevalence[marker]:.0f} % positive", fontsize=9)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    _legend(figure, {method: colours[method] for method in methods})
    return as_written(figure)


def channel_mean_components(names: Sequence[str], cases: Sequence[str], means: NDArray[np.float64]) -> Figure:
    """Principal components of the images' channel means, each channel standardised; images of one case in one colour.

    means: ``(images, channels)``, finite, at least three images.
    """
    scores, shares = principal_components(means)
    figure = _figure(5.6, 4.6)
    axes = figure.subplots()
    order = list(dict.fromkeys(cases))
    colours = dict(zip(order, _cycled(len(order)), strict=True))
    for case in order:
        mine = [k for k, c in enumerate(cases) if c == case]
        axes.plot(scores[mine, 0], scores[mine, 1], "o", color=colours[case], markersize=6, alpha=0.8)
    for k, name in enumerate(names if len(names) <= MOST_NAMED else ()):
        axes.annotate(name, (scores[k, 0], scores[k, 1]), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"component 1 ({100 * shares[0]:.0f} %)")
    axes.set_ylabel(f"component 2 ({100 * shares[1]:.0f} %)")
    axes.set_title("Channel means of the images", fontsize=10)
    if 1 < len(order) <= len(COLOURS) and len(order) < len(names):
        _legend(figure, colours)
    return as_written(figure)


def principal_components(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores ``(rows, 2)`` on the first two components of standardised columns, and the share of variance of each."""
    spread = values.std(axis=0)
    standard = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    left, singular, _ = np.linalg.svd(standard, full_matrices=False)
    two = np.zeros((len(values), 2))
    kept = min(2, len(singular))
    two[:, :kept] = (left * singular)[:, :kept]
    shares = np.zeros(2)
    shares[:kept] = singular[:kept] ** 2 / max(float((singular**2).sum()), 1e-30)
    return two, shares


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _cycled(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, marker="o", linestyle="-", label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, len(handles)), frameon=False, fontsize=8)
