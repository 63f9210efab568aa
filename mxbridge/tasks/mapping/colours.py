"""A slide as the colours that a translator sees: red, green and blue in 8 bits, at the maps' scale, however they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mxbridge.errors import NotApplicable
from mxbridge.formats.tiff import palette_of
from mxbridge.image import Box, LocalImage
from mxbridge.stream.reader import LevelReader, level_pixels
from mxbridge.stream.resample import Field, reflect_index, resample
from mxbridge.stream.windows import mirror_index

COLOURS = (("red", "green", "blue"), ("r", "g", "b"))
UNNAMED = [{"", *(start + str(number) for start in ("", "channel ") for number in (k, k + 1))} for k in range(3)]
"""What files without names for their channels call them, counted from 0 or 1."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras use; pixels stored in 16 bits are taken to have the fewest that hold all of them."""
LOOKS, LOOK_SIDE = 5, 512
"""So many squares of this side along each axis are looked at to see how many bits are in use."""
GREY = np.array([19595, 38470, 7471], np.uint32)
"""Shares of red, green and blue in grey, in 1/65536 (ITU-R 601-2), as Pillow's mode L has them."""


@dataclass(frozen=True)
class Colours:
    """Which channels of an image are its colours. warnings: what is assumed.

    palette: uint8 ``(3, n)``, the colours of the numbers of the one channel of an image with a palette.
    """

    image: LocalImage
    channels: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    palette: NDArray[np.uint8] | None = None

    @property
    def deep(self) -> bool:
        """Whether there are more than 8 bits."""
        return self.palette is None and self.image.dtype != np.uint8


def colours_of(image: LocalImage) -> Colours:
    """The colours of a brightfield image; no pixels are read. Raises NotApplicable for an image of markers."""
    names = [channel.name.strip().casefold() for channel in image.channels]
    three_of_whole_numbers = len(names) == 3 and image.dtype.kind == "u" and image.dtype.itemsize <= 2
    if image.rgb and len(names) >= 3 and image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        return Colours(image, (0, 1, 2))
    for letters in COLOURS if three_of_whole_numbers else ():
        if sorted(names) == sorted(letters):
            red, green, blue = (names.index(letter) for letter in letters)
            return Colours(image, (red, green, blue))
    if three_of_whole_numbers and all(name in known for name, known in zip(names, UNNAMED, strict=True)):
        note = f"{image.name}: its three channels have no names; they were taken for red, green and blue"
        return Colours(image, (0, 1, 2), (note,))
    palette = palette_of(image.files[0]) if len(names) == 1 and image.files and image.dtype.kind == "u" else None
    if palette is not None:
        note = f"{image.name}: the colours of its palette were filled in"
        return Colours(image, (0,), (note,), palette)
    many, kind = (f"{len(names)} channels", "a fluorescence image")
    if len(names) == 1:
        many, kind = "one channel", "a fluorescence or grey image"
    raise NotApplicable(
        f"{image.name} is {kind} ({many} of {image.dtype}: {', '.join(image.channel_names[:6])}"
        f"{', ...' if len(names) > 6 else ''}), not a picture in red, green and blue",
        hint="translate is for brightfield slides such as IHC or H&E; for fluorescence there is mxbridge impute",
    )


class ColourReader:
    """Reads the colours of boxes at the maps' scale: uint8 ``(3, y, x)``; the same numbers however boxes are cut.

    field: the image in maps' pixels. mirrored_twice: beyond the right and bottom border the last pixel comes twice, as in the
    published program, instead of once.
    """

    def __init__(self, colours: Colours, field: Field, *, mirrored_twice: bool = False) -> None:
        self.colours, self.field = colours, field
        self._reader = LevelReader(colours.image, colours.channels, field)
        self._index = mirror_index if mirrored_twice else reflect_index
        self.top = top_of(colours) if colours.deep else 255
        """The stored number that becomes 255."""

    @property
    def level(self) -> int:
        """The pyramid level that is read."""
        return self._reader.level

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.colours.deep:
            return ()
        return (
            f"{self.colours.image.name}: colours of {self.top.bit_length()} bits were scaled to 8 (0..{self.top} to 0..255)",
        )

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Colours of ``box`` in maps' pixels; beyond the right and bottom border mirrored. Raises InputError."""
        shape = self.field.shape
        rows, columns = self._index(box.y0, box.y1, shape[0]), self._index(box.x0, box.x1, shape[1])
        seen = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        pixels = self._inside(seen)
        if seen == box:
            return pixels
        return np.ascontiguousarray(pixels[:, (rows - seen.y0)[:, None], (columns - seen.x0)[None]])

    def _inside(self, seen: Box) -> NDArray[np.uint8]:
        rows, columns = self._reader.level_taps(seen)
        raw = self._reader.pixels(Box(rows.start, columns.start, rows.stop, columns.stop))
        palette = self.colours.palette
        if palette is not None:
            raw = palette[:, np.minimum(raw[0], palette.shape[1] - 1)]
        if rows.identity and columns.identity and not self.colours.deep:
            plain: NDArray[np.uint8] = raw.astype(np.uint8, copy=False)
            return plain
        found = resample(torch.from_numpy(raw.astype(np.float32)), rows, columns).numpy()
        if self.top != 255:
            found *= np.float32(255 / self.top)
        whole: NDArray[np.uint8] = np.clip(np.rint(found), 0, 255).astype(np.uint8)
        return whole


def grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(3, y, x)`` colours -> ``(y, x)`` brightness, rounded as Pillow rounds its mode L."""
    red, green, blue = (plane.astype(np.uint32) for plane in rgb)
    mixed: NDArray[np.uint32] = (red * GREY[0] + green * GREY[1] + blue * GREY[2] + np.uint32(0x8000)) >> np.uint32(16)
    return mixed.astype(np.uint8)


def top_of(colours: Colours) -> int:
    """The end of the range that 16-bit colours use: 255, 1023, 4095, 16383 or 65535, whichever holds squares spread over the
    image (the whole of a small one). Raises InputError."""
    image = colours.image
    corners = [(y, x) for y in _spread(image.shape[0]) for x in _spread(image.shape[1])]
    boxes = [Box(y, x, y + LOOK_SIDE, x + LOOK_SIDE).clip(image.shape) for y, x in corners]
    highest = max(int(level_pixels(image, 0, list(colours.channels), box).max(initial=0)) for box in boxes)
    return next((1 << bits) - 1 for bits in DEPTHS if highest < 1 << bits)


def _spread(length: int) -> list[int]:
    """First pixels of squares spread evenly over an axis; all of it where they cover it."""
    if length <= LOOKS * LOOK_SIDE:
        return list(range(0, length, LOOK_SIDE))
    return [k * (length - LOOK_SIDE) // (LOOKS - 1) for k in range(LOOKS)]
