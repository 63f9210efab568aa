"""Pixels over the wire: tiles of one image read by several threads, and written by one.

What turns bytes into planes takes a :class:`TileSource`, so that it knows neither Ice nor servers. OMERO sends and takes
big-endian numbers; arrays on this side are always in this machine's byte order.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError, SourceError
from mxbridge.image import Box

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

MESSAGE_BYTES = 32 << 20
"""No message is longer: servers and clients cut the connection beyond 250 MB, without a word."""

TILE_SIDE = 1024
"""Tiles are fetched in squares of about this side: large enough that a slow link waits little, small enough for memory."""

TILES_PER_STORE = 512
"""After so many tiles a thread takes a new store: its attempts after lost sessions are counted anew."""

TAKERS = 4
"""Threads that put away what came, so that those that read ask for the next tile at once."""


class TileSource(Protocol):
    """Something that gives the bytes of a tile: big-endian, row by row."""

    def tile(self, z: int, c: int, t: int, box: Box) -> bytes: ...


class Tile(NamedTuple):
    """One tile of one plane of a level; box in pixels of that level."""

    z: int
    c: int
    t: int
    box: Box


@dataclass(frozen=True)
class Layout:
    """How a server keeps an image. shapes: (y, x) of its levels, largest first. numbers: what the server calls them (the
    smallest is 0), None for the largest, which it gives unasked. tile: (y, x) of the tiles to ask for."""

    shapes: tuple[tuple[int, int], ...]
    numbers: tuple[int | None, ...]
    tile: tuple[int, int]


def read_layout(session: Session, info: ImageInfo) -> Layout:
    """Ask the server for levels and tile size. Raises SourceError where it gives levels that do not fit the image."""
    with session.raw_pixels(info.pixels_id, group_id=info.group_id) as store:
        count = int(store.getResolutionLevels())
        sizes = store.getResolutionDescriptions() if count > 1 else []
        width, height = store.getTileSize()
    # largest first, as Bio-Formats lists them; the pixel buffer for OME-Zarr has listed them the other way round
    shapes = tuple(sorted(((int(s.sizeY), int(s.sizeX)) for s in sizes), key=math.prod, reverse=True)) or (info.shape,)
    if shapes[0] != info.shape or len(shapes) != max(count, 1):
        raise SourceError(
            f"{info}: the server's largest level is {shapes[0][1]} x {shapes[0][0]}, the image {info.shape[1]} x {info.shape[0]}",
            hint="Its pyramid may still be in the making; try again later",
        )
    numbers = (None, *(count - 1 - k for k in range(1, count)))
    return Layout(shapes, numbers, tile_to_ask_for((int(height), int(width)), info.shape))


def tile_to_ask_for(server: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """A multiple of the server's tile near :data:`TILE_SIDE`; servers whose tiles are whole rows are asked for squares."""
    sides = []
    for side, size in zip(server, shape, strict=True):
        fitting = side * max(1, round(TILE_SIDE / side)) if 0 < side <= 2 * TILE_SIDE else TILE_SIDE
        sides.append(min(fitting, size))
    return sides[0], sides[1]


def tiles_of(shape: tuple[int, int], tile: tuple[int, int]) -> Iterator[Box]:
    """The boxes of a grid of tiles over a plane, row by row; those at the right and bottom end with the plane."""
    for y in range(0, shape[0], tile[0]):
        for x in range(0, shape[1], tile[1]):
            yield Box(y, x, min(y + tile[0], shape[0]), min(x + tile[1], shape[1]))


def checked(data: bytes, box: Box, dtype: np.dtype, where: str) -> bytes:
    """The bytes of a tile as they came. Raises SourceError where some are missing or too many."""
    expected = box.shape[0] * box.shape[1] * dtype.itemsize
    if len(data) != expected:
        raise SourceError(
            f"{where}: the server sent {len(data):,} bytes instead of {expected:,} for {box.shape[1]} x {box.shape[0]} pixels "
            f"at ({box.x0}, {box.y0})",
            hint="Try again; if it stays, the image is damaged on the server",
        )
    return data


def decoded(data: bytes, box: Box, dtype: np.dtype, where: str) -> NDArray[Any]:
    """Pixels (y, x) of a tile in ``dtype`` (this machine's byte order). Raises SourceError as :func:`checked` does."""
    return np.frombuffer(checked(data, box, dtype, where), dtype.newbyteorder(">")).reshape(box.shape).astype(dtype)


def bands(box: Box, row_bytes: int, limit: int = MESSAGE_BYTES) -> Iterator[Box]:
    """A box in parts whose messages stay below ``limit``: bands of rows, and pieces of a row that alone is longer."""
    across = max(1, min(box.shape[1], limit * box.shape[1] // max(row_bytes, 1)))
    down = max(1, limit * box.shape[1] // max(row_bytes * across, 1))
    for y in range(box.y0, box.y1, down):
        for x in range(box.x0, box.x1, across):
            yield Box(y, x, min(y + down, box.y1), min(x + across, box.x1))


class StorePixels:
    """A :class:`TileSource` over one RawPixelsStore, for one thread."""

    def __init__(self, store: Any, dtype: np.dtype, where: str) -> None:
        self._store, self._dtype, self._where = store, dtype, where

    def tile(self, z: int, c: int, t: int, box: Box) -> bytes:
        data: bytes = self._store.getTile(z, c, t, box.x0, box.y0, box.shape[1], box.shape[0])
        return data

    def read(self, z: int, c: int, t: int, box: Box) -> NDArray[Any]:
        """Pixels (y, x) of a box of any size."""
        out = np.empty(box.shape, self._dtype)
        for part in bands(box, box.shape[1] * self._dtype.itemsize):
            rows, columns = slice(part.y0 - box.y0, part.y1 - box.y0), slice(part.x0 - box.x0, part.x1 - box.x0)
            out[rows, columns] = decoded(self.tile(z, c, t, part), part, self._dtype, self._where)
        return out


@contextmanager
def open_pixels(
    session: Session, pixels_id: int, dtype: np.dtype, *, group_id: int, level: int | None = None, where: str = ""
) -> Iterator[StorePixels]:
    """Pixels of one image for one thread; the store is closed at the end, whatever happens.

    level: the server's number of a resolution (see :class:`Layout`), None for the full one.
    """
    with session.raw_pixels(pixels_id, group_id=group_id) as store:
        if level is not None:
            store.setResolutionLevel(level)
        yield StorePixels(store, dtype, where or f"pixels {pixels_id}")


Attempt = Callable[[Callable[[TileSource], None]], None]
"""Opens a source, runs the work with it, closes it; after a lost session once more with a new source."""


def read_tiles(
    attempt: Attempt,
    tiles: Sequence[Tile],
    take: Callable[[Tile, bytes], None],
    *,
    dtype: np.dtype,
    where: str,
    readers: int = 4,
) -> None:
    """Read tiles by several threads, each with its own source, and hand the bytes of each to ``take`` exactly once, in any order.

    The bytes are big-endian, row by row, and as many as they should be. take: called from threads of its own, several at a
    time. A tile that a lost session interrupts is read again; those that were taken are not. The first error stops all
    threads and is raised.
    """
    threads = max(1, min(readers, len(tiles)))
    with (
        ThreadPoolExecutor(TAKERS, thread_name_prefix="omero-kept") as takers,
        ThreadPoolExecutor(threads, thread_name_prefix="omero-pixels") as pool,
    ):
        reading = _Reading(tiles, take, takers, threading.Semaphore(2 * threads), dtype, where)
        futures = [pool.submit(reading.run, attempt) for _ in range(threads)]
        try:
            for future in futures:
                future.result()
        finally:
            reading.left.stop()
    if reading.failed:
        raise reading.failed[0]


class _Reading:
    """One call of :func:`read_tiles`, shared by its threads. room: how many tiles may wait to be taken."""

    def __init__(
        self,
        tiles: Sequence[Tile],
        take: Callable[[Tile, bytes], None],
        takers: ThreadPoolExecutor,
        room: threading.Semaphore,
        dtype: np.dtype,
        where: str,
    ) -> None:
        self.left, self.failed = _Left(tiles), list[BaseException]()
        self._take, self._takers, self._room, self._dtype, self._where = take, takers, room, dtype, where

    def run(self, attempt: Attempt) -> None:
        while self.left.any():
            try:
                attempt(self._work)
            except BaseException:
                self.left.stop()
                raise

    def _work(self, source: TileSource) -> None:
        for _ in range(TILES_PER_STORE):
            tile = self.left.next()
            if tile is None:
                return
            try:
                data = checked(source.tile(*tile), tile.box, self._dtype, self._where)
            except BaseException:
                self.left.give_back(tile)
                raise
            self._room.acquire()
            self._takers.submit(self._hand_over, tile, data)

    def _hand_over(self, tile: Tile, data: bytes) -> None:
        try:
            self._take(tile, data)
        except BaseException as error:  # raised in the caller's thread
            self.failed.append(error)
            self.left.stop()
        finally:
            self._room.release()


class _Left:
    """The tiles that nobody has read yet."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self._tiles, self._lock = deque(tiles), threading.Lock()

    def any(self) -> bool:
        with self._lock:
            return bool(self._tiles)

    def next(self) -> Tile | None:
        with self._lock:
            return self._tiles.popleft() if self._tiles else None

    def give_back(self, tile: Tile) -> None:
        with self._lock:
            self._tiles.appendleft(tile)

    def stop(self) -> None:
        with self._lock:
            self._tiles.clear()


class PlaneWriter:
    """Writes pixels of one image that this session has made; to be used as a context manager, by one thread.

    ``finish`` must be called before the block ends: only then does the server take what was written for whole.
    """

    def __init__(self, session: Session, pixels_id: int, group_id: int) -> None:
        self._opened = session.raw_pixels(pixels_id, group_id=group_id, write=True)
        self._where = f"pixels {pixels_id}"
        self._stored: np.dtype | None = None

    def __enter__(self) -> Self:
        self._store = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def write(self, z: int, c: int, t: int, box: Box, values: NDArray[Any]) -> None:
        """Store ``values`` (y, x), of any byte order, in ``box``. Raises InputError when shape or type do not fit the image."""
        if values.shape != box.shape:
            raise InputError(f"{self._where}: {values.shape} values do not fit {box}")
        dtype = np.dtype(values.dtype).newbyteorder("=")
        if dtype != self._type():
            raise InputError(f"{self._where}: the image holds {self._type()}, the values are {dtype}")
        for part in bands(box, box.shape[1] * dtype.itemsize):
            piece = values[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
            data = np.ascontiguousarray(piece, dtype.newbyteorder(">")).tobytes()
            self._store.setTile(data, z, c, t, part.x0, part.y0, part.shape[1], part.shape[0])

    def finish(self) -> None:
        """Have the server keep what was written."""
        self._store.save()

    def _type(self) -> np.dtype:
        """What the image holds, asked once."""
        if self._stored is None:
            kind = "f" if self._store.isFloat() else "i" if self._store.isSigned() else "u"
            self._stored = np.dtype(f"{kind}{int(self._store.getByteWidth())}")
        return self._stored
