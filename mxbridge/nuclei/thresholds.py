"""What decides whether pixels are a nucleus, and whether a nucleus counts and as what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mxbridge.errors import UsageError

Auto = Literal["auto"]


class SizeLimits(NamedTuple):
    """Bounds of the automatic size threshold, as square roots of an area in pixels.

    default is taken instead of a threshold above highest.
    """

    lowest: float
    default: float
    highest: float


AUTO_SIZE = {"40x": SizeLimits(4, 7, 10), "20x": SizeLimits(3, 4, 6), "10x": SizeLimits(2, 2, 3)}
"""DeepLIIF's bounds by the resolution it believes in."""

UM_AT_40X = 0.25


def size_limits(*, resolution: str | None = None, um_per_px: float | None = None) -> SizeLimits:
    """Bounds for one of DeepLIIF's resolutions, or the 40x bounds as lengths in µm for any other scale.

    With neither, those of 40x. Raises UsageError for an unknown resolution.
    """
    if resolution is not None:
        if resolution not in AUTO_SIZE:
            raise UsageError(f"no resolution {resolution!r}", hint=f"One of {', '.join(AUTO_SIZE)}")
        return AUTO_SIZE[resolution]
    scale = 1.0 if um_per_px is None else UM_AT_40X / um_per_px
    return SizeLimits(*(bound * scale for bound in AUTO_SIZE["40x"]))


@dataclass(frozen=True)
class Thresholds:
    """All thresholds; the defaults are DeepLIIF's.

    seg: a pixel belongs to a nucleus when red + blue is above it, and green is at most ``green``.
    noise, large_noise: parts of at most / at least so many pixels are no nuclei, and never were for the automatic size.
    size, size_upper: a nucleus counts when it has more pixels than size and fewer than size_upper; "auto" finds size in
        the sizes themselves, None is no gate.
    marker: a nucleus whose brightest marker pixel is above it counts as positive, whatever its colour; "auto" finds it in
        the marker image of the slide.
    od_lower, od_upper: a nucleus whose mean optical density (in hundredths) is below / above counts as negative.
    """

    seg: int = 120
    green: int = 80
    noise: int = 4
    large_noise: float | None = None
    size: float | Auto | None = "auto"
    size_upper: float | None = None
    marker: float | Auto | None = None
    od_lower: float | None = None
    od_upper: float | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("seg", 0, 510), ("green", 0, 255), ("noise", 0, math.inf)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} threshold {getattr(self, name)}: must be from {low} to {high}")
        for name in ("large_noise", "size", "size_upper", "marker", "od_lower", "od_upper"):
            value = getattr(self, name)
            if value is None or (value == "auto" and name in ("size", "marker")):
                continue
            if isinstance(value, str) or not value >= 0 or math.isinf(value):
                raise UsageError(f"{name} threshold {value}: must be a number of 0 or more")

    @property
    def needs_density(self) -> bool:
        return self.od_lower is not None or self.od_upper is not None
