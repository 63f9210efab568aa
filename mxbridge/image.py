"""What a model sees of an image: pyramid levels as dask arrays, channel names and pixel size.

A :class:`LocalImage` reads from local storage only. Workspaces make them; nothing else knows where an image came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError, NoPixelSize, UnknownName

if TYPE_CHECKING:
    import dask.array as da


def computed(lazy: da.Array) -> NDArray[Any]:
    """What is in a dask array, computed in the calling thread: the program has threads of its own that read ahead."""
    from dask.local import get_sync

    # named as text, the scheduler would import all of dask.distributed
    return np.asarray(lazy.compute(scheduler=get_sync))  # type: ignore[no-untyped-call]


class Box(NamedTuple):
    """A half-open rectangle of pixels, ``y0 <= y < y1`` and ``x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(y, x)``, never negative."""
        return max(0, self.y1 - self.y0), max(0, self.x1 - self.x0)

    def clip(self, shape: tuple[int, int]) -> Box:
        """The part of this box inside an image of ``shape`` (y, x)."""
        return Box(max(0, self.y0), max(0, self.x0), min(shape[0], self.y1), min(shape[1], self.x1))

    def grow(self, margin: int) -> Box:
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)


@dataclass(frozen=True)
class Channel:
    """One channel. ``color`` is 0xRRGGBB for display, or None where the source has none."""

    name: str
    color: int | None = None


@dataclass(frozen=True)
class LocalImage:
    """An image on local storage.

    levels: dask arrays ``(c, y, x)`` in the stored dtype, finest first; every level covers the same field.
    channels: one per plane of axis c.
    pixel_size_um: (y, x) size of a level-0 pixel in µm, or None where the source does not say.
    identity: hash that changes when the stored pixels change (part of a run's fingerprint).
    files: the files the pixels come from.
    rgb: the three channels are one colour picture (brightfield), not markers.
    warnings: what was left out or assumed while reading, for the log and run.json.
    """

    name: str
    levels: tuple[da.Array, ...]
    channels: tuple[Channel, ...]
    pixel_size_um: tuple[float, float] | None
    identity: str
    files: tuple[Path, ...] = ()
    rgb: bool = False
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.levels or any(level.ndim != 3 for level in self.levels):
            raise InputError(f"{self.name}: an image needs levels with axes (c, y, x)")
        if self.levels[0].shape[0] != len(self.channels):
            raise InputError(f"{self.name}: {self.levels[0].shape[0]} planes but {len(self.channels)} channel names")
        if self.pixel_size_um is not None and not all(0 < s < 1e6 for s in self.pixel_size_um):
            raise InputError(f"{self.name}: pixel size {self.pixel_size_um} µm makes no sense")

    @property
    def shape(self) -> tuple[int, int]:
        """Full-resolution size ``(y, x)`` in pixels."""
        return int(self.levels[0].shape[1]), int(self.levels[0].shape[2])

    @property
    def dtype(self) -> np.dtype:
        dtype: np.dtype = self.levels[0].dtype
        return dtype

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Unambiguous names: a repeated or empty name gets ``#2``, ``#3`` ... (see :func:`unique_names`)."""
        return unique_names([c.name for c in self.channels])

    def downsample(self, level: int) -> tuple[float, float]:
        """(y, x) size of a pixel of ``level`` in full-resolution pixels."""
        return (
            self.levels[0].shape[1] / self.levels[level].shape[1],
            self.levels[0].shape[2] / self.levels[level].shape[2],
        )

    def require_pixel_size(self) -> tuple[float, float]:
        """(y, x) µm per pixel. Raises NoPixelSize, never guesses."""
        if self.pixel_size_um is None:
            raise NoPixelSize(self.name)
        return self.pixel_size_um

    def with_pixel_size(self, um_per_px: float) -> LocalImage:
        return replace(self, pixel_size_um=(um_per_px, um_per_px))

    def find_channel(self, wanted: str) -> int:
        """Index of a channel by exact name, then by case-insensitive name, then by index. Raises UnknownName."""
        return find_name(self.channel_names, wanted, kind="channel", where=self.name)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names by which each channel can be addressed: ``["A", "A", ""]`` -> ``("A", "A#2", "#3")``.

    A repeated name gets its occurrence number, an empty one its one-based position.
    """
    stripped = [name.strip() for name in names]
    taken = set(stripped)  # the first of each name keeps it, so no made-up label may equal it
    seen: Counter[str] = Counter()
    out = []
    for position, name in enumerate(stripped, start=1):
        seen[name] += 1
        label = name
        if not name or seen[name] > 1:
            label = f"{name}#{seen[name] if name else position}"
            while label in taken:
                label += "'"
            taken.add(label)
        out.append(label)
    return tuple(out)


def find_name(names: Sequence[str], wanted: str, *, kind: str, where: str = "") -> int:
    """Exact match, then case-insensitive (if unique), then a zero-based index. Raises UnknownName with the list."""
    if wanted in names:
        return names.index(wanted)
    folded = [i for i, n in enumerate(names) if n.casefold() == wanted.strip().casefold()]
    if len(folded) == 1:
        return folded[0]
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    raise UnknownName(kind, wanted, names, where=where)
