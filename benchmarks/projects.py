"""QuPath projects with any number of cells, made by our own writer: ``python -m benchmarks.projects OUT --cells N``.

A few cells are written object by object; the others are copies of one of them, as bytes, with their own ids, outlines and
values, which a million of cells takes seconds for. No image lies beside the project: cells are read, published and taken
out without one.
"""

from __future__ import annotations

import argparse
import json
import uuid
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.workspaces.qupath.javastream import Block, Ints, JavaObject, Pack, Rows, Shape, read_stream, write_stream
from mxbridge.workspaces.qupath.javastream.pack import FEW, ROWS_AT_ONCE
from mxbridge.workspaces.qupath.qpdata import NewPathObject, NewROI, new_image_data
from mxbridge.workspaces.qupath.qpdata.layout import Layout, packable

SEED = 1234
SPACING = 14.0
"""Pixels between the centres of neighbouring cells."""

_FEW_CELLS = 4
"""The first brings the classes, the next two show that they have one shape, the last is packed."""

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Tissue:
    """annotations: rectangles that share the cells between them; 0 for cells right under the root."""

    cells: int
    measurements: int = 10
    nuclei: bool = True
    annotations: int = 0
    corners: int = 30
    nucleus_corners: int = 16


def write_project(folder: Path, tissue: Tissue) -> Path:
    """A project of one image; the path of its ``project.qpproj``."""
    data = folder / "data" / "1" / "data.qpdata"
    data.parent.mkdir(parents=True)
    side = _side(tissue)
    entry = {
        "serverBuilder": _builder(side),
        "entryID": 1,
        "randomizedName": str(uuid.UUID(int=1)),
        "imageName": "tissue",
        "metadata": {},
    }
    document = {"version": "0.6.0", "createTimestamp": 0, "modifyTimestamp": 0, "lastID": 1, "images": [entry]}
    data.write_bytes(image_data(tissue))
    project = folder / "project.qpproj"
    project.write_text(json.dumps(document), encoding="utf-8")
    return project


def image_data(tissue: Tissue) -> bytes:
    """The bytes of a ``data.qpdata`` with these cells."""
    few = new_image_data(_builder(_side(tissue)), "0.6.0", "FLUORESCENCE", _objects(tissue)).to_bytes()
    stream = read_stream(few, packable())
    numbers = np.random.default_rng(SEED)
    shares = [len(part) for part in np.array_split(np.arange(tissue.cells), max(1, tissue.annotations))]
    first = 0
    for rows, share in zip(list(stream.pack.parts), shares, strict=True):
        written = _written(rows.holder)
        copies = _Copies(stream.pack, rows.first, share - written)
        made = copies.pack(tissue, numbers, first + written)
        first += share
        holder = rows.holder
        at = next(k for k, item in enumerate(holder) if item is rows)
        edges = np.linspace(0, len(made), -(-len(made) // ROWS_AT_ONCE) + 1).astype(int).tolist()
        holder[at : at + 1] = [Rows(made, a, b, holder) for a, b in pairwise(edges)]
        count = next(k for k, item in enumerate(holder[:at]) if isinstance(item, Block))
        holder[count] = Block(share.to_bytes(4, "big"))
    return write_stream(stream.items)


def _written(holder: Sequence[Any]) -> int:
    """Cells that stay beside the copies: those that were read as nodes."""
    return sum(isinstance(item, JavaObject) and item.name.endswith("PathCellObject") for item in holder)


class _Copies:
    """Copies of one packed object."""

    def __init__(self, source: Pack, row: int, count: int) -> None:
        if count <= FEW:
            raise SystemExit(f"more cells are needed: {FEW + _FEW_CELLS} for each annotation")
        self._source, self._count = source, count
        self._shape: Shape = source.shapes[source.shape_of[row]]
        self._layout = Layout.of(self._shape)
        begin, end = int(source.starts[row]), int(source.ends[row])
        self._marks: Ints = source.marks[self._shape.number][source.within[row]] - begin
        self._bytes = np.tile(source.buffer[begin:end], (count, 1))

    def pack(self, tissue: Tissue, numbers: np.random.Generator, first: int) -> Pack:
        """All of them, as cells ``first`` and following of the tissue."""
        self._fill_ids(numbers)
        if self._layout.measurements is not None:
            self._fill(self._layout.measurements.values, numbers.random((self._count, tissue.measurements)) * 100)
        centres = _centres(np.arange(first, first + self._count), tissue)
        for outline, radius in ((self._layout.roi, 5.0), (self._layout.nucleus, 2.5)):
            if outline is not None and outline.corners is not None:
                for axis, segment in enumerate(outline.corners):
                    corners = tissue.corners if radius > 3 else tissue.nucleus_corners
                    self._fill(segment, centres[:, axis, None] + _circle(corners, radius)[:, axis])
        size = self._bytes.shape[1]
        pack = Pack(self._bytes.tobytes())
        marks = (np.arange(self._count)[:, None] * size + self._marks).astype(np.int64)
        flat = [array("q") for _ in self._source.shapes]
        flat[self._shape.number].frombytes(marks.tobytes())
        order = array("B", bytes([self._shape.number]) * self._count)
        pack.fill(self._source.shapes, order, flat, np.zeros(self._count, np.int64), self._source.handles, _never)
        return pack

    def _fill(self, segment: int, values: NDArray[np.floating]) -> None:
        begin = int(self._marks[segment]) + self._shape.segments[segment].length
        raw = np.ascontiguousarray(values, ">f4").view(np.uint8).reshape(self._count, -1)
        self._bytes[:, begin : begin + raw.shape[1]] = raw

    def _fill_ids(self, numbers: np.random.Generator) -> None:
        segment, offset = self._layout.id
        begin = int(self._marks[segment]) + offset
        digits = _HEX[numbers.integers(0, 16, (self._count, 36), np.uint8)]
        digits[:, [8, 13, 18, 23]] = ord("-")
        digits[:, 14] = ord("4")
        self._bytes[:, begin : begin + 36] = digits


def _never(_start: int, _handle: int) -> JavaObject:
    raise AssertionError("a copy was to be written as nodes")


def _objects(tissue: Tissue) -> list[NewPathObject]:
    """A few cells, or a few within each annotation, of which the last is packed and can be copied."""
    if not tissue.annotations:
        return _cells(tissue, 0)
    side = _side(tissue)
    found = []
    for k in range(tissue.annotations):
        top = side * k / tissue.annotations
        area = NewROI.rectangle(0, top, side, top + side / tissue.annotations)
        children = tuple(_cells(tissue, _FEW_CELLS * k))
        found.append(NewPathObject("annotation", _id(10**9 + k), area, class_name="Region", children=children))
    return found


def _cells(tissue: Tissue, first: int) -> list[NewPathObject]:
    return [
        NewPathObject(
            "cell",
            _id(first + k),
            NewROI.of_rings([_circle(tissue.corners, 5.0) + 10]),
            nucleus=NewROI.of_rings([_circle(tissue.nucleus_corners, 2.5) + 10]) if tissue.nuclei else None,
            class_name="Tumor",
            measurements={f"Measurement {j}": float(j) for j in range(tissue.measurements)},
        )
        for k in range(_FEW_CELLS)
    ]


def _id(number: int) -> str:
    return str(uuid.UUID(int=number << 80 | 0x4000 << 64 | 0x8000 << 48 | number))


def _circle(corners: int, radius: float) -> NDArray[np.float64]:
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.asarray(np.column_stack([np.cos(angle), np.sin(angle)]) * radius, np.float64)


def _centres(which: Ints, tissue: Tissue) -> NDArray[np.float64]:
    across = int(_side(tissue) // SPACING)
    return np.asarray(np.column_stack([which % across, which // across]) * SPACING + SPACING / 2, np.float64)


def _side(tissue: Tissue) -> int:
    return int(np.ceil(np.sqrt(tissue.cells)) * SPACING)


def _builder(side: int) -> dict[str, Any]:
    metadata = {
        "name": "tissue",
        "width": side,
        "height": side,
        "sizeZ": 1,
        "sizeT": 1,
        "channelType": "DEFAULT",
        "isRGB": False,
        "pixelType": "UINT8",
        "levels": [{"downsample": 1.0, "width": side, "height": side}],
        "channels": [{"name": "DAPI", "color": -16776961}],
        "pixelCalibration": {
            "pixelWidth": {"value": 0.5, "unit": "µm"},
            "pixelHeight": {"value": 0.5, "unit": "µm"},
        },
        "preferredTileWidth": 256,
        "preferredTileHeight": 256,
    }
    return {
        "builderType": "uri",
        "providerClassName": "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder",
        "uri": "file:/images/tissue.ome.tif",
        "args": ["--series", "0"],
        "metadata": metadata,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--measurements", type=int, default=10, help="per cell")
    parser.add_argument("--no-nuclei", action="store_true")
    parser.add_argument("--annotations", type=int, default=0, help="that contain the cells")
    options = parser.parse_args()
    tissue = Tissue(options.cells, options.measurements, not options.no_nuclei, options.annotations)
    print(write_project(options.out, tissue))


if __name__ == "__main__":
    main()
