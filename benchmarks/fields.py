"""Synthetic fields to score: round cells in square blocks of tissue, of any size, written tile by tile.

``python -m benchmarks.fields FOLDER SIZE BLOCKS`` writes one. Made in a process of their own, because a command's peak memory
counts from the memory of the process that starts it. What scoring costs does not depend on what the weights know, so random
ones of the published size are as good as any.
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
MARKER = "CD3"
UM_PER_PX = 0.5
TILE = 512
CELL_STEP, CELL_RADIUS = 25, 10


@dataclass(frozen=True)
class Field:
    """A field on disk, once for each program, the same numbers in both. The peer's is left out where it is too large.

    image: OME-TIFF of one marker, uint16; labels: uint32 mask. fov: folder with a TIFF per marker; segmentation: folder with
    ``<fov>_whole_cell.tiff``. cells: how many.
    """

    image: Path
    labels: Path
    fov: Path
    segmentation: Path
    cells: int


def field(folder: Path, size: int, *, blocks: int, for_peer: bool = False) -> Field:
    """Make (once) a field of ``size`` x ``size`` px: ``blocks`` x ``blocks`` equally spaced blocks of tissue.

    The number of cells depends on neither for sizes from 4096: 160 x 160 in all, one every 25 px inside a block. With 8
    blocks a side, 4096 px are covered entirely and 16384 px hold islands of 500 px; with 160, every cell stands alone.
    for_peer: also as the peer wants it (needs the whole field in memory).
    """
    image, labels = folder / f"field{size}-{blocks}.ome.tif", folder / f"field{size}-{blocks}_mask.tif"
    fov, segmentation = folder / "image_data" / f"field{size}", folder / "segmentation"
    if not labels.exists() or (for_peer and not fov.exists()):
        command = [sys.executable, "-m", "benchmarks.fields", str(folder), str(size), str(blocks), str(int(for_peer))]
        subprocess.run(command, check=True)
    return Field(image, labels, fov, segmentation, (blocks * _cells_a_side(size, blocks)) ** 2)


def _cells_a_side(size: int, blocks: int) -> int:
    """Of one block."""
    return min(160, size // CELL_STEP) // blocks


def random_weights(folder: Path) -> Path:
    """A state dict of the published width and depth, seeded, in a process of its own."""
    path = folder / f"random{SEED}.pt"
    if not path.exists():
        code = (
            "import sys, torch; from mxbridge.networks.residual_unet import ResidualUNet; "
            f"torch.manual_seed({SEED}); torch.save(ResidualUNet(64, 5).state_dict(), sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    return path


def _write(folder: Path, size: int, blocks: int, for_peer: bool) -> None:
    import tifffile

    image, labels = folder / f"field{size}-{blocks}.ome.tif", folder / f"field{size}-{blocks}_mask.tif"
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": [MARKER]},
        "PhysicalSizeX": UM_PER_PX,
        "PhysicalSizeY": UM_PER_PX,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeYUnit": "µm",
    }
    tiled = {"tile": (TILE, TILE), "compression": "zlib", "photometric": "minisblack"}
    tiles = (_pixels(*tile, number) for number, tile in enumerate(_tiles(size, blocks)))
    tifffile.imwrite(
        image, tiles, shape=(1, size, size), dtype="uint16", ome=True, bigtiff=True, metadata=metadata, **tiled
    )
    masks = (mask for mask, _ in _tiles(size, blocks))
    tifffile.imwrite(labels, masks, shape=(size, size), dtype="uint32", bigtiff=True, metadata=None, **tiled)
    if for_peer:
        fov, segmentation = folder / "image_data" / f"field{size}", folder / "segmentation"
        fov.mkdir(parents=True)
        segmentation.mkdir(exist_ok=True)
        tifffile.imwrite(fov / f"{MARKER}.tiff", tifffile.imread(image).squeeze())
        tifffile.imwrite(segmentation / f"{fov.name}_whole_cell.tiff", tifffile.imread(labels))


def _tiles(size: int, blocks: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(labels, tissue) of the tiles of a field, row by row: uint32 and bool ``(y, x)``."""
    import numpy as np

    a_side, pitch = _cells_a_side(size, blocks), size // blocks

    def line(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Along one axis: whether there is tissue, the number of the cell, the distance from its centre."""
        at = np.arange(first, first + TILE)
        inside = at % pitch
        tissue = (inside < a_side * CELL_STEP) & (at < pitch * blocks)
        return tissue, at // pitch * a_side + inside // CELL_STEP, inside % CELL_STEP - CELL_STEP // 2

    for top in range(0, size, TILE):
        rows = [values[:, None] for values in line(top)]
        for left in range(0, size, TILE):
            columns = line(left)
            tissue = rows[0] & columns[0]
            cell = tissue & (rows[2] ** 2 + columns[2] ** 2 <= CELL_RADIUS**2)
            yield np.where(cell, rows[1] * blocks * a_side + columns[1] + 1, 0).astype(np.uint32), tissue


def _pixels(labels: np.ndarray, tissue: np.ndarray, tile: int) -> np.ndarray:
    """uint16 ``(y, x)``: every third cell is bright; outside the tissue all is 0."""
    import numpy as np

    inside = labels[tissue]
    out = np.zeros(labels.shape, np.uint16)
    out[tissue] = np.random.default_rng((SEED, tile)).poisson(np.where((inside % 3 == 1) & (inside > 0), 900, 30))
    return out


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
