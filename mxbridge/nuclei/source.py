"""Where the numbers come from: a segmentation image and what lies beside it, box by box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError
from mxbridge.image import Box


class SegSource(Protocol):
    """Pictures of one slide at the model's scale. Boxes lie inside ``shape``; asked twice, a box holds the same numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) in pixels of the model's scale."""

    def seg(self, box: Box) -> NDArray[np.uint8]:
        """Segmentation ``(3, y, x)``: red positive, blue negative, green where nuclei end."""

    def marker(self, box: Box) -> NDArray[np.uint8] | None:
        """Brightness of the marker ``(y, x)``, see :func:`brightness`; None without a marker image."""

    def separating(self, box: Box) -> NDArray[np.float32] | None:
        """Grey levels ``(y, x)``, 0 to 255, bright where nuclei meet (inferred Lap2, or 255 - DAPI); None without them."""

    def density(self, box: Box) -> NDArray[np.uint16] | None:
        """Optical density ``(y, x)``, see :func:`optical_density`; only asked for when its limits are set."""


@dataclass(frozen=True)
class ArraySource:
    """Pictures in memory: ``(3, y, x)`` uint8 for seg and original, ``(y, x)`` for marker (uint8) and border (float32)."""

    picture: NDArray[np.uint8]
    marker_image: NDArray[np.uint8] | None = None
    border_image: NDArray[np.float32] | None = None
    original: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.picture.ndim != 3 or self.picture.shape[0] != 3 or self.picture.dtype != np.uint8:
            raise InputError("a segmentation image has three channels of 8 bits")
        for name, other in (("marker", self.marker_image), ("border", self.border_image), ("original", self.original)):
            if other is not None and other.shape[-2:] != self.shape:
                raise InputError(
                    f"the {name} image has {other.shape[-1]}x{other.shape[-2]} pixels, "
                    f"the segmentation {self.shape[1]}x{self.shape[0]}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        return self.picture.shape[1], self.picture.shape[2]

    def seg(self, box: Box) -> NDArray[np.uint8]:
        return self.picture[:, box.y0 : box.y1, box.x0 : box.x1]

    def marker(self, box: Box) -> NDArray[np.uint8] | None:
        return None if self.marker_image is None else self.marker_image[box.y0 : box.y1, box.x0 : box.x1]

    def separating(self, box: Box) -> NDArray[np.float32] | None:
        return None if self.border_image is None else self.border_image[box.y0 : box.y1, box.x0 : box.x1]

    def density(self, box: Box) -> NDArray[np.uint16] | None:
        return None if self.original is None else optical_density(self.original[:, box.y0 : box.y1, box.x0 : box.x1])


def brightness(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brightness ``(y, x)`` of a marker picture ``(3, y, x)``: the largest of its colours, as DeepLIIF takes it."""
    return np.asarray(np.maximum(np.maximum(rgb[0], rgb[1]), rgb[2]))


@cache
def _densities() -> NDArray[np.float64]:
    """log10(255 / i); black counts as the darkest grey that has a logarithm."""
    return np.log10(255.0 / np.maximum(np.arange(256), 1))


def optical_density(rgb: NDArray[Any]) -> NDArray[np.uint16]:
    """Optical density ``(y, x)`` of a brightfield picture ``(3, y, x)`` uint8, summed over the colours, in hundredths."""
    table = _densities()
    total = table[rgb[0]] + table[rgb[1]] + table[rgb[2]]
    return np.asarray(np.round(total * 100), np.uint16)
