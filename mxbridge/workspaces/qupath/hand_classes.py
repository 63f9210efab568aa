"""What people have said of the cells of a project: classes of cells, classed annotations around them, and the scores there.

Only ``data.qpdata`` is read; the image itself may be elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError
from mxbridge.formats.exchange import Seen, read_seen
from mxbridge.image import Box
from mxbridge.results import ImageRef
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.qupath.cells import cells_of
from mxbridge.workspaces.qupath.ledger import Ledger, State
from mxbridge.workspaces.qupath.made import is_made
from mxbridge.workspaces.qupath.publication import read_data
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.image_data import MAX_BYTES
from mxbridge.workspaces.qupath.qpdata.rois import ROI
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

ANYWHERE = (2**31 - 1, 2**31 - 1)
"""Size of an image that is not asked for its own: cells are only looked up at single points."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """A classed annotation. cells: indices of the cells it speaks of."""

    class_name: str
    cells: Ints


@dataclass(frozen=True)
class HandClassed:
    """One image. ids, classes: its cells, with their classes as people gave them (not those that a run of ours gave).

    columns: measurements by name, float32 in the order of ``ids``, NaN where a cell has none.
    """

    ref: ImageRef
    ids: tuple[str, ...] = ()
    classes: tuple[str | None, ...] = ()
    regions: tuple[Region, ...] = ()
    columns: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def published_columns(workspace: QuPathWorkspace, ref: ImageRef) -> dict[str, str]:
    """Names of the measurements that mxbridge has published on an image, and the id of the run that did. Raises BrokenFile."""
    path = workspace.project.data_path(int(ref.id))
    if not path.exists():
        return {}
    _, seen = read_seen(path, MAX_BYTES)
    return {name: column.run_id for name, column in _published(workspace, ref, seen).columns.items()}


def channel_names(workspace: QuPathWorkspace, ref: ImageRef) -> list[str]:
    """The channels of an image as the project shows them, none where it does not say; the image itself is not opened."""
    builder = next((entry.builder for entry in workspace.project.entries if entry.id == int(ref.id)), {})
    metadata = builder.get("metadata")
    stored = metadata.get("channels") if isinstance(metadata, dict) else None
    shown = [c.get("name") for c in stored if isinstance(c, dict)] if isinstance(stored, list) else []
    return [name for name in shown if isinstance(name, str)]


def class_names(workspace: QuPathWorkspace, ref: ImageRef) -> list[str]:
    """Classes that objects of an image have, each once, whoever gave them. Raises BrokenFile, Unsupported."""
    path = workspace.project.data_path(int(ref.id))
    if not path.exists():
        return []
    table = read_data(path)[0].table
    return sorted({name for name in table.class_names(table.all()) if name is not None})


def read_hand_classes(
    workspace: QuPathWorkspace, ref: ImageRef, kind: CellKind, names: Sequence[str], speaks: Callable[[str], bool]
) -> HandClassed:
    """Read one image; without ``data.qpdata`` or cells it is empty. Raises BrokenFile, InputError.

    names: the measurements to read. speaks: whether a class says anything; annotations of other classes are passed over.
    """
    path = workspace.project.data_path(int(ref.id))
    nothing = HandClassed(ref, columns={name: np.zeros(0, np.float32) for name in names})
    if not path.exists():
        return nothing
    tree, seen = read_data(path)
    try:
        cells, _ = cells_of(tree, kind, ANYWHERE, _published(workspace, ref, seen, tree))
    except InputError as error:
        error.message = f"{ref} ({path}): {error.message}"
        raise
    if cells is None:
        return nothing
    columns = read_columns(tree, cells.ids, names)
    regions = _regions(tree, cells, speaks) if kind != "annotations" else []
    return HandClassed(ref, cells.ids, tuple(cells.classes), tuple(regions), columns)


def read_columns(tree: ImageDataFile, ids: Sequence[str], names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Measurements of objects by name, each ``(ids,)``; NaN where an object has no such value. Raises Unsupported.

    ids: of objects of the file; those of files without ids (``#1``) have no measurements here.
    """
    row = {identity: k for k, identity in enumerate(tree.table.ids)}
    known = np.array([k for k, identity in enumerate(ids) if identity in row], np.int64)
    found = tree.table.columns(np.array([row[ids[k]] for k in known.tolist()], np.int64), names)
    values = {name: np.full(len(ids), np.nan, np.float32) for name in names}
    for name, (had, column) in found.items():
        values[name][known[had]] = column[had]
    return values


def _published(workspace: QuPathWorkspace, ref: ImageRef, seen: Seen, tree: ImageDataFile | None = None) -> State:
    path = workspace.project.data_path(int(ref.id))
    ledgers = workspace.own_folder / "published"
    return Ledger.open(ledgers, int(ref.id), seen.sha256, lambda: tree or read_data(path)[0]).state


def _regions(tree: ImageDataFile, cells: OutlineCells, speaks: Callable[[str], bool]) -> list[Region]:
    """Annotations with a class, drawn by people on the first plane, as QuPath takes them to train its classifiers."""
    drawn = np.flatnonzero(tree.table.kinds(tree.table.all()) == "annotation")
    names = tree.table.class_names(drawn)
    telling = drawn[[name is not None and speaks(name) for name in names]]
    places = centroids(cells.outlines) if len(telling) else np.zeros((0, 2))
    found = []
    for one in tree.take(telling):
        roi, name = one.roi, one.class_name
        if roi is None or name is None or roi.z or roi.t or is_made(one):
            continue
        inside = _inside(roi, cells, places)
        if len(inside):
            found.append(Region(name, inside))
    return found


def _inside(roi: ROI, cells: OutlineCells, places: NDArray[np.float64]) -> Ints:
    """Cells whose centroid lies in an area, or that lie under one of the points; lines hold none."""
    if roi.kind == "points":
        owners = [_cell_at(cells, x, y) for x, y in roi.points.tolist()]
        return np.unique([k for k in owners if k >= 0]).astype(np.int64)
    rings = roi.rings
    return np.flatnonzero(within(places, rings)) if rings else np.zeros(0, np.int64)


def _cell_at(cells: OutlineCells, x: float, y: float) -> int:
    """Index of the cell that owns the pixel at a point, -1 where there is none."""
    row, column = int(np.floor(y)), int(np.floor(x))
    if row < 0 or column < 0:
        return -1
    return int(cells.raster(Box(row, column, row + 1, column + 1))[0, 0]) - 1


def within(places: NDArray[np.float64], rings: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Which of ``places`` ``(n, 2)`` x and y lie inside the rings, by the even-odd rule."""
    from skimage.measure import points_in_poly

    inside = np.zeros(len(places), bool)
    for ring in rings:
        (low, high) = ring.min(axis=0), ring.max(axis=0)
        near = np.flatnonzero(np.all((places >= low) & (places <= high), axis=1))
        inside[near] ^= points_in_poly(places[near], ring)  # type: ignore[no-untyped-call]
    return inside


def centroids(rings: Rings) -> NDArray[np.float64]:
    """Centre of area ``(objects, 2)`` x and y of each object's rings; holes count negative where they run the other way.

    An object without area has the mean of its corners, one without corners NaN.
    """
    xy, starts = rings.xy, rings.ring_starts
    out = np.full((len(rings), 2), np.nan)
    if not len(xy):
        return out
    following = np.arange(1, len(xy) + 1)
    filled = starts[1:] > starts[:-1]
    following[starts[1:][filled] - 1] = starts[:-1][filled]  # the last corner of a ring is followed by its first
    total = np.add.reduceat  # one number per object from one per corner
    at = rings.ring_starts[rings.object_starts]
    there = np.flatnonzero(at[1:] > at[:-1])
    first = at[:-1][there]
    means = np.column_stack([total(axis, first) for axis in xy.T]) / np.diff(np.r_[first, len(xy)])[:, None]
    local = xy - np.repeat(means, np.diff(np.r_[first, len(xy)]), axis=0)  # large coordinates would cancel digits
    ahead = local[following]
    cross = local[:, 0] * ahead[:, 1] - ahead[:, 0] * local[:, 1]
    area = total(cross, first) / 2
    moments = np.column_stack([total((local[:, k] + ahead[:, k]) * cross, first) for k in (0, 1)]) / 6
    solid = np.abs(area) > 1e-9
    shift = np.divide(moments, area[:, None], out=np.zeros_like(moments), where=solid[:, None])
    out[there] = means + shift
    return out
