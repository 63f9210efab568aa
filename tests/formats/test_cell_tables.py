"""Tables: what is written is what is read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mxbridge.errors import BrokenFile, InputError, SourceError, UsageError
from mxbridge.formats.cell_tables import read_cell_table, score_columns, write_anndata, write_cell_tables


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "image": "Bild ä, \"1\"", "image_id": ["007", "007", "8"], "cell": ["1", "2", "1"], "class": ["Tumor: CD3", None, "B"],
            "x_um": rng.random(3, np.float32), "y_um": rng.random(3, np.float32), "area_um2": rng.random(3),
            "touches_edge": [True, False, True],
            "Nimbus: CD3": np.array([0.1, np.nan, 1 / 3], np.float32), "Nimbus: CD3 view sd": rng.random(3, np.float32), "CD3 mean": rng.random(3),
            "Nimbus: K:i 67": rng.random(3, np.float32), "Nimbus: K:i 67 view sd": rng.random(3, np.float32), "K:i 67 mean": [1e-30, 1e30, -0.0],
        }
    )  # fmt: skip


def test_parquet_and_csv_hold_the_same(tmp_path: Path) -> None:
    frame = table()
    files = write_cell_tables(frame, tmp_path / "new/run")
    assert [f.name for f in files] == ["cells.parquet", "cells.csv"]
    pd.testing.assert_frame_equal(read_cell_table(tmp_path / "new/run"), frame)
    read = read_cell_table(files[1])
    for column in frame.columns:
        if frame[column].dtype.kind == "f":
            np.testing.assert_array_equal(read[column].to_numpy(frame[column].dtype), frame[column].to_numpy())
        else:
            assert read[column].fillna("").tolist() == frame[column].fillna("").tolist()
    assert files[1].read_bytes().startswith(b"image,image_id,")


def test_a_rewrite_is_identical(tmp_path: Path) -> None:
    first = [f.read_bytes() for f in write_cell_tables(table(), tmp_path)]
    assert [f.read_bytes() for f in write_cell_tables(table(), tmp_path)] == first


def test_anndata(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    frame = table()
    assert write_cell_tables(frame, tmp_path, h5ad=True)[-1].name == "cells.h5ad"
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert read.var_names.tolist() == ["CD3", "K:i 67"] and read.obs_names.tolist() == ["007/1", "007/2", "8/1"]
    np.testing.assert_array_equal(read.X, frame[["Nimbus: CD3", "Nimbus: K:i 67"]].to_numpy())
    np.testing.assert_array_equal(read.obsm["spatial"], frame[["x_um", "y_um"]].to_numpy())
    np.testing.assert_array_equal(read.layers["view_sd"][:, 0], frame["Nimbus: CD3 view sd"])
    assert read.layers["intensity"].shape == (3, 2) and read.uns["mxbridge"]["model"] == "Nimbus"
    assert read.obs["class"].tolist() == ["Tumor: CD3", "", "B"] and "CD3 mean" not in read.obs
    write_anndata(frame, tmp_path / "p.h5ad", {"run": "r1"})
    assert anndata.read_h5ad(tmp_path / "p.h5ad").uns["mxbridge"]["run"] == "r1"


def test_anndata_is_an_extra_and_needs_scores_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (["cell"], ["Nimbus: A", "NimbusDemo: A"]):
        with pytest.raises(InputError, match="not of one"):
            score_columns(columns)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(UsageError, match=r"mxbridge\[h5ad\]"):
        write_cell_tables(table(), tmp_path, h5ad=True)


def test_missing_and_broken(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        read_cell_table(tmp_path)
    (tmp_path / "cells.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BrokenFile, match=r"cells\.parquet"):
        read_cell_table(tmp_path)
