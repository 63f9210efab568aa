"""A small project for whole-command tests: two images, three channels, a few dozen cells each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mxbridge.workspaces.qupath.new import create_project, open_new_image

SIZE, STEP = 192, 24
CHANNELS = ("DAPI", "CD3", "Ki67")


def write_field(folder: Path, name: str, seed: int, size: int = SIZE) -> tuple[Path, Path]:
    """An OME-TIFF and a label mask of round cells, every third one bright in CD3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    for k, (cy, cx) in enumerate(np.mgrid[STEP // 2 : size : STEP, STEP // 2 : size : STEP].reshape(2, -1).T, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(60, 110)] = k
    pixels = rng.poisson(20, (3, size, size)).astype(np.uint16)
    pixels[0] += 400 * (labels > 0).astype(np.uint16)
    pixels[1] += 900 * ((labels > 0) & (labels % 3 == 0)).astype(np.uint16)
    pixels[2] += 500 * ((labels > 0) & (labels % 5 == 0)).astype(np.uint16)
    image, mask = folder / f"{name}.ome.tif", folder / f"{name}_mask.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": list(CHANNELS)}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(image, pixels, ome=True, photometric="minisblack", metadata=metadata)
    tifffile.imwrite(mask, labels)
    return image, mask


@pytest.fixture(scope="session")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and their masks."""
    folder = tmp_path_factory.mktemp("fields")
    for seed, name in enumerate(("north", "south")):
        write_field(folder, name, seed)
    return folder


@pytest.fixture(scope="session")
def pristine_project(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "small project ü"
    images = [open_new_image(fields / f"{n}.ome.tif", fields / f"{n}_mask.tif") for n in ("north", "south")]
    create_project(folder, images)
    return folder


@pytest.fixture
def project(pristine_project: Path, tmp_path: Path) -> Path:
    """A copy of the project to write to; the path of its .qpproj."""
    return Path(shutil.copytree(pristine_project, tmp_path / "small project ü")) / "project.qpproj"
