"""Tables of an evaluation: per image, per case, per marker; from what was saved of each image, one image at a time.

A case's value is the mean over its images, a marker's the mean over cases with a 95 % interval (drawn from cases, because images
of one case are alike). What is not a finite number (a peak signal-to-noise ratio of infinity, a correlation with a constant) is
in the table of images and never in a mean; how often that was is counted. Who is ahead is told from images in which both have a
finite value: a mean without a rival's perfect images would not be its mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mxbridge.errors import BrokenFile
from mxbridge.formats.atomic import write_atomically
from mxbridge.metrics import cell, pixel, smoothed, ssim
from mxbridge.metrics.bootstrap import mean_interval
from mxbridge.metrics.cell import compare_cells, otsu_threshold
from mxbridge.runs import ImageRecord, Run
from mxbridge.tasks.evaluating.one_image import MEASURED, MODEL, STORED, Compared, column

RECORD = "comparison.json"
PIXEL = (*pixel.METRICS, *ssim.RADIUS, *smoothed.METRICS)
COMPARED = (*PIXEL, *cell.METRICS)
CHANCE = "cell_ap_chance"
"""Prevalence in the images that have an average precision: what guessing reaches there. Images without positive cells have none."""
METRICS = (*COMPARED, "prevalence", CHANCE)
LOWER_IS_BETTER = {"mae", "mse", "rmse", "smooth_l1", "smooth_l2", "cell_mae"}

IMAGE_COLUMNS = (
    "model", "marker", "method", "image", "image_id", "case", "pixels", *PIXEL, "p_value",
    "cells", *cell.METRICS, "prevalence", CHANCE, "threshold", "threshold_from", "why_not", "views",
)  # fmt: skip
GROUP = ["model", "marker", "method"]
TABLES = ("images.csv", "cases.csv", "markers.csv", "wins.csv")


class Threshold(NamedTuple):
    """From which measured mean a cell counts as positive. stored: in stored numbers, else scaled 0..1. origin: for people."""

    value: float
    stored: bool
    origin: str


@dataclass(frozen=True)
class Tables:
    """images: one row per image, marker and method. cases, markers: their means. wins: markers on which a model is ahead.

    thresholds: from which measured mean a cell is positive, by model and marker.
    """

    images: pd.DataFrame
    cases: pd.DataFrame
    markers: pd.DataFrame
    wins: pd.DataFrame
    thresholds: Mapping[tuple[str, str], Threshold]

    def write(self, folder: Path) -> None:
        """``images.csv, cases.csv, markers.csv, wins.csv``. Raises OutputError."""
        for name, table in zip(TABLES, (self.images, self.cases, self.markers, self.wins), strict=True):
            with write_atomically(folder / name) as part:
                table.to_csv(part, index=False, encoding="utf-8", lineterminator="\n")


def save_compared(folder: Path, compared: Sequence[Compared]) -> None:
    """What of an image is needed later, models in order. Raises OutputError."""
    for number, one in enumerate(compared):
        if one.cells is not None:
            with write_atomically(folder / f"cells-{number}.parquet") as part:
                one.cells.to_parquet(part, index=False)
        with write_atomically(folder / f"samples-{number}.npz") as part, part.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **{f"m{k}": s for k, s in enumerate(one.samples.values())})
    document = [
        {
            "rows": one.rows,
            "channel_means": one.channel_means,
            "sampled": list(one.samples),
            "cells": one.cells is not None,
        }
        for one in compared
    ]
    with write_atomically(folder / RECORD) as part:
        part.write_text(json.dumps(document), encoding="utf-8")


@dataclass(frozen=True)
class Saved:
    """What one model gave on one image."""

    image: ImageRecord
    folder: Path
    number: int
    rows: list[dict[str, Any]]
    channel_means: dict[str, float]
    sampled: list[str]
    has_cells: bool

    @property
    def label(self) -> str:
        return str(self.rows[0]["model"]) if self.rows else ""

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row["marker"] for row in self.rows))

    def cells(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Columns of its table of cells (None: all). Raises BrokenFile."""
        path = self.folder / f"cells-{self.number}.parquet"
        try:
            return pd.read_parquet(path, columns=None if columns is None else list(columns))
        except (OSError, ValueError, KeyError) as error:
            raise BrokenFile(path, f"is no table of cells ({error})", hint="Run again with --restart") from error

    def samples(self, marker: str) -> np.ndarray:
        """``(1 + methods, pixels)`` float32: measured, then each method. Raises BrokenFile."""
        path = self.folder / f"samples-{self.number}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return np.asarray(stored[f"m{self.sampled.index(marker)}"])
        except (OSError, ValueError, KeyError) as error:
            raise BrokenFile(path, f"holds no samples ({error})", hint="Run again with --restart") from error


def saved_comparisons(run: Run) -> Iterator[Saved]:
    """Of all images that are done, in the run's order. Raises BrokenFile."""
    for image in run.images:
        if image.status not in ("computed", "published"):
            continue
        folder = run.folder_of(image)
        try:
            document = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            found = [
                Saved(image, folder, k, one["rows"], one["channel_means"], one["sampled"], one["cells"])
                for k, one in enumerate(document)
            ]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BrokenFile(folder / RECORD, f"is no comparison ({error})", hint="Run again with --restart") from error
        yield from found


def make_tables(
    saved: Sequence[Saved], cases: Mapping[str, str], given: Mapping[str, float], views: str = "one"
) -> Tables:
    """cases: case by image id. given: thresholds in stored numbers, by marker (lower case). views: how many of them the models'
    predictions are the mean of, for the tables' column of that name. Raises BrokenFile."""
    thresholds = {key: _threshold(*key, saved, given) for key in _with_cells(saved)}
    rows = [row for one in saved for row in _image_rows(one, cases[one.image.id], thresholds)]
    images = pd.DataFrame([{**row, "views": views} for row in rows], columns=list(IMAGE_COLUMNS))
    if not rows:
        nothing = pd.DataFrame(columns=GROUP)
        return Tables(images, nothing, nothing, nothing, {})
    finite = images.copy()
    finite[list(METRICS)] = finite[list(METRICS)].apply(pd.to_numeric).replace([np.inf, -np.inf], np.nan)
    by_case = finite.groupby([*GROUP, "case"], sort=False)
    means = by_case[list(METRICS)].mean()
    means.insert(0, "images", by_case.size())
    table = means.reset_index()
    markers = pd.DataFrame(
        [_marker_row(tuple(map(str, key)), part, images) for key, part in table.groupby(GROUP, sort=False)]
    )
    wins = _wins(finite)
    for one in (table, markers, wins):
        one["views"] = views
    return Tables(images, table, markers, wins, thresholds)


def _with_cells(saved: Sequence[Saved]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.label, marker) for one in saved if one.has_cells for marker in one.markers))


def _threshold(label: str, marker: str, saved: Sequence[Saved], given: Mapping[str, float]) -> Threshold:
    """The one given, else Otsu's of the measured means of all cells of the run."""
    if marker.casefold() in given:
        return Threshold(given[marker.casefold()], True, "given (stored numbers)")
    name = column(marker, MEASURED)
    of_marker = [one for one in saved if one.label == label and one.has_cells and marker in one.markers]
    return Threshold(
        otsu_threshold(np.concatenate([one.cells([name])[name].to_numpy() for one in of_marker])),
        False,
        "Otsu of all cells (scaled 0..1)",
    )


def positive_cells(cells: pd.DataFrame, marker: str, threshold: Threshold) -> np.ndarray:
    """Bool ``(cells,)``: measured mean at or above the threshold; false where there is none."""
    values = cells[column(marker, STORED if threshold.stored else MEASURED)].to_numpy(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(values >= threshold.value)


def _image_rows(one: Saved, case: str, thresholds: Mapping[tuple[str, str], Threshold]) -> Iterator[dict[str, Any]]:
    cells = one.cells() if one.has_cells else None
    for row in one.rows:
        out = {**row, "image": one.image.name, "image_id": one.image.id, "case": case}
        if cells is None:
            yield {**out, "cells": 0, "why_not": "no cells"}
            continue
        threshold = thresholds[row["model"], row["marker"]]
        measured = cells[column(row["marker"], MEASURED)].to_numpy()
        imputed = cell_values(cells, row)
        scores = compare_cells(measured, imputed, positive_cells(cells, row["marker"], threshold))
        chance = scores.prevalence if math.isfinite(scores.cell_ap) else math.nan
        yield {**out, **vars(scores), CHANCE: chance, "threshold": threshold.value, "threshold_from": threshold.origin}


def cell_values(cells: pd.DataFrame, row: Mapping[str, Any]) -> np.ndarray:
    """Imputed means ``(cells,)`` of the method of a row."""
    if row["constant"] is not None:
        return np.full(len(cells), row["constant"], np.float32)
    return np.asarray(cells[column(row["marker"], row["method"])])


def _marker_row(key: tuple[str, ...], cases: pd.DataFrame, images: pd.DataFrame) -> dict[str, Any]:
    """Means over cases with their intervals, and how many images had no finite value."""
    mine = images[(images[GROUP] == list(key)).all(axis=1)]
    row: dict[str, Any] = {**dict(zip(GROUP, key, strict=True)), "images": len(mine), "cases": len(cases)}
    why = ""
    for metric in METRICS:
        found = mean_interval(cases[metric].tolist())
        row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
        why = found.why_not if metric == "mae" else why
    numbers = mine[list(METRICS)].apply(pd.to_numeric)
    row["psnr_infinite"] = int(np.isinf(numbers["psnr"]).sum())
    row["pearson_undefined"] = int(numbers["pearson"].isna().sum())
    row["cell_ap_undefined"] = int((numbers["cell_ap"].isna() & (mine["cells"] > 0)).sum())
    return {**row, "cells": int(mine["cells"].sum()), "threshold": _only(mine["threshold"]), "intervals": why or "95 %"}


def _only(values: pd.Series) -> float:
    there = values.dropna().unique()
    return float(there[0]) if len(there) else math.nan


def _wins(images: pd.DataFrame) -> pd.DataFrame:
    """For every model, baseline and metric: on how many markers the model is ahead, of how many that both have.

    images: NaN where a number is not finite. Means over cases of means over those images that have both numbers.
    """
    rows = []
    for label, part in images.groupby("model", sort=False):
        pivot = {
            metric: part.pivot(index=["marker", "case", "image_id"], columns="method", values=metric)
            for metric in COMPARED
        }
        for baseline in [m for m in part["method"].unique() if m != MODEL]:
            row: dict[str, Any] = {"model": label, "baseline": baseline, "markers": part["marker"].nunique()}
            for metric, table in pivot.items():
                both = table[[MODEL, baseline]].dropna()
                both = both.groupby(level=["marker", "case"]).mean().groupby(level="marker").mean()
                ahead = both[MODEL] < both[baseline] if metric in LOWER_IS_BETTER else both[MODEL] > both[baseline]
                row |= {metric: int(ahead.sum()), f"{metric}_of": len(both)}
            rows.append(row)
    return pd.DataFrame(rows)
