"""One door to image files: what a file is, is decided by its first bytes, not by its name."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from mxbridge.errors import BrokenFile, Unsupported
from mxbridge.formats.pixels import looking, missing, reading
from mxbridge.formats.tiff_structure import TIFF_STARTS
from mxbridge.image import LocalImage

PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
OPENSLIDE_ONLY = (".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".dcm")
"""Slides that begin like a TIFF, or like nothing at all, but that only openslide reads rightly."""


def open_image(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    series: int | None = None,
    plane: tuple[int, int] | None = None,
) -> LocalImage:
    """Open an image file or folder lazily.

    path: OME-TIFF, TIFF, SVS, QPTIFF, an OME companion file, PNG, JPEG, an OME-Zarr folder, a folder with one TIFF per
        channel, or any slide that openslide knows (extra ``slides``).
    name: instead of the name that the file gives.
    series: which image of a file with several (0-based); None takes the first and says so in ``warnings``.
    plane: (z, t) of a stack; None takes the first and says so in ``warnings``.

    Levels are dask arrays ``(c, y, x)`` in the stored type; nothing but headers is read. Raises SourceError (nothing
    there), BrokenFile (also later, while pixels are computed), Unsupported, InputError.
    """
    path = Path(path)
    with looking(path):
        return _open(path, name, series, plane)


def _open(path: Path, name: str | None, series: int | None, plane: tuple[int, int] | None) -> LocalImage:
    if path.is_dir():
        return _open_folder(path, name, series, plane)
    if not path.exists():
        raise missing(path)
    with reading(path), path.open("rb") as stream:
        start = stream.read(16)
    if path.suffix.lower() in OPENSLIDE_ONLY:
        from mxbridge.formats.slides import open_slide

        return open_slide(path, name=name)
    if start.startswith(TIFF_STARTS) or path.name.lower().endswith((".companion.ome", ".ome.xml")):
        from mxbridge.formats.tiff import open_tiff

        return open_tiff(path, name=name, series=series, plane=plane)
    if start.startswith(PICTURE_STARTS):
        from mxbridge.formats.pictures import open_picture

        return open_picture(path, name=name)
    return _open_other(path, start, name)


def _open_folder(path: Path, name: str | None, series: int | None, plane: tuple[int, int] | None) -> LocalImage:
    from mxbridge.formats.channel_folder import is_channel_folder_candidate, open_channel_folder
    from mxbridge.formats.ome_zarr import is_zarr, open_ome_zarr

    if is_zarr(path):
        return open_ome_zarr(path, name=name, series=series, plane=plane)
    if is_channel_folder_candidate(path):
        return open_channel_folder(path, name=name, plane=plane)
    raise Unsupported(f"{path}: neither an OME-Zarr image nor a folder of TIFF files", hint="Name the image itself")


def _open_other(path: Path, start: bytes, name: str | None) -> LocalImage:
    if not start:
        raise BrokenFile(path, "the file is empty")
    if path.suffix.lower() in (".tif", ".tiff", ".btf", ".qptiff", ".svs", ".png", ".jpg", ".jpeg"):
        raise BrokenFile(path, f"it does not begin like a {path.suffix[1:].upper()} file", position=0)
    from mxbridge.formats.slides import open_slide

    return open_slide(path, name=name)
