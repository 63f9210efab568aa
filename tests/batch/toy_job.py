"""Small jobs on small files: two or three images of round cells, tiny models with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch

from mxbridge.batch.job import Job, load_job
from mxbridge.batch.limits import Clock
from mxbridge.batch.report import Report
from mxbridge.batch.runner import Request, run_job
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.progress import Progress
from tests.toy_maxim import write_model

SIZE, STEP = 48, 16
CHANNELS = ("DAPI", "CD3", "Ki67")
SCORE = '[[task]]\ndo = "score"\nmodel = "weights.pt"\nmarkers = ["CD3", "Ki67"]\ntta = false\ndevice = "cpu"\n'
IMPUTE = '[[task]]\ndo = "impute"\nmarker = "CD8"\nmodel = "cd8.safetensors"\ndevice = "cpu"\n'
FILES = '[[source]]\nfiles = "images/*.ome.tif"\nlabels = "images/*_mask.tif"\n'
QUICK = "[limits]\nretry-after = 0\n"


class Heard(Progress):
    """All that was told."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def image(self, number: int, total: int, name: str) -> None:
        assert 1 <= number <= total
        self.images.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def pixels_of(seed: int, size: int = SIZE, bright: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(c, y, x)`` uint16 and labels ``(y, x)``; every third cell is bright in CD3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    centres = np.mgrid[STEP // 2 : size : STEP, STEP // 2 : size : STEP].reshape(2, -1).T
    for k, (cy, cx) in enumerate(centres, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(20, 45)] = k
    pixels = rng.poisson(20, (3, size, size)).astype(np.uint16)
    pixels[0] += 400 * (labels > 0).astype(np.uint16)
    pixels[1] += (900 * bright * ((labels > 0) & (labels % 3 == 0))).astype(np.uint16)
    pixels[2] += 500 * ((labels > 0) & (labels % 5 == 0)).astype(np.uint16)
    return pixels, labels


def write_image(folder: Path, name: str, seed: int, bright: float = 1.0) -> Path:
    """An OME-TIFF and its mask."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = pixels_of(seed, bright=bright)
    image = folder / f"{name}.ome.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": list(CHANNELS)}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(image, pixels, ome=True, photometric="minisblack", metadata=metadata)
    tifffile.imwrite(folder / f"{name}_mask.tif", labels)
    return image


def write_models(folder: Path) -> None:
    """``weights.pt`` scores, ``cd8.safetensors`` imputes CD8 from DAPI and CD3."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(ResidualUNet(2, 2).state_dict(), folder / "weights.pt")
    write_model(folder / "cd8.safetensors", ("DAPI", "CD3"), ("CD8",))


def toy_job(folder: Path, text: str = FILES + SCORE + QUICK, names: Sequence[str] = ("north", "south")) -> Path:
    """A job file with its images and models beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        write_image(folder / "images", name, seed)
    write_models(folder)
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def night(path: Path | Job, heard: Progress | None = None, clock: Clock | None = None, **request: object) -> Report:
    """One run of a job."""
    job = path if isinstance(path, Job) else load_job(path)
    asked = Request(**{"runner": "test", **request})  # type: ignore[arg-type]
    return run_job(job, asked, progress=heard or Heard(), clock=clock)
