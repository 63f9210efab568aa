"""Two readings of the same image, object by object: ours and QuPath's own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from mxbridge.workspaces.qupath.qpdata import PathObject

TOLERANCE_PX = 0.01
"""Bounds: QuPath keeps corners as float32 and derives widths from them."""


@dataclass(frozen=True)
class ObjectFacts:
    """What both sides can say about an object. bounds: x0, y0, x1, y1 in pixels, or None without a region."""

    id: str
    name: str | None
    class_name: str | None
    measurements: dict[str, float] = field(default_factory=dict)
    bounds: tuple[float, float, float, float] | None = None


def facts_of(found: PathObject) -> ObjectFacts:
    roi = found.roi
    return ObjectFacts(
        found.id or "", found.name, found.class_name, found.measurements, None if roi is None else roi.bounds
    )


def differences(ours: Iterable[ObjectFacts], theirs: Iterable[ObjectFacts]) -> list[str]:
    """One line per object that differs, in a stable order; empty when both read the same."""
    mine, other = {o.id: o for o in ours}, {o.id: o for o in theirs}
    lines = [f"{i}: only mxbridge reads it" for i in mine if i not in other]
    lines += [f"{i}: only QuPath reads it" for i in other if i not in mine]
    for identity, own in mine.items():
        if identity in other and (what := _difference(own, other[identity])):
            lines.append(f"{identity}: {what}")
    return lines


def _difference(a: ObjectFacts, b: ObjectFacts) -> str:
    for what, own, other in (("name", a.name, b.name), ("class", a.class_name, b.class_name)):
        if own != other:
            return f"{what} {own!r}, in QuPath {other!r}"
    if list(a.measurements) != list(b.measurements):
        return f"measurements {list(a.measurements)[:5]}, in QuPath {list(b.measurements)[:5]}"
    for name, x in a.measurements.items():
        y = b.measurements[name]
        if np.float32(x) != np.float32(y) and not (math.isnan(x) and math.isnan(y)):
            return f"{name} is {x}, in QuPath {y}"
    if (a.bounds is None) != (b.bounds is None):
        return "a region on one side only"
    if a.bounds and b.bounds and any(abs(x - y) > TOLERANCE_PX for x, y in zip(a.bounds, b.bounds, strict=True)):
        return f"bounds {a.bounds}, in QuPath {b.bounds}"
    return ""
