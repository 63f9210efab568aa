"""Write pyramidal OME-TIFF that QuPath's Bio-Formats opens: zlib, tiles of 512, names, colours and µm, streamed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import tifffile

from mxbridge.errors import InputError
from mxbridge.formats.atomic import write_atomically
from mxbridge.formats.pixels import native
from mxbridge.image import Channel

TILE = 512
SMALLEST_LEVEL = 512
"""Halving stops when the longer side is not larger than this."""

BIGTIFF_BYTES = 3 << 30
"""Raw size from which a file may pass the 4 GB of classic TIFF."""

RGB_SAMPLES = 3


def write_ome_tiff(
    path: Path,
    pixels: da.Array,
    channels: Sequence[Channel],
    pixel_size_um: tuple[float, float] | None,
    *,
    rgb: bool = False,
) -> None:
    """Write ``pixels`` (c, y, x) as a pyramidal OME-TIFF, replacing ``path`` in one step.

    Bands of one tile height are computed one after the other; coarser levels are 2 x 2 means that grow in temporary
    files meanwhile, so the memory does not depend on the height of the slide and every block is computed once. Integer
    means are rounded half up. Stored types: integers up to 32 bits, float32 and float64 (float16 becomes float32).

    channels: one per plane; colours are kept. pixel_size_um: (y, x) or None. rgb: three uint8 or uint16 channels that
    are one colour picture. Raises InputError for other types, OutputError when the disk is full or not writable.
    """
    pixels = _storable(path, pixels)
    if len(channels) != pixels.shape[0] or (rgb and pixels.shape[0] != RGB_SAMPLES):
        raise InputError(f"{path}: {len(channels)} channel names for {pixels.shape[0]} planes")
    shapes = level_shapes(pixels.shape[1:])
    big = int(np.prod(pixels.shape)) * pixels.dtype.itemsize * 4 / 3 > BIGTIFF_BYTES
    with (
        write_atomically(path) as part,
        tempfile.TemporaryDirectory(prefix="mxbridge-", dir=path.parent, ignore_cleanup_errors=True) as folder,
        tifffile.TiffWriter(part, ome=True, bigtiff=big) as writer,
    ):
        layout = _interleaved(pixels.shape, rgb)
        coarse = [
            _Spool(Path(folder) / f"level{k}", shape, layout[1], pixels.dtype) for k, shape in enumerate(shapes[1:])
        ]
        for k, shape in enumerate(shapes):
            below = coarse[k] if k < len(coarse) else None
            source = _computed(pixels, rgb) if k == 0 else coarse[k - 1].read
            full = (layout[0], *shape, layout[1]) if rgb else (layout[0], *shape)
            writer.write(
                _tiles(source, layout[0], shape, below),
                shape=full[1:] if rgb else full,
                dtype=pixels.dtype,
                photometric="rgb" if rgb else "minisblack",
                tile=(TILE, TILE),
                compression="zlib",
                predictor=pixels.dtype.kind != "f",  # verified in QuPath for integers only
                **_level_options(k, len(shapes), pixel_size_um),
                metadata=_metadata(channels, pixel_size_um, rgb) if k == 0 else None,
            )


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """(y, x) of every level, finest first; a half is rounded up so that no row or column is lost."""
    shapes = [(int(shape[0]), int(shape[1]))]
    while max(shapes[-1]) > SMALLEST_LEVEL:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    return shapes


def halve(band: np.ndarray) -> np.ndarray:
    """2 x 2 means over axes y and x of ``(y, x, ...)``; a last odd row or column is averaged with itself."""
    pad = [(0, band.shape[0] % 2), (0, band.shape[1] % 2)] + [(0, 0)] * (band.ndim - 2)
    band = np.pad(band, pad, mode="edge")
    quads = [band[a::2, b::2] for a in (0, 1) for b in (0, 1)]
    if band.dtype.kind == "f":
        mean: np.ndarray = sum(q.astype(np.float64) for q in quads) / 4
        return mean.astype(band.dtype)
    return ((sum(q.astype(np.int64) for q in quads) + 2) >> 2).astype(band.dtype)


def _storable(path: Path, pixels: da.Array) -> da.Array:
    dtype = native(pixels.dtype, path)
    if dtype == np.float16:
        return pixels.astype(np.float32)
    if dtype.kind in "ui" and dtype.itemsize > 4:
        raise InputError(f"{path}: OME-TIFF cannot store {dtype} pixels", hint="Convert them to 32 bits or less")
    return pixels.astype(dtype)


def _interleaved(shape: tuple[int, ...], rgb: bool) -> tuple[int, int]:
    """(planes, samples per plane)."""
    return (1, RGB_SAMPLES) if rgb else (int(shape[0]), 1)


def _computed(pixels: da.Array, rgb: bool) -> Callable[[int, int, int], np.ndarray]:
    def band(plane: int, y0: int, y1: int) -> np.ndarray:
        if rgb:
            return np.moveaxis(np.asarray(pixels[:, y0:y1].compute()), 0, -1)
        return np.asarray(pixels[plane, y0:y1].compute())[..., None]

    return band


class _Spool:
    """A level on its way: bands of rows are appended in order and read back. Plain writes, so that a full disk is an error
    (a memory-mapped file would end the process)."""

    def __init__(self, path: Path, shape: tuple[int, int], samples: int, dtype: np.dtype) -> None:
        self._path, self._dtype = path, dtype
        self._height, self._row = shape[0], (shape[1], samples)

    def append(self, rows: np.ndarray) -> None:
        with self._path.open("ab") as stream:
            stream.write(np.ascontiguousarray(rows).data)

    def read(self, plane: int, y0: int, y1: int) -> np.ndarray:
        values = self._row[0] * self._row[1]
        start = (plane * self._height + y0) * values * self._dtype.itemsize
        rows = np.fromfile(self._path, self._dtype, (y1 - y0) * values, offset=start)
        return rows.reshape(y1 - y0, *self._row)


def _tiles(
    band: Callable[[int, int, int], np.ndarray], planes: int, shape: tuple[int, int], below: _Spool | None
) -> Iterator[np.ndarray]:
    """Tiles of a level in file order; the next coarser level is filled on the way."""
    for plane in range(planes):
        for y in range(0, shape[0], TILE):
            rows = band(plane, y, min(y + TILE, shape[0]))
            if below is not None:
                below.append(halve(rows))
            for x in range(0, shape[1], TILE):
                tile = rows[:, x : x + TILE]
                room = [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)]
                padded = np.pad(tile, room, mode="edge")
                yield np.ascontiguousarray(padded if padded.shape[2] > 1 else padded[..., 0])


def _level_options(level: int, levels: int, pixel_size_um: tuple[float, float] | None) -> dict[str, Any]:
    options: dict[str, Any] = {"subifds": levels - 1} if level == 0 else {"subfiletype": 1}
    if pixel_size_um is not None:
        per_cm = [1e4 / size / 2**level for size in reversed(pixel_size_um)]
        options |= {"resolution": tuple(per_cm), "resolutionunit": "CENTIMETER"}
    return options


def _metadata(channels: Sequence[Channel], pixel_size_um: tuple[float, float] | None, rgb: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": "YXS" if rgb else "CYX"}
    if not rgb:
        metadata["Channel"] = {"Name": [_printable(c.name) for c in channels]}
        if all(c.color is not None for c in channels):
            metadata["Channel"]["Color"] = [_signed_rgba(c.color or 0) for c in channels]
    if pixel_size_um is not None:
        y, x = pixel_size_um
        metadata |= {"PhysicalSizeX": x, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": y, "PhysicalSizeYUnit": "µm"}
    return metadata


def _signed_rgba(color: int) -> int:
    """0xRRGGBB as OME's signed 32-bit RGBA, opaque."""
    packed = (color & 0xFFFFFF) << 8 | 0xFF
    return packed - (1 << 32) if packed >= 1 << 31 else packed


def _printable(name: str) -> str:
    """Without control characters, which XML cannot hold."""
    return "".join(c for c in name if c.isprintable())
