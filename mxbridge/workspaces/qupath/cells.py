"""From QuPath objects to :class:`~mxbridge.cells.OutlineCells`: which objects count, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.qupath.ledger import State
from mxbridge.workspaces.qupath.made import is_made
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, PathObject


def cells_of(
    tree: ImageDataFile, kind: CellKind, shape: tuple[int, int], state: State
) -> tuple[OutlineCells | None, list[str]]:
    """Cells in file order, and warnings; None where there is no object of that kind.

    cells: cell objects, or plain detections where there are none. detections: plain detections. annotations: those with
    an area. Lines and points, and objects on other planes than z = 0, t = 0 are left out. Objects that mxbridge made are
    not read back, except cells; and classes that mxbridge set read as they were before, so that a rerun sees the same.
    Files from before QuPath 0.4 have no ids: their objects are numbered ``#1``, ``#2`` ... and cannot be written to.
    """
    wanted, warnings = _of_kind(tree, kind)
    flat = [(o, roi) for o in wanted if (roi := o.roi) is not None and roi.z == 0 and roi.t == 0]
    solid = [(o, rings) for o, roi in flat if (rings := roi.rings)]
    if len(flat) < len(wanted):
        warnings.append(f"{len(wanted) - len(flat)} {kind} on other planes than z=0, t=0 (or nowhere) were left out")
    if len(solid) < len(flat):
        warnings.append(f"{len(flat) - len(solid)} {kind} without an area (lines, points) were left out")
    if not solid:
        return None, warnings
    objects = [o for o, _ in solid]
    ids = tuple(o.id or f"#{k}" for k, o in enumerate(objects, start=1))
    if len(set(ids)) < len(ids):
        raise InputError(
            f"{len(ids) - len(set(ids))} {kind} share their object id with another, so nothing tells them apart",
            hint="In QuPath, delete the duplicates, or select them and run Objects > Refresh object IDs",
        )
    nuclei = [[] if (nucleus := o.nucleus) is None else nucleus.rings for o in objects]
    cells = OutlineCells(
        ids=ids,
        classes=tuple(state.original_class(i, o.class_name) for i, o in zip(ids, objects, strict=True)),
        shape=shape,
        outlines=Rings.of(rings for _, rings in solid),
        nuclei=Rings.of(nuclei) if any(nuclei) else None,
    )
    return cells, warnings


def _of_kind(tree: ImageDataFile, kind: CellKind) -> tuple[list[PathObject], list[str]]:
    if kind == "annotations":
        return _theirs(o for o in tree.objects() if o.kind == "annotation"), []
    if kind == "cells":
        cells = [o for o in tree.objects() if o.kind == "cell"]
        if cells:
            return cells, []
    detections = _theirs(o for o in tree.objects() if o.kind == "detection")
    if kind == "cells" and detections:
        return detections, ["there are no cell objects; plain detections are taken as cells"]
    return detections, []


def _theirs(objects: Iterable[PathObject]) -> list[PathObject]:
    return [o for o in objects if not is_made(o)]
