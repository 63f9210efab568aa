"""The folder beside trained MAXIM weights: curves and example patches as pictures, tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mxbridge.formats.atomic import write_atomically
from mxbridge.training.maxim.findings import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG, SPLIT, VALIDATION, BASELINES = "log.csv", "split.csv", "validation.csv", "baselines.npz"
CURVES, PATCHES = "curves.png", "patches.png"
OURS = frozenset((LOG, SPLIT, VALIDATION, BASELINES, CURVES, PATCHES))
"""All that a training writes into its folder."""
SHOWN = 8
"""Outputs that the example patches show."""
TRAINED, RIVAL, HELD_BACK = "#0072B2", "#999999", "#D55E00"
"""Colours that colour-blind people tell apart."""


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV; columns are those of all rows, in the order of their first appearance. Raises OutputError."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    with write_atomically(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8", newline="")


def draw_curves(path: Path, history: Sequence[Mapping[str, float]], best_step: int) -> None:
    """Loss while learning, and error and correlation on what is held back."""
    figure = _figure(9, 3.2)
    steps = [row["step"] for row in history]
    panels = (
        ("loss", "training loss", TRAINED),
        ("mae", "held-back MAE", HELD_BACK),
        ("pearson", "held-back Pearson", HELD_BACK),
    )
    for k, (key, title, colour) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), k)
        axes.plot(steps, [row.get(key, np.nan) for row in history], color=colour, marker="o", markersize=3)
        axes.axvline(best_step, color=RIVAL, linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step (dotted: kept)", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_patches(path: Path, examples: Sequence[Example], outputs: Sequence[str]) -> None:
    """Measured above imputed for held-back patches, each pair on the scale of the measured one."""
    shown = list(range(min(SHOWN, len(outputs))))
    figure = _figure(1.5 * max(2, len(shown)), 2.6 * max(1, len(examples)))
    rows = 2 * max(1, len(examples))
    for n, example in enumerate(examples):
        for column, k in enumerate(shown):
            top = max(float(np.quantile(example.measured[k], 0.995)), 0.05)
            for below, planes in enumerate((example.measured, example.imputed)):
                axes = figure.add_subplot(rows, len(shown), (2 * n + below) * len(shown) + column + 1)
                axes.imshow(planes[k], cmap="gray", vmin=0, vmax=top, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                if below == 0:
                    axes.set_title(outputs[k], fontsize=8)
                if column == 0:
                    axes.set_ylabel("imputed" if below else f"measured\n{example.where}", fontsize=6)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    with write_atomically(path) as part:
        part.write_bytes(buffer.getvalue())


def summary_rows(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The course of training for log.csv, rounded so that it reads well."""
    return [{k: v if k == "step" else float(f"{v:.6g}") for k, v in row.items()} for row in history]
