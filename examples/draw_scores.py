"""Draw a scored image beside its cells, coloured by their score. Needs matplotlib (``pip install "mxbridge[train]"``).

    python examples/draw_scores.py demo/project.qpproj CD3 PanCK examples/demo-scores.png

It shows how a script reads a project through mxbridge: the image as dask arrays, the cells as a label raster of any box,
and the scores from the run's table, joined by cell id.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mxbridge
from mxbridge.image import Box

FIELD = Box(250, 250, 850, 950)


def main(project: str, first: str, second: str, target: str) -> None:
    workspace = mxbridge.open_workspace(project)
    pulled = workspace.pull(workspace.list()[0])
    newest = max(workspace.runs_home.iterdir(), key=lambda run: run.name)
    table = pd.read_parquet(newest / "cells.parquet").set_index("cell")
    labels = pulled.cells.raster(FIELD)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    axes[0].imshow(composite(pulled.image, {"DAPI": (0.25, 0.35, 1), first: (0.2, 1, 0.3), second: (1, 0.25, 0.9)}))
    axes[0].set_title(f"{pulled.ref.name}: DAPI, {first} (green), {second} (magenta)", fontsize=9)
    for axis, marker in zip(axes[1:], (first, second), strict=True):
        column = next(c for c in table.columns if c.endswith(f": {marker}"))
        values = np.r_[np.nan, table.loc[list(pulled.cells.ids), column].to_numpy()]
        shown = axis.imshow(values[labels], cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{column}, each cell's score", fontsize=9)
    figure.colorbar(shown, ax=axes[1:], shrink=0.8)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(target, dpi=110)
    print(f"drew {Path(target).resolve()}")


def composite(image: object, colours: dict[str, tuple[float, float, float]]) -> np.ndarray:
    """RGB ``(y, x, 3)`` of some channels, each scaled to its own 99.7 % quantile."""
    out = np.zeros((*FIELD.shape, 3))
    for channel, colour in colours.items():
        level = image.levels[0][image.find_channel(channel), FIELD.y0 : FIELD.y1, FIELD.x0 : FIELD.x1]
        plane = level.compute().astype(float)
        low, high = np.quantile(plane, [0.05, 0.997])
        out += np.clip((plane - low) / (high - low), 0, 1)[..., None] * colour
    return np.clip(out, 0, 1)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
