"""Files of any size to OMERO and back, piece by piece, and checked by length and SHA-1.

A file that was sent belongs to nobody until an annotation names it: a killed upload leaves only what the next publication
sweeps, known by the folder in its name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mxbridge.errors import BrokenFile, OutputError, SourceError
from mxbridge.formats.atomic import write_atomically
from mxbridge.workspaces.omero.publishing.marks import short_name

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

PIECE = 4 << 20
"""Bytes of one call."""

_STATE = "select f.size, f.hash from OriginalFile f where f.id = :file"


def upload_file(session: Session, path: Path, *, group_id: int, name: str, mimetype: str) -> int:
    """Send a file and return the id of its OriginalFile, which nothing is linked to yet.

    name: with its folder on the server, ``mxbridge/17/ab12/cells.parquet``. Raises OutputError when the server does not hold
    exactly these bytes afterwards, and for a file that changes meanwhile.
    """
    from omero.model import ChecksumAlgorithmI, OriginalFileI
    from omero.rtypes import rlong, rstring

    size = path.stat().st_size
    folder, slash, plain = name.rpartition("/")
    file = OriginalFileI()
    file.setName(rstring(short_name(plain)))
    file.setPath(rstring(folder + slash))
    file.setSize(rlong(size))
    file.setMimetype(rstring(mimetype))
    hasher = ChecksumAlgorithmI()
    hasher.setValue(rstring("SHA1-160"))
    file.setHasher(hasher)
    (file_id,) = session.save([file], group_id)
    sha1, sent = hashlib.sha1(usedforsecurity=False), 0
    with session.raw_file(file_id, group_id=group_id) as store, path.open("rb") as stream:
        while piece := stream.read(PIECE):
            store.write(piece, sent, len(piece))
            sha1.update(piece)
            sent += len(piece)
        store.truncate(sent)  # also makes an empty file exist
        store.save()
    if sent != size:
        raise OutputError(f"{path} changed while it was sent to OMERO", hint="Run again")
    _check(session, file_id, name, sent, sha1.hexdigest())
    return file_id


def _check(session: Session, file_id: int, name: str, size: int, sha1: str) -> None:
    rows = session.rows(_STATE, file=file_id)
    stored = rows[0] if rows else (None, None)
    if stored[0] != size or str(stored[1] or "").lower() != sha1:
        raise OutputError(
            f"OMERO says that {name} (file {file_id}) has {stored[0]} bytes with SHA-1 {stored[1]}; {size} bytes with {sha1} were sent",
            hint="Run `mxbridge publish RUN` to send it again",
        )


def download_file(session: Session, file_id: int, target: Path, *, limit: int) -> None:
    """Fetch an OriginalFile into ``target``, in one step. Raises SourceError (not there), BrokenFile (too large, or other
    bytes than its SHA-1 says), OutputError."""
    rows = session.rows(_STATE, file=file_id)
    if not rows:
        raise SourceError(f"there is no file {file_id} on the server", hint="Was it deleted meanwhile?")
    size, sha1 = int(rows[0][0] or 0), str(rows[0][1] or "").lower()
    if size > limit:
        raise BrokenFile(f"file {file_id} on the server", f"{size:,} bytes are more than {limit:,}")
    digest = hashlib.sha1(usedforsecurity=False)
    with write_atomically(target) as part, part.open("wb") as stream:
        with session.raw_file(file_id) as store:
            for first in range(0, size, PIECE):
                piece = store.read(first, min(PIECE, size - first))
                if len(piece) != min(PIECE, size - first):
                    raise BrokenFile(f"file {file_id} on the server", f"ends before its {size:,} bytes", position=first)
                digest.update(piece)
                stream.write(piece)
        if len(sha1) == 40 and digest.hexdigest() != sha1:
            raise BrokenFile(f"file {file_id} on the server", "its bytes are not those that its SHA-1 tells")
