"""Synthetic multiplexed images to impute in: noise of several markers, of any size, written tile by tile.

``python -m benchmarks.slides FOLDER HEIGHT WIDTH`` writes one, without a size random weights; in a process of its own, because a
command's peak memory counts from the memory of the process that starts it. Every pixel carries signal, so that no tile can be skipped or reused; what
imputation costs does not depend on what the weights know, so random ones of the published size are as good as any.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SEED = 1234
PANEL = ("DAPI", "CD4", "CD8", "FOXP3", "PDL1", "KI67", "CK")
"""The published panel; uint8, 0.25 µm per pixel."""
TARGET = "KI67"
INPUTS = tuple(name for name in PANEL if name != TARGET)
UM_PER_PX = 0.25
TILE = 512
PEER_MOST = 2048
"""Images up to this side are also written as the peer wants them, which takes the whole image in memory."""


@dataclass(frozen=True)
class Slide:
    """image: OME-TIFF. array, table: the same pixels as ``.npy``, and the peer's CSV that names it (small images only)."""

    image: Path
    array: Path
    table: Path
    pixels: int


def slide(folder: Path, height: int, width: int) -> Slide:
    """Make (once) an image of ``height`` x ``width`` px."""
    stem = folder / f"slide{height}x{width}"
    made = Slide(stem.with_suffix(".ome.tif"), stem.with_suffix(".npy"), stem.with_suffix(".csv"), height * width)
    if not made.image.exists():
        command = [sys.executable, "-m", "benchmarks.slides", str(folder), str(height), str(width)]
        subprocess.run(command, check=True)
    return made


def random_weights(folder: Path) -> tuple[Path, Path]:
    """A network of the published width, seeded: the peer's ``checkpoint.pt``, and our file of the same weights with a card.

    The running means and variances of its norms are those of noise, as in a network that was trained, so that its output is
    not constant and two ways to compute it can be told apart. Written in a process of its own.
    """
    checkpoint, model = folder / "checkpoint.pt", folder / "random.safetensors"
    if not model.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.slides", str(folder)], check=True)
    return checkpoint, model


def _write_weights(folder: Path) -> None:
    import torch
    from torch import nn

    from mxbridge.models.card import ModelCard
    from mxbridge.models.scaling import PEER
    from mxbridge.networks.maxim_unet import MaximUNet
    from mxbridge.training.loop import save_weights

    torch.manual_seed(SEED)
    network = MaximUNet(len(INPUTS))
    noise = torch.rand(2, len(INPUTS), 64, 64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of what it sees
    with torch.no_grad():
        network(noise)
        network.conv.weight *= 6  # spreads the output over 0..1
    torch.save(network.state_dict(), folder / "checkpoint.pt")
    card = ModelCard(
        name="MAXIM",
        system="maxim",
        um_per_px=UM_PER_PX,
        channels=INPUTS,
        outputs=(TARGET,),
        scaling={marker: PEER.to_json() for marker in PANEL},
        dtype="uint8",
    )
    save_weights(network, folder / "random.safetensors", card.to_json())


def _write(folder: Path, height: int, width: int) -> None:
    import numpy as np
    import tifffile

    stem = folder / f"slide{height}x{width}"
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": list(PANEL)},
        "PhysicalSizeX": UM_PER_PX,
        "PhysicalSizeY": UM_PER_PX,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeYUnit": "µm",
    }
    tifffile.imwrite(
        stem.with_suffix(".ome.tif"),
        _tiles(height, width),
        shape=(len(PANEL), height, width),
        dtype="uint8",
        ome=True,
        bigtiff=True,
        metadata=metadata,
        tile=(TILE, TILE),
        compression="zlib",
        photometric="minisblack",
    )
    if max(height, width) <= PEER_MOST:
        np.save(stem.with_suffix(".npy"), tifffile.imread(stem.with_suffix(".ome.tif")))
        row = f"Image_Path,Split_Name\n{stem.with_suffix('.npy')},test\n"
        stem.with_suffix(".csv").write_text(row, encoding="utf-8")


def _tiles(height: int, width: int) -> Iterator[np.ndarray]:
    """uint8 ``(y, x)``, plane by plane and row by row: smooth blobs with noise on top, no two tiles alike."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:TILE, :TILE] / 9.0
    for _ in PANEL:
        for _ in range(-(-height // TILE) * -(-width // TILE)):
            phase, level = rng.uniform(0, 7, 2), rng.uniform(20, 120)
            blobs = level * (1 + np.sin(x + phase[0]) * np.sin(y + phase[1]))
            yield (blobs + rng.integers(0, 16, blobs.shape)).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        _write_weights(Path(sys.argv[1]))
