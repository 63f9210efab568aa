"""Finished windows on disk, one file of records for each row of them, until the slide is put together from them.

A killed run finds them again. No more than two rows lie there at a time: their size is 3 bytes for each pixel of each image of
each window of two rows (a slide 100,000 pixels wide and five images: 1.8 GB), whatever the height of the slide.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.stream.records import RecordFile

HEAD = struct.Struct("<IB")


class Fate(IntEnum):
    """What became of a window: run through the networks, or skipped and why."""

    RUN = 0
    BLANK = 1
    """Its own pixels say so."""
    BLANK_BELOW = 2
    """The low level of the pyramid says so."""
    OUTSIDE = 3
    """It meets no annotation that was asked for."""


class WindowRow:
    """One row of windows. fates: by column, of the finished ones."""

    def __init__(self, folder: Path, row: int, images: Sequence[str], side: int, header: Mapping[str, Any]) -> None:
        """images: names, in the order in which they are stored. side: of a window. header: of the run. Raises OutputError."""
        self.row, self._images, self._side = row, list(images), side
        self._records = RecordFile(row_path(folder, row), {**header, "row": row, "images": self._images, "side": side})
        self.fates: dict[int, Fate] = {}
        self._at: dict[int, int] = {}
        for record in range(len(self._records)):
            column, fate = HEAD.unpack(self._records.read(record, 0, HEAD.size))
            self.fates[column], self._at[column] = Fate(fate), record

    def add(self, column: int, fate: Fate, images: Mapping[str, NDArray[np.uint8]] | None = None) -> None:
        """images: ``(3, side, side)`` by name, of a window that was run. Raises OutputError."""
        pixels = (
            b"" if images is None else b"".join(np.ascontiguousarray(images[name]).tobytes() for name in self._images)
        )
        self._at[column] = len(self._records)
        self._records.append(HEAD.pack(column, fate) + pixels)
        self.fates[column] = fate

    def read(self, column: int, image: str, first: int = 0, last: int | None = None) -> NDArray[np.uint8]:
        """``(3, rows, side)`` of a window that was run: its rows of pixels ``first <= y < last`` (all of them)."""
        side = self._side
        rows = (side if last is None else last) - first
        planes = 3 * self._images.index(image)
        pixels = b"".join(
            self._records.read(self._at[column], HEAD.size + ((planes + colour) * side + first) * side, rows * side)
            for colour in range(3)
        )
        return np.frombuffer(pixels, np.uint8).reshape(3, rows, side)

    def close(self) -> None:
        self._records.close()


def row_path(folder: Path, row: int) -> Path:
    return folder / f"row-{row}.records"
