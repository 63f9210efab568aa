"""Numbers and tables of evaluated segmentations: per image and class, per case, with intervals over cases; and percentages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxbridge.formats.atomic import write_atomically
from mxbridge.metrics.bootstrap import mean_interval
from mxbridge.metrics.detection import centres, detect
from mxbridge.metrics.quantification import agreement, percent_positive, quantification_difference
from mxbridge.metrics.segmentation import METRICS, Labels, compare_objects, compare_pixels
from mxbridge.tasks.evaluating import channel_pictures
from mxbridge.tasks.evaluating.class_images import Classes

DETECTION = ("detection_precision", "detection_recall", "detection_f1")
ALL_METRICS = (*METRICS, *DETECTION)
CLASSES = ("positive", "negative", "mean", "nuclei")
"""Rows of an image: two classes, their mean, and nuclei whatever their class."""
QUANTITIES = ("ihc_difference",)
TABLES = ("metrics.csv", "percent_positive.csv", "agreement.csv", "summary.csv", "channels.csv")


def class_rows(truth: Classes, predicted: Classes, radius: float) -> list[dict[str, Any]]:
    """One row for each of ``CLASSES``. radius: of detection, in pixels. The mean leaves out what is NaN for one class."""
    rows = {
        "positive": _row(truth.positive, predicted.positive, radius),
        "negative": _row(truth.negative, predicted.negative, radius),
        "nuclei": _row(truth.together, predicted.together, radius),
    }
    both = pd.DataFrame([rows["positive"], rows["negative"]])
    rows["mean"] = {name: float(both[name].mean()) for name in ALL_METRICS}
    rows["mean"] |= {name: int(both[name].sum()) for name in ("truth_nuclei", "predicted_nuclei")}
    return [{"class": name, **rows[name]} for name in CLASSES]


def _row(truth: Labels, predicted: Labels, radius: float) -> dict[str, Any]:
    found = detect(centres(truth), centres(predicted), radius)
    return {
        **compare_pixels(truth > 0, predicted > 0),
        **compare_objects(truth, predicted),
        "detection_precision": found.precision,
        "detection_recall": found.recall,
        "detection_f1": found.f1,
        "truth_nuclei": found.truths,
        "predicted_nuclei": found.predictions,
    }


def percentages(truth: Classes, predicted: Classes) -> dict[str, Any]:
    """Counts and percent positive of both, and how far apart they are."""
    counted: dict[str, Any] = {}
    for who, classes in (("truth", truth), ("predicted", predicted)):
        positive, negative = classes.counts
        counted |= {
            f"{who}_positive": positive,
            f"{who}_negative": negative,
            f"{who}_percent": percent_positive(positive, positive + negative),
        }
    return {
        **counted,
        "ihc_difference": quantification_difference(counted["truth_percent"], counted["predicted_percent"]),
    }


@dataclass(frozen=True)
class SegmentationTables:
    """metrics: one row per method, image and class. percents: per method and image. agreement: per method. summary: means over
    cases with intervals. channels: one row per channel picture; its columns are there without any."""

    metrics: pd.DataFrame
    percents: pd.DataFrame
    agreement: pd.DataFrame
    summary: pd.DataFrame
    channels: pd.DataFrame

    def write(self, folder: Path) -> None:
        """``TABLES``; that of channels only where there are some. Raises OutputError."""
        tables = (self.metrics, self.percents, self.agreement, self.summary, self.channels)
        for name, table in zip(TABLES, tables, strict=True):
            if len(table) or name != "channels.csv":
                with write_atomically(folder / name) as part:
                    table.to_csv(part, index=False, encoding="utf-8", lineterminator="\n")


def make_segmentation_tables(
    rows: Sequence[Mapping[str, Any]], percents: Sequence[Mapping[str, Any]], channels: Sequence[Mapping[str, Any]]
) -> SegmentationTables:
    """From rows that begin with ``method, image, case`` (those of channels with ``channel, method, case``)."""
    key = ["method", "image", "case"]
    metrics = pd.DataFrame(rows, columns=[*key, "class", *ALL_METRICS, "truth_nuclei", "predicted_nuclei"])
    counts = [f"{who}_{what}" for who in ("truth", "predicted") for what in ("positive", "negative", "percent")]
    percent = pd.DataFrame(percents, columns=[*key, *counts, *QUANTITIES])
    of_channels = pd.DataFrame(channels, columns=["channel", "method", "case", *channel_pictures.METRICS])
    summary = [
        *_summary(metrics, "class", ALL_METRICS),
        *_summary(percent.assign(of="percent positive"), "of", QUANTITIES),
        *_summary(of_channels.assign(of="channels"), "of", channel_pictures.METRICS),
    ]
    agreed = [
        {"method": method, **asdict(agreement(part["truth_percent"].tolist(), part["predicted_percent"].tolist()))}
        for method, part in percent.groupby("method", sort=False)
    ]
    return SegmentationTables(metrics, percent, pd.DataFrame(agreed), pd.DataFrame(summary), of_channels)


def _summary(table: pd.DataFrame, of: str, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """A case's value is the mean over its images; intervals are drawn from cases."""
    rows = []
    for (method, what), part in table.groupby(["method", of], sort=False):
        numbers = part[list(metrics)].apply(pd.to_numeric).replace([np.inf, -np.inf], np.nan)
        cases = numbers.groupby(part["case"], sort=False).mean()
        for metric in metrics:
            found = mean_interval(cases[metric].tolist())
            rows.append({"method": method, "of": what, "metric": metric, "images": len(part), **asdict(found)})
    return rows


def value(summary: pd.DataFrame, method: str, of: str, metric: str) -> float:
    """One mean of the summary; NaN where there is none."""
    found = summary[(summary["method"] == method) & (summary["of"] == of) & (summary["metric"] == metric)]
    return float(found["mean"].iloc[0]) if len(found) else math.nan
