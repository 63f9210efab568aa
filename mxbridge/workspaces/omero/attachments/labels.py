"""Cells from label images on the server: files attached to an image, or another OMERO image.

Attached are zipped OME-Zarr, label pictures (TIFF, PNG) and GeoJSON. They are fetched into a folder of the cache, once per
content, and read like the mask files of a folder.
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from mxbridge.cells import Cells, LabelCells
from mxbridge.errors import InputError, UnknownName, Unsupported
from mxbridge.formats.atomic import make_folder
from mxbridge.formats.labels import is_geojson, open_labels, scan_labels
from mxbridge.image import LocalImage
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.geojson import cells_from_geojson
from mxbridge.workspaces.omero.attachments.files import download_file
from mxbridge.workspaces.omero.attachments.label_zip import unpack_zarr
from mxbridge.workspaces.omero.publishing.marks import OWN_NAMESPACES

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

ZIPS = (".zarr.zip", ".ozx")
OUTLINES = (".geojson", ".geojson.gz")
PICTURES = (".tif", ".tiff", ".png")
WORDS = ("label", "mask", "segment", "cell", "nucle")
"""A picture is taken for labels without being named when one of these words stands in its name."""

SIZE_LIMIT = 8 << 30

_FILES = (
    "select f.id, f.name, f.size, f.hash, a.ns from ImageAnnotationLink l join l.child a join a.file f "
    "where l.parent.id = :image order by a.id"
)


@dataclass(frozen=True)
class Attachment:
    """A file attached to an image. own: mxbridge attached it."""

    file_id: int
    name: str
    size: int
    sha1: str
    own: bool

    @property
    def may_be_labels(self) -> bool:
        """Whether its name alone says that it holds cells."""
        name = self.name.lower()
        return name.endswith((*ZIPS, *OUTLINES)) or (name.endswith(PICTURES) and any(word in name for word in WORDS))


def attachments(session: Session, image_id: int) -> list[Attachment]:
    """The files attached to an image, oldest first, each once."""
    found: dict[int, Attachment] = {}
    for file_id, name, size, sha1, ns in session.rows(_FILES, image=image_id):
        own = str(ns or "").startswith(OWN_NAMESPACES)
        found.setdefault(file_id, Attachment(file_id, str(name), int(size or 0), str(sha1 or ""), own))
    return list(found.values())


def find_labels(session: Session, info: ImageInfo, name: str | None = None) -> Attachment | None:
    """The attachment that holds an image's cells.

    name: of the file, exactly or in any case; of several of one name the newest counts. Without a name, the only one of
    people that may hold labels, and None where there is none. Raises UnknownName, and InputError where several may.
    """
    there = attachments(session, info.id)
    if name is not None:
        exactly = [attachment for attachment in there if attachment.name == name]
        roughly = [attachment for attachment in there if attachment.name.casefold() == name.casefold()]
        if exactly or roughly:
            return (exactly or roughly)[-1]
        raise UnknownName("attachment", name, [a.name for a in there], where=str(info))
    fitting = [attachment for attachment in there if attachment.may_be_labels and not attachment.own]
    if len(fitting) > 1:
        raise InputError(
            f"{info}: several attachments may hold its cells ({', '.join(a.name for a in fitting[:5])})",
            hint="Name one with --labels attachment:NAME",
        )
    return fitting[0] if fitting else None


def cells_from_attachment(
    session: Session, info: ImageInfo, name: str | None, folder: Path, kind: CellKind = "cells"
) -> tuple[Cells | None, list[str]]:
    """Cells of an attached file, and remarks; None where nothing was named and nothing attached fits.

    folder: of the cache, in which fetched files stay. kind: which objects of a GeoJSON count. Raises UnknownName, InputError
    (not labels, another size than the image), SourceError, OutputError.
    """
    attachment = find_labels(session, info, name)
    if attachment is None:
        return None, []
    path = _fetched(session, attachment, folder)
    note = [] if name is not None else [f"cells are those of the attachment {attachment.name}"]
    if is_geojson(path):
        return cells_from_geojson(path, info.shape, kind=kind), note
    return open_labels(path, info.shape), note


def cells_from_label_image(image: LocalImage, shape: tuple[int, int]) -> LabelCells:
    """Cells of a label image that is itself an OMERO image: the numbers of its first channel.

    shape: (y, x) of the image that the cells belong to. Raises InputError (another size, no whole numbers), Unsupported.
    """
    if image.shape != tuple(shape):
        raise InputError(
            f"{image.name}: the label image has {image.shape[1]} x {image.shape[0]} pixels (width x height), "
            f"the image {shape[1]} x {shape[0]}",
            hint="Name the label image that belongs to this image, at full resolution",
        )
    if image.levels[0].shape[0] != 1:
        raise Unsupported(
            f"{image.name}: a label image needs one channel; this has {image.levels[0].shape[0]}",
            hint="Name another one with --labels image:ID",
        )
    return scan_labels(image.levels[0][0], shape, where=image.name)


def _fetched(session: Session, attachment: Attachment, folder: Path) -> Path:
    """The attachment on the local disk, unpacked where it is a zip; fetched by one process while others wait."""
    name = attachment.name.lower()
    suffix = next((s for s in (*ZIPS, *OUTLINES, ".json", ".json.gz", *PICTURES) if name.endswith(s)), None)
    if suffix is None:
        raise Unsupported(
            f"{attachment.name}: not an attachment that holds cells",
            hint="Cells are read from .zarr.zip, TIFF, PNG and GeoJSON",
        )
    make_folder(folder)
    stem = f"attachment-{session.database[:8]}-{attachment.file_id}-{attachment.sha1[:12] or attachment.size}"
    home = folder / f"{stem}.zarr" if suffix in ZIPS else folder / f"{stem}{suffix}"
    with FileLock(folder / f"{stem}.lock"):
        if not home.exists():
            if suffix in ZIPS:
                _fetch_zip(session, attachment, folder, home)
            else:
                download_file(session, attachment.file_id, home, limit=SIZE_LIMIT)
    if suffix not in ZIPS:
        return home
    inside = (home / "root").read_text(encoding="utf-8")
    return home / inside


def _fetch_zip(session: Session, attachment: Attachment, folder: Path, home: Path) -> None:
    """Fetch and unpack beside ``home``, then rename: what is there is whole. ``root`` says where in it the image is."""
    for left in folder.glob(f"{home.name}.*.part*"):  # of a killed process: who comes here holds the lock
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    part = folder / f"{home.name}.{uuid.uuid4().hex[:8]}.part"
    archive = part.with_name(f"{part.name}.zip")
    try:
        download_file(session, attachment.file_id, archive, limit=SIZE_LIMIT)
        root = unpack_zarr(archive, part / "content")
        (part / "root").write_text(root.relative_to(part).as_posix(), encoding="utf-8")
        part.rename(home)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(part, ignore_errors=True)
