"""What can be chosen for ``translate``, and what goes together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from mxbridge.errors import UsageError
from mxbridge.models.translators import WANTED

COMPAT = ("deepliif",)
AUTO: Literal["auto"] = "auto"
NONE: Literal["none"] = "none"

CUTS = ("--large-noise-threshold", "--size-threshold", "--marker-threshold")
"""Options that may be words."""

Cut = float | Literal["auto", "none"]
"""A threshold: a number, found in the image itself, or not applied."""


@dataclass(frozen=True)
class TranslateOptions:
    """What can be chosen. See ``mxbridge translate --help`` for each.

    outputs: one of ``score``, ``cells``, ``channels``, ``all``. statistics: whether networks see the statistics of each window
    or of a sample of the slide. size, size_upper, noise, large_noise: pixels of the inferred images; min_area, max_area: µm².
    marker: what people call the marker image. expand: µm by which nuclei are grown to cells.
    """

    outputs: str = "cells"
    weighting: str | None = None
    statistics: Literal["window", "slide"] = "window"
    compat: str | None = None
    tile_size: int | None = None
    stains: str | None = None
    positive_od: float | None = None
    seg_threshold: int = 120
    noise: int = 4
    large_noise: Cut = NONE
    size: Cut = AUTO
    size_upper: float | None = None
    min_area: float | None = None
    max_area: float | None = None
    marker_threshold: Cut = NONE
    od_lower: float | None = None
    od_upper: float | None = None
    separate: bool = False
    objects: Literal["detections", "cells"] = "detections"
    expand: float | None = None
    inside: tuple[str, ...] = ()
    base_class: str | None = None
    marker: str | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        if self.tile_size is not None and not self.compat:
            raise UsageError(
                "--tile-size goes with --compat deepliif", hint="Otherwise the pixel size decides the scale"
            )
        if self.compat and self.statistics != "window":
            raise UsageError("--compat deepliif reproduces a program that knows no --statistics slide")
        if self._in_area and (self.size not in (AUTO, NONE) or self.size_upper is not None):
            raise UsageError(
                "give sizes either in pixels (--size-threshold, --size-upper) or in µm² (--min-area, --max-area)"
            )
        if self.expand is not None and self.objects != "cells":
            raise UsageError("--expand goes with --objects cells")
        if not self.wants_nuclei and (self.inside or self.base_class or self.separate or self.objects == "cells"):
            raise UsageError("--outputs channels looks for no nuclei", hint="Use --outputs all")
        if not self.wants_objects and (self.objects == "cells" or self.base_class is not None):
            raise UsageError(f"--outputs {self.outputs} makes no objects", hint="Use --outputs cells")

    def _check_choices(self) -> None:
        for option, value, known in (
            ("--outputs", self.outputs, WANTED),
            ("--compat", self.compat, (None, *COMPAT)),
            ("--statistics", self.statistics, ("window", "slide")),
            ("--objects", self.objects, ("detections", "cells")),
        ):
            if value not in known:
                raise UsageError(f"{option} {value} is not known", hint=f"There is: {', '.join(k for k in known if k)}")
        for option, name in (("--base-class", self.base_class), ("--marker", self.marker)):
            if name is not None and (not name.strip() or not name.isprintable()):
                raise UsageError(f"{option} {name!r} is no name")
        if self.base_class is not None and not all(part.strip() for part in self.base_class.split(":")):
            raise UsageError(f"--base-class {self.base_class!r} has an empty part", hint="As in Tumor, or CD8: T cell")
        if self.marker is not None and ":" in self.marker:
            raise UsageError(f"--marker {self.marker!r}: a colon cannot be part of a marker's name")

    def _check_numbers(self) -> None:
        if (
            self.tile_size is not None and not 32 <= self.tile_size <= 1024
        ):  # the published program takes no larger ones
            raise UsageError(f"--tile-size {self.tile_size} is not between 32 and 1024")
        if not 0 <= self.seg_threshold <= 510:
            raise UsageError(f"--seg-threshold {self.seg_threshold} is not between 0 and 510 (red and blue together)")
        for option, value in (
            ("--noise-threshold", self.noise),
            ("--large-noise-threshold", self.large_noise),
            ("--size-threshold", self.size),
            ("--size-upper", self.size_upper),
            ("--min-area", self.min_area),
            ("--max-area", self.max_area),
            ("--marker-threshold", self.marker_threshold),
            ("--od-lower", self.od_lower),
            ("--od-upper", self.od_upper),
            ("--expand", self.expand),
            ("--positive-od", self.positive_od),
        ):
            if value is None or (option in CUTS and value in (AUTO, NONE)):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UsageError(f"{option} {value} must be a number of at least 0")
        for low, high, options in (
            (self.min_area, self.max_area, "--min-area is not below --max-area"),
            (self.od_lower, self.od_upper, "--od-lower is not below --od-upper"),
            (
                self.size if isinstance(self.size, int | float) else None,
                self.size_upper,
                "--size-threshold is not below --size-upper",
            ),
        ):
            if low is not None and high is not None and low >= high:
                raise UsageError(options)

    @property
    def _in_area(self) -> bool:
        return self.min_area is not None or self.max_area is not None

    @property
    def needs_scale(self) -> bool:
        """Whether something is given in µm or µm²."""
        return self._in_area or self.objects == "cells"

    @property
    def wants_nuclei(self) -> bool:
        return self.outputs != "channels"

    @property
    def wants_objects(self) -> bool:
        return self.outputs in ("cells", "all")

    @property
    def wants_channels(self) -> bool:
        return self.outputs in ("channels", "all")

    @classmethod
    def given(cls, chosen: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Self:
        """From what was given (None: not given); the rest as ``before`` (the record of an earlier run), or by default.

        Sizes in µm² take the place of earlier ones in pixels, and the reverse. Raises UsageError.
        """
        known = {f.name for f in fields(cls)}
        wanted = {name: value for name, value in chosen.items() if value is not None}
        kept = {name: value for name, value in (before or {}).items() if name in known and name not in wanted}
        if {"min_area", "max_area"} & set(wanted):
            kept = {name: value for name, value in kept.items() if name not in ("size", "size_upper")}
        if {"size", "size_upper"} & set(wanted):
            kept = {name: value for name, value in kept.items() if name not in ("min_area", "max_area")}
        if "inside" in kept:
            kept["inside"] = tuple(kept["inside"])
        return cls(**kept, **wanted)

    def that_decide_nuclei(self) -> dict[str, Any]:
        """The options that change nuclei, scores or how they are called, for fingerprints."""
        names = (
            "compat", "seg_threshold", "noise", "large_noise", "size", "size_upper", "min_area", "max_area",
            "marker_threshold", "od_lower", "od_upper", "separate", "objects", "expand", "inside", "base_class", "marker",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} if self.wants_nuclei else {"marker": self.marker}


def cut(option: str, text: str | None, *, may_be: tuple[str, ...] = (AUTO, NONE)) -> Cut | None:
    """What was typed for a threshold; None where nothing was. Raises UsageError."""
    if text is None:
        return None
    word = text.strip().casefold()
    if word == AUTO and AUTO in may_be:
        return "auto"
    if word == NONE and NONE in may_be:
        return "none"
    try:
        return float(word)
    except ValueError:
        raise UsageError(f"{option} {text!r} is neither a number nor {' or '.join(may_be)}") from None
