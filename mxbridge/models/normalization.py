"""The stored value of each marker that a marker network sees as 1: a high quantile of its foreground."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mxbridge.errors import BrokenFile, InputError, UnknownName, UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.image import LocalImage
from mxbridge.stream.quantile import foreground_quantiles

Mode = Literal["pooled", "per-image"]
NO_SIGNAL = "no signal"
FEW_PIXELS = "few foreground pixels"
FEW = 1000
"""With fewer foreground pixels than this the 0.999 quantile is the brightest pixel: the factor is flagged."""
LARGEST_FILE = 64 * 1024**2

Details = dict[str, dict[str, float]]
"""Of one image, by marker: number of foreground pixels, and their quantile where there are any."""


@dataclass(frozen=True)
class Normalization:
    """Factors by marker, and how they came about.

    factors: of all images together (``pooled``: mean over the images in which the marker has signal).
    per_image: by image id and marker; empty in pooled mode.
    flags: markers to look at: ``no signal`` (factor 1), ``few foreground pixels``.
    details: by image id and marker: number of foreground pixels and their quantile.
    """

    factors: dict[str, float]
    quantile: float | None = None
    mode: Mode = "pooled"
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    details: dict[str, Details] = field(default_factory=dict)

    def for_image(self, image_id: str, markers: Sequence[str]) -> list[float]:
        """Factors of ``markers`` for one image. Raises UnknownName."""
        source = self.factors
        if self.mode == "per-image":
            if image_id not in self.per_image:
                raise UnknownName("image", image_id, self.per_image, where="the normalisation file")
            source = self.per_image[image_id]
        for marker in markers:
            if marker not in source:
                raise UnknownName("marker", marker, source, where="the normalisation")
        return [source[marker] for marker in markers]

    def save(self, path: Path) -> None:
        """Write as JSON. Raises OutputError."""
        document = {
            "mxbridge_normalization": 1,
            "mode": self.mode,
            "quantile": self.quantile,
            "factors": self.factors,
            "per_image": self.per_image,
            "flags": self.flags,
            "details": self.details,
        }
        with write_atomically(path) as part:
            part.write_text(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Normalization:
        """Read what :meth:`save` wrote, or a ``normalization_dict.json`` of Nimbus-Inference. Raises InputError."""
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise BrokenFile(path, "too large for a normalisation file")
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: no such file", hint="Give the JSON of an earlier run with --normalization"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise BrokenFile(path, f"not a JSON file ({error})") from error
        if not isinstance(document, dict) or not document:
            raise BrokenFile(path, "holds no factors by marker")
        if "mxbridge_normalization" not in document:
            return cls(factors=_factors(path, document))
        if document["mxbridge_normalization"] != 1 or document.get("mode") not in ("pooled", "per-image"):
            raise BrokenFile(path, "written by another version of mxbridge", hint="Make it anew with this one")
        try:
            return cls(
                factors=_factors(path, document["factors"]),
                quantile=document["quantile"],
                mode=document["mode"],
                per_image={str(k): _factors(path, v) for k, v in document["per_image"].items()},
                flags=dict(document["flags"]),
                details=dict(document["details"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BrokenFile(path, f"lacks parts of a normalisation file ({error})") from error


def fit(
    images: Sequence[tuple[str, LocalImage, Mapping[str, int]]],
    *,
    quantile: float = 0.999,
    mode: Mode = "pooled",
    readers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Normalization:
    """Measure factors over all images: (id, image, channel index by marker), every pixel of full resolution, streaming.

    A marker without any signal gets 1 and a flag. Images may have different markers. readers: threads.
    progress is called with (images done, images).
    """
    if not 0 < quantile <= 1:
        raise UsageError(f"a quantile of {quantile} is not possible", hint="Give a number above 0 and at most 1")
    details: dict[str, Details] = {}
    for done, (image_id, image, channels) in enumerate(images, start=1):
        found = foreground_quantiles(image, list(channels.values()), quantile, readers=readers)
        details[image_id] = {}
        for marker, foreground in zip(channels, found, strict=True):
            details[image_id][marker] = {"foreground_px": foreground.pixels}
            if foreground.pixels:
                details[image_id][marker]["quantile"] = foreground.quantile
        if progress is not None:
            progress(done, len(images))
    return pooled(details, quantile, mode)


def pooled(details: Mapping[str, Details], quantile: float, mode: Mode = "pooled") -> Normalization:
    """The factors that follow from what each image, by id, says of its markers; one without any signal gets 1 and a flag."""
    markers = dict.fromkeys(m for rows in details.values() for m in rows)
    values = {m: [r[m]["quantile"] for r in details.values() if m in r and "quantile" in r[m]] for m in markers}
    pixels = {m: sum(int(r[m]["foreground_px"]) for r in details.values() if m in r) for m in markers}
    per_image = {name: {m: row.get("quantile", 1.0) for m, row in rows.items()} for name, rows in details.items()}
    return Normalization(
        factors={m: float(np.mean(v)) if v else 1.0 for m, v in values.items()},
        quantile=quantile,
        mode=mode,
        per_image=per_image if mode == "per-image" else {},
        flags={m: FEW_PIXELS if n else NO_SIGNAL for m, n in pixels.items() if n < FEW},
        details=dict(details),
    )


def _factors(path: Path, entries: Mapping[str, Any]) -> dict[str, float]:
    """Numbers, or numbers as text, by marker. Raises BrokenFile."""
    out = {}
    for marker, value in entries.items():
        try:
            factor = float(value)
        except (TypeError, ValueError):
            factor = math.nan
        if isinstance(value, bool) or not (math.isfinite(factor) and factor > 0):
            raise BrokenFile(path, f"the factor of {marker!r} is {value!r}, not a positive number")
        out[str(marker)] = factor
    return out
