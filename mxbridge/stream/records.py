"""An append-only file of records that survives a kill: each has a length and a checksum, a torn tail is cut off.

The first record is a JSON header that says what was computed; a file with another header is started anew.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mxbridge.formats.atomic import fsync_folder, output_error

MAGIC = b"mxbridge records 1\n"
HEAD = struct.Struct("<QI")
SYNC_SECONDS = 2.0
"""At most this much finished work is lost when the machine itself stops (a killed process loses none)."""


class RecordFile:
    """Records of a run in one file. ``resumed`` says whether records of an earlier, equal run were found."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open or create ``path``. Raises OutputError."""
        self.path = path
        self._header = json.dumps(header, sort_keys=True, ensure_ascii=False).encode("utf-8")
        self._offsets: list[tuple[int, int]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            existed = path.exists()
            self._file: IO[bytes] = path.open("r+b" if existed else "w+b")
            if not self._adopt():
                self._start()
            if not existed:
                fsync_folder(path.parent)
        except OSError as error:
            raise output_error(path, error) from error
        self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, payload: bytes) -> None:
        """Add a record. Raises OutputError; what was there before stays readable."""
        try:
            self._file.seek(0, os.SEEK_END)
            at = self._file.tell()
            self._file.write(HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise output_error(self.path, error) from error
        self._offsets.append((at + HEAD.size, len(payload)))

    def read(self, record: int, start: int = 0, length: int | None = None) -> bytes:
        """A record, or ``length`` bytes of it from ``start``."""
        offset, size = self._offsets[record]
        self._file.seek(offset + start)
        return self._file.read(size - start if length is None else length)

    def __iter__(self) -> Iterator[bytes]:
        return (self.read(record) for record in range(len(self)))

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _start(self) -> None:
        self._offsets = []
        self._file.seek(0)
        self._file.truncate()
        self._file.write(MAGIC + HEAD.pack(len(self._header), zlib.crc32(self._header)) + self._header)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _adopt(self) -> bool:
        """Index the whole records of an equal run and cut off what a kill left half written."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        if self._file.read(len(MAGIC)) != MAGIC:
            return False
        header = self._whole(size)
        if header is None or header != self._header:
            return False
        end = self._file.tell()
        while (payload := self._whole(size)) is not None:
            self._offsets.append((self._file.tell() - len(payload), len(payload)))
            end = self._file.tell()
        self._file.truncate(end)
        return True

    def _whole(self, size: int) -> bytes | None:
        """The next record, None when it is not whole."""
        head = self._file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        length, checksum = HEAD.unpack(head)
        if length > size - self._file.tell():
            return None
        payload = self._file.read(length)
        return payload if zlib.crc32(payload) == checksum else None
