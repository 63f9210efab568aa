"""What publishing on an image would do, in words, for ``--dry-run``."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mxbridge.workspaces.omero.attachments.tables import tables_enabled
from mxbridge.workspaces.omero.publishing.homes import find_home
from mxbridge.workspaces.omero.publishing.import_client import find_client
from mxbridge.workspaces.omero.publishing.marker import read_markers
from mxbridge.workspaces.omero.publishing.marks import BULK, TABLE
from mxbridge.workspaces.omero.publishing.parts import Publishing, way_of

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session


def intentions(
    session: Session, info: ImageInfo, options: Publishing, makes: Collection[str], *, as_owner: bool
) -> tuple[str, ...]:
    """One line per kind of result that is made; nothing is written."""
    lines = [f"as {session.user_name}, in the group of the image{' (its owner)' if as_owner else ''}"]
    lines += _derived(session, info, options) if "channels" in makes else []
    if info.can_annotate:
        table = f"OMERO.table ({BULK}) and " if tables_enabled(session) else "no OMERO.table (the server keeps none), "
        if "values" in makes:
            lines.append(f"values per cell: {table}Parquet file ({TABLE}), attached to the image: one row per cell")
        if "objects" in makes:
            lines.append(f"nuclei: {_objects(options)}; values of the image: key-values")
        lines.append("how they were made: key-values on the image, and on new ones")
    else:
        lines.append(f"left out: tables, labels, ROIs and values ({session.user_name} may not annotate this image)")
    return (*lines, *_replaced(session, info))


def _derived(session: Session, info: ImageInfo, options: Publishing) -> list[str]:
    home = find_home(session, info, beside=options.beside)
    made = "" if home.id is not None else ", which is to be made"
    way = way_of(session, options, info.shape)
    how = {
        "tiles": "by tiles",
        "slow tiles": "by tiles (above the server's maximum plane size: it may take long or be refused)",
        "import": "as OME-TIFF by omero import"
        if find_client()
        else "as OME-TIFF by omero import, which is missing here",
        "zarr": "as OME-Zarr registered where it lies",
    }[way]
    size = f"{info.shape[1]} x {info.shape[0]} px"
    lines = [f"channels: new images '{info.name} (...)' of {size} in the dataset '{home.name}'{made}, {how}"]
    return lines + ([home.note] if home.note else [])


def _objects(options: Publishing) -> str:
    shown = f"ROIs ({options.rois_as}) for {options.rois:,} at most" if options.rois else "no ROIs (--rois N)"
    return f"labels as OME-Zarr and a table, attached; {shown}"


def _replaced(session: Session, info: ImageInfo) -> list[str]:
    return [
        f"there is, and is replaced where the same is made again: {m.model} {m.task}".rstrip()
        + f", {len(m.keys)} results of {m.published}"
        for m in read_markers(session, info.id)
    ]
