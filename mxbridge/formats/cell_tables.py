"""Per-cell tables on disk: Parquet for programs, CSV for people, AnnData for single-cell tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxbridge.errors import InputError, UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.formats.pixels import looking, missing, reading

STEM = "cells"
SPATIAL = ("x_um", "y_um")
SPREAD = " view sd"
MEAN = " mean"


def write_cell_tables(frame: pd.DataFrame, folder: Path, *, h5ad: bool = False) -> list[Path]:
    """Write ``cells.parquet`` and ``cells.csv`` (and ``cells.h5ad``) into ``folder``, each in one step; returns the files.

    CSV is UTF-8 with a header; numbers have as many digits as are needed to read back the same value, NaN is empty.
    h5ad: see :func:`write_anndata`. Raises OutputError, and UsageError when the extra is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{STEM}.parquet", folder / f"{STEM}.csv"]
    with write_atomically(files[0]) as part:
        frame.to_parquet(part, index=False)
    with write_atomically(files[1]) as part:
        frame.to_csv(part, index=False, encoding="utf-8", lineterminator="\n")
    if h5ad:
        files.append(folder / f"{STEM}.h5ad")
        write_anndata(frame, files[2])
    return files


def read_cell_table(path: Path) -> pd.DataFrame:
    """Read a table: a folder with ``cells.parquet``, or a ``.parquet`` or ``.csv`` file. Raises SourceError, BrokenFile.

    Of a CSV the columns ``image``, ``image_id`` and ``cell`` are text, whatever they look like.
    """
    with looking(path):
        path = path / f"{STEM}.parquet" if path.is_dir() else path
        if not path.is_file():
            raise missing(path)
    with reading(path):
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(
            path, encoding="utf-8", dtype={"image": str, "image_id": str, "cell": str}, float_precision="round_trip"
        )


def write_anndata(frame: pd.DataFrame, path: Path, provenance: dict[str, Any] | None = None) -> None:
    """Write scores as AnnData: X is (cells, markers) of the columns ``<Model>: <marker>``.

    layers: ``view_sd`` and ``intensity`` from ``<Model>: <marker> view sd`` and ``<marker> mean`` where they exist. obs:
    all other columns. obsm: ``spatial`` in µm from ``x_um`` and ``y_um``. uns: ``mxbridge`` with the model's name and
    ``provenance``. Raises InputError when there are no scores, or those of several models.
    """
    anndata = _anndata()
    scores = score_columns(frame.columns)
    obs = frame.drop(columns=[c for s in scores for c in s.all_columns if c in frame.columns])
    obs.index = _unique_index(frame)
    for column in obs.columns:  # HDF5 holds text, not a mixture of text and None
        if obs[column].dtype == object:
            obs[column] = obs[column].fillna("").astype(str)
    table = anndata.AnnData(
        X=_matrix(frame, [s.score for s in scores]),
        obs=obs,
        var=pd.DataFrame(index=pd.Index([s.marker for s in scores], dtype=object)),
        uns={"mxbridge": {"model": scores[0].model, **(provenance or {})}},
    )
    for layer, columns in (("view_sd", [s.spread for s in scores]), ("intensity", [s.mean for s in scores])):
        if all(c in frame.columns for c in columns):
            table.layers[layer] = _matrix(frame, columns)
    if all(c in frame.columns for c in SPATIAL):
        table.obsm["spatial"] = frame[list(SPATIAL)].to_numpy(np.float32)
    with write_atomically(path) as part:
        table.write_h5ad(part)


@dataclass(frozen=True)
class ScoreColumn:
    """The columns that belong to one marker of a score table."""

    model: str
    marker: str

    @property
    def score(self) -> str:
        return f"{self.model}: {self.marker}"

    @property
    def spread(self) -> str:
        return self.score + SPREAD

    @property
    def mean(self) -> str:
        return self.marker + MEAN

    @property
    def all_columns(self) -> tuple[str, str, str]:
        return self.score, self.spread, self.mean


def score_columns(columns: Sequence[str]) -> list[ScoreColumn]:
    """The markers of a score table, in order. Raises InputError when there are none, or several models."""
    names = [str(c) for c in columns]
    found = [ScoreColumn(*n.split(": ", 1)) for n in names if ": " in n and not n.endswith(SPREAD)]
    models = sorted({s.model for s in found})
    if len(models) != 1:
        raise InputError(f"the table has scores of {len(models)} models ({', '.join(models) or 'none'}), not of one")
    return found


def _matrix(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    matrix: np.ndarray = frame[list(columns)].to_numpy(np.float32)
    return matrix


def _unique_index(frame: pd.DataFrame) -> pd.Index:
    """Cell ids, with the image before them where cells of several images would collide."""
    cells = frame["cell"].astype(str) if "cell" in frame else pd.Series(range(len(frame))).astype(str)
    if not cells.is_unique and "image_id" in frame:
        cells = frame["image_id"].astype(str) + "/" + cells
    return pd.Index(cells.to_numpy(), dtype=object)


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise UsageError("--h5ad needs anndata, which is not installed", hint='pip install "mxbridge[h5ad]"') from error
    return anndata


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Any table as CSV, in one step. Raises OutputError."""
    with write_atomically(path) as part:
        table.to_csv(part, index=False, encoding="utf-8", lineterminator="\n")
