"""Objects as a zipped OME-Zarr label image, written and, whoever zipped it, unpacked safely.

The archive holds an OME-Zarr at its root (or in one folder) with the label image in ``labels/<name>``; members are stored
without a second compression, in an order and with a date that depend on nothing, so that equal labels give equal files.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mxbridge.cells import Cells, OutlineCells
from mxbridge.errors import BrokenFile, InputError
from mxbridge.formats.atomic import output_error, write_atomically
from mxbridge.formats.ome_tiff import level_shapes
from mxbridge.formats.ome_zarr import is_zarr
from mxbridge.formats.pixels import reading
from mxbridge.results import NewObjects
from mxbridge.workspaces.omero.pixels.tiles import tiles_of

CHUNK = 1024

MEMBER_LIMIT = 300_000
UNPACKED_LIMIT = 32 << 30
"""Members, and bytes after unpacking, of an archive that is looked into."""

DIRECTORY_LIMIT = 64 << 20
"""Bytes of the list of members, which has to be in memory."""

_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1
_PIECE = 1 << 20


def write_labels(
    target: Path,
    objects: NewObjects | Cells,
    shape: tuple[int, int],
    name: str,
    pixel_size_um: tuple[float, float] | None,
) -> Path:
    """Write ``target`` (``*.ome.zarr.zip``) with the label image ``labels/<name>`` and return it.

    Pixel value k + 1 is the object at index k, by the raster rule of ``cells``: where objects overlap, the later one. shape:
    (y, x) of the image. Coarser levels take every second pixel. Raises OutputError, InputError.
    """
    cells: Cells
    if isinstance(objects, NewObjects):
        cells = OutlineCells(objects.keys, objects.class_names, shape, objects.outlines)
    else:
        cells = objects
    if tuple(cells.shape) != tuple(shape):
        raise InputError(f"{target}: cells of an image of another size")
    try:
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as folder:
            root = Path(folder) / "labels.zarr"
            _write_zarr(root, cells, name, pixel_size_um)
            with write_atomically(target) as part:
                _pack(root, part)
    except OSError as error:
        raise output_error(target, error) from error
    return target


def _write_zarr(root: Path, cells: Cells, name: str, pixel_size_um: tuple[float, float] | None) -> None:
    import zarr
    from ome_zarr.format import format_from_version
    from ome_zarr.writer import write_label_metadata, write_multiscales_metadata

    format_ = format_from_version("0.5")
    labels = zarr.open_group(str(root), mode="w", zarr_format=3).create_group("labels")
    group = labels.create_group(name)
    sizes = level_shapes(cells.shape)
    levels: list[Any] = []
    for k, size in enumerate(sizes):
        chunks = (min(CHUNK, size[0]), min(CHUNK, size[1]))
        level: Any = group.create_array(
            str(k), shape=size, chunks=chunks, dtype=np.int32, fill_value=0, dimension_names=("y", "x")
        )
        for box in tiles_of(size, chunks):
            values = (
                cells.raster(box)
                if k == 0
                else np.asarray(levels[-1][2 * box.y0 : 2 * box.y1 : 2, 2 * box.x0 : 2 * box.x1 : 2])
            )
            if values.any():
                level[box.y0 : box.y1, box.x0 : box.x1] = values
        levels.append(level)
    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    y, x = pixel_size_um or (1.0, 1.0)
    datasets = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [y * 2**k, x * 2**k]}]}
        for k in range(len(sizes))
    ]
    axes = [{"name": axis, "type": "space", **unit} for axis in "yx"]
    write_multiscales_metadata(group, datasets, fmt=format_, axes=axes, name=name)
    write_label_metadata(labels, name, fmt=format_)


def _pack(root: Path, target: Path) -> None:
    """All files below ``root``, those of the metadata first."""
    files = sorted(
        (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()),
        key=lambda place: (not place.endswith("zarr.json"), place.count("/"), place),
    )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for place in files:
            with (root / place).open("rb") as source, archive.open(zipfile.ZipInfo(place, _FIRST_DAY), "w") as sink:
                shutil.copyfileobj(source, sink, _PIECE)


def unpack_zarr(archive: Path, folder: Path) -> Path:
    """Unpack an archive into ``folder`` (made, must not be there) and return the OME-Zarr in it.

    Raises BrokenFile for what is no such archive or means harm: names that lead out of the folder, links, encryption, too
    many members, more bytes than :data:`UNPACKED_LIMIT`; OutputError where the disk is full.
    """
    with reading(archive):
        _check_directory(archive)
        with zipfile.ZipFile(archive) as source:
            members = _safe_members(archive, source.infolist())
            folder.mkdir(parents=True)
            for member, place in members:
                target = folder.joinpath(*place.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                _unpack(archive, source, member, target)
    tops = [p for p in folder.iterdir() if p.is_dir() and is_zarr(p)]
    if is_zarr(folder):
        return folder
    if len(tops) != 1:
        raise BrokenFile(archive, f"holds {len(tops) or 'no'} OME-Zarr images", hint="Zip one .zarr folder")
    return tops[0]


def _unpack(archive: Path, source: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """One member, never more than it says it has."""
    left = member.file_size
    with source.open(member) as stream:
        pieces = iter(lambda: stream.read(_PIECE), b"")
        try:
            with target.open("xb") as sink:
                for piece in pieces:
                    left -= len(piece)
                    if left < 0:
                        raise BrokenFile(archive, f"{member.filename} is larger than the archive says")
                    sink.write(piece)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise BrokenFile(archive, f"{member.filename} is in it twice") from error
        except OSError as error:
            raise output_error(target, error) from error


def _safe_members(archive: Path, members: list[zipfile.ZipInfo]) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    found = []
    if len(members) > MEMBER_LIMIT or sum(m.file_size for m in members) > UNPACKED_LIMIT:
        raise BrokenFile(
            archive, f"unpacks to more than {MEMBER_LIMIT:,} files or {UNPACKED_LIMIT >> 30} GB",
            hint="Use sharded or larger chunks, or keep the labels as files",
        )  # fmt: skip
    for member in members:
        place = PurePosixPath(member.filename)
        if member.is_dir() or member.filename.startswith("__MACOSX/"):
            continue
        strange = place.is_absolute() or ".." in place.parts or any(c in member.filename for c in '\\:\0*?"<>|')
        if strange or not place.parts:
            raise BrokenFile(archive, f"its member {member.filename!r} is no plain place within a folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BrokenFile(archive, f"its member {member.filename!r} is a link")
        if member.flag_bits & _ENCRYPTED:
            raise BrokenFile(archive, "is encrypted", hint="Zip it without a password")
        found.append((member, place))
    return found


def _check_directory(archive: Path) -> None:
    """Refuse an archive whose list of members would fill the memory, before it is read. Raises BrokenFile."""
    with archive.open("rb") as stream:
        stream.seek(0, 2)
        size = stream.tell()
        stream.seek(max(0, size - (1 << 17)))
        tail = stream.read()
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        raise BrokenFile(archive, "is no zip archive, or not all of one")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    if length == 0xFFFFFFFF:
        longer = tail.rfind(_END_64, 0, end)
        if longer < 0 or tail.find(_LOCATOR_64, longer, end) < 0:
            raise BrokenFile(archive, "is no zip archive, or not all of one")
        length = int.from_bytes(tail[longer + 40 : longer + 48], "little")
    if length > DIRECTORY_LIMIT:
        raise BrokenFile(archive, f"its list of files has {length:,} bytes")
