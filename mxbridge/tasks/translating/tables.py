"""Tables of a translate run: one row per nucleus, and one per score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.formats.cell_tables import write_csv
from mxbridge.formats.pixels import reading
from mxbridge.runs import ImageRecord, Run

NUCLEI, SCORES = "nuclei", "scores.csv"


def write_nuclei(frame: pd.DataFrame, folder: Path) -> None:
    """``nuclei.parquet`` and ``nuclei.csv`` in ``folder``. Raises OutputError."""
    make_folder(folder)
    with write_atomically(folder / f"{NUCLEI}.parquet") as part:
        frame.to_parquet(part, index=False)
    write_csv(frame, folder / f"{NUCLEI}.csv")


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return frames[0] if len(frames) == 1 else pd.concat(list(frames), ignore_index=True)


def expected(images: Sequence[ImageRecord]) -> tuple[str, ...]:
    """Names of the tables of a run with these finished images."""
    return (f"{NUCLEI}.parquet", f"{NUCLEI}.csv", SCORES) if images else ()


def read_nuclei(folder: Path) -> pd.DataFrame:
    """Raises BrokenFile, SourceError."""
    path = folder / f"{NUCLEI}.parquet"
    with reading(path):
        return pd.read_parquet(path)


def join_nuclei(run: Run, images: Sequence[ImageRecord]) -> None:
    """The nuclei of all images of a run, in the order of the images, where any were looked for."""
    frames = [read_nuclei(run.folder_of(i)) for i in images if (run.folder_of(i) / f"{NUCLEI}.parquet").is_file()]
    if frames:
        write_nuclei(joined(frames), run.path)


def score_rows(images: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    """One row for each image, and below it one for each of its annotations."""
    rows = []
    for image in images:
        for found in image.counts.get("found", ()):
            for score in found["scores"]:
                names = {"image": image.name, "image_id": image.id, "model": found["prefix"]}
                rows.append(names | score)
    return rows


def write_scores(run: Run, images: Sequence[ImageRecord]) -> None:
    """``scores.csv``; percent_pos is empty where there are no nuclei. Raises OutputError."""
    rows = score_rows(images)
    if rows:
        table = pd.DataFrame(rows)
        table["percent_pos"] = table["percent_pos"].astype(np.float64)
        write_csv(table, run.path / SCORES)
