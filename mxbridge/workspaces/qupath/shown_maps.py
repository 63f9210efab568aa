"""Maps of a task as channels beside the image they were made of, in an entry of their own (:mod:`.joined`); or, where that is
a colour picture, as images apart from it (:mod:`.apart`).

QuPath neither scales a smaller image nor keeps values of another pixel type, so each is written once more, at full size and
in the type of the image: ``<map>.ome.tif`` beside ``<map>.ome.zarr``. What has that size and type already (an imputed
stain) keeps its values; a smaller map holds fractions, which are stretched over the type.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError, MxbridgeError, NoPixelSize, NotApplicable, SourceError, Unsupported
from mxbridge.formats.atomic import output_error
from mxbridge.formats.exchange import sweep
from mxbridge.formats.ome_tiff import RGB_SAMPLES, write_ome_tiff
from mxbridge.formats.open_image import open_image
from mxbridge.formats.pixels import Level
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.results import DerivedImage
from mxbridge.workspaces.qupath.apart import ApartFile, apart_files, apart_view, hide_apart, show_apart
from mxbridge.workspaces.qupath.builders import shown_channels
from mxbridge.workspaces.qupath.joined import (
    PIXEL_TYPES,
    DerivedFile,
    add_joined_entry,
    check_base,
    joined_files,
    joined_keys,
    joined_view,
    remove_joined_channels,
)
from mxbridge.workspaces.qupath.pixels import open_pixels, pixel_size
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.uris import PathMap
from mxbridge.workspaces.qupath.views import Shown, View, is_refreshed

ZARR, TIFF = ".ome.zarr", ".ome.tif"

_NOT_SHOWN = (NotApplicable, NoPixelSize, SourceError, Unsupported)
"""Why maps stay files: nothing that a user has done wrong."""

TOP = {"uint8": 255, "uint16": 65535, "float32": 1}
"""What stands for a fraction of 1 in each type that QuPath joins."""


def show_maps(
    project_path: Path,
    entry_id: int,
    folder: Path,
    derived: Sequence[DerivedImage],
    *,
    path_maps: Sequence[PathMap] = (),
    um_per_px: float | None = None,
) -> Shown:
    """Show derived images that lie in ``folder`` beside the channels of an entry, or apart from it, under the project's lock.

    Without any it refreshes the objects of entries that are there already, and makes none.

    um_per_px: of the image, where the project does not say. An image that nothing can be joined to (a colour picture, a rare
    pixel type, no pixel size) keeps its maps as files, and a note says why. Raises InputError, SourceError,
    ChangedMeanwhile, OutputError.
    """
    joined = [image for image in derived if image.show == "joined"]
    apart = [image for image in derived if image.show == "apart"]
    if not derived:
        first = add_joined_entry(project_path, entry_id, [])
        return _both(first, show_apart(project_path, entry_id, []))
    project = Project.open(project_path)
    base = _base(project, entry_id, path_maps, um_per_px)
    sweep(folder)
    first = Shown(None, False)
    notes: tuple[str, ...] = ()
    try:
        files = _joined_files(project, entry_id, folder, joined, base)
        first = add_joined_entry(project_path, entry_id, files, path_maps=path_maps)
    except _NOT_SHOWN as error:
        first = add_joined_entry(project_path, entry_id, [])
        notes = (_why_not(error),)
    second = show_apart(project_path, entry_id, [_apart_file_of(folder, image, base) for image in apart])
    return replace(_both(first, second), notes=(*first.notes, *notes, *second.notes))


def describe_maps(
    project: Project,
    entry_id: int,
    folder: Path,
    derived: Sequence[DerivedImage],
    *,
    path_maps: Sequence[PathMap] = (),
    um_per_px: float | None = None,
) -> tuple[list[View], tuple[str, ...]]:
    """The entries that :func:`show_maps` would add or change, and notes; full-size files are made, the project is only read.

    Raises as that does.
    """
    if not derived:
        return [], ()
    base = _base(project, entry_id, path_maps, um_per_px)
    sweep(folder)
    views: list[View] = []
    notes: tuple[str, ...] = ()
    try:
        files = _joined_files(project, entry_id, folder, [image for image in derived if image.show == "joined"], base)
        view = joined_view(project, entry_id, files, path_maps=path_maps) if files else None
        views += [] if view is None else [view]
    except _NOT_SHOWN as error:
        notes = (_why_not(error),)
    apart = [_apart_file_of(folder, image, base) for image in derived if image.show == "apart"]
    return [*views, *(apart_view(project, entry_id, file) for file in apart)], notes


def _base(project: Project, entry_id: int, path_maps: Sequence[PathMap], um_per_px: float | None) -> LocalImage:
    """The image that maps are shown with."""
    entry = project.entry(entry_id)
    base = open_pixels(entry.builder, name=entry.name, locate=lambda uri: project.locate(uri, path_maps))
    return base if um_per_px is None else base.with_pixel_size(um_per_px)


def _joined_files(
    project: Project, entry_id: int, folder: Path, joined: Sequence[DerivedImage], base: LocalImage
) -> list[DerivedFile]:
    if joined:
        check_base(project.entry(entry_id), base)
    return [_file_of(folder, image, base) for image in joined]


def _why_not(error: MxbridgeError) -> str:
    return f"maps are not shown in QuPath: {error.message}"


def _both(first: Shown, second: Shown) -> Shown:
    entry = second.entry_id if first.entry_id is None else first.entry_id
    return Shown(entry, first.changed or second.changed, (*first.notes, *second.notes))


def maps_are_shown(project: Project, entry_id: int, derived: Sequence[DerivedImage], folder: Path) -> bool:
    """Whether the entries that show an image show these results from files that are in ``folder``, or nothing can be joined
    to that image.

    QuPath drops an entry that was added while it had the project open as soon as it saves its own list. No image is opened.
    """
    if not is_refreshed(project, entry_id):
        return False
    files = apart_files(project, entry_id)
    for image in derived:
        if image.show == "apart" and not (folder / files.get(image.result_key, "?")).is_file():
            return project.entry(entry_id).made_by_mxbridge
    keys = {image.result_key for image in derived if image.show == "joined"}
    if keys <= set(joined_keys(project, entry_id)):
        files = joined_files(project, entry_id)
        return all((folder / files[key]).is_file() for key in keys)
    source = project.entry(entry_id)
    recorded = source.builder.get("metadata")
    if not isinstance(recorded, Mapping):
        return source.made_by_mxbridge
    joinable = recorded.get("isRGB") is not True and str(recorded.get("pixelType")).lower() in PIXEL_TYPES
    return source.made_by_mxbridge or not joinable or pixel_size(recorded) is None


def hide_maps(project_path: Path, entry_id: int, folder: Path, result_keys: Collection[str]) -> Shown:
    """Take the channels of these results out of the joined entry, remove the entries of those apart, and the full-size files
    that were made for them."""
    project = Project.open(project_path)
    files = joined_files(project, entry_id) | apart_files(project, entry_id)
    done = remove_joined_channels(project_path, entry_id, result_keys)
    apart, stay = hide_apart(project_path, entry_id, result_keys)
    for key in (set(result_keys) & set(files)) - stay:
        tiff = folder / files[key]
        if tiff.name.endswith(TIFF) and tiff.with_name(tiff.name.removesuffix(TIFF) + ZARR).is_dir():
            try:
                tiff.unlink(missing_ok=True)
            except OSError as error:
                raise output_error(tiff, error) from error
    return _both(done, apart)


def _file_of(folder: Path, image: DerivedImage, base: LocalImage) -> DerivedFile:
    path = _tiff_of(folder, image, lambda tiff, found: write_map_tiff(tiff, found, base))
    return DerivedFile(path, image.result_key, tuple(Channel(name) for name in image.channels))


def _apart_file_of(folder: Path, image: DerivedImage, base: LocalImage) -> ApartFile:
    path = _tiff_of(folder, image, lambda tiff, found: write_apart_tiff(tiff, found, base, rgb=image.rgb))
    colors = [channel.color for channel in open_image(path).channels]
    channels = () if image.rgb else tuple(Channel(*told) for told in zip(image.channels, colors, strict=True))
    return ApartFile(path, image.result_key, image.title, channels, base.pixel_size_um)


def _tiff_of(folder: Path, image: DerivedImage, write: Callable[[Path, Path], None]) -> Path:
    """The file QuPath can show; made from the map where there is none yet, or that of another map, older or newer: a run that
    was reviewed first is published after later ones. It has the time of its map."""
    path = folder / image.file
    if not image.file.endswith(ZARR):
        return path
    tiff = path.with_name(image.file.removesuffix(ZARR) + TIFF)
    if not path.is_dir():
        raise SourceError(f"{path} does not exist")
    made = max(p.stat().st_mtime_ns for p in (path, *path.iterdir()))
    if not tiff.exists() or tiff.stat().st_mtime_ns != made:
        write(tiff, path)
        os.utime(tiff, ns=(made, made))
    return tiff


def write_map_tiff(target: Path, map_path: Path, base: LocalImage) -> None:
    """Write a derived image as an OME-TIFF of the size and type of ``base``: as it is where it has both already, else as a
    map of fractions (uint8, 0..255 for 0..1, any scale) of which every pixel takes the value its centre lies in.

    Streams; the memory does not depend on the size. Raises Unsupported (a type QuPath does not join, a map of another type),
    NoPixelSize, SourceError, OutputError.
    """
    found = open_image(map_path)
    if found.dtype == base.dtype and found.shape == base.shape:
        write_ome_tiff(target, found.levels[0], found.channels, base.pixel_size_um)
        return
    if found.dtype != np.uint8 or base.dtype.name not in TOP:
        raise Unsupported(f"{map_path}: a map of {found.dtype} cannot be shown beside {base.dtype} pixels")
    scale = [own / map_um for own, map_um in zip(base.require_pixel_size(), found.require_pixel_size(), strict=True)]
    level = _Enlarged(map_path, found, base, (scale[0], scale[1]), base.dtype)
    pixels = level.array(f"enlarged-{found.identity[:24]}-{base.identity[:24]}")
    write_ome_tiff(target, pixels, found.channels, base.pixel_size_um)


def write_apart_tiff(target: Path, map_path: Path, base: LocalImage, *, rgb: bool = False) -> None:
    """Write a derived image as an OME-TIFF of the size of ``base``, in its own type; each pixel takes the value its centre lies
    in. Streams. rgb: three uint8 channels are one colour picture. Raises InputError, NoPixelSize, SourceError, OutputError."""
    found = open_image(map_path)
    if rgb and (len(found.channels) != RGB_SAMPLES or found.dtype != np.uint8):
        raise InputError(f"{map_path}: {len(found.channels)} channels of {found.dtype} are no colour picture")
    pixels = found.levels[0]
    if found.shape != base.shape:
        scale = [own / its for own, its in zip(base.require_pixel_size(), found.require_pixel_size(), strict=True)]
        level = _Enlarged(map_path, found, base, (scale[0], scale[1]), found.dtype)
        pixels = level.array(f"enlarged-{found.identity[:24]}-{base.identity[:24]}")
    write_ome_tiff(target, pixels, shown_channels(found), base.pixel_size_um, rgb=rgb)


class _Enlarged(Level):
    def __init__(
        self, path: Path, found: LocalImage, base: LocalImage, scale: tuple[float, float], dtype: np.dtype
    ) -> None:
        """scale: (y, x) map pixels per pixel of ``base``. dtype: of the values; another than the map's own stretches them."""
        super().__init__(path, (len(found.channels), *base.shape), dtype, (1, 512, 512))
        self._map, self._scale = found.levels[0], scale

    def read(self, channels: range, box: Box) -> NDArray:
        y, x = (
            np.minimum(((np.arange(first, last) + 0.5) * scale).astype(np.int64), size - 1)
            for first, last, scale, size in zip(box[:2], box[2:], self._scale, self._map.shape[1:], strict=True)
        )
        part = self._map[channels.start : channels.stop, y[0] : y[-1] + 1, x[0] : x[-1] + 1].compute()
        values = np.asarray(part)[:, y - y[0]][:, :, x - x[0]]
        if self.dtype == values.dtype:
            return values
        return (values * np.float64(TOP[self.dtype.name]) / TOP["uint8"]).astype(self.dtype)
