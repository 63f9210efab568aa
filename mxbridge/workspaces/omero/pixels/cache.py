"""Pixels of OMERO images on local storage, fetched when somebody first asks for them.

An image is kept as an OME-Zarr (version 0.5) in the cache's folder, under a name that changes with its pixels. Asking for
any pixel of a plane (one channel of one level) fetches that whole plane, so that a task that reads 6 of 40 channels at half
the resolution fetches 6 planes of one level, and no session is needed while it computes. A plane is read only when it is
whole; of one whose fetching was interrupted, or whose files were damaged, the missing tiles are fetched again.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, MxbridgeError, OutputError, SourceError
from mxbridge.formats.atomic import PART_SUFFIX, write_atomically
from mxbridge.formats.pixels import Level, choose_plane, coarser_levels
from mxbridge.image import Box, LocalImage
from mxbridge.runs import digest
from mxbridge.workspaces.omero.find import not_there
from mxbridge.workspaces.omero.image_info import ImageInfo
from mxbridge.workspaces.omero.pixels.cache_room import LAYOUTS, CacheRoom, cache_error
from mxbridge.workspaces.omero.pixels.cached_zarr import write_metadata
from mxbridge.workspaces.omero.pixels.chunk_files import DamagedChunk, chunk_path, read_chunk, stored_size, write_chunk
from mxbridge.workspaces.omero.pixels.tiles import (
    Layout,
    Tile,
    TileSource,
    open_pixels,
    read_layout,
    read_tiles,
    tiles_of,
)
from mxbridge.workspaces.omero.sessions.faults import is_lost

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session
    from mxbridge.workspaces.omero.sessions.session import Sessions

DEFAULT_LIMIT = 50_000_000_000
"""Bytes that the cache may take when nobody says otherwise."""

READERS = 4
LAYOUT_LIMIT = 1 << 20
_EVENT = "select p.details.updateEvent.id from Pixels p where p.id = :id"


def default_folder() -> Path:
    """Where the system keeps what can be fetched again."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("mxbridge", appauthor=False)) / "omero"


class PixelCache:
    """A folder with pixels of OMERO images, of bounded size, which several processes may use at once.

    folder: None for the system's cache folder. limit_bytes: None for 50 GB.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self._room = CacheRoom(folder or default_folder(), DEFAULT_LIMIT if limit_bytes is None else limit_bytes)
        self._open: weakref.WeakValueDictionary[str, CachedImage] = weakref.WeakValueDictionary()

    @property
    def folder(self) -> Path:
        return self._room.folder

    def open(
        self,
        info: ImageInfo,
        sessions: Sessions,
        *,
        plane: tuple[int, int] | None = None,
        readers: int = READERS,
        tell: Callable[[str], None] | None = None,
    ) -> LocalImage:
        """An image whose pixels come from the cache, and into the cache when they are first read.

        plane: (z, t) of a stack, None for the first, which ``warnings`` say. readers: threads that fetch at once. tell: hears
        when fetching begins. Asks the server for levels and tiles only the first time. Reading pixels later raises
        SourceError (the image or the server is gone), OutputError (no room), Locked.
        """
        where = Path(f"image {info.id}")
        (z, t), notes = choose_plane(where, (info.sizes[2], info.sizes[0]), plane)
        database = sessions.attempt(f"opening {info}", lambda session: session.database)
        identity = pixel_identity(database, info, (z, t))
        layout = self._layout(info, identity, sessions)
        entry = f"{info.id}-{identity[:16]}-{digest([layout.shapes, layout.tile])[:8]}"
        cached = self._open.get(entry)
        if cached is None:
            cached = CachedImage(self._room, entry, info, (z, t), layout, sessions, readers, tell)
            self._open[entry] = cached
            weakref.finalize(cached, self._room.drop, entry)
        levels = [CachedLevel(cached, k) for k in range(len(layout.shapes))]
        keep, unfit = coarser_levels(where, [level.shape for level in levels])
        return LocalImage(
            name=info.name,
            levels=tuple(levels[k].array(f"omero-{entry}-{k}") for k in keep),
            channels=info.channels,
            pixel_size_um=info.pixel_size_um,
            identity=identity,
            rgb=info.rgb,
            warnings=(*notes, *unfit),
        )

    def _layout(self, info: ImageInfo, identity: str, sessions: Sessions) -> Layout:
        """From the cache where it was asked for before, else from the server."""
        kept = self._room.folder / LAYOUTS / f"{info.id}-{identity[:16]}.json"
        layout = _kept_layout(kept, info)
        if layout is None:
            layout = sessions.attempt(f"opening {info}", lambda session: read_layout(session, info))
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                with write_atomically(kept) as part:
                    part.write_text(json.dumps([layout.shapes, layout.numbers, layout.tile]), encoding="ascii")
            except OSError as error:
                raise cache_error(kept, error) from error
        return layout


def pixel_identity(database: str, info: ImageInfo, plane: tuple[int, int]) -> str:
    """Changes when the stored pixels change, or are of another server, image or (z, t)."""
    key = [database, info.id, info.pixels_id, info.update_event, plane, info.dtype.str, info.sizes]
    return digest(["omero", *key])


@dataclass(frozen=True)
class _Plane:
    level: int
    channel: int

    @property
    def name(self) -> str:
        return f"{self.level}-{self.channel}"


class CachedImage:
    """One image of the cache, shared by its levels. Reading a plane that is not there fetches it.

    Pickled (for another process), it can read what is in the cache and fetch nothing.
    """

    def __init__(
        self,
        room: CacheRoom,
        entry: str,
        info: ImageInfo,
        plane: tuple[int, int],
        layout: Layout,
        sessions: Sessions | None,
        readers: int = READERS,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """plane: (z, t)."""
        self.entry, self.info, self.layout = entry, info, layout
        self._room, self._plane, self._sessions, self._readers, self._tell = room, plane, sessions, readers, tell
        self._whole: set[tuple[int, _Plane]] = set()
        self._told = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        room = (self._room.folder, self._room.limit)
        return _without_sessions, (*room, self.entry, self.info, self._plane, self.layout)

    @property
    def path(self) -> Path:
        return self._room.path(self.entry)

    def read(self, level: int, channels: Sequence[int], box: Box) -> NDArray[Any]:
        """Pixels ``(c, y, x)`` of a box of a level, for these channels."""
        out = np.empty((len(channels), *box.shape), self.info.dtype)
        with self._room.using(self.entry) as turn:
            for k, channel in enumerate(channels):
                plane = _Plane(level, channel)
                self._ensure(turn, plane)
                try:
                    self._copy(plane, box, out[k])
                except DamagedChunk:
                    self._mend(turn, plane, box)
                    try:
                        self._copy(plane, box, out[k])
                    except DamagedChunk as error:
                        raise BrokenFile(
                            self.path, f"the disk does not keep what is written there ({error})"
                        ) from error
        return out

    def _copy(self, plane: _Plane, box: Box, out: NDArray[Any]) -> None:
        """Raises DamagedChunk."""
        high, wide = tile = self.layout.tile
        for row in range(box.y0 // high, -(-box.y1 // high)):
            for column in range(box.x0 // wide, -(-box.x1 // wide)):
                path = chunk_path(self.path / str(plane.level), plane.channel, row, column)
                there = Box(row * high, column * wide, (row + 1) * high, (column + 1) * wide)
                part = Box(max(box.y0, there.y0), max(box.x0, there.x0), min(box.y1, there.y1), min(box.x1, there.x1))
                values = read_chunk(path, tile, self.info.dtype)
                out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0] = values[
                    part.y0 - there.y0 : part.y1 - there.y0, part.x0 - there.x0 : part.x1 - there.x0
                ]

    def _ensure(self, turn: int, plane: _Plane) -> None:
        """Have a plane in the cache, fetched by this process or awaited while another one fetches it."""
        if (turn, plane) in self._whole:
            return
        if not self._room.is_whole(self.entry, plane.name):
            with self._room.fetching(self.entry):
                if not self._room.is_whole(self.entry, plane.name):
                    self._fetch(plane)
        self._whole.add((turn, plane))

    def _mend(self, turn: int, plane: _Plane, box: Box) -> None:
        """Throw away the damaged chunks of a box and fetch them again."""
        high, wide = self.layout.tile
        with self._room.fetching(self.entry):
            for row in range(box.y0 // high, -(-box.y1 // high)):
                for column in range(box.x0 // wide, -(-box.x1 // wide)):
                    path = chunk_path(self.path / str(plane.level), plane.channel, row, column)
                    try:
                        read_chunk(path, self.layout.tile, self.info.dtype)
                    except DamagedChunk:
                        with suppress(OSError):
                            path.unlink(missing_ok=True)
            self._room.unsettle(self.entry, plane.name)
            self._fetch(plane)

    def _fetch(self, plane: _Plane) -> None:
        """Fetch the tiles of a plane that are not there yet; called while fetching is this thread's alone."""
        shape, tile = self.layout.shapes[plane.level], self.layout.tile
        boxes = list(tiles_of(shape, tile))
        size = len(boxes) * stored_size(tile, self.info.dtype)
        self._room.reserve(self.entry, plane.name, size, str(self.info))
        write_metadata(self.path, self.info, self.layout)
        for left in (self.path / str(plane.level) / "c" / str(plane.channel)).rglob(f"*{PART_SUFFIX}"):
            with suppress(OSError):  # of a process that was killed
                left.unlink()
        z, t = self._plane
        missing = [Tile(z, plane.channel, t, box) for box in boxes if not self._is_there(plane, box)]
        sessions = self._required_sessions(plane)
        try:
            if missing:
                self._say()
                self._read_tiles(sessions, plane, missing)
        except OutputError:
            raise
        except MxbridgeError as error:
            if not is_lost(error) and not is_lost(error.__cause__ or error):
                self._check(sessions, plane)
            raise
        self._check(sessions, plane)
        self._room.settle(self.entry, plane.name, size)

    def _required_sessions(self, plane: _Plane) -> Sessions:
        if self._sessions is None:
            raise SourceError(
                f"{self.info}: channel {plane.channel} is not in the cache, and this process has no session to fetch it",
                hint="Read it once in the process that opened the image",
            )
        return self._sessions

    def _read_tiles(self, sessions: Sessions, plane: _Plane, tiles: Sequence[Tile]) -> None:
        info, number = self.info, self.layout.numbers[plane.level]

        def attempt(work: Callable[[TileSource], None]) -> None:
            def with_session(session: Session) -> None:
                with open_pixels(
                    session, info.pixels_id, info.dtype, group_id=info.group_id, level=number, where=str(info)
                ) as source:
                    work(source)

            sessions.attempt(f"fetching pixels of {info}", with_session)

        def take(tile: Tile, data: bytes) -> None:
            path = self._path(plane, tile.box)
            try:
                write_chunk(path, data, tile.box.shape, self.layout.tile, info.dtype)
            except OSError as error:
                raise cache_error(path, error) from error

        read_tiles(attempt, tiles, take, dtype=info.dtype, where=str(info), readers=self._readers)

    def _check(self, sessions: Sessions, plane: _Plane) -> None:
        """Raise SourceError where the image was deleted or its pixels were changed since it was opened; forget the plane then."""

        def ask(session: Session) -> int | None:
            rows = session.rows(_EVENT, id=self.info.pixels_id)
            return rows[0][0] if rows else None

        event = sessions.attempt(f"looking for {self.info}", ask)
        if event == self.info.update_event:
            return
        for box in tiles_of(self.layout.shapes[plane.level], self.layout.tile):
            with suppress(OSError):
                self._path(plane, box).unlink(missing_ok=True)
        if event is None:
            raise not_there("image", [self.info.id])
        raise SourceError(f"{self.info}: its pixels were changed while they were read", hint="Run the command again")

    def _path(self, plane: _Plane, box: Box) -> Path:
        high, wide = self.layout.tile
        return chunk_path(self.path / str(plane.level), plane.channel, box.y0 // high, box.x0 // wide)

    def _is_there(self, plane: _Plane, box: Box) -> bool:
        try:
            return self._path(plane, box).stat().st_size == stored_size(self.layout.tile, self.info.dtype)
        except OSError:
            return False

    def _say(self) -> None:
        with self._lock:
            if not self._told and self._tell is not None:
                self._tell(f"{self.info}: its pixels are fetched into {self._room.folder}")
            self._told = True


class CachedLevel(Level):
    """One level of an image in the cache."""

    def __init__(self, cached: CachedImage, number: int) -> None:
        self._cached, self._number = cached, number
        layout, info = cached.layout, cached.info
        shape = (info.sizes[1], *layout.shapes[number])
        super().__init__(cached.path / str(number), shape, info.dtype, (1, *layout.tile), divisible=False)

    def read(self, channels: range, box: Box) -> NDArray[Any]:
        return self._cached.read(self._number, channels, box)


def _without_sessions(
    folder: Path, limit: int, entry: str, info: ImageInfo, plane: tuple[int, int], layout: Layout
) -> CachedImage:
    return CachedImage(CacheRoom(folder, limit), entry, info, plane, layout, None)


def _kept_layout(path: Path, info: ImageInfo) -> Layout | None:
    """None where there is none, or none that makes sense."""
    try:
        if path.stat().st_size > LAYOUT_LIMIT:
            return None
        shapes, numbers, tile = json.loads(path.read_text(encoding="ascii"))
        layout = Layout(
            tuple((int(y), int(x)) for y, x in shapes),
            tuple(None if n is None else int(n) for n in numbers),
            (int(tile[0]), int(tile[1])),
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    fits = layout.shapes[:1] == (info.shape,) and len(layout.numbers) == len(layout.shapes)
    return layout if fits and min(layout.tile) > 0 and min(min(s) for s in layout.shapes) > 0 else None
