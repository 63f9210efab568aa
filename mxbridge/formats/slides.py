"""Slides of other makers through openslide, when the extra ``slides`` is installed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.errors import SourceError, Unsupported
from mxbridge.formats.ome_xml import um
from mxbridge.formats.pixels import Level, coarser_levels, file_identity, reading
from mxbridge.formats.tiff_metadata import RGB_CHANNELS
from mxbridge.image import Box, LocalImage

BACKGROUND = 255
"""Where a slide was not scanned, openslide gives transparent pixels; they are shown white."""


def open_slide(path: Path, *, name: str | None = None) -> LocalImage:
    """Open an NDPI, MRXS, SCN, VMS, BIF or other slide as an RGB image. Raises SourceError without the extra."""
    openslide = _openslide(path)
    with reading(path):
        if openslide.OpenSlide.detect_format(str(path)) is None:
            raise Unsupported(
                f"{path}: not an image format that mxbridge knows",
                hint="It reads OME-TIFF, TIFF, SVS, QPTIFF, OME-Zarr, PNG, JPEG and slides known to openslide",
            )
        with openslide.OpenSlide(str(path)) as slide:
            sizes, properties = slide.level_dimensions, dict(slide.properties)
    levels = [SlideLevel(path, k, (y, x), sizes[0]) for k, (x, y) in enumerate(sizes)]
    keep, warnings = coarser_levels(path, [level.shape for level in levels])
    identity = file_identity([path], "openslide")
    y, x = (um(properties.get(f"openslide.mpp-{a}"), "µm") for a in "yx")
    return LocalImage(
        name=name or path.stem,
        levels=tuple(levels[k].array(f"slide-{identity[:24]}-{k}") for k in keep),
        channels=RGB_CHANNELS,
        pixel_size_um=(y, x) if y and x else None,
        identity=identity,
        files=(path,),
        rgb=True,
        warnings=tuple(warnings),
    )


class SlideLevel(Level):
    """One level of a slide; each thread has its own handle, which openslide needs to read in parallel."""

    def __init__(self, path: Path, number: int, shape: tuple[int, int], full: tuple[int, int]) -> None:
        """full: (x, y) of level 0."""
        super().__init__(path, (3, *shape), np.dtype(np.uint8), (3, 256, 256))
        self._number, self._full = number, full
        self._handles = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_handles"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handles = threading.local()

    def read(self, channels: range, box: Box) -> np.ndarray:
        if not hasattr(self._handles, "slide"):
            self._handles.slide = _openslide(self.path).OpenSlide(str(self.path))
        factors = (self._full[0] / self.shape[2], self._full[1] / self.shape[1])
        corner = (round(box.x0 * factors[0]), round(box.y0 * factors[1]))
        rgba = np.asarray(self._handles.slide.read_region(corner, self._number, (box.shape[1], box.shape[0])))
        rgb = np.where(rgba[..., 3:] == 0, BACKGROUND, rgba[..., :3])
        return np.moveaxis(rgb, -1, 0)[channels.start : channels.stop]


def _openslide(path: Path) -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise SourceError(
            f"{path}: this format needs openslide, which is not installed",
            hint='Install it with: pip install "mxbridge[slides]"',
        ) from error
    return openslide
