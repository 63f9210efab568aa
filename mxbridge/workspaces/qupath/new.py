"""A whole QuPath project from images and label masks, without QuPath.

Images that every QuPath since 0.4 opens as they are stay where they are; others (a folder with one TIFF per channel,
OME-Zarr, arrays) become pyramidal OME-TIFFs inside the project. Outlines of labels become cells. Everything is written to
a folder beside the target, which takes its name only when it is whole.
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxbridge.cells import Cells, LabelCells, OutlineCells
from mxbridge.errors import InputError, OutputError, UsageError
from mxbridge.formats.atomic import PART_SUFFIX, fsync_file, output_error
from mxbridge.formats.exchange import Seen
from mxbridge.image import LocalImage
from mxbridge.workspaces.qupath.builders import shown_channels, uri_builder
from mxbridge.workspaces.qupath.classes import ClassList, class_colors
from mxbridge.workspaces.qupath.made import NAMESPACE
from mxbridge.workspaces.qupath.project import PROJECT_NAME, Project, dump_json
from mxbridge.workspaces.qupath.publication import summary_json
from mxbridge.workspaces.qupath.qpdata import NewPathObject, NewROI, new_image_data

QUPATH_VERSION = "0.6.0"
"""The release whose files these look like; 0.4.4 to 0.7.0 open them."""


_SHOWN_AS = {"int8": "int16", "uint32": "float64"}
"""Types QuPath has a name for, but cannot read with several channels (measured, 0.5.1 to 0.7.0), and those that hold the
same values."""


@dataclass(frozen=True)
class NewAnnotation:
    """A region of a class (its full name). rings: ``(points, 2)`` x and y each, in full-resolution pixels, even-odd."""

    name: str
    class_name: str
    rings: tuple[Any, ...]


@dataclass(frozen=True)
class NewImage:
    """An image for a new project.

    image: opened, or made of arrays. source: the file QuPath may open itself; None to write an OME-TIFF into the project.
    cells: labels or outlines. nuclei: labels that become the nuclei of the cells they lie in.
    metadata: of the entry, shown in QuPath. annotations: regions, each with a name of its own.
    image_type: of QuPath's, e.g. ``BRIGHTFIELD_H_DAB``; None: unset for colour pictures, fluorescence for others.
    """

    image: LocalImage
    source: Path | None = None
    cells: Cells | None = None
    nuclei: LabelCells | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    annotations: tuple[NewAnnotation, ...] = ()
    image_type: str | None = None


@dataclass(frozen=True)
class Made:
    """project: the file to open in QuPath. cells: how many each image has, in order. warnings: for people."""

    project: Path
    cells: tuple[int, ...]
    warnings: tuple[str, ...]


def open_new_image(
    path: str | Path, labels: str | Path | None = None, *, name: str | None = None, stretched_labels: bool = False
) -> NewImage:
    """Open an image, and a mask or GeoJSON with its cells, for :func:`create_project`.

    Two-plane masks give cells with nuclei. Raises what ``open_image`` and ``open_labels`` raise.
    """
    from mxbridge.formats.labels import open_labels, open_nuclei
    from mxbridge.formats.open_image import open_image
    from mxbridge.workspaces.qupath.in_place import opens_in_qupath

    path = Path(path).expanduser().absolute()
    image = open_image(path, name=name)
    cells, nuclei = None, None
    if labels is not None:
        cells = open_labels(labels, image.shape, stretched=stretched_labels)
        nuclei = open_nuclei(labels, image.shape, stretched=stretched_labels)
    return NewImage(image, path if opens_in_qupath(path, image) else None, cells, nuclei)


def create_project(
    folder: str | Path,
    images: Sequence[NewImage],
    *,
    um_per_px: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Made:
    """Make ``folder`` a QuPath project with these images and cells.

    um_per_px: µm per pixel of every image, over what the files say. progress: called with (done, of, image name).
    Raises OutputError when the folder exists and is not empty, NoPixelSize, InputError; then nothing is left behind.
    """
    folder = Path(folder).expanduser().absolute()
    if not images:
        raise UsageError("a project needs at least one image", hint="Give them with --files")
    _check_target(folder)
    if um_per_px is not None:
        images = [replace(i, image=i.image.with_pixel_size(um_per_px)) for i in images]
    for new in images:
        new.image.require_pixel_size()
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
    try:
        part.mkdir()
        made = _fill(part, folder, images, progress)
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
        return made
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(
    part: Path, folder: Path, images: Sequence[NewImage], progress: Callable[[int, int, str], None] | None
) -> Made:
    now = time.time_ns() // 1_000_000
    project = Project.create(folder / PROJECT_NAME, version=QUPATH_VERSION, timestamp_ms=now)
    classes: dict[str, int] = {}
    warnings: list[str] = []
    counts = []
    for done, new in enumerate(images):
        if progress is not None:
            progress(done, len(images), new.image.name)
        warnings += [f"{new.image.name}: {w}" for w in new.image.warnings]
        shown = _shown(new, part, warnings)
        source = new.source or folder / "images" / shown.files[0].name
        name = source.name if new.source else new.image.name
        entry = project.add_entry(name, uri_builder(source, shown), metadata=dict(new.metadata))
        cells = _objects(new, str(entry.id), name, warnings)
        objects = [*_annotations(new, str(entry.id), name), *cells]
        for made in objects:
            if made.class_name is not None:
                classes |= made.class_colors
        _write_entry(part / "data" / str(entry.id), entry.builder, shown, objects, new.image_type)
        counts.append(len(cells))
    if classes:
        ClassList.of(part).extend(classes)
    (part / PROJECT_NAME).write_bytes(project.to_bytes())
    fsync_file(part / PROJECT_NAME)
    if progress is not None:
        progress(len(images), len(images), "")
    return Made(folder / PROJECT_NAME, tuple(counts), tuple(dict.fromkeys(warnings)))


def _shown(new: NewImage, part: Path, warnings: list[str]) -> LocalImage:
    """The image as QuPath will find it: the file itself, or the OME-TIFF written now."""
    from mxbridge.formats.ome_tiff import write_ome_tiff
    from mxbridge.formats.open_image import open_image

    image = new.image
    if new.source is not None:
        return image
    folder = part / "images"
    folder.mkdir(exist_ok=True)
    path = _free_name(folder, image.name)
    pixels = image.levels[0].astype(_SHOWN_AS.get(image.dtype.name, image.dtype))
    write_ome_tiff(path, pixels, shown_channels(image), image.require_pixel_size(), rgb=image.rgb)
    written = open_image(path, name=image.name)
    if written.shape != image.shape or len(written.channels) != len(image.channels):
        raise OutputError(f"{path}: what was written does not read back the same", hint="Nothing was changed")
    if image.files:
        warnings.append(f"{image.name}: copied into the project as {path.name}, because QuPath cannot open it as it is")
    return replace(written, pixel_size_um=image.pixel_size_um, channels=image.channels, rgb=image.rgb)


def _objects(new: NewImage, entry_id: str, name: str, warnings: list[str]) -> list[NewPathObject]:
    """Cells of the image as QuPath objects; ids follow from entry and label, so that the same project can be made again."""
    from mxbridge.formats.label_outlines import labels_to_outlines

    cells = new.cells
    if cells is None:
        return []
    if cells.shape != new.image.shape:
        raise InputError(f"{name}: its cells belong to an image of {cells.shape[1]} x {cells.shape[0]} pixels")
    if isinstance(cells, LabelCells):
        cells = labels_to_outlines(cells, new.nuclei)
    if not isinstance(cells, OutlineCells):
        raise TypeError(f"cells of type {type(cells).__name__}")
    objects: list[NewPathObject] = []
    empty = 0
    for k, (cell, class_name) in enumerate(zip(cells.ids, cells.classes, strict=True)):
        rings = [ring for ring in cells.outlines.rings_of(k) if len(ring) >= 3]
        inner = [] if cells.nuclei is None else [ring for ring in cells.nuclei.rings_of(k) if len(ring) >= 3]
        if not rings:
            empty += 1
            continue
        objects.append(
            NewPathObject(
                "cell",
                _uuid_of(cell, entry_id, name),
                NewROI.of_rings(rings),
                nucleus=NewROI.of_rings(inner) if inner else None,
                class_name=class_name,
                class_colors={} if class_name is None else class_colors([class_name], {}),
            )
        )
    if empty:
        warnings.append(f"{name}: {empty} cells without an area were left out")
    return objects


def _annotations(new: NewImage, entry_id: str, name: str) -> list[NewPathObject]:
    return [
        NewPathObject(
            "annotation",
            str(uuid.uuid5(NAMESPACE, "\n".join(("annotation", entry_id, name, one.name)))),
            NewROI.of_rings(one.rings),
            class_name=one.class_name,
            class_colors=class_colors([one.class_name], {}),
            name=one.name,
        )
        for one in new.annotations
    ]


def _uuid_of(cell: str, entry_id: str, name: str) -> str:
    try:
        return str(uuid.UUID(cell))
    except ValueError:
        return str(uuid.uuid5(NAMESPACE, "\n".join(("cell", entry_id, name, cell))))


def _write_entry(
    folder: Path,
    builder: dict[str, Any],
    image: LocalImage,
    objects: Sequence[NewPathObject],
    image_type: str | None,
) -> None:
    from mxbridge.workspaces.qupath.thumbnail import write_thumbnail

    folder.mkdir(parents=True)
    image_type = image_type or ("UNSET" if image.rgb else "FLUORESCENCE")
    tree = new_image_data(builder, QUPATH_VERSION, image_type, objects)
    data = tree.to_bytes()
    tree.verify(data)
    path = folder / "data.qpdata"
    path.write_bytes(data)
    fsync_file(path)
    (folder / "server.json").write_bytes(dump_json(builder))
    (folder / "summary.json").write_bytes(summary_json(tree, builder, Seen.of(data, path.stat())))
    write_thumbnail(folder / "thumbnail.jpg", image, shown_channels(image))


def _check_target(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is in the way", hint="Give the name of a folder that is not there yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"{folder} exists and is not empty", hint="Give the name of a folder that is not there yet")
    if not folder.parent.is_dir():
        raise OutputError(f"{folder.parent} does not exist", hint="Make that folder first")


def _free_name(folder: Path, name: str) -> Path:
    """A file name any system takes, not used yet."""
    stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .") or "image"
    stem = re.sub(r"(\.ome)?\.tiff?$", "", stem, flags=re.IGNORECASE)[:100]
    path, number = folder / f"{stem}.ome.tif", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.ome.tif"
    return path
