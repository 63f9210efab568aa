"""Maps as the pictures in which nuclei are found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box, LocalImage
from mxbridge.nuclei.source import brightness, optical_density
from mxbridge.tasks.mapping.colours import ColourReader, colours_of, grey
from mxbridge.tasks.mapping.maps import Maps

BRIGHT_NUCLEI = ("DAPI",)
"""Images that are bright inside of nuclei; others by which nuclei are parted are bright where they meet."""


@dataclass
class MapPixels:
    """One segmentation image of a slide and what lies beside it, box by box (a ``SegSource`` of :mod:`mxbridge.nuclei`).

    image: the slide itself. marker_image, separating_image: names of maps, None for none.
    """

    maps: Maps
    image: LocalImage
    seg_image: str
    marker_image: str | None = None
    separating_image: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.maps.shape

    @property
    def whole(self) -> Box:
        return Box(0, 0, *self.shape)

    @property
    def ratio(self) -> tuple[float, float]:
        """(y, x) maps' pixels per full-resolution pixel."""
        return self.maps.field.y.ratio, self.maps.field.x.ratio

    def seg(self, box: Box) -> NDArray[np.uint8]:
        return self.maps.read(self.seg_image, box)

    def marker(self, box: Box) -> NDArray[np.uint8] | None:
        return None if self.marker_image is None else brightness(self.maps.read(self.marker_image, box))

    def separating(self, box: Box) -> NDArray[np.float32] | None:
        if self.separating_image is None:
            return None
        seen = grey(self.maps.read(self.separating_image, box)).astype(np.float32)
        return 255 - seen if self.separating_image in BRIGHT_NUCLEI else seen

    def density(self, box: Box) -> NDArray[np.uint16]:
        return optical_density(self._colours.read(box))

    def original(self, box: Box) -> NDArray[np.uint8]:
        """The slide's own colours ``(3, y, x)`` in maps' pixels."""
        return self._colours.read(box)

    @cached_property
    def _colours(self) -> ColourReader:
        return ColourReader(colours_of(self.image), self.maps.field)
