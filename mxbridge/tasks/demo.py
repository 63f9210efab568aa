"""``mxbridge demo``: a QuPath project to play with.

``multiplex``: simulated slides, segmented and ready to score. ``ihc``: a real brightfield image, ready to translate.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
from scipy import ndimage

from mxbridge.cells import LabelCells
from mxbridge.errors import MxbridgeError, OutputError, UnknownName, UsageError
from mxbridge.formats.atomic import PART_SUFFIX, output_error
from mxbridge.image import Channel, LocalImage
from mxbridge.runs import digest
from mxbridge.tasks import demo_ihc
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


KINDS = ("multiplex", "ihc")


@dataclass(frozen=True)
class Demo:
    """project: the .qpproj. cells: in all images together. kind: of KINDS."""

    project: Path
    images: tuple[str, ...]
    cells: int
    kind: str


def make_demo(folder: Path, *, kind: str = "multiplex", seed: int | None = None, force: bool = False) -> Demo:
    """Write the project into ``folder``. force: replace an earlier demonstration there, never anything else.

    kind: of KINDS. seed: of the simulated tissue (1 where none is given). Of simulated images the truth (which cell is
    positive for what) lies beside as ``truth/<image>.csv``. An earlier demonstration is put aside until the new one is whole,
    and comes back when that fails. Raises OutputError, UsageError for a seed that nothing depends on, UnknownName.
    """
    if kind not in KINDS:
        raise UnknownName("--kind", kind, KINDS)
    if kind == "ihc" and seed is not None:
        raise UsageError("--seed goes with --kind multiplex", hint="The IHC demonstration is a real image")
    folder = folder.expanduser().absolute()
    try:
        replaces = _is_there(folder, force)
        if kind == "ihc":
            return _make_ihc(folder, replaces)
        return _make_multiplex(folder, replaces, 1 if seed is None else seed)
    except OSError as error:
        raise output_error(folder, error) from error


def _make_multiplex(folder: Path, replaces: bool, seed: int) -> Demo:
    tissues = {f"tissue {letter}": demo_slide(seed * 2 + k) for k, letter in enumerate("AB")}

    def truth() -> None:
        for name, tissue in tissues.items():
            _write_truth(folder / "truth" / f"{name}.csv", tissue)

    with _aside(folder) if replaces else nullcontext():
        made = create_project(folder, [_new_image(name, tissue) for name, tissue in tissues.items()])
        _finish(folder, f"seed {seed}\n", "demo", truth)
    _sweep(folder)
    return Demo(made.project, tuple(tissues), sum(made.cells), "multiplex")


def _make_ihc(folder: Path, replaces: bool) -> Demo:
    with _aside(folder) if replaces else nullcontext():
        made = create_project(folder, [demo_ihc.ihc_image((MADE_BY,))])
        _finish(folder, "ihc\n", demo_ihc.MODEL)
    _sweep(folder)
    return Demo(made.project, (demo_ihc.NAME,), 0, "ihc")


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


def _finish(folder: Path, mark: str, model: str, more: Callable[[], None] = lambda: None) -> None:
    """What a demonstration has beyond a project; when it cannot be written the project goes as well.

    mark: what its mark says. model: which it asks for. more: writes the rest.
    """
    try:
        (folder / MARK).write_text(mark, encoding="utf-8")
        (folder / SETTINGS).parent.mkdir(exist_ok=True)
        (folder / SETTINGS).write_text(json.dumps({"model": model}), encoding="utf-8")
        more()
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
