"""``mxbridge demo``: a QuPath project with simulated slides, segmented and ready to score."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
from scipy import ndimage

from mxbridge.cells import LabelCells
from mxbridge.errors import MxbridgeError, OutputError
from mxbridge.formats.atomic import PART_SUFFIX, output_error
from mxbridge.image import Channel, LocalImage
from mxbridge.runs import digest
from mxbridge.training.panels import demo_slide
from mxbridge.training.simulator import Tissue
from mxbridge.workspaces.qupath.new import NewImage, create_project
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.workspace import SETTINGS

MARK = "made-by-mxbridge-demo"
"""File that says a folder is a demonstration, and may be replaced by another one."""

MADE_BY = ("Made by", "mxbridge demo")
"""Metadata of every image: says the same from the moment the project exists, before the file above is written."""

COLORS = {
    "DAPI": 0x0000FF,
    "CD3": 0x00FF00,
    "CD8": 0xFFFF00,
    "CD20": 0xFF00FF,
    "CD68": 0xFF8000,
    "PanCK": 0x00FFFF,
    "Ki67": 0xFF0000,
    "FOXP3": 0xFFFFFF,
}


@dataclass(frozen=True)
class Demo:
    """project: the .qpproj. cells: in both images together."""

    project: Path
    images: tuple[str, ...]
    cells: int


def make_demo(folder: Path, *, seed: int = 1, force: bool = False) -> Demo:
    """Write the project into ``folder``. force: replace an earlier demonstration there, never anything else.

    The truth of each image (which cell is positive for what) lies beside as ``truth/<image>.csv``. An earlier
    demonstration is put aside until the new one is whole, and comes back when that fails. Raises OutputError.
    """
    folder = folder.expanduser().absolute()
    try:
        replaces = _is_there(folder, force)
        tissues = {f"tissue {letter}": demo_slide(seed * 2 + k) for k, letter in enumerate("AB")}
        with _aside(folder) if replaces else nullcontext():
            made = create_project(folder, [_new_image(name, tissue) for name, tissue in tissues.items()])
            _finish(folder, seed, tissues)
        _sweep(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    return Demo(made.project, tuple(tissues), sum(made.cells))


def _is_there(folder: Path, force: bool) -> bool:
    """Whether an earlier demonstration is to be replaced. Raises OutputError for anything else that is in the way."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        what = "a link" if folder.is_symlink() else "a file"
        raise OutputError(f"{folder} is there already and is {what}, no folder", hint="Give another place")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not force:
        hint = "Give another place, or --force to replace a demonstration"
        raise OutputError(f"{folder} is there already and is not empty", hint=hint)
    if not _is_demo(folder):
        raise OutputError(f"{folder} is there already and is no demonstration", hint="Give another place")
    return True


def _is_demo(folder: Path) -> bool:
    """By its mark, or, when it was stopped before that was written, by the metadata of all its images."""
    if (folder / MARK).is_file():
        return True
    try:
        entries = Project.open(folder).entries
    except MxbridgeError:
        return False
    return bool(entries) and all(MADE_BY in entry.metadata.items() for entry in entries)


@contextmanager
def _aside(folder: Path) -> Iterator[None]:
    """Keep what is in ``folder`` beside it meanwhile, under a name that says it may be swept; back on an error."""
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
    folder.rename(old)
    try:
        yield
    except BaseException:
        old.rename(folder)
        raise


def _finish(folder: Path, seed: int, tissues: Mapping[str, Tissue]) -> None:
    """What a demonstration has beyond a project; when it cannot be written the project goes as well."""
    try:
        (folder / MARK).write_text(f"seed {seed}\n", encoding="utf-8")
        (folder / SETTINGS).parent.mkdir(exist_ok=True)
        (folder / SETTINGS).write_text(json.dumps({"model": "demo"}), encoding="utf-8")
        for name, tissue in tissues.items():
            _write_truth(folder / "truth" / f"{name}.csv", tissue)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sweep(folder: Path) -> None:
    """Remove what this run put aside and what killed ones left beside ``folder``."""
    for left in folder.parent.iterdir():
        if left.name.startswith(f".{folder.name}.") and left.name.endswith(PART_SUFFIX):
            shutil.rmtree(left, ignore_errors=True)


def _new_image(name: str, tissue: Tissue) -> NewImage:
    um = tissue.settings.um_per_px
    image = LocalImage(
        name=name,
        levels=(da.from_array(tissue.image, chunks=(1, 512, 512)),),
        channels=tuple(Channel(c, COLORS.get(c)) for c in tissue.channels),
        pixel_size_um=(um, um),
        identity=digest([tissue.settings, tissue.seed]),
    )
    return NewImage(image, cells=_cells(tissue.cells), nuclei=_cells(tissue.nuclei), metadata=(MADE_BY,))


def _cells(labels: np.ndarray) -> LabelCells:
    boxes = ndimage.find_objects(labels)
    values = np.array([k for k, box in enumerate(boxes, start=1) if box is not None], np.int64)
    corners = [(b[0].start, b[1].start, b[0].stop, b[1].stop) for b in boxes if b is not None]
    return LabelCells(
        ids=tuple(str(v) for v in values),
        classes=(None,) * len(values),
        shape=(int(labels.shape[0]), int(labels.shape[1])),
        labels=da.from_array(labels, chunks=512),
        values=values,
        boxes=np.array(corners, np.int64).reshape(-1, 4),
        content_hash=digest(labels.tobytes().hex()),
    )


def _write_truth(path: Path, tissue: Tissue) -> None:
    """One row per simulated cell: its label, its type, and 0/1 for each marker."""
    import pandas as pd

    path.parent.mkdir(exist_ok=True)
    frame = pd.DataFrame(tissue.truth.astype(int), columns=list(tissue.channels))
    frame.insert(0, "label", np.arange(1, len(frame) + 1))
    frame.insert(1, "type", tissue.types)
    y, x = np.array(ndimage.center_of_mass(np.ones_like(tissue.cells), tissue.cells, frame["label"])).T
    frame.insert(2, "x_px", x + 0.5)
    frame.insert(3, "y_px", y + 0.5)
    frame.to_csv(path, index=False, float_format="%.2f")
