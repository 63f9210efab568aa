"""Annotations that limit a task (``--inside``), and those that get scores of their own.

A cell counts where its centroid lies, as QuPath decides it; a pixel where its centre lies; a block of pixels likewise. What
lies around a region is still read wherever a network looks at it, so that a value does not depend on where regions end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import BoxIndex, Cells, OutlineCells
from mxbridge.errors import ChangedMeanwhile, InputError, NoCells, UnknownName
from mxbridge.image import Box
from mxbridge.nuclei.regions import Regions
from mxbridge.results import ImageRef
from mxbridge.workspaces.base import CellKind, Pulled, Workspace

if TYPE_CHECKING:
    from mxbridge.stream.resample import Field

CLASSLESS = "(no class)"

COARSE = 2048
"""Longest side of the picture on which boxes are compared with regions before anything is read."""


@dataclass(frozen=True)
class Annotations:
    """The annotations that get scores. limiting: nuclei are looked for inside them only. warnings: for people."""

    cells: OutlineCells | None
    limiting: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def limit(self) -> OutlineCells | None:
        """Outside these nothing is looked for; None for the whole image."""
        return self.cells if self.limiting else None

    @property
    def limit_hash(self) -> str:
        """Of what limits the search; empty for the whole image."""
        return self.cells.geometry_hash() if self.limiting and self.cells is not None else ""

    @property
    def ids(self) -> tuple[str, ...]:
        return () if self.cells is None else self.cells.ids

    @property
    def labels(self) -> tuple[str, ...]:
        """What to call each: its name, else its id. Names need not be unique."""
        names = () if self.cells is None else self.cells.names
        return tuple(name or own for name, own in zip(names or self.ids, self.ids, strict=True))

    @property
    def classes(self) -> tuple[str | None, ...]:
        return () if self.cells is None else self.cells.classes


@dataclass(frozen=True)
class Region:
    """Where a task gives results: the union of annotations. warnings: for people."""

    annotations: OutlineCells
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes when one of the annotations moves, appears or goes."""
        return self.annotations.geometry_hash()

    @property
    def words(self) -> str:
        """What people call it: ``2 annotations (Tumor)``."""
        n = len(self.annotations)
        classes = dict.fromkeys(name or CLASSLESS for name in self.annotations.classes)
        return f"{n} annotation{'' if n == 1 else 's'} ({', '.join(classes)})"

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the points ``(n, 2)`` (y, x in full-resolution pixels; NaN is nowhere) lie inside."""
        found = np.zeros(len(points), bool)
        real = np.flatnonzero(np.isfinite(points).all(axis=1))
        found[real[self._outlines.holding(points[real])[:, 0]]] = True
        return found

    def may_meet(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the boxes ``(n, 4)`` (y0, x0, y1, x1 in full-resolution pixels) may have a point inside; never False for
        one that has."""
        side, filled = self._coarse
        counts = np.pad(filled.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        real = np.asarray(np.isfinite(boxes).all(axis=1))
        low = np.floor(np.where(real[:, None], boxes[:, :2], 0) / side).astype(np.int64)
        high = np.floor(np.where(real[:, None], boxes[:, 2:], 0) / side).astype(np.int64) + 1
        (y0, x0), (y1, x1) = (np.clip(at, 0, filled.shape).T for at in (low, high))
        return np.asarray(real & (counts[y1, x1] - counts[y0, x1] - counts[y1, x0] + counts[y0, x0] > 0))

    def may_meet_box(self, box: Box) -> bool:
        return bool(self.may_meet(np.array([box], np.float64))[0])

    def wants(self, cells: Cells | None, *, pixels: bool = False) -> Callable[[Box], bool]:
        """Whether the pixels of a box may be of a cell with its centroid inside; pixels: or be inside themselves."""
        boxes = np.zeros((0, 4)) if cells is None else cells.bounds()
        index = BoxIndex(np.where(self.may_meet(boxes)[:, None], boxes, np.nan))

        def wanted(box: Box) -> bool:
            return len(index.hits(box)) > 0 or (pixels and self.may_meet_box(box))

        return wanted

    def inside(self, pulled: Pulled, centroid: NDArray[np.float64]) -> tuple[Pulled, NDArray[np.int64]]:
        """The image with the cells alone that lie inside, and which of all these are. centroid: ``(cells, 2)`` y, x.

        Raises NoCells where there is none.
        """
        assert pulled.cells is not None  # noqa: S101 - centroids are of cells
        which = np.flatnonzero(self.holds(centroid))
        if not len(which):
            raise self.empty(pulled.ref)
        return replace(pulled, cells=pulled.cells.take(which)), which

    def empty(self, ref: ImageRef) -> NoCells:
        return NoCells(
            f"image {ref}: no cell has its centroid inside {self.words}",
            hint="Detect cells there, or choose others with --cells or --inside",
        )

    def at_scale(self, field: Field) -> ScaledRegion:
        return ScaledRegion(Regions.scaled(self.annotations.outlines, (field.y.ratio, field.x.ratio)), field.shape)

    @cached_property
    def _outlines(self) -> Regions:
        return Regions(self.annotations.outlines)

    @cached_property
    def _coarse(self) -> tuple[int, NDArray[np.bool_]]:
        """Pixels per side of a coarse pixel, and which of these the region touches."""
        from rasterio.features import rasterize

        shape = self.annotations.shape
        side = max(1, -(-max(shape) // COARSE))
        small = tuple(-(-n // side) for n in shape)
        outlines = self.annotations.outlines
        shapes = []
        for index in range(len(outlines)):
            rings = [ring / side for ring in outlines.rings_of(index) if len(ring) >= 3]
            closed = [np.vstack([ring, ring[:1]]).tolist() for ring in rings]
            if closed:
                shapes.append(({"type": "Polygon", "coordinates": closed}, 1))
        if not shapes:
            return side, np.zeros(small, bool)
        touched = rasterize(shapes, out_shape=small, fill=0, dtype=np.uint8, all_touched=True) > 0
        grown = np.pad(touched, 1)  # one more all around: an outline on the border of a pixel touches both sides
        near = [grown[y : y + small[0], x : x + small[1]] for y in range(3) for x in range(3)]
        return side, np.logical_or.reduce(near)


@dataclass(frozen=True)
class ScaledRegion:
    """A region in a model's pixels. shape: (y, x) of the image there."""

    outlines: Regions
    shape: tuple[int, int]

    def mask(self, box: Box) -> NDArray[np.bool_]:
        """Which pixels ``(y, x)`` of a box have their centres inside."""
        return self.outlines.mask(box, self.shape) > 0

    def blocks(self, side: int) -> NDArray[np.bool_]:
        """``(by, bx)``: which blocks of ``side`` pixels have the centre of what they cover of the image inside."""
        axes = [np.minimum(np.arange(0, n, side) + side, n) for n in self.shape]
        y, x = ((np.arange(len(end)) * side + end) / 2 for end in axes)
        points = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        inside = np.zeros(len(points), bool)
        inside[self.outlines.holding(points)[:, 0]] = True
        return inside.reshape(len(y), len(x))


def pull_for(workspace: Workspace, ref: ImageRef, kind: CellKind, inside: Sequence[str]) -> Pulled:
    """An image with its objects of one kind, and its annotations where a task stays ``inside`` some of them.

    Raises as :meth:`Workspace.pull` does.
    """
    pulled = workspace.pull(ref, kind)
    if not inside:
        return pulled
    drawn = pulled if kind == "annotations" else workspace.pull(ref, "annotations")
    return replace(pulled, annotations=drawn.cells if isinstance(drawn.cells, OutlineCells) else None)


def region_of(pulled: Pulled, inside: Sequence[str]) -> Region | None:
    """The annotations of the classes or with the ids ``inside``; None where nothing is asked for.

    Raises UnknownName where the image has no such annotation, InputError where all of them lie outside the image.
    """
    if not inside:
        return None
    found = choose(replace(pulled, cells=pulled.annotations), tuple(inside))
    assert found.cells is not None  # noqa: S101 - choose() raises where nothing is left
    warnings = tuple(w.replace("get no score", "are left out") for w in found.warnings)
    return Region(found.cells, warnings)


def planned_region(pulled: Pulled, inside: Sequence[str], basis: Mapping[str, Any]) -> Region | None:
    """The same as when the work was planned. Raises ChangedMeanwhile where it is not, and as :func:`region_of`."""
    region = region_of(pulled, inside)
    if region is not None and region.digest != basis["inside"]:
        raise ChangedMeanwhile(
            f"annotations of image {pulled.ref} were changed while the run was under way", hint="Run again"
        )
    return region


def choose(pulled: Pulled, inside: tuple[str, ...]) -> Annotations:
    """All annotations with an area, or those ``inside``: of these classes or with these ids. Those that lie outside the image
    are left out.

    Raises UnknownName where the image has no such annotation, InputError where all of them lie outside.
    """
    cells = pulled.cells if isinstance(pulled.cells, OutlineCells) else None
    if inside:
        cells = _named(pulled, cells, inside)
    if cells is None:
        return Annotations(None)
    outside = _outside(cells.outlines.bounds(), cells.shape)
    if not outside.any():
        return Annotations(cells, bool(inside))
    if outside.all() and inside:
        raise InputError(
            f"image {pulled.ref}: all annotations of {' or '.join(inside)} lie outside the image",
            hint="They may belong to another image, or to one of another resolution",
        )
    warning = f"{int(outside.sum())} of {len(cells)} annotations lie outside the image and get no score"
    kept = cells.take(np.flatnonzero(~outside))
    return Annotations(kept if len(kept) else None, bool(inside), (warning,))


def _named(pulled: Pulled, cells: OutlineCells | None, inside: tuple[str, ...]) -> OutlineCells:
    if cells is None:
        why = f" ({'; '.join(pulled.warnings)})" if pulled.warnings else ""
        raise InputError(
            f"image {pulled.ref} has no annotations{why}",
            hint="Draw them, or leave --inside out; for image files they come as GeoJSON with --labels",
        )
    classes = [name or CLASSLESS for name in cells.classes]
    there = list(dict.fromkeys(classes))
    ids = {own.casefold() for own in cells.ids}
    for wanted in inside:
        if wanted not in there and wanted.casefold() not in ids:
            raise UnknownName("annotation of the class or with the id", wanted, there, where=f"image {pulled.ref}")
    folded = {wanted.casefold() for wanted in inside}
    meant = [name in inside or own.casefold() in folded for name, own in zip(classes, cells.ids, strict=True)]
    return cells.take(np.flatnonzero(meant))


def _outside(bounds: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    y0, x0, y1, x1 = bounds.T
    return np.asarray((y1 <= 0) | (x1 <= 0) | (y0 >= shape[0]) | (x0 >= shape[1]))
