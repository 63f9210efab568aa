"""A folder with one TIFF per channel, as CODEX, IMC and MIBI pipelines leave it, as one image."""

from __future__ import annotations

import re
from pathlib import Path

import dask.array as da
import numpy as np

from mxbridge.errors import InputError, MxbridgeError
from mxbridge.formats.atomic import PART_SUFFIX
from mxbridge.formats.file_names import readable
from mxbridge.formats.pixels import file_identity, looking
from mxbridge.formats.tiff import image_stem, open_tiff
from mxbridge.image import Channel, LocalImage

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")


def tiff_files(folder: Path) -> list[Path]:
    """TIFF files directly in a folder, in natural order (``c2`` before ``c10``); hidden and half-written ones are left out."""
    with looking(folder):
        found = [
            p
            for p in folder.iterdir()
            if p.suffix.lower() in TIFF_SUFFIXES
            and not p.name.startswith(".")
            and PART_SUFFIX not in p.name
            and p.is_file()
        ]
    return sorted(found, key=lambda p: natural(p.name))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t.casefold()) for t in re.split(r"([0-9]+)", text) if t]


def is_channel_folder_candidate(folder: Path) -> bool:
    return bool(tiff_files(folder))


def is_channel_folder(folder: Path) -> bool:
    """Whether all TIFFs of a folder hold one channel each and have one size: then they are channels of one image.

    One file alone, colour pictures, and OME-TIFFs with several channels make it a folder of images.
    """
    files = tiff_files(folder)
    if len(files) < 2:
        return False
    shapes = set()
    for file in files:
        try:
            image = open_tiff(file)
        except MxbridgeError:
            return False
        if len(image.channels) != 1 or len(shapes | {image.shape}) > 1:
            return False
        shapes.add(image.shape)
    return True


def open_channel_folder(
    folder: Path, *, name: str | None = None, plane: tuple[int, int] | None = None, cut_at: str | None = None
) -> LocalImage:
    """Open a folder with one TIFF per channel; channels are in natural order of the file names.

    A channel is called as its file, without ``.tif`` or ``.ome.tif``. cut_at: only what stands before the first
    occurrence of this text (``CD3_Er170.tiff`` with ``"_"`` is ``CD3``). Raises InputError when sizes differ or a file
    has several channels.
    """
    files = tiff_files(folder)
    images = [open_tiff(f, plane=plane) for f in files]
    if not images:
        raise InputError(f"{folder}: it has no TIFF files")
    for file, image in zip(files, images, strict=True):
        if len(image.channels) != 1:
            raise InputError(
                f"{file}: it has {len(image.channels)} channels; in a folder with one TIFF per channel it may have one",
                hint="Name the image files one by one instead of the folder",
            )
        if image.shape != images[0].shape:
            raise InputError(
                f"{folder}: {file.name} has {image.shape[1]} x {image.shape[0]} pixels, "
                f"{files[0].name} {images[0].shape[1]} x {images[0].shape[0]}",
                hint="Channels of one image have one size; name the image files one by one if these are several images",
            )
    warnings = [w for image in images for w in image.warnings]
    dtype = np.result_type(*[image.dtype for image in images])
    if any(image.dtype != dtype for image in images):
        warnings.append(f"{folder.name}: its channels differ in type; all are read as {dtype}")
    sizes = {image.pixel_size_um for image in images}
    if len(sizes) > 1:
        warnings.append(f"{folder.name}: its channels differ in pixel size, so none was taken from them")
    channels = [Channel(_channel_name(f, cut_at), i.channels[0].color) for f, i in zip(files, images, strict=True)]
    return LocalImage(
        name=name or folder.resolve().name,
        levels=tuple(_stacked(images, dtype)),
        channels=tuple(channels),
        pixel_size_um=sizes.pop() if len(sizes) == 1 else None,
        identity=file_identity(files, "channels", [c.name for c in channels], plane),
        files=tuple(files),
        warnings=tuple(warnings),
    )


def _channel_name(file: Path, cut_at: str | None) -> str:
    stem = readable(image_stem(file))
    return (stem.split(cut_at)[0] or stem) if cut_at else stem


def _stacked(images: list[LocalImage], dtype: np.dtype) -> list[da.Array]:
    """Levels that all channels have, as one array each."""
    levels = []
    for k in range(min(len(image.levels) for image in images)):
        planes = [image.levels[k] for image in images]
        if len({p.shape for p in planes}) == 1:
            levels.append(da.concatenate([p.astype(dtype) for p in planes], axis=0))
    return levels
