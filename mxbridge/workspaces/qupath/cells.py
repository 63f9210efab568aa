"""From QuPath objects to :class:`~mxbridge.cells.OutlineCells`: which objects count, and in which order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.qupath.ledger import State
from mxbridge.workspaces.qupath.made import KEY
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, ObjectTable
from mxbridge.workspaces.qupath.qpdata.outlines import Outlines


def cells_of(
    tree: ImageDataFile, kind: CellKind, shape: tuple[int, int], state: State
) -> tuple[OutlineCells | None, list[str]]:
    """Cells in file order, and warnings; None where there is no object of that kind.

    cells: cell objects, or plain detections where there are none. detections: plain detections. annotations: those with
    an area. Lines and points, and objects on other planes than z = 0, t = 0 are left out. Objects that mxbridge made are
    not read back, except cells; and classes that mxbridge set read as they were before, so that a rerun sees the same.
    Files from before QuPath 0.4 have no ids: their objects are numbered ``#1``, ``#2`` ... and cannot be written to.
    """
    table = tree.table
    wanted, warnings = _of_kind(table, kind)
    regions = Outlines(table, wanted)
    rings = regions.rings()
    solid = np.diff(rings.object_starts) > 0
    flat = int(regions.flat.sum())
    if flat < len(wanted):
        warnings.append(f"{len(wanted) - flat} {kind} on other planes than z=0, t=0 (or nowhere) were left out")
    if solid.sum() < flat:
        warnings.append(f"{flat - int(solid.sum())} {kind} without an area (lines, points) were left out")
    if not solid.any():
        return None, warnings
    chosen = wanted[solid]
    ids = tuple(table.ids[row] or f"#{k}" for k, row in enumerate(chosen.tolist(), start=1))
    if len(set(ids)) < len(ids):
        raise InputError(
            f"{len(ids) - len(set(ids))} {kind} share their object id with another, so nothing tells them apart",
            hint="In QuPath, delete the duplicates, or select them and run Objects > Refresh object IDs",
        )
    nuclei = Outlines(table, chosen, nuclei=True).rings()
    cells = OutlineCells(
        ids=ids,
        classes=tuple(state.original_class(i, c) for i, c in zip(ids, table.class_names(chosen), strict=True)),
        shape=shape,
        # objects without rings take no points, so leaving them out changes their starts alone
        outlines=Rings(
            rings.xy, rings.ring_starts, np.append(rings.object_starts[:-1][solid], rings.object_starts[-1])
        ),
        nuclei=nuclei if len(nuclei.xy) else None,
        names=tuple(table.names(chosen)) if kind == "annotations" else (),
    )
    return cells, warnings


def _of_kind(table: ObjectTable, kind: CellKind) -> tuple[NDArray[np.int64], list[str]]:
    kinds = table.kinds(table.all())
    if kind == "annotations":
        return _theirs(table, np.flatnonzero(kinds == "annotation")), []
    if kind == "cells" and (kinds == "cell").any():
        return np.flatnonzero(kinds == "cell"), []
    detections = _theirs(table, np.flatnonzero(kinds == "detection"))
    if kind == "cells" and len(detections):
        return detections, ["there are no cell objects; plain detections are taken as cells"]
    return detections, []


def _theirs(table: ObjectTable, which: NDArray[np.int64]) -> NDArray[np.int64]:
    return which[~table.having(which, KEY)]
