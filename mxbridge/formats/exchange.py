"""Replace a file of a project only when it is still the one that was read.

QuPath holds no lock on its files, so this is the protocol on our side: write beside, flush, read back and check, keep a
backup under our own name, look once more whether somebody else wrote meanwhile, rename. A kill at any moment leaves the
old or the new file, and at worst a part that :func:`sweep` removes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import BrokenFile, ChangedMeanwhile, OutputError, SourceError
from mxbridge.formats.atomic import PART_SUFFIX, fsync_folder, output_error, write_atomically

BACKUP_SUFFIX = ".mxbridge-backup"
"""Never QuPath's own ``.bkp`` or ``.backup``: QuPath replaces and deletes those."""

_WINDOWS = os.name == "nt"
_RETRIES = 20
"""On Windows a virus scanner or a viewer may hold a file for a moment: half a second each, ten in all."""


@dataclass(frozen=True)
class Seen:
    """What a file was when it was read. Content decides: a copy with another time is the same file."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, data: bytes, status: os.stat_result) -> Seen:
        return cls(status.st_size, status.st_mtime_ns, hashlib.sha256(data).hexdigest())


def read_seen(path: Path, limit: int) -> tuple[bytes, Seen]:
    """A file's bytes and what it was. Raises SourceError (not there), BrokenFile (beyond ``limit`` bytes)."""
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_size > limit:
                raise BrokenFile(path, f"is {status.st_size:,} bytes long; more than {limit:,} is no such file")
            data = stream.read(limit + 1)
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise BrokenFile(path, "is a folder, not a file") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(data) > limit:
        raise BrokenFile(path, f"grows beyond {limit:,} bytes while it is read")
    return data, Seen.of(data, status)


def unchanged(path: Path, seen: Seen | None) -> bool:
    """Whether ``path`` is still what was read; None means it did not exist."""
    try:
        if seen is None:
            return not path.exists()
        if path.stat().st_size != seen.size:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == seen.sha256
    except FileNotFoundError:
        return False


def replace_seen(
    target: Path, data: bytes, seen: Seen | None, *, verify: Callable[[bytes], None], backup: bytes | None = None
) -> Seen:
    """Make ``data`` the content of ``target`` if it still is ``seen`` (None: not there), and return what it is now.

    verify: called with the bytes read back from the part; raises OutputError when they are not what was meant.
    backup: the bytes to keep as ``<target>.mxbridge-backup``; None leaves an earlier backup as it is.
    Raises ChangedMeanwhile, OutputError; then the target is untouched.
    """
    if target.is_symlink():
        raise OutputError(
            f"{target} is a symbolic link",
            hint="mxbridge does not write through links inside a project; replace the link by the file itself",
        )
    if backup is not None:
        with write_atomically(target.with_name(target.name + BACKUP_SUFFIX)) as part:
            part.write_bytes(backup)
    part = target.with_name(f"{target.name}{PART_SUFFIX}")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        read_back = part.read_bytes()
        if read_back != data:
            raise OutputError(f"{target}: the disk gave back other bytes than were written", hint="Nothing was changed")
        verify(read_back)
        if not unchanged(target, seen):
            raise ChangedMeanwhile(
                f"{target} was changed by another program since it was read",
                hint="Nothing was written. If the image is open in QuPath, save and close it there, then run again",
            )
        _rename(part, target)
        fsync_folder(target.parent)
        return Seen.of(data, target.stat())
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sweep(folder: Path) -> list[Path]:
    """Remove the parts a killed run left in ``folder``. Call it only while holding the project's lock.

    Raises OutputError where they cannot be removed.
    """
    try:
        left = sorted(p for p in folder.glob(f"*{PART_SUFFIX}") if not p.is_dir()) if folder.is_dir() else []
        for part in left:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    return left


def _rename(part: Path, target: Path) -> None:
    for _ in range(_RETRIES):
        try:
            os.replace(part, target)
            return
        except PermissionError:
            if not _WINDOWS:
                raise
            time.sleep(0.5)
    raise OutputError(
        f"{target} is held open by another program",
        hint="Nothing was changed. Close it there (QuPath, a viewer, a backup program) and run again",
    )
