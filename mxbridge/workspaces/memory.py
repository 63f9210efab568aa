"""Arrays as a workspace: for notebooks, and for tests that need no disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path

import dask.array as da
import numpy as np

from mxbridge.cells import Cells, OutlineCells
from mxbridge.errors import InputError, UnknownName
from mxbridge.formats.labels import scan_labels
from mxbridge.image import Channel, LocalImage
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces.base import CellKind, Published, Pulled, Workspace

Stored = tuple[np.ndarray, Sequence[str], float | None]
"""Pixels ``(c, y, x)``, channel names, µm per pixel."""


class MemoryWorkspace(Workspace):
    """Images given as arrays; ids are their names.

    images: ``{name: (array (c, y, x), channel names, µm per pixel or None)}``.
    cells: by image name, a label array ``(y, x)`` of integers or any :class:`~mxbridge.cells.Cells`.
    annotations: by image name, outlines that people drew, for tasks that stay inside some.
    published: results by image name, in the order of publication; what ``publish`` and ``retract`` change.
    """

    def __init__(
        self,
        images: Mapping[str, Stored],
        cells: Mapping[str, np.ndarray | Cells] | None = None,
        *,
        annotations: Mapping[str, OutlineCells] | None = None,
        runs_home: Path | None = None,
    ) -> None:
        unknown = {*(cells or {}), *(annotations or {})} - set(images)
        if unknown:
            raise UnknownName(
                "image", sorted(unknown)[0], list(images), where="the images that cells or annotations were given for"
            )
        self.address = "memory:"
        self.published: dict[str, list[Results]] = {}
        self._images, self._cells, self._annotations = dict(images), dict(cells or {}), dict(annotations or {})
        self._runs_home = runs_home or Path.cwd() / "mxbridge-runs"

    @property
    def runs_home(self) -> Path:
        return self._runs_home

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        for name in names:
            if name not in self._images:
                raise UnknownName("image", name, list(self._images))
        return [ImageRef(name, name) for name in (dict.fromkeys(names) if names else self._images)]

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        """The image in its own type, one level."""
        if ref.id not in self._images:
            raise UnknownName("image", ref.id, list(self._images))
        pixels, names, um_per_px = self._images[ref.id]
        if pixels.ndim != 3:
            raise InputError(f"{ref.name}: pixels need axes (c, y, x), not {pixels.ndim} axes")
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        digest = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        image = LocalImage(
            name=ref.name,
            levels=(da.from_array(pixels, chunks=(1, 1024, 1024), name=f"memory-{digest.hexdigest()[:24]}"),),
            channels=tuple(Channel(str(n)) for n in names),
            pixel_size_um=None if um_per_px is None else (um_per_px, um_per_px),
            identity=digest.hexdigest(),
        )
        places = self._annotations if cells == "annotations" else self._cells
        given = places.get(ref.id) if cells is not None else None
        return Pulled(ref, image, self._as_cells(ref.name, given, image.shape))

    def publish(self, results: Results) -> Published:
        """Keep the results; earlier ones with one of the same result keys are replaced."""
        if results.image.id not in self._images:
            raise UnknownName("image", results.image.id, list(self._images))
        if self.holds(results):
            return Published(results.image, changed=False, where="memory")
        keys = set(results.result_keys)
        kept = [r for r in self.published.get(results.image.id, []) if not keys & set(r.result_keys)]
        self.published[results.image.id] = [*kept, results]
        return Published(results.image, changed=True, where="memory")

    def holds(self, results: Results) -> bool:
        return any(_same(r, results) for r in self.published.get(results.image.id, []))

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        before = self.published.get(ref.id, [])
        kept = [r for r in before if not set(r.result_keys) & set(result_keys)]
        self.published[ref.id] = kept
        return Published(ref, changed=len(kept) != len(before), where="memory")

    def check_writable(self) -> None:
        """Memory can always be written."""

    @staticmethod
    def _as_cells(name: str, given: np.ndarray | Cells | None, shape: tuple[int, int]) -> Cells | None:
        if given is None or isinstance(given, Cells):
            return given
        if given.shape != shape:
            raise InputError(f"{name}: the labels have shape {given.shape}, the image {shape}")
        return scan_labels(da.from_array(given, chunks=1024), shape, where=f"labels of {name}")


def _same(one: Results, other: Results) -> bool:
    """Whether two results say the same; NaN equals NaN, the run does not matter."""
    if one.cell_ids != other.cell_ids or one.class_changes != other.class_changes:
        return False
    if one.derived != other.derived or any(len(a) != len(b) for a, b in _columns(one, other)):
        return False
    if not all(a.same_as(b) for a, b in zip(one.objects, other.objects, strict=True)):
        return False
    for a, b in zip(one.image_values, other.image_values, strict=True):
        if (a.name, a.result_key) != (b.name, b.result_key) or not np.array_equal(a.value, b.value, equal_nan=True):
            return False
    return all(
        (a.name, a.result_key) == (b.name, b.result_key) and np.array_equal(a.values, b.values, equal_nan=True)
        for a, b in zip(one.measurements, other.measurements, strict=True)
    )


def _columns(one: Results, other: Results) -> list[tuple[Sized, Sized]]:
    return [(getattr(one, what), getattr(other, what)) for what in ("measurements", "objects", "image_values")]
