"""The pixels of one image: a big-endian array (t, c, z, y, x) with a pyramid when the plane is large."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

TYPES = {
    "uint8": ">u1", "int8": ">i1", "uint16": ">u2", "int16": ">i2", "uint32": ">u4", "int32": ">i4", "float": ">f4", "double": ">f8",
    "bit": ">u1", "complex": ">c8", "double-complex": ">c16",
}  # fmt: skip
BITS = {"bit": 1}
SMALLEST_LEVEL = 256


def type_name(dtype: np.dtype) -> str:
    """OMERO's word for a numpy type."""
    native = dtype.newbyteorder(">").str.replace("|", ">")
    for name, code in TYPES.items():
        if code == native:
            return name
    raise ValueError(f"OMERO has no pixel type for {dtype}")


class PixelData:
    """Pixels in memory, big-endian as on the wire. `max_plane`: edge of the largest plane without a pyramid."""

    def __init__(self, shape: tuple[int, ...], pixel_type: str, max_plane: int) -> None:
        self.type = pixel_type
        self.values: Any = np.zeros(shape, TYPES[pixel_type])
        self.max_plane = max_plane
        self._levels: dict[int, Any] = {}

    @property
    def is_large(self) -> bool:
        """Whether OMERO would keep a pyramid of it."""
        height, width = self.values.shape[3:]
        return bool(height * width > self.max_plane**2)

    @property
    def level_count(self) -> int:
        if not self.is_large:
            return 1
        count, edge = 1, max(self.values.shape[3:])
        while edge > SMALLEST_LEVEL:
            edge, count = edge // 2, count + 1
        return count

    def level(self, factor: int) -> Any:
        """Level 0 is full size, every further one half of it (means of 2x2; the last odd row and column are left out)."""
        if factor == 0:
            return self.values
        if factor not in self._levels:
            above = self.level(factor - 1)
            height, width = (edge // 2 * 2 for edge in above.shape[3:])
            whole = above[..., :height, :width].astype(np.float64)
            mean = (whole[..., ::2, ::2] + whole[..., 1::2, ::2] + whole[..., ::2, 1::2] + whole[..., 1::2, 1::2]) / 4
            self._levels[factor] = mean.astype(above.dtype)
        return self._levels[factor]

    def changed(self) -> None:
        """Forget the pyramid."""
        self._levels.clear()

    def sha1(self) -> bytes:
        return self.digest(hashlib.sha1(usedforsecurity=False)).digest()

    def digest(self, into: Any) -> Any:
        """Feed all planes to a hash object."""
        for plane in self.values.reshape(-1, *self.values.shape[3:]):
            into.update(plane)
        return into
