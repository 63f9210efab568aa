"""Label masks as cells: every way in which people store which pixel belongs to which cell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mxbridge.cells import Cells, LabelCells
from mxbridge.errors import InputError, Unsupported
from mxbridge.formats.open_image import PICTURE_STARTS, open_image
from mxbridge.formats.pixels import FromArray, file_identity, looking, missing, reading
from mxbridge.image import Box, LocalImage, computed

BLOCK = 1024
"""Masks are scanned in squares of this side, whatever their tiles, so that their hash does not depend on the file layout."""

STRETCHED_TO = 65535
"""CellProfiler's 16-bit export stores object k of n as k * 65535 / n."""

DENSE_RANGE = 1 << 21


@dataclass(frozen=True)
class LabelPlanes:
    """A mask file. cells: label image ``(y, x)``; nuclei: the second plane of a two-plane file, numbered like the cells."""

    cells: da.Array
    nuclei: da.Array | None
    identity: str


def open_labels(
    path: str | PathLike[str], shape: tuple[int, int], *, stretched: bool = False, plane: tuple[int, int] | None = None
) -> Cells:
    """Cells of a mask or GeoJSON file for an image of ``shape`` (y, x).

    path: integers of any width (int64 at most), floats that are whole numbers, RGB or RGBA pictures with
        ``id = r * 65536 + g * 256 + b``, two planes (cell, nucleus), an OME-Zarr label image (``image.zarr`` with one
        label, ``image.zarr/labels/<name>``), or QuPath GeoJSON. 0 is background.
    stretched: undo CellProfiler's 16-bit stretching (``label = round(v * n / 65535)``).
    plane: (z, t) of a stack of masks.

    Ids are the label numbers as text (GeoJSON: the objects' ids). The mask is scanned once, block by block. Raises
    InputError when the size differs from the image, or values are no labels.
    """
    path = Path(path)
    if is_geojson(path):
        from mxbridge.workspaces.geojson import cells_from_geojson

        return cells_from_geojson(path, shape)
    return scan_labels(_cells_plane(path, shape, stretched=stretched, plane=plane), shape, where=str(path))


def open_nuclei(
    path: str | PathLike[str], shape: tuple[int, int], *, stretched: bool = False, plane: tuple[int, int] | None = None
) -> LabelCells | None:
    """The nuclei of a two-plane mask file (its second plane), or None where it has one plane only."""
    path = Path(path)
    if is_geojson(path):
        return None
    nuclei = read_planes(path, shape, plane=plane).nuclei
    if nuclei is None:
        return None
    labels = _unstretch(nuclei, path) if stretched else nuclei
    return scan_labels(labels, shape, where=f"{path} (nuclei)")


def _cells_plane(path: Path, shape: tuple[int, int], *, stretched: bool, plane: tuple[int, int] | None) -> da.Array:
    cells = read_planes(path, shape, plane=plane).cells
    return _unstretch(cells, path) if stretched else cells


def read_planes(path: Path, shape: tuple[int, int], *, plane: tuple[int, int] | None = None) -> LabelPlanes:
    """Open a mask file lazily and check its size. Raises InputError, Unsupported and what ``open_image`` raises."""
    with looking(path):
        image = _open_mask(path, plane)
    if image.shape != tuple(shape):
        raise InputError(
            f"{path}: the mask has {image.shape[1]} x {image.shape[0]} pixels (width x height), "
            f"the image {shape[1]} x {shape[0]}",
            hint="Give the mask that belongs to this image, at full resolution",
        )
    pixels = image.levels[0]
    if image.rgb or (pixels.shape[0] in (3, 4) and pixels.dtype == np.uint8):
        return LabelPlanes(_colour_ids(pixels), None, image.identity)
    if pixels.shape[0] > 2:
        raise Unsupported(
            f"{path}: a mask needs one plane, or two (cell, nucleus); this has {pixels.shape[0]}",
            hint="Save the label image by itself",
        )
    return LabelPlanes(pixels[0], pixels[1] if pixels.shape[0] == 2 else None, image.identity)


def _open_mask(path: Path, plane: tuple[int, int] | None) -> LocalImage:
    from mxbridge.formats.ome_zarr import is_zarr, label_image_path

    if not path.exists():
        raise missing(path)
    if path.is_dir():
        if not is_zarr(path):
            raise Unsupported(f"{path}: a folder, not a mask", hint="Name the mask file")
        return open_image(label_image_path(path), plane=plane)
    with reading(path), path.open("rb") as stream:
        start = stream.read(16)
    if not start.startswith(PICTURE_STARTS):
        return open_image(path, plane=plane)
    if start.startswith(PICTURE_STARTS[1]):
        raise Unsupported(
            f"{path}: JPEG changes pixel values, it cannot hold labels", hint="Save the mask as PNG or TIFF"
        )
    return _indexed_picture(path)


def _indexed_picture(path: Path) -> LocalImage:
    """A PNG whose palette, if it has one, is only for looking at: the indices are the labels."""
    from mxbridge.formats.pictures import read_picture
    from mxbridge.image import Channel

    pixels, _ = read_picture(path, indices=True)
    identity = file_identity([path], "indices")
    channels = tuple(Channel(f"Plane {i + 1}") for i in range(len(pixels)))
    if len(pixels) == 2:  # grey with alpha
        pixels, channels = pixels[:1], channels[:1]
    return LocalImage(
        path.stem, (FromArray(path, pixels).array(f"mask-{identity[:24]}"),), channels, None, identity, (path,)
    )


def _colour_ids(pixels: da.Array) -> da.Array:
    if pixels.dtype != np.uint8:
        raise Unsupported("a colour mask must have 8 bits per colour", hint="Save label numbers in one plane")
    r, g, b = (pixels[k].astype(np.int64) for k in range(3))
    return r * 65536 + g * 256 + b


def _unstretch(labels: da.Array, path: Path) -> da.Array:
    """Label numbers 1..n from CellProfiler's stretched values. Raises InputError when they are not that."""
    scan = _scan(labels, str(path))
    n = len(scan.values)
    decoded = unstretched(scan.values, n)
    if not np.array_equal(decoded, np.arange(1, n + 1)):
        raise InputError(
            f"{path}: its {n} different values are not labels stretched to 16 bits",
            hint="Leave out --stretched-labels",
        )
    return labels.map_blocks(unstretched, n, dtype=np.int64)


def unstretched(values: NDArray, n: int) -> NDArray[np.int64]:
    """``round(v * n / 65535)``."""
    return np.floor(np.asarray(values).astype(np.int64) * n / STRETCHED_TO + 0.5).astype(np.int64)


def looks_stretched(cells: LabelCells) -> bool:
    """Whether label values are exactly k * 65535 / n, rounded: then ids are not the numbers that tables use."""
    n = len(cells.values)
    if n < 2 or n >= STRETCHED_TO or cells.values[-1] != STRETCHED_TO:
        return False
    exact = np.arange(1, n + 1) * (STRETCHED_TO / n)
    return bool(np.abs(cells.values - exact).max() <= 1)


def scan_labels(labels: da.Array, shape: tuple[int, int], *, where: str) -> LabelCells:
    """LabelCells of a label image ``(y, x)``: one pass for values, boxes and hash. Raises InputError."""
    scan = _scan(labels, where)
    return LabelCells(
        ids=tuple(map(str, scan.values.tolist())),
        classes=(None,) * len(scan.values),
        shape=(int(shape[0]), int(shape[1])),
        labels=labels,
        values=scan.values,
        boxes=scan.boxes,
        content_hash=scan.content_hash,
    )


@dataclass(frozen=True)
class _Scan:
    values: NDArray[np.int64]
    boxes: NDArray[np.int64]
    content_hash: str


def _scan(labels: da.Array, where: str) -> _Scan:
    digest = hashlib.sha256(repr(labels.shape).encode())
    values: list[NDArray[np.int64]] = []
    boxes: list[NDArray[np.int64]] = []
    for box in _blocks(labels.shape):
        block = whole_numbers(computed(labels[box.y0 : box.y1, box.x0 : box.x1]), where)
        if not block.any():
            continue
        digest.update(repr(box).encode())
        digest.update(np.ascontiguousarray(block, "<i4" if block.max() < 2**31 else "<i8").data)
        found, extent = _boxes(block)
        values.append(found)
        boxes.append(extent + np.array([box.y0, box.x0, box.y0, box.x0]))
    every = np.concatenate([np.zeros(0, np.int64), *values])
    extents = np.concatenate([np.zeros((0, 4), np.int64), *boxes])
    order = np.argsort(every, kind="stable")
    every, extents = every[order], extents[order]
    starts = np.flatnonzero(np.r_[True, np.diff(every) != 0][: len(every)])
    if not len(starts):
        return _Scan(every, extents, digest.hexdigest())
    low = np.minimum.reduceat(extents[:, :2], starts, axis=0)
    high = np.maximum.reduceat(extents[:, 2:], starts, axis=0)
    return _Scan(every[starts], np.hstack([low, high]), digest.hexdigest())


def _blocks(shape: tuple[int, ...]) -> Iterator[Box]:
    for y in range(0, shape[0], BLOCK):
        for x in range(0, shape[1], BLOCK):
            yield Box(y, x, min(y + BLOCK, shape[0]), min(x + BLOCK, shape[1]))


def whole_numbers(block: NDArray, where: str) -> NDArray[np.int64]:
    """A block of labels as int64. Raises InputError on fractions, NaN, negative numbers and what int64 cannot hold."""
    if block.dtype.kind == "f":
        if not np.all(np.isfinite(block)) or np.any(block != np.floor(block)) or np.any(block >= 2.0**62):
            raise InputError(f"{where}: not a label mask: it has values that are no whole numbers")
    elif block.dtype == np.uint64 and block.size and block.max() > np.iinfo(np.int64).max:
        raise InputError(f"{where}: not a label mask: it has values beyond int64")
    labels = block.astype(np.int64)
    if labels.size and labels.min() < 0:
        raise InputError(
            f"{where}: not a label mask: it has the negative value {labels.min()}",
            hint="More than 32767 labels saved as int16? Save them with 32 bits",
        )
    return labels


def _boxes(block: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Values other than 0 and their boxes (y0, x0, y1, x1) within a block."""
    inside = block[block != 0]
    if not inside.size:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    low, high = int(inside.min()), int(inside.max())
    if high - low < DENSE_RANGE:
        names = low + np.arange(high - low + 1, dtype=np.int64)  # high + 1 may be beyond int64
        numbered = np.where(block != 0, block - (low - 1), 0).astype(np.int32)
    else:
        names = np.unique(inside)
        numbered = np.where(block != 0, np.searchsorted(names, block) + 1, 0).astype(np.int32)
    slices = ndimage.find_objects(numbered)
    kept = [(k, s) for k, s in enumerate(slices) if s is not None]
    boxes = np.array([[s[0].start, s[1].start, s[0].stop, s[1].stop] for _, s in kept], np.int64)
    return names[[k for k, _ in kept]].astype(np.int64), boxes.reshape(-1, 4)


def is_geojson(path: Path) -> bool:
    """By name: ``.geojson``, ``.json`` or either with ``.gz``."""
    return path.name.lower().endswith((".geojson", ".json", ".geojson.gz", ".json.gz")) and not path.is_dir()
