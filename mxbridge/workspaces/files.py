"""Images and masks as plain files. What a run finds out stays in its run folder; the inputs are never touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from mxbridge.cells import Cells, LabelCells
from mxbridge.errors import UnknownName, UsageError
from mxbridge.formats.file_names import readable
from mxbridge.formats.labels import is_geojson, looks_stretched, open_labels
from mxbridge.formats.ome_zarr import is_zarr, label_image_path, label_names
from mxbridge.formats.open_image import open_image
from mxbridge.formats.pixels import file_identity, looking
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces.base import CellKind, Published, Pulled, Workspace
from mxbridge.workspaces.found_images import Found, find_images, find_masks, match_masks
from mxbridge.workspaces.geojson import cells_from_geojson

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


class FilesWorkspace(Workspace):
    """Image files, with masks beside them or in their OME-Zarr ``labels``.

    paths: files, folders and globs (see :func:`~mxbridge.workspaces.found_images.find_images` for how a folder is
        taken); one text may hold several, separated as in PATH (``:``, on Windows ``;``).
    labels: masks or GeoJSON in the same forms, matched as :func:`~mxbridge.workspaces.found_images.match_masks` says.
    um_per_px: pixel size that replaces what the files say. stretched_labels: undo CellProfiler's 16-bit stretching.
    plane: (z, t) of stacks. runs_home: where run folders go (default: ``mxbridge-runs`` in the current folder).

    An image's id is its absolute path (bytes that are no text as ``\\xff``). Raises SourceError, InputError when paths or masks do not work out.
    """

    def __init__(
        self,
        paths: Paths,
        labels: Paths = (),
        *,
        um_per_px: float | None = None,
        stretched_labels: bool = False,
        plane: tuple[int, int] | None = None,
        runs_home: str | PathLike[str] | None = None,
    ) -> None:
        self._paths, self._label_paths = _listed(paths), _listed(labels)
        if not self._paths:
            raise UsageError("no image files were named", hint="Give them with --files PATH")
        self._um_per_px, self._stretched, self._plane = um_per_px, stretched_labels, plane
        self._last_mask: tuple[str, Cells] | None = None
        self._runs_home = Path(runs_home) if runs_home is not None else Path.cwd() / "mxbridge-runs"
        self.address = "files:" + os.pathsep.join(readable(str(Path(p).absolute())) for p in self._paths)

    @property
    def opened(self) -> dict[str, Any]:
        """Labels as absolute paths, and what was said over the files."""
        told: dict[str, Any] = {
            "labels": [readable(str(Path(p).absolute())) for p in self._label_paths],
            "um_per_px": self._um_per_px,
            "stretched_labels": self._stretched,
            "plane": None if self._plane is None else list(self._plane),
        }
        return {name: value for name, value in told.items() if value}

    @property
    def runs_home(self) -> Path:
        return self._runs_home

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        """All images, or those called by name or by path. A name that several images share means all of them."""
        refs = [ImageRef(id_, image.name) for id_, image in self._images.items()]
        if not names:
            return refs
        chosen: dict[ImageRef, None] = {}
        for wanted in names:
            name, path = readable(wanted), readable(str(Path(wanted).absolute()))
            fitting = [r for r in refs if r.id in (name, path)] or [r for r in refs if r.name == name]
            if not fitting:
                raise UnknownName("image", wanted, [r.name for r in refs])
            chosen.update(dict.fromkeys(fitting))
        return list(chosen)

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        """Open the image and its mask. ``annotations`` are only in GeoJSON; a mask holds cells, whatever they are called.

        The last mask is remembered as long as its file stays the same: planning and computing scan it once.
        """
        found = self._images.get(ref.id)
        if found is None:
            raise UnknownName("image", ref.name, [image.name for image in self._images.values()])
        with looking(found.path):
            image = open_image(found.path, name=found.name, plane=self._plane)
            if self._um_per_px is not None:
                image = image.with_pixel_size(self._um_per_px)
            if cells is None:
                return Pulled(ref, image, None)
            notes = [found.note] if found.note else []
            masks, remarks = self._masks
            pulled_cells, cell_notes = self._cells(found, masks.get(found.path), image.shape, cells)
        image = replace(image, warnings=tuple(map(readable, image.warnings)))
        return Pulled(ref, image, pulled_cells, tuple(map(readable, (*notes, *remarks, *cell_notes))))

    def publish(self, results: Results) -> Published:
        """Nothing to do: the tables and maps of the run folder are the publication."""
        return Published(results.image, changed=False, where="the run folder")

    def holds(self, results: Results) -> bool:
        return True

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        raise UsageError(
            f"{ref.name}: nothing to undo, the results of image files are in the run folder only",
            hint="Remove the run folder to undo the run",
        )

    def check_writable(self) -> None:
        """Nothing is written beside the images; whether the run folder can be made shows when it is made, at the start."""

    @cached_property
    def _images(self) -> dict[str, Found]:
        """By id."""
        masks = find_masks(self._label_paths) if self._label_paths else []
        return {readable(str(image.path)): image for image in find_images(self._paths, masks)}

    @cached_property
    def _masks(self) -> tuple[dict[Path, Path], list[str]]:
        masks = find_masks(self._label_paths) if self._label_paths else []
        return match_masks(list(self._images.values()), masks)

    def _cells(
        self, image: Found, mask: Path | None, shape: tuple[int, int], kind: CellKind
    ) -> tuple[Cells | None, list[str]]:
        if mask is None and not self._label_paths and is_zarr(image.path) and label_names(image.path):
            mask = label_image_path(image.path)
        if mask is None:
            return None, ["none of the masks given fits it"] if self._label_paths else []
        if is_geojson(mask):
            cells: Cells = cells_from_geojson(mask, shape, kind=kind)
            return (cells if len(cells) else None), []
        if kind == "annotations":
            return None, [f"{mask.name}: a label mask has cells, no annotations"]
        cells = self._scanned(mask, shape)
        notes = []
        if not self._stretched and isinstance(cells, LabelCells) and looks_stretched(cells):
            notes.append(
                f"{mask.name}: label numbers look stretched to 16 bits (CellProfiler); their ids will not fit other tables. "
                "Use --stretched-labels"
            )
        return (cells, notes) if len(cells) else (None, [*notes, f"{mask.name} labels nothing"])

    def _scanned(self, mask: Path, shape: tuple[int, int]) -> Cells:
        if not mask.is_file():  # a folder (OME-Zarr): nothing tells cheaply whether it is still the same
            return open_labels(mask, shape, stretched=self._stretched, plane=self._plane)
        state = file_identity([mask], mask, shape)
        if self._last_mask is None or self._last_mask[0] != state:
            self._last_mask = None  # let go of it before the next one is read
            self._last_mask = state, open_labels(mask, shape, stretched=self._stretched, plane=self._plane)
        return self._last_mask[1]


def _listed(paths: Paths) -> list[str | PathLike[str]]:
    if isinstance(paths, str):
        there = os.path.exists(paths)  # noqa: PTH110 - unlike Path.exists, never raises
        return [paths] if there else [p for p in paths.split(os.pathsep) if p]
    return [paths] if isinstance(paths, PathLike) else list(paths)
