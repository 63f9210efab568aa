"""The pictures of an evaluation: violins of the images, paired errors, precision and recall of cells, channel means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.metrics.baselines import MEAN, NAMES, RIDGE_3X3, TRAIN_MEAN, ZERO
from mxbridge.metrics.cell import precision_recall
from mxbridge.report import plots
from mxbridge.tasks.evaluating.one_image import MEASURED, MODEL, STORED, column
from mxbridge.tasks.evaluating.tables import Saved, Tables, Threshold, cell_values, positive_cells
from mxbridge.tasks.score_maps import plain_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {"mae": "MAE", "ssim_uniform7": "SSIM (7x7)", "pearson": "Pearson", "cell_pearson": "Pearson of cells"}
COLOURS = dict(zip((MODEL, *NAMES), plots.COLOURS, strict=False))
FEWEST_IMAGES = 3
"""For principal components."""
MOST_CELLS = 200_000
"""Cells of a marker that enter a curve; of more every second, third ... is taken."""
MOST_STEPS = 2_000
"""Points that are drawn of a curve."""


def draw_evaluation(saved: Sequence[Saved], tables: Tables, folder: Path) -> tuple[str, ...]:
    """Write PNG files into ``folder``, a set for each model; what people should know of it. Raises OutputError, BrokenFile."""
    make_folder(folder)
    labels = list(dict.fromkeys(one.label for one in saved if one.rows))
    notes: list[str] = []
    for label, plain in zip(labels, plain_names(labels), strict=True):
        mine = [one for one in saved if one.label == label]
        images = tables.images[tables.images["model"] == label]
        if not np.isfinite(images["mae"].to_numpy(float)).any():
            notes.append(f"{label}: no pictures: no measured pixel is a number")
            continue
        _write(violins_of(images), folder / f"{plain} violins.png")
        if (paired := paired_of(mine)) is not None:
            _write(paired, folder / f"{plain} paired errors.png")
        if (curves := curves_of(mine, tables)) is not None:
            _write(curves, folder / f"{plain} precision and recall.png")
        components = components_of(mine, images)
        if components is None:
            notes.append(f"{label}: principal components of channel means need {FEWEST_IMAGES} images")
        else:
            _write(components, folder / f"{plain} channel means.png")
    return tuple(notes)


def _write(figure: Figure, path: Path) -> None:
    with write_atomically(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def violins_of(images: pd.DataFrame) -> Figure:
    markers, methods = list(images["marker"].unique()), list(images["method"].unique())
    shown = [metric for metric in SHOWN if images[metric].notna().any()]
    values = {
        SHOWN[metric]: {
            str(marker): {str(method): rows[metric].tolist() for method, rows in part.groupby("method", sort=False)}
            for marker, part in images.groupby("marker", sort=False)
        }
        for metric in shown
    }
    return plots.violins(values, markers, {method: COLOURS[method] for method in methods})


def paired_of(saved: Sequence[Saved]) -> Figure | None:
    """Errors of the model beside those of the mean of the inputs, as in the paper, and of the strongest regression; None where
    no pixel was drawn."""
    markers = dict.fromkeys(m for one in saved for m in one.markers)
    there = {marker: found for marker in markers if (found := pairs_of(saved, marker))}
    return plots.paired_errors(there) if there else None


def pairs_of(saved: Sequence[Saved], marker: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By baseline, absolute errors of the same pixels: the baseline's, the model's. Raises BrokenFile."""
    holders = [one for one in saved if marker in one.markers]
    samples = np.concatenate([one.samples(marker) for one in holders], axis=1)
    samples = samples[:, np.isfinite(samples).all(axis=0)]
    methods = [row["method"] for row in holders[0].rows if row["marker"] == marker]
    errors = dict(zip(methods, np.abs(samples[1:] - samples[0]), strict=True))
    return {b: (errors[b], errors[MODEL]) for b in (MEAN, RIDGE_3X3) if b in errors and samples.shape[1]}


def curves_of(saved: Sequence[Saved], tables: Tables) -> Figure | None:
    """Of one model; None where no marker has cells of both kinds."""
    curves, prevalence = {}, {}
    for marker in dict.fromkeys(m for one in saved for m in one.markers):
        threshold = tables.thresholds.get((saved[0].label, marker))
        found = curve_of([s for s in saved if s.has_cells], marker, threshold) if threshold else None
        if found is not None:
            curves[marker], prevalence[marker] = found
    return plots.precision_recall_curves(curves, prevalence, COLOURS) if curves else None


def curve_of(
    saved: Sequence[Saved], marker: str, threshold: Threshold, steps: int = MOST_STEPS
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float] | None:
    """Recall and precision of each method over the cells of all images, and the prevalence; None for one kind only.

    steps: points of a curve. Raises BrokenFile."""
    of_marker = [one for one in saved if marker in one.markers]
    rows = [r for r in of_marker[0].rows if r["marker"] == marker and r["method"] not in (ZERO, TRAIN_MEAN)]
    wanted = [column(marker, what) for what in (MEASURED, STORED, *(r["method"] for r in rows))]
    cells = pd.concat([one.cells(wanted) for one in of_marker], ignore_index=True)
    cells = cells.loc[np.isfinite(cells.to_numpy()).all(axis=1)]
    cells = cells.iloc[:: 1 + len(cells) // MOST_CELLS]
    positive = positive_cells(cells, marker, threshold)
    if not 0 < positive.sum() < len(positive):
        return None
    out = {}
    for row in rows:
        precision, recall = precision_recall(positive, cell_values(cells, row).astype(np.float64))
        step = np.unique(np.linspace(0, len(recall) - 1, steps).astype(int))
        out[row["method"]] = (recall[step], precision[step])
    return out, float(positive.mean())


def components_of(saved: Sequence[Saved], images: pd.DataFrame) -> Figure | None:
    """None for too few images; channels that some image lacks are left out."""
    if len(saved) < FEWEST_IMAGES:
        return None
    means = pd.DataFrame([one.channel_means for one in saved]).dropna(axis=1)
    if not means.shape[1]:
        return None
    case_of = images.drop_duplicates("image_id").set_index("image_id")["case"]
    names = [one.image.name for one in saved]
    return plots.channel_mean_components(names, [case_of[one.image.id] for one in saved], means.to_numpy(np.float64))
