"""Which nuclei count, and as what; and the score. Numbers of nuclei only, no pixels: another threshold takes no time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import UsageError
from mxbridge.nuclei.automatic import automatic_marker, automatic_size
from mxbridge.nuclei.found import Nuclei
from mxbridge.nuclei.thresholds import SizeLimits, Thresholds


@dataclass(frozen=True)
class Judged:
    """The thresholds as applied.

    keep: bool ``(n,)`` counts: inside an annotation, where annotations were asked for, and within the size gates.
    positive: bool ``(n,)``, only where keep.
    size_thresholds: float64 ``(annotations,)``, or ``(1,)`` for the whole slide; a nucleus has more pixels. 0 is no gate.
    size_upper, marker_threshold: None where there is none.
    """

    keep: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    size_thresholds: NDArray[np.float64]
    size_upper: float | None
    marker_threshold: float | None
    thresholds: Thresholds

    @property
    def size_threshold(self) -> float | None:
        """The one size threshold; None where annotations have different ones or there is no annotation."""
        one = np.unique(self.size_thresholds)
        return float(one[0]) if len(one) == 1 else None


def judge(nuclei: Nuclei, thresholds: Thresholds, limits: SizeLimits) -> Judged:
    """Apply all thresholds that concern whole nuclei; seg, green and the noise gates must be those of ``find_nuclei``.

    The automatic size threshold is found once for the slide, or once for each annotation from the nuclei that it holds; a
    nucleus in several annotations obeys the last. The automatic marker threshold is found once, for the slide or for all annotations.
    Raises UsageError for a threshold of something that was not measured.
    """
    regions = nuclei.regions
    groups = [np.arange(len(nuclei))] if regions is None else [nuclei.in_region(k) for k in range(regions)]
    sizes = np.array([_size_threshold(nuclei.size[group], thresholds, limits) for group in groups], np.float64)
    if regions is None:
        keep = nuclei.size > sizes[0]
    else:
        keep = nuclei.region >= 0
        keep[keep] = nuclei.size[keep] > sizes[nuclei.region[keep]]
    if thresholds.size_upper is not None:
        keep &= nuclei.size < thresholds.size_upper
    positive = nuclei.positive_px >= nuclei.negative_px
    marker = _marker_threshold(nuclei, thresholds)
    if marker is not None:
        positive |= nuclei.marker_max > marker
    if thresholds.needs_density:
        if len(nuclei) and np.isnan(nuclei.density_mean).any():
            raise UsageError("limits of optical density were set, but the nuclei were found without it")
        lower = -math.inf if thresholds.od_lower is None else thresholds.od_lower
        upper = math.inf if thresholds.od_upper is None else thresholds.od_upper
        positive &= (nuclei.density_mean >= lower) & (nuclei.density_mean <= upper)
    return Judged(keep, positive & keep, sizes, thresholds.size_upper, marker, thresholds)


def _size_threshold(sizes: NDArray[np.int64], thresholds: Thresholds, limits: SizeLimits) -> float:
    if thresholds.size == "auto":
        return automatic_size(sizes, limits)
    return 0.0 if thresholds.size is None else float(thresholds.size)


def _marker_threshold(nuclei: Nuclei, thresholds: Thresholds) -> float | None:
    if thresholds.marker is None:
        return None
    if nuclei.marker_histogram is None:
        raise UsageError("a marker threshold needs the marker image", hint="Give --marker-image, or no threshold")
    if thresholds.marker == "auto":
        return automatic_marker(nuclei.marker_histogram)
    return float(thresholds.marker)


@dataclass(frozen=True)
class Score:
    """Counts of a slide or an annotation. percent: of positive among all, NaN without nuclei. The thresholds are those applied."""

    total: int
    positive: int
    seg_threshold: int
    size_threshold: float | None
    size_upper: float | None
    marker_threshold: float | None

    @property
    def negative(self) -> int:
        return self.total - self.positive

    @property
    def percent(self) -> float:
        return 100 * self.positive / self.total if self.total else math.nan

    def peer(self) -> dict[str, Any]:
        """DeepLIIF's keys and kinds of numbers: percent with one decimal, the integer 0 without positive nuclei."""
        return {
            "num_total": self.total,
            "num_pos": self.positive,
            "num_neg": self.negative,
            "percent_pos": round(self.positive / self.total * 100, 1) if self.positive else 0,
            "seg_thresh": self.seg_threshold,
            "size_thresh": _whole(self.size_threshold),
            "size_thresh_upper": _whole(self.size_upper),
            "marker_thresh": _whole(self.marker_threshold),
        }


def score(nuclei: Nuclei, judged: Judged, region: int | None = None) -> Score:
    """Score of an annotation by its index, or of everything that counts, each nucleus once.

    A nucleus in several annotations counts in each of them.
    """
    which = judged.keep if region is None else judged.keep[nuclei.in_region(region)]
    positive = judged.positive if region is None else judged.positive[nuclei.in_region(region)]
    size = judged.size_threshold if region is None else float(judged.size_thresholds[region])
    return Score(
        total=int(which.sum()),
        positive=int(positive.sum()),
        seg_threshold=judged.thresholds.seg,
        size_threshold=size,
        size_upper=judged.size_upper,
        marker_threshold=judged.marker_threshold,
    )


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and float(value).is_integer() else value
