"""Is a TIFF whole? A walk over its directories, before a lenient reader takes what is left of a truncated file for all."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mxbridge.errors import BrokenFile

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

ESSENTIAL = {270, 273, 279, 324, 325, 330, 347, 50838, 50839}
"""Tags without which an image cannot be read rightly: description, places and sizes of data, sub-directories, JPEG tables,
ImageJ metadata. Others may point anywhere without harm."""

SUB_DIRECTORIES = 330
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
DIRECTORY_LIMIT = 1_000_000
SUB_DIRECTORY_LIMIT = 1000


@dataclass(frozen=True)
class _Dialect:
    """How numbers are written: classic TIFF or BigTIFF, either byte order."""

    order: str
    big: bool

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        return self.order + ("Q" if self.big else "H")

    @property
    def entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHI4s")


def check_structure(path: Path) -> None:
    """Raise BrokenFile when a directory, or an essential part of one, lies beyond the end of the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(16)
        if not header.startswith(TIFF_STARTS):
            raise BrokenFile(path, "it does not begin like a TIFF file", position=0)
        dialect = _Dialect("<" if header[:2] == b"II" else ">", header[2:4] in (b"+\0", b"\0+"))
        if len(header) < (16 if dialect.big else 8):
            raise _truncated(path, size)
        seen: set[int] = set()
        waiting = [_number(dialect.offset, header[8:16] if dialect.big else header[4:8])]
        while waiting:
            offset = waiting.pop()
            if offset == 0 or offset in seen:
                continue
            seen.add(offset)
            if len(seen) > DIRECTORY_LIMIT:
                raise BrokenFile(path, f"it has more than {DIRECTORY_LIMIT:,} directories")
            waiting += _directory(stream, path, size, dialect, offset)


def _directory(stream: BinaryIO, path: Path, size: int, dialect: _Dialect, offset: int) -> Iterator[int]:
    """Offsets of the directories that follow from the one at ``offset``."""
    count = _number(dialect.count, _read(stream, path, size, offset, struct.calcsize(dialect.count)))
    start = offset + struct.calcsize(dialect.count)
    width = struct.calcsize(dialect.entry)
    entries = _read(stream, path, size, start, count * width)
    for code, kind, values, field in struct.iter_unpack(dialect.entry, entries):
        length = values * TYPE_SIZES.get(kind, 1)
        inline = length <= len(field)
        place = _number(dialect.offset, field)
        if code in ESSENTIAL and not inline and place + length > size:
            raise _truncated(path, size)
        if code == SUB_DIRECTORIES and values <= SUB_DIRECTORY_LIMIT:
            yield from _numbers(dialect, kind, field[:length] if inline else _read(stream, path, size, place, length))
    tail = _read(stream, path, size, start + count * width, struct.calcsize(dialect.offset))
    yield _number(dialect.offset, tail)


def _numbers(dialect: _Dialect, kind: int, data: bytes) -> list[int]:
    letter = {4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
    return [] if letter is None else [v for (v,) in struct.iter_unpack(dialect.order + letter, data)]


def _read(stream: BinaryIO, path: Path, size: int, offset: int, length: int) -> bytes:
    if offset + length > size:
        raise _truncated(path, size)
    stream.seek(offset)
    return stream.read(length)


def _number(form: str, data: bytes) -> int:
    value: int = struct.unpack(form, data)[0]
    return value


def _truncated(path: Path, size: int) -> BrokenFile:
    return BrokenFile(path, "the file is truncated", position=size, hint="Copy or export it again")
