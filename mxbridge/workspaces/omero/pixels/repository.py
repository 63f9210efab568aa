"""Read an image where the server keeps it: in its managed repository, mounted on this machine, or as a registered OME-Zarr.

What lies there is believed only when size, channels, type and samples of the pixels are those that the server shows. Names,
colours and pixel size are OMERO's: that is where people change them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np

from mxbridge.errors import MxbridgeError
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box, LocalImage, computed
from mxbridge.runs import digest
from mxbridge.workspaces.omero.pixels.cache import pixel_identity
from mxbridge.workspaces.omero.pixels.tiles import open_pixels

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

MOST_FILES = 8
"""Files of one import that are tried."""

SAMPLE = 64
"""Side of the squares that are compared with the server's pixels."""

LOSSY_MEAN, LOSSY_MOST = 2.0, 24
"""How far (mean, most) two programs that unpack the same JPEG may differ in a colour picture."""

_FILES = (
    "select o.path, o.name, i.series, index(fe) from Image i join i.fileset fs join fs.usedFiles fe "
    "join fe.originalFile o where i.id = :id order by index(fe)"
)
_REGISTERED = "select e.lsid, e.entityType from Image i join i.details.externalInfo e where i.id = :id"


def open_in_place(
    session: Session, info: ImageInfo, repository: Path, plane: tuple[int, int] | None = None
) -> tuple[LocalImage | None, str]:
    """The image as it lies under ``repository``, or None and why not (then it can still be fetched from the server).

    repository: the folder at which the server's managed repository, or a folder with registered OME-Zarr images, is mounted
    here. plane: (z, t) of a stack. Paths that the server names are looked for below this folder only.
    """
    reasons = []
    for path, series in _candidates(session, info, repository):
        try:
            image = open_image(path, name=info.name, series=series, plane=plane)
            reason, exact = _compared(session, info, image, plane or (0, 0))
        except MxbridgeError as error:
            reasons.append(error.message)
            continue
        if not reason:
            return _as_omero_says(session, info, image, plane or (0, 0), exact), ""
        reasons.append(f"{path}: {reason}")
    why = reasons[0] if reasons else f"none of its files lies below {repository}"
    return None, f"{info} is not read in place ({why}); it is fetched from the server"


def below(repository: Path, named: str) -> Path | None:
    """A path that a server names, below ``repository``; None where it would lead elsewhere."""
    windows = PureWindowsPath(named)
    parts = PurePosixPath(named).parts
    if not parts or ".." in windows.parts or windows.drive or windows.root or "\\" in named or "\0" in named:
        return None
    return repository.joinpath(*parts)


def _candidates(session: Session, info: ImageInfo, repository: Path) -> Iterator[tuple[Path, int | None]]:
    """What might be the image, most likely first, and which series of it. Only what is there."""
    seen: dict[Path, int | None] = {}
    for lsid, kind in session.rows(_REGISTERED, id=info.id):
        if lsid and "multiscales" in (kind or ""):
            seen.update(dict.fromkeys(_registered(repository, lsid)))
    for folder, name, series, _ in session.rows(_FILES, id=info.id)[:1000]:
        path = below(repository, f"{folder or ''}{'' if (folder or '').endswith('/') else '/'}{name or ''}")
        if path is not None:
            seen.setdefault(_zarr_above(path, repository) or path, series)
    there = [(path, series) for path, series in seen.items() if _exists(path)]
    yield from there[:MOST_FILES]


def _registered(repository: Path, lsid: str) -> list[Path]:
    """Where an OME-Zarr that was registered as ``lsid`` (a path or ``file:`` URI of the server) may lie below ``repository``.

    The longest tail of its path that exists there; the server may have mounted the folder elsewhere.
    """
    uri = urlsplit(lsid)
    if uri.scheme not in ("", "file"):
        return []
    parts = [p for p in PurePosixPath(unquote(uri.path)).parts if p != "/"]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    paths = [path for tail in tails[-20:] if (path := below(repository, tail)) is not None]
    return [path for path in paths if _exists(path)][:1]


def _zarr_above(path: Path, repository: Path) -> Path | None:
    """The OME-Zarr that a file is a part of: it was imported file by file."""
    for folder in (path, *path.parents):
        if folder == repository:
            return None
        if folder.name.lower().endswith(".zarr"):
            return folder
    return None


def _compared(session: Session, info: ImageInfo, image: LocalImage, plane: tuple[int, int]) -> tuple[str, bool]:
    """Why these are not the pixels that the server shows ("" where they are), and whether they are exactly the same."""
    expected = (info.sizes[1], *info.shape)
    if image.levels[0].shape != expected:
        c, y, x = image.levels[0].shape
        return (
            f"{x} x {y} pixels with {c} channels, OMERO's has {info.sizes[4]} x {info.sizes[3]} with {info.sizes[1]}",
            False,
        )
    if image.dtype != info.dtype:
        return f"{image.dtype} pixels, OMERO's are {info.dtype}", False
    exact = True
    with open_pixels(session, info.pixels_id, info.dtype, group_id=info.group_id, where=str(info)) as server:
        for channel in sorted({0, expected[0] // 2, expected[0] - 1}):
            for box in _samples(info.shape):
                here = computed(image.levels[0][channel, box.y0 : box.y1, box.x0 : box.x1])
                there = server.read(plane[0], channel, plane[1], box)
                if np.array_equal(here, there, equal_nan=info.dtype.kind == "f"):
                    continue
                exact = False
                if not (image.rgb and _nearly(here, there)):
                    return f"channel {channel} has other pixels than OMERO's at ({box.x0}, {box.y0})", False
    return "", exact


def _samples(shape: tuple[int, int]) -> Sequence[Box]:
    """A corner, the middle, the opposite corner."""
    y, x = shape
    starts = [(0, 0), (max(0, (y - SAMPLE) // 2), max(0, (x - SAMPLE) // 2)), (max(0, y - SAMPLE), max(0, x - SAMPLE))]
    return [Box(a, b, min(a + SAMPLE, y), min(b + SAMPLE, x)) for a, b in dict.fromkeys(starts)]


def _nearly(here: np.ndarray, there: np.ndarray) -> bool:
    difference = np.abs(here.astype(np.int16) - there.astype(np.int16))
    return bool(difference.mean() <= LOSSY_MEAN and difference.max() <= LOSSY_MOST)


def _as_omero_says(
    session: Session, info: ImageInfo, image: LocalImage, plane: tuple[int, int], exact: bool
) -> LocalImage:
    identity = pixel_identity(session.database, info, plane)
    if not exact:
        identity = digest(["in place", identity, image.identity])
    return replace(
        image,
        name=info.name,
        channels=info.channels,
        pixel_size_um=info.pixel_size_um,
        identity=identity,
        rgb=info.rgb or image.rgb,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
