"""Scoring golden projects of four QuPath versions, and real images, as a user would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from mxbridge.workspaces.qupath.qpdata import ImageDataFile

Call = Callable[..., tuple[int, str, str]]
VERSIONS = ("v0.4.4", "v0.5.1", "v0.6.0", "v0.7.0")
MARKERS = ("CD3", "CD8 µ test", "PanCK", "Ki67")
ORACLE = Path(__file__).parents[1] / "data/nimbus/V1.pt"


def facts(path: Path) -> list[dict[str, Any]]:
    """All that is known of every object of a file, in order."""
    return [
        {
            "id": o.id,
            "kind": o.kind,
            "name": o.name,
            "color": o.color,
            "locked": o.locked,
            "class": o.class_name,
            "metadata": dict(o.metadata),
            "parent": o.parent.id if o.parent else None,
            "rings": [r.tobytes() for roi in (o.roi, o.nucleus) if roi is not None for r in roi.rings],
            "bounds": [roi.bounds for roi in (o.roi, o.nucleus) if roi is not None],
            "measurements": {k: repr(v) for k, v in o.measurements.items()},
        }
        for o in ImageDataFile.read(path).objects()
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", ["demo", str(ORACLE)], ids=["demo", "oracle weights"])
def test_read_score_write_changes_nothing_else(
    mxbridge: Call, data: Path, tmp_path: Path, version: str, model: str
) -> None:
    folder = Path(shutil.copytree(data / "qupath", tmp_path / "golden")) / version
    if version == "v0.6.0":  # the one whose images lie inside the project
        shutil.copytree(data / "qupath/images", folder / "images")
    prefix = "NimbusDemo" if model == "demo" else "Nimbus"
    path = folder / "data/2/data.qpdata"
    before, other = facts(path), (folder / "data/1/data.qpdata").read_bytes()
    project_file = (folder / "project.qpproj").read_bytes()
    code, _, err = mxbridge(
        "score", "--project", folder / "project.qpproj", "--image", "fl_5ch.ome.tif", "--model", model, "--no-tta"
    )
    assert code == 0, err
    after = facts(path)
    scored = 0
    for old, new in zip(before, after, strict=True):
        added = {k: new["measurements"].pop(k) for k in list(new["measurements"]) if k not in old["measurements"]}
        assert new == old
        assert set(added) == ({f"{prefix}: {m}" for m in MARKERS} if new["kind"] == "cell" else set())
        scored += bool(added)
    assert scored == 200
    assert (folder / "data/1/data.qpdata").read_bytes() == other
    assert (folder / "project.qpproj").read_bytes() == project_file
    assert mxbridge("qupath", "check", folder, "--no-qupath")[0] == 0
    run = next((folder / "mxbridge-runs").iterdir())
    assert mxbridge("undo", run)[0] == 0
    assert facts(path) == before


@pytest.mark.parametrize(("table", "options"), [("tta", ()), ("notta", ("--no-tta",))], ids=["tta", "no tta"])
def test_compat_gives_the_files_of_the_published_program(
    mxbridge: Call, data: Path, tmp_path: Path, table: str, options: tuple
) -> None:
    pipeline = data / "nimbus/pipeline"
    code, _, err = mxbridge(
        "score", "--files", pipeline / "fovs", "--labels", pipeline / "seg", "--um-per-px", "0.5", "--model", ORACLE,
        "--normalization", pipeline / "normalization_dict_two_fovs.json", "--compat", "nimbus-0.0.5", "--maps", *options,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    expected = pd.read_csv(pipeline / f"nimbus_cell_table_{table}.csv")
    got = pd.read_csv(tmp_path / "run/nimbus_cell_table.csv")
    assert list(got.columns) == ["label", "fov", "CD3", "FOXP3"]
    both = expected.merge(got, on=["fov", "label"], suffixes=("", " got"), validate="one_to_one")
    assert len(both) == len(expected) == len(got)
    for marker in ("CD3", "FOXP3"):
        np.testing.assert_allclose(both[f"{marker} got"], both[marker], atol=1e-5)
        for number, fov in enumerate(("fov_a", "fov_b"), start=1):
            theirs = tifffile.imread(pipeline / f"pred_{table}/{fov}/{marker}.tiff").astype(int)
            ours = tifffile.imread(tmp_path / f"run/images/{number:04d}-{fov}/prediction/{marker}.tiff").astype(int)
            assert np.abs(ours - theirs).max() <= 1


@pytest.mark.slow
@pytest.mark.shared
def test_a_project_made_of_a_real_mibi_field(mxbridge: Call, shared: Path, tmp_path: Path) -> None:
    field = shared / "data/mibi_ark_fov8"
    command = ("qupath", "new", "--files", field / "fov8", "--labels", field / "fov8_whole_cell.tif")
    code, _, err = mxbridge(*command, "--um-per-px", "0.5", tmp_path / "mibi")
    assert code == 0, err
    for model, name in (("demo", "NimbusDemo"), (ORACLE, "Nimbus")):
        project = tmp_path / "mibi/project.qpproj"
        code, out, err = mxbridge("score", "--project", project, "--model", model, "--no-tta", "--json")
        assert code == 0, err
        table = pd.read_parquet(Path(json.loads(out)["folder"]) / "cells.parquet")
        scores = table[[c for c in table if c.startswith(f"{name}: ") and not c.endswith("sd")]]
        assert scores.shape == (272, 21)
        assert scores.notna().all().all()
    cells = [o for o in ImageDataFile.read(tmp_path / "mibi/data/1/data.qpdata").objects() if o.kind == "cell"]
    assert len(cells) == 272
    assert all(len(c.measurements) == 42 for c in cells)


@pytest.mark.slow
@pytest.mark.shared
def test_files_of_real_imaging_mass_cytometry(mxbridge: Call, shared: Path) -> None:
    spectre = shared / "data/imc_spectre"
    command = ("score", "--files", spectre / "ROI*", "--labels", spectre / "masks_simple", "--stretched-labels")
    code, out, err = mxbridge(*command, "--um-per-px", "1", "--model", "demo", "--no-tta", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert {i["name"]: i["cells"] for i in answer["images"]} == {
        "ROI002": 2749,
        "ROI004": 4204,
        "ROI006": 4199,
        "ROI008": 1684,
    }
    table = pd.read_parquet(Path(answer["folder"]) / "cells.parquet")
    assert table.groupby("image")["cell"].nunique().to_dict() == {
        "ROI002": 2749,
        "ROI004": 4204,
        "ROI006": 4199,
        "ROI008": 1684,
    }
    assert table["NimbusDemo: CD20_Dy161"].notna().all()
    code, _, err = mxbridge(*command, "--um-per-px", "1", "--model", ORACLE, "--no-tta", "--markers", "CD20_Dy161")
    assert code == 0, err
