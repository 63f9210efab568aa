"""The derived image of an imputed marker: of the slide's full extent and pixel type, grown tile by tile, finished in one step.

Where the model works at another scale its values are kept at that scale first, as floats, and are then brought to the slide's
pixels: enlarging interpolates bilinearly between pixel centres, shrinking averages areas, so that nothing depends on the tiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mxbridge.formats.atomic import output_error
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.results import DerivedImage
from mxbridge.stream.resample import Field, Scale, resample
from mxbridge.tasks.derived import FOLDER, put
from mxbridge.tasks.score_maps import plain_names

if TYPE_CHECKING:
    import zarr

BLOCK = 512


@dataclass(frozen=True)
class ChannelPlace:
    """Where one derived image grows and where it goes. channels: of its planes, ``KI67 (MAXIM)`` first."""

    channels: tuple[str, ...]
    result_key: str
    growing: Path
    final: Path

    @classmethod
    def of(cls, channels: Sequence[str], result_key: str, folder: Path, number: int) -> ChannelPlace:
        """folder: of the image's results. number: tells those that grow there apart."""
        name = f"{plain_names(channels[:1])[0]} {result_key[:6]}.ome.zarr"
        return cls(tuple(channels), result_key, folder / "work" / f"channel-{number}.zarr", folder / FOLDER / name)


class ImputedChannel:
    """One derived image on its way. Resumes what a killed run has written at the same place."""

    def __init__(self, place: ChannelPlace, image: LocalImage, field: Field, version: Literal["0.4", "0.5"]) -> None:
        """field: ``image`` as the model sees it. version: of OME-Zarr, 0.4 where QuPath is to read it. Raises OutputError."""
        from mxbridge.formats.ome_zarr_writer import OmeZarrWriter

        self.place, self._image, self._field = place, image, field
        self._writer = OmeZarrWriter(
            place.growing,
            (len(place.channels), *image.shape),
            image.dtype,
            [Channel(name) for name in place.channels],
            image.pixel_size_um,
            version=version,
            resume=True,
            window="values",
        )
        self._at_scale = None if _same_pixels(field) else _AtScale(_beside(place), len(place.channels), field.shape)

    def write(self, box: Box, values: NDArray[np.float32]) -> None:
        """values: ``(planes, y, x)`` in stored numbers, unrounded, of ``box`` in model pixels."""
        for plane, part in enumerate(values):
            if self._at_scale is None:
                self._writer.write(plane, box, part)
            else:
                self._at_scale.write(plane, box, part)

    def finish(self) -> Path:
        """Full resolution, pyramid, metadata; the image can then be opened where it grew. Raises OutputError."""
        if self._at_scale is not None:
            self._bring_to_full_size(self._at_scale)
        return self._writer.finish()

    def settle(self) -> DerivedImage:
        """Move the finished image to its place. Raises OutputError."""
        put(self.place.growing, self.place.final)
        if self._at_scale is not None:
            self._at_scale.remove()
        return DerivedImage(self.place.final.name, self.place.channels, self.place.result_key)

    def _bring_to_full_size(self, found: _AtScale) -> None:
        height, width = self._image.shape
        size = self._field.shape
        # the slide's pixels as seen from the model's
        back_y, back_x = (Scale(n, 1 / s.ratio) for n, s in zip(size, (self._field.y, self._field.x), strict=True))
        for y in range(0, height, BLOCK):
            rows = back_y.taps(y, min(y + BLOCK, height), size[0])
            for x in range(0, width, BLOCK):
                columns = back_x.taps(x, min(x + BLOCK, width), size[1])
                box = Box(y, x, min(y + BLOCK, height), min(x + BLOCK, width))
                for plane in range(len(self.place.channels)):
                    part = found.read(plane, Box(rows.start, columns.start, rows.stop, columns.stop))
                    self._writer.write(plane, box, resample(torch.from_numpy(part), rows, columns).numpy())


class _AtScale:
    """Floats ``(planes, y, x)`` at the model's scale, on disk."""

    def __init__(self, path: Path, planes: int, shape: tuple[int, int]) -> None:
        self.path = path
        try:
            self._array = self._open((planes, *shape))
        except OSError as error:
            raise output_error(path, error) from error

    def _open(self, shape: tuple[int, int, int]) -> zarr.Array[Any]:
        import zarr

        if self.path.exists():
            for left in list(self.path.rglob("*.partial")):  # what zarr was writing when an earlier run was killed
                left.unlink()
        chunks = (1, min(BLOCK, shape[1]), min(BLOCK, shape[2]))
        return zarr.open_array(str(self.path), mode="a", shape=shape, chunks=chunks, dtype="float32", fill_value=0)

    def write(self, plane: int, box: Box, values: NDArray[np.float32]) -> None:
        try:
            self._array[plane, box.y0 : box.y1, box.x0 : box.x1] = values
        except OSError as error:
            raise output_error(self.path, error) from error

    def read(self, plane: int, box: Box) -> NDArray[np.float32]:
        return np.asarray(self._array[plane, box.y0 : box.y1, box.x0 : box.x1], np.float32)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def with_channels(image: LocalImage, derived: Sequence[tuple[str, LocalImage]], identity: str) -> LocalImage:
    """``image`` and one more channel for each marker: the first plane of its derived image.

    Levels that not all of them have are left out. identity: of the whole.
    """
    from dataclasses import replace

    import dask.array as da

    levels = []
    for level in image.levels:
        same = [[own for own in other.levels if own.shape[1:] == level.shape[1:]] for _, other in derived]
        if all(same):
            levels.append(da.concatenate([level, *(own[0][:1] for own in same)]))  # type: ignore[no-untyped-call]
    channels = (*image.channels, *(Channel(marker) for marker, _ in derived))
    return replace(image, levels=tuple(levels), channels=channels, identity=identity)


def _same_pixels(field: Field) -> bool:
    return field.y.ratio == field.x.ratio == 1.0


def _beside(place: ChannelPlace) -> Path:
    return place.growing.with_suffix(".scale")
