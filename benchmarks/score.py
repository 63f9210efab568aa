"""``mxbridge score`` as a whole command: full-width network with seeded random weights, synthetic tissue at 0.5 µm per pixel.

What it costs does not depend on what the weights know, so random ones of the published size are as good as any.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Case

SEED = 1234


def inputs(folder: Path, size: int) -> tuple[Path, Path, Path]:
    """Image (one marker, uint16), label mask of about 1,700 cells per 1024², and weights.

    Made in a process of their own: a command's peak memory counts from the memory of the process that starts it.
    """
    subprocess.run([sys.executable, "-m", "benchmarks.score", str(folder), str(size)], check=True)
    return folder / f"field{size}.ome.tif", folder / f"field{size}_mask.tif", folder / "random.pt"


def make_inputs(folder: Path, size: int) -> None:
    import numpy as np
    import tifffile
    import torch

    from mxbridge.networks.residual_unet import ResidualUNet

    rng = np.random.default_rng(SEED)
    step = 25
    centres = np.arange(step // 2, size, step)
    y, x = np.mgrid[:size, :size]
    near_y, near_x = (centres[np.minimum(a // step, len(centres) - 1)] for a in (y, x))
    labels = (y // step * len(centres) + x // step + 1).astype(np.uint32)
    labels[(y - near_y) ** 2 + (x - near_x) ** 2 > 100] = 0
    pixels = rng.poisson(np.where((labels % 3 == 1) & (labels > 0), 900, 30)).astype(np.uint16)
    image, mask, weights = folder / f"field{size}.ome.tif", folder / f"field{size}_mask.tif", folder / "random.pt"
    metadata = {"axes": "CYX", "Channel": {"Name": ["CD3"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        image, pixels[None], ome=True, tile=(512, 512), compression="zlib", photometric="minisblack", metadata=metadata
    )
    tifffile.imwrite(mask, labels, tile=(512, 512), compression="zlib")
    if not weights.exists():
        torch.manual_seed(SEED)
        torch.save(ResidualUNet(64, 5).state_dict(), weights)


def growing(folder: Path, sizes: tuple[int, ...]) -> list[Case]:
    """The embedded network on ever larger fields: memory for pixels must not follow their size."""
    out = []
    for size in sizes:
        image, mask, _ = inputs(folder, size)
        command = [sys.executable, "-m", "mxbridge", "score", "--files", str(image), "--labels", str(mask)]
        command += ["--model", "demo", "--no-tta", "--restart", "--quiet", "--out", str(folder / f"run{size}")]
        out.append(Case(f"{size}², demonstration weights, no augmentation", command, None, {"OMP_NUM_THREADS": "1"}))
    return out


def cases(folder: Path, size: int) -> list[Case]:
    image, mask, weights = inputs(folder, size)
    command = [sys.executable, "-m", "mxbridge", "score", "--files", str(image), "--labels", str(mask)]
    command += ["--model", str(weights), "--restart", "--quiet", "--out", str(folder / "run")]
    single = {"OMP_NUM_THREADS": "1"}
    return [
        Case(f"{size}², one marker, no augmentation, 1 thread", [*command, "--no-tta"], environment=single),
        Case(f"{size}², one marker, six views, 1 thread", command, environment=single),
        Case(
            f"{size}², one marker, compat (three passes), 1 thread",
            [*command, "--compat", "nimbus-0.0.5"],
            None,
            single,
        ),
    ]


if __name__ == "__main__":
    make_inputs(Path(sys.argv[1]), int(sys.argv[2]))
