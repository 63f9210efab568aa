"""Two readings of the same image, ours and QuPath's own: the image itself, and object by object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mxbridge.image import LocalImage
from mxbridge.workspaces.qupath.qpdata import ROI, ImageDataFile, PathObject

TOLERANCE_PX = 0.01
"""Bounds: QuPath keeps corners as float32 and derives widths from them."""

TOLERANCE_AREA = 1e-4
"""Relative, beside TOLERANCE_PX² of what both round away."""


@dataclass(frozen=True)
class RegionFacts:
    """bounds: x0, y0, x1, y1 in pixels. area: px². plane: c, z, t."""

    bounds: tuple[float, float, float, float]
    area: float
    plane: tuple[int, int, int] = (-1, 0, 0)


@dataclass(frozen=True)
class ObjectFacts:
    """What both sides can say about an object. parent: id of the object above, None for the root. Without a region
    ``roi`` is None; class_color is signed ARGB."""

    id: str
    kind: str
    name: str | None = None
    class_name: str | None = None
    class_color: int | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    roi: RegionFacts | None = None
    nucleus: RegionFacts | None = None
    parent: str | None = None

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> ObjectFacts:
        """From what the process with QuPath sends. Raises ValueError, TypeError or LookupError on anything else."""
        regions = {key: _region_of_json(document[key]) for key in ("roi", "nucleus")}
        values = {str(name): float(value) for name, value in document["measurements"].items()}
        return cls(**{**document, **regions, "measurements": values})


@dataclass(frozen=True)
class ImageFacts:
    """shape: (y, x). channels: name and 0xRRGGBB. um: (y, x) µm per pixel."""

    shape: tuple[int, int]
    channels: tuple[tuple[str, int | None], ...]
    um: tuple[float, float] | None
    rgb: bool

    @classmethod
    def of_image(cls, image: LocalImage) -> ImageFacts:
        return cls(image.shape, tuple((c.name, c.color) for c in image.channels), image.pixel_size_um, image.rgb)

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> ImageFacts:
        """Raises as ObjectFacts.of_json."""
        channels = tuple((str(name), int(color)) for name, color in document["channels"])
        height, width = document["shape"]
        um = document["um"]
        return cls((int(height), int(width)), channels, None if um is None else (um[0], um[1]), document["rgb"] is True)


def facts_of(found: PathObject) -> ObjectFacts:
    above = found.parent
    return ObjectFacts(
        id=found.id or "",
        kind=found.kind,
        name=found.name,
        class_name=found.class_name,
        class_color=found.class_color,
        measurements=found.measurements,
        roi=_region(found.roi),
        nucleus=_region(found.nucleus),
        parent=None if above is None or above.kind == "root" else above.id,
    )


class FactsOf(Mapping[str, ObjectFacts]):
    """The objects of a file by id, each looked at when it is asked for: a slide has too many to hold twice."""

    def __init__(self, tree: ImageDataFile) -> None:
        self._objects = {found.id: found for found in tree.objects() if found.id is not None}

    def __getitem__(self, key: str) -> ObjectFacts:
        return facts_of(self._objects[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


def differences(ours: Mapping[str, ObjectFacts], theirs: Iterable[ObjectFacts]) -> list[str]:
    """One line per object that differs, in the order of ``theirs``; empty when both read the same."""
    lines = []
    met: set[str] = set()
    for other in theirs:
        if other.id in met:
            lines.append(f"{other.id}: QuPath reads it twice")
        elif other.id not in ours:
            lines.append(f"{other.id}: only QuPath reads it")
        elif what := _difference(ours[other.id], other):
            lines.append(f"{other.id}: {what}")
        met.add(other.id)
    return lines + [f"{identity}: only mxbridge reads it" for identity in ours if identity not in met]


def image_differences(ours: ImageFacts, theirs: ImageFacts) -> list[str]:
    """Names and colours are compared where our side has any: those that programs make up for themselves differ."""
    lines = []
    if ours.shape != theirs.shape:
        lines.append(f"{_size(ours.shape)} pixels, in QuPath {_size(theirs.shape)}")
    if ours.rgb != theirs.rgb:
        lines.append(f"{_what(ours.rgb)}, in QuPath {_what(theirs.rgb)}")
    if len(ours.channels) != len(theirs.channels):
        lines.append(f"{len(ours.channels)} channels, in QuPath {len(theirs.channels)}")
    for number, ((name, color), (other, shown)) in enumerate(zip(ours.channels, theirs.channels, strict=False)):
        if name and name != other:
            lines.append(f"channel {number} is {name!r}, in QuPath {other!r}")
        if color is not None and color != shown:
            lines.append(f"channel {name!r} has the colour {color:06x}, in QuPath {shown or 0:06x}")
    if (ours.um is None) != (theirs.um is None) or (
        ours.um and theirs.um and not np.allclose(ours.um, theirs.um, rtol=1e-6)
    ):
        lines.append(f"µm per pixel {ours.um}, in QuPath {theirs.um}")
    return lines


def _difference(a: ObjectFacts, b: ObjectFacts) -> str:
    for what in ("kind", "name", "class_name", "parent"):
        own, other = getattr(a, what), getattr(b, what)
        if own != other:
            return f"{what.removesuffix('_name')} {own!r}, in QuPath {other!r}"
    if list(a.measurements) != list(b.measurements):
        return f"measurements {list(a.measurements)[:5]}, in QuPath {list(b.measurements)[:5]}"
    for name, x in a.measurements.items():
        y = b.measurements[name]
        if not (math.isnan(x) and math.isnan(y)) and np.float32(x) != np.float32(y):
            return f"{name} is {x}, in QuPath {y}"
    for what, own, other in (("region", a.roi, b.roi), ("nucleus", a.nucleus, b.nucleus)):
        if text := _region_difference(what, own, other):
            return text
    return ""


def _region_difference(what: str, a: RegionFacts | None, b: RegionFacts | None) -> str:
    if a is None or b is None:
        return "" if a is b else f"a {what} on one side only"
    if any(abs(x - y) > TOLERANCE_PX for x, y in zip(a.bounds, b.bounds, strict=True)):
        return f"bounds of its {what} {a.bounds}, in QuPath {b.bounds}"
    if abs(a.area - b.area) > TOLERANCE_PX**2 + TOLERANCE_AREA * max(a.area, b.area):
        return f"area of its {what} {a.area}, in QuPath {b.area}"
    if a.plane != b.plane:
        return f"plane of its {what} (c, z, t) {a.plane}, in QuPath {b.plane}"
    return ""


def _region(roi: ROI | None) -> RegionFacts | None:
    bounds = None if roi is None else roi.bounds
    return None if roi is None or bounds is None else RegionFacts(bounds, roi.area(), (roi.c, roi.z, roi.t))


def _region_of_json(document: Mapping[str, Any] | None) -> RegionFacts | None:
    if document is None:
        return None
    x0, y0, x1, y1 = (float(v) for v in document["bounds"])
    c, z, t = (int(v) for v in document["plane"])
    return RegionFacts((x0, y0, x1, y1), float(document["area"]), (c, z, t))


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _what(rgb: bool) -> str:
    return "a colour picture" if rgb else "separate channels"
