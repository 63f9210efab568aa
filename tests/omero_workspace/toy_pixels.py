"""An OMERO server of one image in memory, without Ice: what a session says and a pixel store gives, and how they fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from mxbridge.image import Channel
from mxbridge.workspaces.omero.image_info import ImageInfo


class Lost(Exception):
    """A session that is no more."""


def info_of(pixels: np.ndarray, **changes: Any) -> ImageInfo:
    """How OMERO would describe these pixels (t, c, z, y, x)."""
    about: dict[str, Any] = {
        "id": 7,
        "name": "slide",
        "pixels_id": 70,
        "sizes": pixels.shape,
        "dtype": pixels.dtype.newbyteorder("="),
        "channels": tuple(Channel(f"m{c}", 0xFF0000) for c in range(pixels.shape[1])),
        "pixel_size_um": (0.5, 0.5),
        "group_id": 3,
        "owner_id": 2,
        "owner_name": "alice",
        "update_event": 11,
        "datasets": (),
        "wells": (),
        "can_annotate": True,
        "can_link": True,
        "can_edit": True,
        "can_delete": True,
        "windows": (None,) * pixels.shape[1],
        "rgb": False,
    }
    return ImageInfo(**{**about, **changes})


class ToyServer:
    """pixels: (t, c, z, y, x). levels: how many resolutions, each half the one before. tile: (y, x) that it calls its own.

    fail: called with the number of the tile that is asked for (from 1); may raise, or return fewer bytes than it is given.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        *,
        levels: int = 1,
        tile: tuple[int, int] = (256, 256),
        fail: Callable[[int, bytes], bytes] | None = None,
    ) -> None:
        self.levels = [pixels[..., :: 2**k, :: 2**k] for k in range(levels)]
        self.tile, self.fail = tile, fail
        self.info = info_of(pixels)
        self.calls: Counter[str] = Counter()
        self.open_stores = 0
        self.files: list[tuple[str, str, int, int]] = []
        self.registered: list[tuple[str, str]] = []
        self.event: int | None = self.info.update_event
        self._lock = threading.Lock()

    database = "toy"

    def count(self, call: str) -> int:
        with self._lock:
            self.calls[call] += 1
            return self.calls[call]

    # -- what a session does

    def rows(self, hql: str, **params: Any) -> list[tuple[Any, ...]]:
        self.count("rows")
        if "updateEvent" in hql:
            return [] if self.event is None else [(self.event,)]
        if "externalInfo" in hql:
            return list(self.registered)
        if "usedFiles" in hql:
            return list(self.files)
        raise AssertionError(f"an unknown question: {hql}")

    @contextmanager
    def raw_pixels(self, pixels_id: int, *, group_id: int | None = None, write: bool = False) -> Iterator[Any]:
        assert (pixels_id, group_id) == (self.info.pixels_id, self.info.group_id)
        self.count("stores")
        self.open_stores += 1
        try:
            yield ToyStore(self)
        finally:
            self.open_stores -= 1

    # -- what sessions do

    @contextmanager
    def use(self) -> Iterator[ToyServer]:
        yield self

    def attempt(self, what: str, work: Callable[[ToyServer], Any]) -> Any:
        for _ in range(50):
            try:
                return work(self)
            except Lost:
                self.count("lost")
        raise AssertionError("lost for good")


class ToyStore:
    """A RawPixelsStore: level 0 is the smallest, bytes are big-endian."""

    def __init__(self, server: ToyServer) -> None:
        self.server = server
        self.level = len(server.levels) - 1

    @property
    def array(self) -> np.ndarray:
        return self.server.levels[len(self.server.levels) - 1 - self.level]

    def getResolutionLevels(self) -> int:
        self.server.count("layout")
        return len(self.server.levels)

    def getResolutionDescriptions(self) -> list[Any]:
        return [SimpleNamespace(sizeX=a.shape[-1], sizeY=a.shape[-2]) for a in self.server.levels]

    def getTileSize(self) -> list[int]:
        return [self.server.tile[1], self.server.tile[0]]

    def setResolutionLevel(self, level: int) -> None:
        assert 0 <= level < len(self.server.levels)
        self.level = level

    def getTile(self, z: int, c: int, t: int, x: int, y: int, w: int, h: int) -> bytes:
        number = self.server.count("tiles")
        assert x + w <= self.array.shape[-1]
        assert y + h <= self.array.shape[-2]
        big = self.array.dtype.newbyteorder(">")
        data = np.ascontiguousarray(self.array[t, c, z, y : y + h, x : x + w], big).tobytes()
        return self.server.fail(number, data) if self.server.fail else data

    def setTile(self, data: bytes, z: int, c: int, t: int, x: int, y: int, w: int, h: int) -> None:
        self.server.count("written")
        big = self.array.dtype.newbyteorder(">")
        self.array[t, c, z, y : y + h, x : x + w] = np.frombuffer(data, big).reshape(h, w)

    def isFloat(self) -> bool:
        return self.array.dtype.kind == "f"

    def isSigned(self) -> bool:
        return self.array.dtype.kind in "if"

    def getByteWidth(self) -> int:
        return self.array.dtype.itemsize

    def save(self) -> None:
        self.server.count("saved")


def noise(*shape: int, dtype: str = "u2", seed: int = 0) -> np.ndarray:
    """Pixels (t, c, z, y, x) of which no two planes are alike."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(1, 250, shape)
    return raw.astype(dtype)
