"""Write derived images as OME-Zarr: tile by tile, in any order, resumable; the pyramid and the metadata come last."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from mxbridge.errors import InputError, OutputError
from mxbridge.formats.atomic import output_error
from mxbridge.formats.ome_tiff import halve, level_shapes
from mxbridge.image import Box, Channel

CHUNK = 512
MADE_BY = "mxbridge"
"""Attribute of every image written here, so that a later run does not take it for an input."""

WINDOW_QUANTILE, WINDOW_SIDE = 0.999, 2048
"""A display that follows the values ends at this quantile, taken from the finest level no longer than so many pixels."""

DEFAULT_COLORS = (0x00FFFF, 0xFF00FF, 0xFFFF00, 0xFF0000, 0x00FF00, 0x0000FF)


class OmeZarrWriter:
    """A derived image on its way to disk. A folder without :meth:`finish` has no metadata and is no image yet.

    One thread writes at a time (boxes need not lie on chunk borders).
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype | type,
        channels: Sequence[Channel],
        pixel_size_um: tuple[float, float] | None,
        *,
        version: Literal["0.4", "0.5"] = "0.5",
        resume: bool = False,
        window: Literal["type", "values"] = "type",
    ) -> None:
        """shape: (c, y, x) of the finest level. pixel_size_um: (y, x) µm of its pixels. version: 0.4 for QuPath.

        resume: keep what an interrupted run has written there (same shape, type and version); otherwise ``path`` is
        replaced. window: what a viewer shows first, from 0 to the end of the type or of the values. Raises OutputError,
        InputError.
        """
        if len(channels) != shape[0]:
            raise InputError(f"{path}: {len(channels)} channel names for {shape[0]} planes")
        self.path, self.shape, self.dtype, self.version = path, shape, np.dtype(dtype), version
        self._channels, self._size_um, self._window = tuple(channels), pixel_size_um, window
        self._sizes = level_shapes(shape[1:])
        try:
            self._group = self._open(resume)
            self._levels = [self._array(k, size) for k, size in enumerate(self._sizes)]
        except OSError as error:
            raise output_error(path, error) from error

    def write(self, channel: int, box: Box, values: np.ndarray) -> None:
        """Store ``values`` (y, x) of one channel in ``box``. Floats are rounded and clipped for integer images."""
        if values.shape != box.shape or box.clip(self.shape[1:]) != box:
            raise InputError(f"{self.path}: {values.shape} values do not fit {box}")
        if self.dtype.kind in "ui" and values.dtype.kind == "f":
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        self._store(0, channel, box, values.astype(self.dtype, copy=False))

    def finish(self) -> Path:
        """Make the pyramid (2 x 2 means, streamed) and write the metadata. Returns the path."""
        for k in range(1, len(self._levels)):
            height, width = self._sizes[k]
            for c in range(self.shape[0]):
                for y in range(0, height, CHUNK):
                    for x in range(0, width, CHUNK):
                        box = Box(y, x, min(y + CHUNK, height), min(x + CHUNK, width))
                        finer = self._levels[k - 1][c, 2 * box.y0 : 2 * box.y1, 2 * box.x0 : 2 * box.x1]
                        self._store(k, c, box, halve(np.asarray(finer)))
        try:
            self._write_metadata()
        except OSError as error:
            raise output_error(self.path, error) from error
        return self.path

    def _store(self, level: int, channel: int, box: Box, values: np.ndarray) -> None:
        try:
            self._levels[level][channel, box.y0 : box.y1, box.x0 : box.x1] = values
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def _zarr_format(self) -> Literal[2, 3]:
        return 2 if self.version == "0.4" else 3

    def _open(self, resume: bool) -> zarr.Group:
        if self.path.exists() and not resume:
            if not self.path.is_dir() or not _made_here(self.path):
                raise OutputError(f"{self.path}: lies there already and was not made by mxbridge", hint="Move it away")
            shutil.rmtree(self.path)
        if not self.path.exists():
            self.path.mkdir(parents=True)
        for left in list(self.path.rglob("*.partial")):  # what zarr was writing when an earlier run was killed
            left.unlink()
        group = zarr.open_group(str(self.path), mode="a", zarr_format=self._zarr_format)
        group.attrs[MADE_BY] = {"derived": True}
        return group

    def _array(self, level: int, size: tuple[int, int]) -> Any:
        shape = (self.shape[0], *size)
        if str(level) in self._group:
            array = self._group[str(level)]
            if array.shape == shape and array.dtype == self.dtype:
                return array
            raise OutputError(
                f"{self.path}: an earlier run left another image there", hint="Remove it, or use --restart"
            )
        options: dict[str, Any] = {"dimension_names": ("c", "y", "x")}
        if self.version == "0.4":
            from numcodecs import Zlib  # QuPath's reader unpacks zlib everywhere; blosc only with a native library

            options = {"compressors": Zlib(5), "chunk_key_encoding": {"name": "v2", "separator": "/"}}
        chunks = (1, min(CHUNK, size[0]), min(CHUNK, size[1]))
        return self._group.create_array(
            str(level), shape=shape, chunks=chunks, dtype=self.dtype, fill_value=0, **options
        )

    def _write_metadata(self) -> None:
        from ome_zarr.format import format_from_version
        from ome_zarr.writer import write_multiscales_metadata

        unit = {} if self._size_um is None else {"unit": "micrometer"}
        axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", **unit} for a in "yx")]
        y, x = self._size_um or (1.0, 1.0)
        datasets = [
            {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [1.0, y * 2**k, x * 2**k]}]}
            for k in range(len(self._levels))
        ]
        write_multiscales_metadata(
            self._group,
            datasets,
            fmt=format_from_version(self.version),
            axes=axes,
            name=self._channels[0].name if self._channels else self.path.name,
            metadata={"omero": self._omero()},
        )

    def _omero(self) -> dict[str, Any]:
        channels = []
        for k, channel in enumerate(self._channels):
            color = DEFAULT_COLORS[k % len(DEFAULT_COLORS)] if channel.color is None else channel.color
            end = self._top if self._window == "type" else self._usual_top(k)
            top = max(end, self._top)
            window = {"min": 0.0, "max": top, "start": 0.0, "end": end}
            channels.append({"label": channel.name, "color": f"{color:06X}", "window": window, "active": True})
        return {"channels": channels}

    @property
    def _top(self) -> float:
        return 1.0 if self.dtype.kind == "f" else float(np.iinfo(self.dtype).max)

    def _usual_top(self, channel: int) -> float:
        """Where nearly all values of a channel end; of a channel without any, the end of the type."""
        small = [k for k, size in enumerate(self._sizes) if max(size) <= WINDOW_SIDE]
        end = float(np.quantile(np.asarray(self._levels[small[0]][channel]), WINDOW_QUANTILE))
        return end if end > 0 else self._top


def _made_here(path: Path) -> bool:
    from mxbridge.formats.ome_zarr import is_derived

    return not any(path.iterdir()) or is_derived(path)
