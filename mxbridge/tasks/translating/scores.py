"""Counts and percent positive of an image and of its annotations: as values people see, and as a table.

The names say the run they are from: counts go stale when somebody edits nuclei, and QuPath's own live counts do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.results import ImageValue, Measurement

NO_CELLS = "no cells"
COUNTS = ("Num detections", "Num positive", "Num negative", "Positive %")
"""What QuPath calls such values."""


@dataclass(frozen=True)
class RegionScore:
    """Counts of one image (annotation None) or of one annotation. annotation: its name, else its id. class_name: its class.

    size_threshold, marker_threshold: what applied there. empty_percent: what stands for the percentage of no nuclei at all.
    """

    annotation: str | None
    annotation_id: str | None
    class_name: str | None
    total: int
    positive: int
    size_threshold: float | None = None
    size_upper: float | None = None
    marker_threshold: float | None = None
    empty_percent: float = float("nan")

    @property
    def negative(self) -> int:
        return self.total - self.positive

    @property
    def percent(self) -> float:
        return 100 * self.positive / self.total if self.total else self.empty_percent

    @property
    def values(self) -> tuple[float, float, float, float]:
        """In the order of COUNTS."""
        return float(self.total), float(self.positive), float(self.negative), self.percent

    def to_record(self) -> dict[str, Any]:
        """For run.json and for programs."""
        return {
            "annotation": self.annotation,
            "annotation_id": self.annotation_id,
            "class": self.class_name,
            "num_total": self.total,
            "num_pos": self.positive,
            "num_neg": self.negative,
            "percent_pos": None if math.isnan(self.percent) else round(self.percent, 4),
            "size_thresh": self.size_threshold,
            "size_thresh_upper": self.size_upper,
            "marker_thresh": self.marker_threshold,
        }


def value_names(prefix: str, run_id: str) -> list[str]:
    return [f"{prefix}: {what} (run {run_id})" for what in COUNTS]


def measurements(prefix: str, run_id: str, scores: Sequence[RegionScore], key: str) -> list[Measurement]:
    """Columns on the annotations, one row for each of ``scores``."""
    table: NDArray[np.float32] = np.array([score.values for score in scores], np.float32).reshape(-1, len(COUNTS))
    return [Measurement(name, table[:, k].copy(), key) for k, name in enumerate(value_names(prefix, run_id))]


def image_values(prefix: str, run_id: str, score: RegionScore, key: str) -> list[ImageValue]:
    return [ImageValue(n, v, key) for n, v in zip(value_names(prefix, run_id), score.values, strict=True)]
