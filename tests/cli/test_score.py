"""``mxbridge score`` as people type it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mxbridge.workspaces.qupath.qpdata import ImageDataFile

Call = Callable[..., tuple[int, str, str]]
FAST = ("--model", "demo", "--no-tta", "--tile", "128")


def cells_of(project: Path, entry: int = 1) -> list[Any]:
    tree = ImageDataFile.read(project.parent / "data" / str(entry) / "data.qpdata")
    return [o for o in tree.objects() if o.kind == "cell"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_cell_gets_a_score_for_every_marker(mxbridge: Call, project: Path) -> None:
    code, out, err = mxbridge("score", "--project", project, *FAST)
    assert code == 0, err
    assert "NimbusDemo: CD3" in out
    assert "left out: DAPI (counterstain)" in err
    assert "File > Reload data" in err
    for entry in (1, 2):
        for cell in cells_of(project, entry):
            assert set(cell.measurements) == {"NimbusDemo: CD3", "NimbusDemo: Ki67"}
            assert 0 <= cell.measurements["NimbusDemo: CD3"] <= 1


def test_the_table_holds_the_same_scores_and_more(mxbridge: Call, project: Path) -> None:
    code, out, _ = mxbridge("score", "--project", project, *FAST, "--json", "--quiet")
    answer = json.loads(out)
    assert code == 0
    folder = Path(answer["folder"])
    table = pd.read_parquet(folder / "cells.parquet")
    on_cells = {c.id: c.measurements["NimbusDemo: CD3"] for entry in (1, 2) for c in cells_of(project, entry)}
    assert dict(zip(table["cell"], table["NimbusDemo: CD3"], strict=True)) == pytest.approx(on_cells)
    assert (folder / "cells.csv").exists()
    inner = table[~table["touches_edge"]]
    assert np.all(inner["area_um2"].between(60 * np.pi * 0.25 * 0.8, 110 * np.pi * 0.25 * 1.2))
    assert table["CD3 mean"].max() > 500
    record = json.loads((folder / "run.json").read_text())
    assert record["model"]["weights_sha256"]
    assert record["options"]["tta"] is False
    assert [i["status"] for i in record["images"]] == ["published", "published"]


def test_positive_cells_score_higher(mxbridge: Call, project: Path) -> None:
    """The scores belong to the right cells: every third one was made bright in CD3."""
    mxbridge("score", "--project", project, *FAST, "--markers", "CD3")
    run = next((project.parent / "mxbridge-runs").iterdir())
    table = pd.read_parquet(run / "cells.parquet")
    bright = table["CD3 mean"] > 300
    assert 0.25 < bright.mean() < 0.45
    assert table["NimbusDemo: CD3"][bright].mean() > table["NimbusDemo: CD3"][~bright].mean() + 0.3


def test_a_rerun_changes_nothing(mxbridge: Call, project: Path) -> None:
    mxbridge("score", "--project", project, *FAST)
    before = files_of(project.parent)
    code, out, _ = mxbridge("score", "--project", project, *FAST)
    assert code == 0
    assert "Nothing to do" in out
    assert files_of(project.parent) == before


def test_restart_makes_the_same_again(mxbridge: Call, project: Path) -> None:
    mxbridge("score", "--project", project, *FAST)
    data = (project.parent / "data/1/data.qpdata").read_bytes()
    code, _, _ = mxbridge("score", "--project", project, *FAST, "--restart")
    assert code == 0
    assert (project.parent / "data/1/data.qpdata").read_bytes() == data
    tables = [run / "cells.csv" for run in (project.parent / "mxbridge-runs").iterdir()]
    assert len(tables) == 2
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_undo_and_publish(mxbridge: Call, project: Path) -> None:
    mxbridge("score", "--project", project, *FAST, "--set-class")
    run = next((project.parent / "mxbridge-runs").iterdir())
    scored = [(c.class_name, c.measurements) for c in cells_of(project)]
    assert {"CD3", "Ki67", "CD3: Ki67"} & {name for name, _ in scored}
    code, out, _ = mxbridge("undo", run)
    assert (code, "taken out" in out) == (0, True)
    assert {(c.class_name, len(c.measurements)) for c in cells_of(project)} == {(None, 0)}
    code, out, _ = mxbridge("publish", run)
    assert (code, "published" in out) == (0, True)
    assert [(c.class_name, c.measurements) for c in cells_of(project)] == scored


def test_classes_of_a_rerun_replace_those_of_the_run_before(mxbridge: Call, project: Path) -> None:
    mxbridge("score", "--project", project, *FAST, "--set-class")
    assert {"CD3", "CD3: Ki67"} <= {c.class_name for c in cells_of(project)}
    assert not (project.parent / "classifiers").exists()  # QuPath then offers its own classes
    mxbridge("score", "--project", project, *FAST, "--set-class", "--threshold", "0.999")
    assert {c.class_name for c in cells_of(project)} == {None}


def test_another_threshold_counts_anew_without_computing(mxbridge: Call, project: Path) -> None:
    counts = {}
    for threshold in ("0.5", "0.999"):
        _, out, _ = mxbridge("score", "--project", project, *FAST, "--threshold", threshold, "--json")
        answer = json.loads(out)
        counts[threshold] = sum(p["positive"] for p in answer["positive"])
    assert answer["computed"] == 0
    assert counts["0.5"] > counts["0.999"]


def test_undo_leaves_what_a_later_run_has_published(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    mxbridge("score", "--project", project, *FAST, "--out", tmp_path / "first")
    code, _, err = mxbridge(
        "score", "--project", project, "--model", "demo", "--tile", "128", "--out", tmp_path / "second"
    )
    assert code == 0, err
    scored = [c.measurements for c in cells_of(project)]
    code, out, _ = mxbridge("undo", tmp_path / "first")
    assert code == 0
    assert "nothing to take out" in out
    assert [c.measurements for c in cells_of(project)] == scored
    mxbridge("undo", tmp_path / "second")
    assert {len(c.measurements) for c in cells_of(project)} == {0}


def test_a_copied_project_undoes_itself_and_not_the_original(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    mxbridge("score", "--project", project, *FAST)
    copy = Path(shutil.copytree(project.parent, tmp_path / "copy")) / "project.qpproj"
    original = (project.parent / "data/1/data.qpdata").read_bytes()
    assert mxbridge("undo", next((copy.parent / "mxbridge-runs").iterdir()))[0] == 0
    assert (project.parent / "data/1/data.qpdata").read_bytes() == original
    assert {len(c.measurements) for c in cells_of(copy)} == {0}


def test_ctrl_c_says_how_to_go_on(mxbridge: Call, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mxbridge.models.nimbus.Nimbus.score", interrupted)
    code, _, err = mxbridge("score", "--project", project, *FAST)
    assert code == 130
    assert "run the same command again to go on" in err
    monkeypatch.undo()


def test_the_table_has_the_classes_that_were_set(mxbridge: Call, fields: Path) -> None:
    command = ("score", "--files", fields / "north.ome.tif", "--labels", fields / "north_mask.tif", *FAST)
    _, out, _ = mxbridge(*command, "--set-class", "--json")
    table = pd.read_parquet(Path(json.loads(out)["folder"]) / "cells.parquet")
    positive = table["NimbusDemo: CD3"] >= 0.5
    assert set(table["class"][positive]) <= {"CD3", "CD3: Ki67"}
    assert table["class"][positive].notna().all()


def test_colour_pictures_are_left_out_unless_named(mxbridge: Call, data: Path, tmp_path: Path) -> None:
    """A golden project holds an H&E image and a fluorescence image."""
    project = Path(shutil.copytree(data / "qupath", tmp_path / "golden")) / "v0.7.0/project.qpproj"
    before = (project.parent / "data/1/data.qpdata").read_bytes()
    code, _, err = mxbridge("score", "--project", project, *FAST)
    assert code == 0, err
    assert "left out: image bf_rgb.tif (1) is a colour picture" in err
    assert (project.parent / "data/1/data.qpdata").read_bytes() == before
    code, _, err = mxbridge("score", "--project", project, "--image", "bf_rgb.tif", *FAST)
    assert code == 6
    assert "is a colour picture" in err


def test_scoring_other_objects_says_what_it_replaces(mxbridge: Call, data: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(data / "qupath", tmp_path / "golden")) / "v0.7.0/project.qpproj"
    mxbridge("score", "--project", project, "--image", "2", *FAST, "--markers", "CD3")
    code, _, err = mxbridge(
        "score", "--project", project, "--image", "2", *FAST, "--markers", "CD3", "--cells", "detections"
    )
    assert code == 0, err
    assert "200 other objects lost the values" in err


def test_a_missing_table_is_made_again(mxbridge: Call, project: Path) -> None:
    pytest.importorskip("anndata")
    mxbridge("score", "--project", project, *FAST)
    run = next((project.parent / "mxbridge-runs").iterdir())
    code, _, err = mxbridge("score", "--project", project, *FAST, "--h5ad")
    assert code == 0, err
    assert (run / "cells.h5ad").exists()


def test_no_publish_writes_nothing_into_the_project(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    before = files_of(project.parent)
    code, _, _ = mxbridge("score", "--project", project, *FAST, "--no-publish", "--out", tmp_path / "run")
    assert code == 0
    assert files_of(project.parent) == before
    assert len(pd.read_parquet(tmp_path / "run/cells.parquet")) == 128
    assert mxbridge("publish", tmp_path / "run")[0] == 0
    assert "NimbusDemo: CD3" in cells_of(project)[0].measurements


def test_a_dry_run_says_what_would_be_done(mxbridge: Call, project: Path) -> None:
    before = files_of(project.parent)
    code, out, _ = mxbridge("score", "--project", project, *FAST, "--dry-run", "--image", "south.ome.tif")
    assert code == 0
    assert "64 cells, NimbusDemo: CD3, Ki67" in out
    assert files_of(project.parent) == before


def test_files_give_the_same_scores_as_a_project_of_them(mxbridge: Call, project: Path, fields: Path) -> None:
    mxbridge("score", "--project", project, *FAST)
    code, out, err = mxbridge(
        "score", "--files", fields / "*.ome.tif", "--labels", fields / "*_mask.tif", *FAST, "--json"
    )
    assert code == 0, err
    from_files = pd.read_parquet(Path(json.loads(out)["folder"]) / "cells.parquet")
    run = next((project.parent / "mxbridge-runs").iterdir())
    from_project = pd.read_parquet(run / "cells.parquet")
    for column in ("NimbusDemo: CD3", "CD3 mean", "area_um2", "x_um"):
        np.testing.assert_allclose(from_files[column], from_project[column], atol=1e-6)


def test_maps_are_kept_where_they_can_stay(mxbridge: Call, project: Path) -> None:
    import zarr

    code, _, err = mxbridge(
        "score", "--project", project, *FAST, "--maps", "--markers", "CD3", "--image", "north.ome.tif"
    )
    assert code == 0, err
    maps = list((project.parent / "mxbridge/derived/1").glob("*.ome.zarr"))
    assert len(maps) == 1
    group = zarr.open_group(maps[0], mode="r")
    assert group.attrs["omero"]["channels"][0]["label"] == "CD3 (NimbusDemo)"
    assert group["0"].shape == (1, 96, 96)
    assert group["0"][:].max() > 100
    run = next((project.parent / "mxbridge-runs").iterdir())
    assert mxbridge("undo", run)[0] == 0
    assert list((project.parent / "mxbridge/derived/1").iterdir()) == []
    assert mxbridge("publish", run)[0] == 0
    assert maps[0].is_dir()


def test_factors_of_one_run_serve_another(mxbridge: Call, project: Path) -> None:
    mxbridge("score", "--project", project, *FAST)
    run = next((project.parent / "mxbridge-runs").iterdir())
    before = (project.parent / "data/1/data.qpdata").read_bytes()
    code, _, err = mxbridge(
        "score", "--project", project, *FAST, "--normalization", run / "normalization.json", "--image", "north.ome.tif"
    )
    assert code == 0, err
    assert (project.parent / "data/1/data.qpdata").read_bytes() == before


def test_compat_and_augmentation_give_other_scores(mxbridge: Call, project: Path) -> None:
    means = {}
    for name, options in {"one": ["--no-tta"], "six": [], "peer": ["--compat", "nimbus-0.0.5"]}.items():
        code, out, err = mxbridge(
            "score", "--project", project, "--model", "demo", "--image", "1", "--no-publish", "--json", *options
        )
        assert code == 0, err
        table = pd.read_parquet(Path(json.loads(out)["folder"]) / "cells.parquet")
        means[name] = table["NimbusDemo: CD3"].to_numpy()
        assert table["NimbusDemo: CD3 view sd"].isna().all() == (name == "one")
    assert not np.allclose(means["one"], means["six"], atol=1e-4)
    assert not np.allclose(means["six"], means["peer"], atol=1e-4)


def test_progress_as_json_lines(mxbridge: Call, project: Path) -> None:
    _, _, err = mxbridge("score", "--project", project, *FAST, "--progress", "json")
    events = [json.loads(line) for line in err.splitlines()]
    assert {"image", "step", "note"} <= {e["event"] for e in events}
    assert [e["name"] for e in events if e["event"] == "image"] == ["north.ome.tif", "south.ome.tif"]
