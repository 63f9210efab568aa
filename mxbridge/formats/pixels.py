"""Pixels on demand: levels of an image as dask arrays whose blocks are read, and checked, when somebody asks for them."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from mxbridge.errors import BrokenFile, InputError, MxbridgeError, SourceError, Unsupported
from mxbridge.image import Box

CHUNK_BYTES = 1 << 20
"""Blocks of a level are kept below this size: dask reads whole blocks, so a tile reads little more than it needs."""

SEGMENT_LIMIT = 1 << 30
"""A strip, tile or Zarr chunk that unpacks to more than this is refused: a lying header must not exhaust the memory."""

SIDE_LIMIT = 10_000_000
"""No slide has longer sides (in pixels)."""

CHANNEL_LIMIT = 10_000
BLOCK_LIMIT = 1_000_000
"""Blocks along one axis: dask lists them."""

END_BYTES = 64 << 10


class Level(ABC):
    """One resolution of an image: an object with axes ``(c, y, x)`` that dask reads windows of.

    Levels can be pickled (they hold paths, not open files) and read from several threads at once.
    """

    ndim = 3

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        grain: tuple[int, int, int],
        *,
        divisible: bool = True,
    ) -> None:
        """grain: the smallest piece ``(c, y, x)`` that can be read without waste (a tile, a strip, a Zarr chunk).

        divisible: a part of a large grain can be read again cheaply (decoded strips are kept a while).
        """
        if min(shape) < 1 or max(shape[1:]) > SIDE_LIMIT or shape[0] > CHANNEL_LIMIT:
            raise BrokenFile(path, f"claims to be {shape[2]} x {shape[1]} pixels with {shape[0]} channels")
        if min(grain) < 1:
            raise BrokenFile(path, f"claims to have tiles of {grain[2]} x {grain[1]} pixels")
        self.path = path
        self.shape = shape
        self.dtype = native(dtype, path)
        self.chunks = _chunks(shape, grain, self.dtype.itemsize, divisible)
        if any(size > BLOCK_LIMIT * chunk for size, chunk in zip(shape, self.chunks, strict=True)):
            raise Unsupported(f"{path}: its tiles are too small for its size", hint="Save it with larger tiles")

    @abstractmethod
    def read(self, channels: range, box: Box) -> np.ndarray:
        """Pixels ``(c, y, x)`` of a box that lies inside the level."""

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        keys += (slice(None),) * (3 - len(keys))
        spans: list[range] = []
        picks: list[Any] = []
        for wanted, size in zip(keys, self.shape, strict=True):
            if isinstance(wanted, slice):
                steps = range(size)[wanted]
                spans.append(range(min(steps), max(steps) + 1) if steps else range(0))
                picks.append(slice(None, None, steps.step))
            else:
                index = range(size)[int(wanted)]
                spans.append(range(index, index + 1))
                picks.append(0)
        c, y, x = spans
        if not (len(c) and len(y) and len(x)):
            return np.zeros([len(s) for s in spans], self.dtype)[tuple(picks)]
        with reading(self.path):
            block = self.read(c, Box(y.start, x.start, y.stop, x.stop))
        return np.ascontiguousarray(block[tuple(picks)].astype(self.dtype, copy=False))

    def array(self, name: str) -> da.Array:
        """As a dask array. ``name`` must be unique to these pixels."""
        return da.from_array(
            self, chunks=self.chunks, name=name, asarray=False, fancy=False, inline_array=True,
            meta=np.empty((0, 0, 0), self.dtype),
        )  # fmt: skip


class FromArray(Level):
    """A level that is in memory already (a small picture)."""

    def __init__(self, path: Path, pixels: np.ndarray) -> None:
        """pixels: ``(c, y, x)``."""
        super().__init__(path, pixels.shape, pixels.dtype, (pixels.shape[0], 256, 256))
        self._pixels = pixels

    def read(self, channels: range, box: Box) -> np.ndarray:
        return self._pixels[channels.start : channels.stop, box.y0 : box.y1, box.x0 : box.x1]


def native(dtype: np.dtype | str, path: Path) -> np.dtype:
    """The dtype in this machine's byte order. Raises Unsupported for what is no pixel (complex, text, objects)."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "uifb" or dtype.itemsize > 8:
        raise Unsupported(f"{path}: pixels of type {dtype} are not supported", hint="Use integers or floats")
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def _chunks(
    shape: tuple[int, int, int], grain: tuple[int, int, int], itemsize: int, divisible: bool
) -> tuple[int, int, int]:
    """Chunk shape: whole grains, doubled while it stays below CHUNK_BYTES, cut where one grain alone is larger."""
    c = min(grain[0], shape[0])
    y, x = min(grain[1], shape[1]), min(grain[2], shape[2])
    while divisible and c * y * x * itemsize > CHUNK_BYTES and max(y, x) > 512:
        y, x = ((y + 1) // 2, x) if y >= x else (y, (x + 1) // 2)
    while c * y * x * itemsize * 2 <= CHUNK_BYTES and (y < shape[1] or x < shape[2]):
        grow_y = y < shape[1] and (y <= x or x >= shape[2])
        y, x = (min(2 * y, shape[1]), x) if grow_y else (y, min(2 * x, shape[2]))
    return c, y, x


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a format library raises on a damaged file into one line that names the file.

    The libraries promise no exception types on hostile bytes (tifffile alone raises a dozen), hence the broad net; it is
    put around their calls only. Running out of memory is passed on: the engine answers it with smaller tiles.
    """
    try:
        yield
    except (MxbridgeError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise missing(Path(error.filename or path)) from error
    except PermissionError as error:
        raise SourceError(f"{error.filename or path}: no permission to read it") from error
    except Exception as error:
        raise BrokenFile(
            path, f"cannot be read, it seems damaged ({type(error).__name__}: {_short(error)})",
            hint="Copy or export it again",
        ) from error  # fmt: skip


@contextmanager
def looking(path: Path) -> Iterator[None]:
    """Turn what the system says against looking at ``path`` (no permission, a lost network drive) into one line."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename if isinstance(error.filename, str) else path)
        if isinstance(error, FileNotFoundError):
            raise missing(where) from error
        if isinstance(error, PermissionError):
            raise SourceError(f"{where}: no permission to read it", hint="Ask its owner to let you") from error
        raise SourceError(
            f"{where}: cannot be read ({error.strerror or error})", hint="Is the drive connected?"
        ) from error


def missing(path: Path) -> SourceError:
    """The error for a path where nothing lies, naming how far the path does exist."""
    path = path.absolute()
    upward = next((p for p in path.parents if _exists(p)), path.anchor)
    where = "" if upward == path.parent else f" (there is no {path.relative_to(upward).parts[0]!r} in {upward})"
    return SourceError(f"{path}: no such file or folder{where}", hint="Check the path; is the drive connected?")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be looked into may have it
        return False


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:157] + "..." if len(text) > 160 else text


def file_identity(files: Iterable[Path], *salt: object) -> str:
    """Hash over size, time of change and both ends of each file, whatever the files are called.

    Re-reading whole slides for a checksum would take longer than scoring them; an edit that keeps size, nanosecond time
    stamp and both ends does not happen by accident.
    """
    digest = hashlib.sha256(repr(salt).encode())
    for path in files:
        with reading(path):
            state = path.stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(END_BYTES))
                stream.seek(max(0, state.st_size - END_BYTES))
                digest.update(stream.read(END_BYTES))
    return digest.hexdigest()


def read_span(path: Path, offset: int, size: int) -> bytes:
    """``size`` bytes at ``offset``. Raises BrokenFile when the file ends earlier."""
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(size)
    if len(data) < size:
        raise BrokenFile(path, "the file is truncated", position=offset + len(data), hint="Copy it again")
    return data


def choose_plane(
    path: Path, sizes: tuple[int, int], plane: tuple[int, int] | None
) -> tuple[tuple[int, int], list[str]]:
    """The (z, t) to read of an image with ``sizes`` (z, t), and a warning where others are left out."""
    if plane is None:
        if max(sizes) == 1:
            return (0, 0), []
        stacks = [f"{n} {what}" for n, what in zip(sizes, ("z-planes", "time points"), strict=True) if n > 1]
        return (0, 0), [f"{path.name} has {' and '.join(stacks)}; only the first was read"]
    if not all(0 <= at < size for at, size in zip(plane, sizes, strict=True)):
        raise InputError(
            f"{path}: there is no plane z={plane[0]}, t={plane[1]}",
            hint=f"It has z 0..{sizes[0] - 1} and t 0..{sizes[1] - 1}",
        )
    return plane, []


def coarser_levels(path: Path, shapes: Sequence[tuple[int, int, int]]) -> tuple[list[int], list[str]]:
    """Indices of the levels that fit level 0, finest first, and a warning for each one that does not."""
    first, keep, warnings = shapes[0], [0], []
    for index in sorted(range(1, len(shapes)), key=lambda i: -shapes[i][1]):
        c, y, x = shapes[index]
        # sizes are rounded quotients: does any one factor shrink both sides to within a pixel of what is there?
        least = max(first[1] / (y + 1), first[2] / (x + 1))
        most = min(first[1] / max(y - 1, 1e-9), first[2] / max(x - 1, 1e-9))
        smaller = y < shapes[keep[-1]][1] or x < shapes[keep[-1]][2]
        if c == first[0] and smaller and least <= most:
            keep.append(index)
        else:
            warnings.append(f"{path.name}: a level of {x} x {y} pixels does not fit the image and was left out")
    return keep, warnings


class SegmentCache:
    """The last decoded strips and tiles, so that neighbouring windows do not decode the same bytes again."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._size = limit_bytes, 0
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept and made.nbytes <= self._limit:
                self._kept[key] = made
                self._size += made.nbytes
            while self._size > self._limit:
                self._size -= self._kept.popitem(last=False)[1].nbytes
        return made


SEGMENTS = SegmentCache(96 << 20)
