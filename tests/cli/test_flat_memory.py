"""Sixteen times the pixels, as many cells: whole commands on slides of 4096², 8192² and 16384² pixels take the same memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from benchmarks.harness import ONE_THREAD, Case, measure
from mxbridge.networks.residual_unet import ResidualUNet

TILE = 512
CELLS = 1024
DISC = np.hypot(*(np.mgrid[:21, :21] - 10)) <= 10


def slide(folder: Path, size: int) -> tuple[Path, Path]:
    """Image (one marker, uint16) and mask of ``CELLS`` discs spread evenly, a few hundred kilobytes on disk."""
    a_side = int(CELLS**0.5)
    pitch = size // a_side
    background = (np.add.outer(np.arange(TILE), np.arange(TILE)) % 7).astype(np.uint16)

    def tiles(mask: bool) -> Iterator[np.ndarray]:
        for top in range(0, size, TILE):
            for left in range(0, size, TILE):
                tile = np.zeros((TILE, TILE), np.uint32) if mask else background.copy()
                for row in range(top // pitch, -(-(top + TILE) // pitch)):
                    for column in range(left // pitch, -(-(left + TILE) // pitch)):
                        y, x = (n * pitch + pitch // 2 - 10 for n in (row, column))
                        if top <= y < top + TILE and left <= x < left + TILE:  # discs lie within one tile
                            place = np.s_[y - top : y - top + 21, x - left : x - left + 21]
                            tile[place][DISC] = row * a_side + column + 1 if mask else 900
                yield tile

    image, labels = folder / f"slide{size}.ome.tif", folder / f"slide{size}_mask.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": ["CD3"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tiled = {"tile": (TILE, TILE), "compression": "zlib", "photometric": "minisblack"}
    tifffile.imwrite(image, tiles(False), shape=(1, size, size), dtype="uint16", ome=True, metadata=metadata, **tiled)
    tifffile.imwrite(labels, tiles(True), shape=(size, size), dtype="uint32", metadata=None, **tiled)
    return image, labels


@pytest.mark.slow
def test_memory_does_not_follow_the_size_of_the_slide(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(ResidualUNet(2, 3).state_dict(), tmp_path / "narrow.pt")
    peaks = {}
    for size in (4096, 8192, 16384):
        image, labels = slide(tmp_path, size)
        out = tmp_path / f"run{size}"
        command = [sys.executable, "-m", "mxbridge", "score", "--files", str(image), "--labels", str(labels)]
        command += ["--model", str(tmp_path / "narrow.pt"), "--no-tta", "--quiet", "--workers", "1", "--out", str(out)]
        command += ["--tile", "520"]  # so small that tiles queue up on the smallest slide too
        peaks[size] = measure(Case(f"{size}", command, environment=ONE_THREAD)).rss
        rows = (out / "cells.csv").read_text(encoding="utf-8").splitlines()
        assert len(rows) == 1 + CELLS
        image.unlink()
    assert max(peaks.values()) <= 1.1 * peaks[4096], peaks
