"""The tables of the published program: ``<split>_<s>_<s>_stats.csv`` and those of its two baselines, in grey levels.

Its program evaluates one marker; where several are compared, each has a folder of its own name.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.metrics.baselines import MEAN, ZERO
from mxbridge.tasks.evaluating.one_image import MODEL
from mxbridge.tasks.score_maps import plain_names

METHODS = {"stats": MODEL, "stats_zero": ZERO, "stats_mean": MEAN}
_ENDING = re.compile(r"\.(npy|tiff?|zarr|qptiff|svs|ndpi|png|jpe?g)$", re.IGNORECASE)
"""Of an image file; images of the published program's tables are called without it, and may have points in their names."""
GREY = 255
"""Unit values become grey levels."""


def peer_files(split: str, pad: int | None) -> list[str]:
    """Names of the tables; those of several markers lie deeper and are not among them."""
    return [] if pad is None else [f"{split}_{pad}_{pad}_{end}.csv" for end in METHODS]


def write_peer_tables(images: pd.DataFrame, folder: Path, split: str, pad: int) -> None:
    """images: the table of images. Raises OutputError."""
    groups = list(images.groupby(["model", "marker"], sort=False))
    places = plain_names([f"{model} {marker}" for (model, marker), _ in groups])
    for number, ((_, part), place) in enumerate(zip(groups, places, strict=True)):
        for target in [folder] if number == 0 and len(groups) == 1 else [folder / place]:
            make_folder(target)
            for name, method in zip(peer_files(split, pad), METHODS.values(), strict=True):
                with write_atomically(target / name) as file:
                    _peer_table(part[part["method"] == method], with_correlation=method == MODEL).to_csv(
                        file, index=False
                    )


def _peer_table(rows: pd.DataFrame, *, with_correlation: bool) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "Image_Name": [_ENDING.sub("", name) for name in rows["image"]],
            "MAE": rows["mae"].to_numpy(float) * GREY,
            "MSE": rows["mse"].to_numpy(float) * GREY**2,
            "SSIM": rows["ssim_uniform7"].to_numpy(float),
            "PSNR": rows["psnr"].to_numpy(float),
            "RMSE": rows["rmse"].to_numpy(float) * GREY,
        }
    )
    if with_correlation:
        table["Corr"] = rows["pearson"].to_numpy(float)
        table["p-value"] = rows["p_value"].to_numpy(float)
    return table
