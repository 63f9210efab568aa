"""``mxbridge demo``: a QuPath project with simulated slides, segmented and ready to score."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
from scipy import ndimage

from mxbridge.cells import LabelCells
from mxbridge.errors import OutputError
from mxbridge.image import Channel, LocalImage
from mxbridge.runs import digest
from mxbridge.training.panels import demo_slide
from mxbridge.training.simulator import Tissue
from mxbridge.workspaces.qupath.new import NewImage, create_project
from mxbridge.workspaces.qupath.workspace import SETTINGS

MARK = "made-by-mxbridge-demo"
"""File that says a folder is a demonstration, and may be replaced by another one."""

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

    The truth of each image (which cell is positive for what) lies beside as ``truth/<image>.csv``. Raises OutputError.
    """
    if force and (folder / MARK).is_file():
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise OutputError(
            f"{folder} is there already and {'is no demonstration' if force else 'is not empty'}",
            hint="Give another place" if force else "Give another place, or --force to replace a demonstration",
        )
    tissues = {f"tissue {letter}": demo_slide(seed * 2 + k) for k, letter in enumerate("AB")}
    made = create_project(folder, [_new_image(name, tissue) for name, tissue in tissues.items()])
    (folder / SETTINGS).parent.mkdir(exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps({"model": "demo"}), encoding="utf-8")
    for name, tissue in tissues.items():
        _write_truth(folder / "truth" / f"{name}.csv", tissue)
    (folder / MARK).write_text(f"seed {seed}\n", encoding="utf-8")
    return Demo(made.project, tuple(tissues), sum(made.cells))


def _new_image(name: str, tissue: Tissue) -> NewImage:
    um = tissue.settings.um_per_px
    image = LocalImage(
        name=name,
        levels=(da.from_array(tissue.image, chunks=(1, 512, 512)),),
        channels=tuple(Channel(c, COLORS.get(c)) for c in tissue.channels),
        pixel_size_um=(um, um),
        identity=digest([tissue.settings, tissue.seed]),
    )
    return NewImage(image, cells=_cells(tissue.cells), nuclei=_cells(tissue.nuclei))


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
