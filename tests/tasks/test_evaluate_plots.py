"""Pictures and the published program's tables of an evaluation: made from whatever there is, with what they should show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from mxbridge.report import plots
from mxbridge.tasks.evaluating.peer_tables import write_peer_tables

COLOURS = {"model": "#0072B2", "zero": "#999999"}


def drawn(figure) -> np.ndarray:
    """Pixels of a figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_violins_leave_out_what_is_no_number() -> None:
    values = {
        "MAE": {"A": {"model": [0.1, 0.2, 0.15, 0.3, 0.12], "zero": [0.4, math.inf]}, "B": {"model": [math.nan]}},
        "Pearson": {"A": {"model": [0.5] * 5}},
    }
    figure = plots.violins(values, ["A", "B"], COLOURS)
    first, second = figure.axes
    assert first.get_ylabel() == "MAE" and [t.get_text() for t in second.get_xticklabels()] == ["A", "B"]
    assert (
        len(first.collections) == 1 and not second.collections
    )  # five different values make a violin, five alike none
    assert sorted(len(line.get_xdata()) for line in first.lines) == [1, 2, 2, 5]
    assert drawn(figure).std() > 0


def test_paired_errors_say_who_is_closer() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(500)
    figure = plots.paired_errors({"A": {"mean of inputs": (base, base / 2), "ridge 3x3": (base, base * 2)}})
    assert [axes.get_title() for axes in figure.axes] == ["A: closer in 100 %", "A: closer in 0 %"]
    assert drawn(plots.paired_errors({"A": {"zero": (np.zeros(3), np.zeros(3))}})).size


def test_curves_and_their_prevalence() -> None:
    recall, precision = np.linspace(0, 1, 5), np.linspace(1, 0.3, 5)
    curves = {f"M{k}": {"model": (recall, precision)} for k in range(5)}
    figure = plots.precision_recall_curves(curves, dict.fromkeys(curves, 0.3), COLOURS)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"M{k}: 30 % positive" for k in range(5)]
    np.testing.assert_allclose(shown[0].lines[0].get_ydata(), precision)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["model"]
    assert drawn(figure).size


def test_components_are_those_of_standardised_means() -> None:
    rng = np.random.default_rng(2)
    means = rng.random((6, 4)) * [1, 10, 100, 1]
    means[:, 3] = 0.5  # a channel that is alike everywhere says nothing
    scores, shares = plots.principal_components(means)
    standard = (means[:, :3] - means[:, :3].mean(0)) / means[:, :3].std(0)
    values = np.linalg.eigvalsh(standard.T @ standard)[::-1]
    np.testing.assert_allclose((scores**2).sum(0), values[:2])
    np.testing.assert_allclose(shares, values[:2] / values.sum())
    figure = plots.channel_mean_components([f"i{k}" for k in range(6)], ["a", "a", "b", "b", "c", "c"], means)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "c"]
    assert len(figure.axes[0].texts) == 6 and drawn(figure).size
    alike = plots.channel_mean_components(["x", "y", "z"], ["x", "y", "z"], np.ones((3, 2)))
    assert not alike.legends and drawn(alike).size


def test_nothing_touches_the_state_of_a_notebook() -> None:
    import sys

    plots.paired_errors({"A": {"zero": (np.ones(3), np.zeros(3))}})
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_points_in_a_name_are_no_ending(tmp_path: Path) -> None:
    numbers = dict.fromkeys(("mae", "mse", "rmse", "psnr", "ssim_uniform7", "pearson", "p_value"), 0.5)
    names = ("case 1.roi 1", "case 1.roi 2", "c.ome.tif")
    rows = [{"model": "M", "marker": "A", "method": "model", "image": name, **numbers} for name in names]
    write_peer_tables(pd.DataFrame(rows), tmp_path, "test", 96)
    written = pd.read_csv(tmp_path / "test_96_96_stats.csv")
    assert written["Image_Name"].tolist() == ["case 1.roi 1", "case 1.roi 2", "c.ome"]


def test_dollars_in_names_are_no_mathematics() -> None:
    name, other = "$\\frac$", "$x_{$"
    half = np.linspace(0, 1, 5)
    figures = (
        plots.violins({"MAE": {name: {other: [0.1]}}}, [name], {other: "#000000"}),
        plots.paired_errors({name: {other: (half, half)}}),
        plots.precision_recall_curves({name: {other: (half, half)}}, {name: 0.3}, {other: "#000000"}),
        plots.channel_mean_components([name, other, "c"], [name, other, "c"], np.random.default_rng(0).random((3, 4))),
    )
    for figure in figures:
        assert drawn(figure).size  # mathematics like this raises
