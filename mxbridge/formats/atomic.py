"""Replace a file in one step: write beside, flush to disk, then rename. A kill at any moment leaves the old or the new file."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mxbridge.errors import OutputError

PART_SUFFIX = ".mxbridge-part"
"""Suffix of files that a killed run may leave behind; they are never read and the next run may sweep them."""


@contextmanager
def write_atomically(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; on a clean exit it is fsynced and becomes ``target``.

    On any exception the part is removed and ``target`` is untouched. Raises OutputError when the disk is full or the
    folder is not writable.
    """
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
    try:
        yield part
        fsync_file(part)
        os.replace(part, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def fsync_file(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def fsync_folder(folder: Path) -> None:
    """Make a rename durable. Windows cannot open folders; there the rename itself is enough."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def output_error(target: Path, error: OSError) -> OutputError:
    """The one-line error for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{target}: the disk is full", hint="Nothing was changed; free some space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{target}: no permission to write here",
            hint="Nothing was changed; check the folder's permissions, or give another place with --out",
        )
    return OutputError(f"{target}: cannot be written ({error.strerror or error})")
