"""Which images lie at a path, and which mask belongs to which image."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import InputError
from mxbridge.formats.atomic import PART_SUFFIX
from mxbridge.formats.channel_folder import TIFF_SUFFIXES, is_channel_folder, natural, tiff_files
from mxbridge.formats.file_names import on_disk, readable
from mxbridge.formats.ome_zarr import is_derived, is_zarr, zarr_stem
from mxbridge.formats.pixels import looking, missing
from mxbridge.formats.tiff import image_stem

IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".qptiff", ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif")
MASK_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".geojson", ".geojson.gz")
OWN_FOLDERS = ("mxbridge-runs",)
SYSTEM_FOLDERS = ("lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders of the system at the root of a drive, which nobody may look into."""


@dataclass(frozen=True)
class Found:
    """An image at ``path`` and, where it is not plain, how it was taken. The name is text that can be written anywhere."""

    path: Path
    name: str
    note: str = ""


def find_images(paths: Iterable[str | Path], masks: Iterable[Path] = ()) -> list[Found]:
    """Images at files, folders and globs, each once, in natural order within what was named.

    A folder is one image when it is an OME-Zarr, or when all its TIFFs hold one channel of one size (one TIFF per
    channel). Otherwise its image files are images, and so are its sub-folders of these two kinds. Masks, runs of
    mxbridge and images that it derived are left out unless named one by one. Raises SourceError, InputError.
    """
    left_out = {m.resolve() for m in masks}
    found: dict[Path, Found] = {}
    for named in paths:
        with looking(Path(named)):
            one_by_one = _place(named) is not None
            for path in expand(named):
                if not one_by_one and path.is_file() and not path.name.lower().endswith(IMAGE_SUFFIXES):
                    continue  # a glob means the images it matches; tables beside them are none
                for image in _images_at(path):
                    if image.path not in left_out or (one_by_one and path.resolve() == image.path):
                        found.setdefault(image.path, image)
    if not found:
        raise InputError(
            f"no image in {', '.join(str(p) for p in paths)}", hint="Name image files, or a folder of them"
        )
    return list(found.values())


def expand(named: str | Path) -> list[Path]:
    """The paths a name stands for: itself, or what a glob matches (``**`` included).

    Raises SourceError for nothing and for what may not be read, InputError for a glob that matches nothing.
    """
    with looking(Path(named)):
        place = _place(named)
    if place is not None:
        return [place]
    path = _from_home(named)
    if not glob.has_magic(str(named)):
        raise missing(path)
    matched = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - absolute patterns as well
    kept = sorted((p for p in matched if not _own(p)), key=lambda p: natural(str(p)))
    if not kept:
        _check_readable(path)
        raise InputError(f"nothing matches {named}", hint="Quote the pattern and check it with ls")
    return kept


def _place(named: str | Path) -> Path | None:
    """The path that is called so, also by the readable form of its name; None where nothing is."""
    here = _from_home(named)
    return next((p for p in (here, Path(on_disk(str(here)))) if p.exists()), None)


def _from_home(named: str | Path) -> Path:
    try:
        return Path(named).expanduser()
    except RuntimeError:  # ~ of somebody who has no home
        return Path(named)


def _check_readable(pattern: Path) -> None:
    """Raise SourceError when a pattern matches nothing because a folder on its way may not be read: glob passes that over."""
    for above in reversed(pattern.parents):
        for folder in glob.glob(str(above)) if glob.has_magic(str(above)) else [above]:  # noqa: PTH207
            with looking(Path(folder)):
                if Path(folder).is_dir():
                    next(Path(folder).iterdir(), None)


def find_masks(paths: Iterable[str | Path]) -> list[Path]:
    """Mask files at files, folders and globs, each once, in natural order. Raises SourceError, InputError."""
    found: dict[Path, None] = {}
    for named in paths:
        for path in expand(named):
            with looking(path):
                inside = _masks_in(path) if path.is_dir() and not is_zarr(path) else [path]
            if not inside:
                raise InputError(f"no mask in {path}", hint="Masks are TIFF, PNG, OME-Zarr or GeoJSON")
            found.update(dict.fromkeys(p.resolve() for p in inside))
    return list(found)


def _masks_in(folder: Path) -> list[Path]:
    inside = [p for p in folder.iterdir() if not _own(p)]
    masks = [p for p in inside if p.name.lower().endswith(MASK_SUFFIXES) or is_zarr(p)]
    return sorted(masks, key=lambda p: natural(p.name))


def match_masks(images: Sequence[Found], masks: Sequence[Path]) -> tuple[dict[Path, Path], list[str]]:
    """Mask by image path, and remarks.

    One image and one mask belong together. Otherwise a mask belongs to the image whose whole name it contains
    (``fov1_mask`` to ``fov1``, never to ``fov10``; the longest name wins), or to the only image in its folder. Of several
    masks for one image those that speak of nuclei give way. Only when no name fits anywhere and the numbers are equal,
    order decides, with a remark. Raises InputError when it stays ambiguous.
    """
    if not masks:
        return {}, []
    if len(images) == len(masks) == 1:
        return {images[0].path: masks[0]}, []
    candidates: dict[Path, list[Path]] = {image.path: [] for image in images}
    for mask in masks:
        for owner in _owners(images, mask):
            candidates[owner.path].append(mask)
    chosen: dict[Path, Path] = {}
    for image in images:
        fitting = _without_nuclei(candidates[image.path])
        if len(fitting) > 1:
            raise InputError(
                f"several masks fit the image {image.name}: {', '.join(m.name for m in fitting)}",
                hint="Name one mask per image with --labels",
            )
        if fitting:
            chosen[image.path] = fitting[0]
    if chosen:
        return chosen, []
    if len(images) == len(masks):
        pairs = ", ".join(f"{i.name} - {m.name}" for i, m in zip(images, masks, strict=True))
        return {i.path: m for i, m in zip(images, masks, strict=True)}, [f"masks were matched by order: {pairs}"]
    raise InputError(
        f"none of the {len(masks)} masks ({_some(m.name for m in masks)}) carries the name of an image "
        f"({_some(i.name for i in images)})",
        hint="Call masks like their images, e.g. fov1_mask.tif for fov1.tif",
    )


def _images_at(path: Path) -> list[Found]:
    resolved = path.resolve()
    if path.is_file():
        return [Found(resolved, readable(image_stem(path)))]
    if is_zarr(path):
        return [Found(resolved, readable(zarr_stem(path)))]
    if is_channel_folder(path):
        note = f"the {len(tiff_files(path))} TIFF files of {path.name} were taken as channels of one image"
        return [Found(resolved, readable(resolved.name), note)]
    inside = [p for p in path.iterdir() if not _own(p) and not p.name.startswith(".")]
    found = []
    for p in sorted(inside, key=lambda p: natural(p.name)):
        if p.is_file() and p.name.lower().endswith(IMAGE_SUFFIXES):
            found.append(Found(p.resolve(), readable(image_stem(p)), f"{path.name} was taken as a folder of images"))
        elif p.is_dir() and is_zarr(p) and not is_derived(p):
            found.append(Found(p.resolve(), readable(zarr_stem(p))))
        elif p.is_dir() and not is_zarr(p) and is_channel_folder(p):
            found += _images_at(p)
    return found


def _own(path: Path) -> bool:
    """Whether mxbridge itself, or the system, left this file or folder."""
    return (
        path.name.endswith(PART_SUFFIX)
        or path.name in SYSTEM_FOLDERS
        or any(part in OWN_FOLDERS for part in path.parts)
    )


def _owners(images: Sequence[Found], mask: Path) -> list[Found]:
    stem = readable(zarr_stem(mask) if mask.is_dir() else mask.name.split(".", maxsplit=1)[0])
    naming = [i for i in images if _contains_name(stem, i.name)]
    if naming:
        longest = max(len(i.name) for i in naming)
        named = [i for i in naming if len(i.name) == longest]
        beside = [i for i in named if i.path.parent == mask.parent]
        return beside or named
    beside = [i for i in images if i.path.parent == mask.parent]
    return beside if len(beside) == 1 else []


def _contains_name(stem: str, name: str) -> bool:
    """Whether ``name`` stands in ``stem`` as a whole: no letter or digit touches it."""
    pattern = rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"
    return re.search(pattern, stem, re.IGNORECASE) is not None


def _without_nuclei(masks: list[Path]) -> list[Path]:
    cells = [m for m in masks if not re.search(r"nucle|nuc_|_nuc\b", m.name, re.IGNORECASE)]
    return cells or masks


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
