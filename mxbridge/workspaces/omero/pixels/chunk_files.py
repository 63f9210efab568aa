"""One chunk of a Zarr array as a file: big-endian as it came over the wire, with a checksum, written whole or not at all.

Zarr reads a chunk that is missing as zeros, and one that a power failure tore as whatever is left. What is kept here can be
read by any Zarr library (codecs ``bytes`` and ``crc32c``), but mxbridge itself reads it through :func:`read_chunk`, which
never makes up pixels.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from mxbridge.formats.atomic import PART_SUFFIX

CHECKSUM_BYTES = 4


class DamagedChunk(Exception):
    """A chunk that is not there, or not what was written. Never leaves this room: the chunk is fetched again."""


def chunk_path(level: Path, channel: int, row: int, column: int) -> Path:
    """Where Zarr (version 3) keeps a chunk of an array ``(c, y, x)`` whose chunks hold one channel."""
    return level / "c" / str(channel) / str(row) / str(column)


def stored_size(tile: tuple[int, int], dtype: np.dtype) -> int:
    """Bytes of a chunk's file."""
    return tile[0] * tile[1] * dtype.itemsize + CHECKSUM_BYTES


def write_chunk(path: Path, data: bytes, shape: tuple[int, int], tile: tuple[int, int], dtype: np.dtype) -> None:
    """Write pixels (y, x) of ``shape``, given as big-endian bytes, filled up to a whole chunk of ``tile`` (y, x). Raises OSError."""
    if shape != tile:
        full = np.zeros(tile, dtype.newbyteorder(">"))
        full[: shape[0], : shape[1]] = np.frombuffer(data, full.dtype).reshape(shape)
        data = full.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        with part.open("wb", buffering=0) as stream:
            _write_all(stream, data)
            _write_all(stream, google_crc32c.value(data).to_bytes(CHECKSUM_BYTES, "little"))
            _put_away(stream.fileno())
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _put_away(file: int) -> None:
    """To the disk at once, and out of the system's memory.

    Slides that wait there to be written push out what others need, and end up being written more slowly than they come.
    """
    getattr(os, "fdatasync", os.fsync)(file)
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # no more than advice
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(stream: RawIOBase, data: bytes) -> None:
    """An unbuffered file may take less at once than it is given."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) or 0 :]


def read_chunk(path: Path, tile: tuple[int, int], dtype: np.dtype) -> NDArray[Any]:
    """Pixels of a whole chunk (y, x), big-endian and not to be written to. Raises DamagedChunk."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedChunk(str(error)) from error
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(data) != stored_size(tile, dtype):
        raise DamagedChunk(f"{path} has {len(data)} bytes")
    if google_crc32c.value(body) != int.from_bytes(checksum, "little"):
        raise DamagedChunk(f"{path} has another checksum")
    return np.frombuffer(body, dtype.newbyteorder(">")).reshape(tile)
