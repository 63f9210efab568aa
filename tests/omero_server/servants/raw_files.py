"""RawFileStore: bytes of attached files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import omero
import omero.api
from omero.rtypes import rlong

from ..caller import Caller
from ..hydrate import whole
from ..servant import Servant, service
from ..store import Row
from .admin import event_context


@service(omero.api.RawFileStore, omero.api.RawFileStorePrx, "createRawFileStore")
class RawFiles(Servant, omero.api.RawFileStore):
    """One open file."""

    row: Row | None = None
    changed = False

    def do_setFileId(self, caller: Caller, file_id: int) -> None:
        self.row = caller.see("OriginalFile", file_id)

    def _file(self) -> Row:
        if self.row is None:
            raise omero.ApiUsageException(message="setFileId comes first")
        return self.row

    def _path(self) -> Path:
        row = self._file()
        path = self.world.file_path(row.id)
        table = path.with_suffix(".h5")
        return table if table.exists() else path

    def do_getFileId(self, caller: Caller) -> Any:
        return rlong(self._file().id)

    def do_read(self, caller: Caller, position: int, length: int) -> bytes:
        path = self._path()
        if not path.exists():
            raise omero.ResourceError(message=f"no bytes of OriginalFile {self._file().id}")
        with path.open("rb") as stream:
            stream.seek(position)
            return stream.read(length)

    def do_write(self, caller: Caller, data: bytes, position: int, length: int) -> None:
        row = self._file()
        if not caller.may_edit(row):
            raise omero.SecurityViolation(message=f"Updating {row} not allowed.")
        self.world.check_disk()
        path = self._path()
        path.touch()
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(bytes(data)[:length])
        self.changed = True

    def do_size(self, caller: Caller) -> int:
        path = self._path()
        return path.stat().st_size if path.exists() else 0

    def do_exists(self, caller: Caller) -> bool:
        return self._path().exists()

    def do_truncate(self, caller: Caller, length: int) -> bool:
        path = self._path()
        if not path.exists() or length >= path.stat().st_size:
            return False
        with path.open("r+b") as stream:
            stream.truncate(length)
        self.changed = True
        return True

    def do_save(self, caller: Caller) -> Any:
        row = self._file()
        path = self._path()
        data = path.read_bytes() if path.exists() else b""
        with caller.world.store.all_or_nothing():
            caller.world.store.assign(row, "size", rlong(len(data)))
            caller.world.store.assign(
                row, "hash", omero.rtypes.rstring(hashlib.sha1(data, usedforsecurity=False).hexdigest())
            )
            caller.world.store.assign(row, "hasher", caller.world.store.word("ChecksumAlgorithm", "SHA1-160"))
        self.changed = False
        return whole(caller, row)

    def do_close(self, caller: Caller) -> None:
        if self.row is not None and self.changed:
            self.do_save(caller)
        self.server.remove(self)

    def do_getCurrentEventContext(self, caller: Caller) -> Any:
        return event_context(caller)
