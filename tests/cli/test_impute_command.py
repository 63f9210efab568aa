"""``mxbridge impute`` as people type it, on a project and on files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mxbridge.tasks.hand_calls import published_scores
from mxbridge.workspaces.qupath import qupath_process
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace
from tests.toy_maxim import toy_network, write_model

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``cd8``: from DAPI and CD3. ``pdl1``: from CD3 and CD8. ``any``: four markers."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "cd8.safetensors", ("DAPI", "CD3"), ("CD8",))
    write_model(folder / "pdl1.safetensors", ("CD3", "CD8"), ("PDL1",), seed=1)
    write_model(folder / "any.safetensors", ("DAPI", "CD3", "Ki67", "CD8"), seed=2)
    return folder


def cells_of(project: Path, entry: int = 1) -> list[Any]:
    tree = ImageDataFile.read(project.parent / "data" / str(entry) / "data.qpdata")
    return [o for o in tree.objects() if o.kind == "cell"]


def measured(project: Path, entry: int = 1) -> set[str]:
    return {name for cell in cells_of(project, entry) for name in cell.measurements}


def values_of(folder: Path) -> dict[str, str]:
    """Of the fluorescence image of a golden project, exact, NaN included."""
    objects = ImageDataFile.read(folder / "data/2/data.qpdata").objects()
    return {o.id: repr(dict(o.measurements)) for o in objects}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shown(project: Path, entry: int) -> dict[str, np.ndarray]:
    """Channels of an entry by name."""
    workspace = QuPathWorkspace(project)
    image = workspace.pull(workspace.list([str(entry)])[0]).image
    return dict(zip(image.channel_names, np.asarray(image.levels[0]), strict=True))


def newest(project: Path) -> Path:
    return max((project.parent / "mxbridge-runs").iterdir(), key=lambda path: path.name)


def test_a_channel_beside_the_image_and_a_mean_on_every_cell(mxbridge: Call, project: Path, models: Path) -> None:
    code, out, err = mxbridge("impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8")
    assert code == 0, err
    assert "MAXIM: CD8 mean" in out
    assert "File > Reload data" in err
    entries = {e.name: e.id for e in Project.open(project).entries}
    channels = shown(project, entries["north.ome.tif (joined)"])
    assert list(channels) == ["DAPI", "CD3", "Ki67", "CD8 (MAXIM)"]
    assert channels["CD8 (MAXIM)"].std() > 5
    original = shown(project, 1)
    assert all(np.array_equal(channels[name], original[name]) for name in original)
    for cell in cells_of(project, 1):
        assert set(cell.measurements) == {"MAXIM: CD8 mean"}
        y, x = np.mean(np.concatenate(cell.roi.rings), axis=0)[::-1].astype(int)
        around = channels["CD8 (MAXIM)"][max(0, y - 5) : y + 6, max(0, x - 5) : x + 6]
        assert around.min() <= cell.measurements["MAXIM: CD8 mean"] <= around.max()
    assert mxbridge("qupath", "check", project.parent, "--no-qupath")[0] == 0


def test_the_table_and_the_record(mxbridge: Call, project: Path, models: Path) -> None:
    code, out, _ = mxbridge(
        "impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8", "--json", "--quiet"
    )
    answer = json.loads(out)
    assert code == 0
    folder = Path(answer["folder"])
    table = pd.read_parquet(folder / "cells.parquet")
    on_cells = {c.id: c.measurements["MAXIM: CD8 mean"] for entry in (1, 2) for c in cells_of(project, entry)}
    assert dict(zip(table["cell"], table["MAXIM: CD8 mean"], strict=True)) == pytest.approx(on_cells)
    assert (folder / "cells.csv").exists()
    assert [row["imputed"] for row in answer["imputed"]] == ["MAXIM: CD8 mean"] * 2
    assert answer["imputed"][0]["cells"] == 64
    record = json.loads((folder / "run.json").read_text())
    assert record["task"] == "impute"
    assert record["model"]["models"][0]["weights_sha256"]
    assert [i["status"] for i in record["images"]] == ["published", "published"]
    assert not list(folder.rglob("work"))


def test_a_rerun_changes_nothing(mxbridge: Call, project: Path, models: Path) -> None:
    command = ("impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8")
    mxbridge(*command)
    before = files_of(project.parent)
    code, out, _ = mxbridge(*command)
    assert code == 0
    assert "Nothing to do" in out
    assert files_of(project.parent) == before


def test_another_marker_keeps_what_is_there(mxbridge: Call, project: Path, models: Path) -> None:
    every = models / "any.safetensors"
    mxbridge("impute", "--project", project, "--model", every, "--marker", "CD8")
    first = shown(project, 3)["CD8 (MAXIM)"], [c.measurements["MAXIM: CD8 mean"] for c in cells_of(project)]
    _, _, err = mxbridge("impute", "--project", project, "--model", every, "--marker", "Ki67")
    assert "CD8: imputed" not in err
    assert "Ki67: imputed without CD8" in err
    assert set(shown(project, 3)) == {"DAPI", "CD3", "Ki67", "CD8 (MAXIM)", "Ki67 (MAXIM)"}
    assert np.array_equal(shown(project, 3)["CD8 (MAXIM)"], first[0])
    assert [c.measurements["MAXIM: CD8 mean"] for c in cells_of(project)] == first[1]
    assert measured(project) == {"MAXIM: CD8 mean", "MAXIM: Ki67 mean"}


def test_a_rerun_with_other_options_replaces_and_can_be_replaced_again(
    mxbridge: Call, project: Path, models: Path
) -> None:
    """Also by a run that was done before: its channel has been overwritten since and is computed again."""
    command = ("impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8")
    mxbridge(*command)
    plain = shown(project, 3)
    data = (project.parent / "data/1/data.qpdata").read_bytes()
    mxbridge(*command, "--uncertainty")
    both = shown(project, 3)
    assert list(both) == [*plain, "CD8 spread (MAXIM)"]
    assert not np.array_equal(both["CD8 (MAXIM)"], plain["CD8 (MAXIM)"])
    assert measured(project) == {"MAXIM: CD8 mean", "MAXIM: CD8 spread"}
    code, _, err = mxbridge(*command)
    assert code == 0, err
    assert "has replaced its derived images; it is computed again" in err
    again = shown(project, 3)
    assert list(again) == list(plain)
    assert np.array_equal(again["CD8 (MAXIM)"], plain["CD8 (MAXIM)"])
    assert measured(project) == {"MAXIM: CD8 mean"}
    assert (project.parent / "data/1/data.qpdata").read_bytes() == data


def test_undo_and_publish(mxbridge: Call, project: Path, models: Path) -> None:
    project_before = [e.name for e in Project.open(project).entries]
    mxbridge("impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8")
    run, values = newest(project), [c.measurements for c in cells_of(project)]
    channel = shown(project, 3)["CD8 (MAXIM)"]
    assert mxbridge("undo", run)[0] == 0
    assert measured(project) == set()
    assert [e.name for e in Project.open(project).entries] == project_before
    assert not list((project.parent / "mxbridge" / "derived").rglob("*.tif"))
    assert mxbridge("publish", run)[0] == 0
    assert [c.measurements for c in cells_of(project)] == values
    entry = next(e.id for e in Project.open(project).entries if e.name == "north.ome.tif (joined)")
    assert np.array_equal(shown(project, entry)["CD8 (MAXIM)"], channel)


def test_a_run_that_was_replaced_neither_undoes_nor_publishes_anothers(
    mxbridge: Call, project: Path, models: Path
) -> None:
    command = ("impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8")
    mxbridge(*command)
    first = newest(project)
    mxbridge(*command, "--uncertainty")
    before = shown(project, 3), [c.measurements for c in cells_of(project)]
    code, _, err = mxbridge("publish", first)
    assert (code, "another run has replaced the derived images" in err) == (7, True)
    assert mxbridge("undo", first)[0] == 0
    after = shown(project, 3), [c.measurements for c in cells_of(project)]
    assert after[1] == before[1]
    assert all(np.array_equal(after[0][name], before[0][name]) for name in before[0])


def test_a_chain_on_a_project(mxbridge: Call, project: Path, models: Path) -> None:
    given = ("--model", models / "pdl1.safetensors", "--model", models / "cd8.safetensors", "--marker", "PDL1")
    code, _, err = mxbridge("impute", "--project", project, *given)
    assert (code, "no channel CD8, which MAXIM needs to impute PDL1" in err) == (6, True)
    code, _, err = mxbridge("impute", "--project", project, *given, "--chain")
    assert code == 0, err
    assert "PDL1: CD8 is imputed first" in err
    assert list(shown(project, 3)) == ["DAPI", "CD3", "Ki67", "CD8 (MAXIM)", "PDL1 (MAXIM)"]
    assert measured(project) == {"MAXIM: CD8 mean", "MAXIM: PDL1 mean"}


def test_imputed_stains_are_no_scores(mxbridge: Call, project: Path, models: Path) -> None:
    """What is calibrated in a project with both is the scores, without a choice of the model."""
    mxbridge("score", "--project", project, "--model", "demo", "--no-tta", "--tile", "128", "--markers", "CD3")
    scored = {c.id: c.measurements["NimbusDemo: CD3"] for c in cells_of(project)}
    mxbridge("impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8")
    workspace = QuPathWorkspace(project)
    found = published_scores(workspace, workspace.list(), None)
    assert (found.model, found.markers) == ("NimbusDemo", ("CD3",))
    assert {c.id: c.measurements["NimbusDemo: CD3"] for c in cells_of(project)} == scored


def test_files_stay_as_they_are(mxbridge: Call, fields: Path, models: Path, tmp_path: Path) -> None:
    before = files_of(fields)
    code, out, err = mxbridge(
        "impute", "--files", fields / "north.ome.tif", "--files", fields / "south.ome.tif",
        "--labels", fields / "north_mask.tif", "--model", models / "cd8.safetensors", "--marker", "cd8",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert files_of(fields) == before
    assert len(list((tmp_path / "run").glob("images/*/derived/CD8 (MAXIM)*.ome.zarr"))) == 2
    rows = json.loads(out)["imputed"]
    assert [(r["imputed"], r["cells"]) for r in rows] == [("MAXIM: CD8 mean", 64), ("CD8 (MAXIM)", 0)]
    assert len(pd.read_csv(tmp_path / "run/cells.csv")) == 64


def test_a_dry_run_does_nothing(mxbridge: Call, project: Path, models: Path) -> None:
    before = files_of(project.parent)
    given = ("--model", models / "pdl1.safetensors", "--model", models / "cd8.safetensors", "--marker", "PDL1")
    code, out, _ = mxbridge("impute", "--project", project, *given, "--chain", "--dry-run")
    assert code == 0
    assert "north.ome.tif: CD8 then PDL1 on 64 cells" in out
    code, out, _ = mxbridge("impute", "--project", project, *given, "--dry-run", "--json")
    assert code == 6
    assert "no channel CD8" in json.loads(out)["images"][0]["error"]
    assert files_of(project.parent) == before


def test_a_bare_checkpoint_as_the_published_program_runs_it(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    torch.save(toy_network(2, 1).state_dict(), tmp_path / "checkpoint.pt")
    given = ("--files", fields / "north.ome.tif", "--model", tmp_path / "checkpoint.pt", "--marker", "CD8")
    compat = ("--compat", "maxim", "--compat-pad", 256, "--inputs", "DAPI,CD3")
    code, _, err = mxbridge("impute", *given)
    assert (code, "a bare checkpoint.pt needs --compat maxim" in err) == (5, True)
    assert "checkpoint.pt has no model card" in err
    code, _, err = mxbridge("impute", *given, *compat)
    assert (code, "uint16 numbers" in err) == (6, True)
    code, _, err = mxbridge("impute", *given, *compat, "--value-scale", 0.25)
    assert code == 0, err
    code, _, err = mxbridge("impute", *given, *compat[:4], "--inputs", "DAPI,CD3,Ki67")
    assert (code, "panel of 3 inputs" in err) == (5, True)
    code, _, err = mxbridge("impute", *given, "--inputs", "DAPI,CD3")
    assert (code, "--inputs goes with --compat maxim" in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--marker", "CD9"), 2, "Did you mean 'CD8'?"),
        (("--marker", " , "), 2, "names no marker"),
        (("--marker", "CD8", "--compat", "nimbus"), 2, "--compat nimbus is not known"),
        (("--marker", "CD8", "--value-scale", "-1"), 2, "--value-scale -1"),
        (("--marker", "CD8", "--um-per-px", "0.05"), 6, "more than a factor of 4"),
        (("--marker", "CD8", "--without", "CD3"), 6, "no channel CD3"),
        (("--marker", "CD8", "--without", "CD33"), 2, "--without"),
        (("--marker", "CD8", "--model", "demo"), 5, "imputes no markers"),
        (("--marker", "CD8", "--model", "missing.safetensors"), 5, "missing.safetensors"),
        (("--marker", "CD8", "--panel", "missing.csv"), 4, "missing.csv"),
        (("--marker", "CD8", "--compat", "maxim", "--inputs", "DAPI"), 2, "has a card, which names its inputs"),
        (("--marker", "CD8", "--image", "west.ome.tif"), 2, "west.ome.tif"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    mxbridge: Call, project: Path, models: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    before = files_of(project.parent)
    found, out, err = mxbridge("impute", "--project", project, "--model", models / "cd8.safetensors", *options)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    after = files_of(project.parent)
    assert {k: v for k, v in after.items() if ".lock" not in k} == {k: v for k, v in before.items() if ".lock" not in k}


@pytest.mark.parametrize("version", ["v0.4.4", "v0.5.1", "v0.6.0", "v0.7.0"])
def test_golden_projects(mxbridge: Call, data: Path, tmp_path: Path, version: str) -> None:
    """Projects of four QuPath versions, one image of them a colour picture."""
    folder = Path(shutil.copytree(data / "qupath", tmp_path / "golden")) / version
    if version == "v0.6.0":  # the one whose images lie inside the project
        shutil.copytree(data / "qupath/images", folder / "images")
    project = folder / "project.qpproj"
    model = write_model(tmp_path / "m.safetensors", ("DAPI", "CD3"), ("CD45RO",))
    before = values_of(folder)
    other = (folder / "data/1/data.qpdata").read_bytes()
    code, _, err = mxbridge("impute", "--project", project, "--model", model, "--marker", "CD45RO")
    assert code == 0, err
    assert "left out" in err
    assert (folder / "data/1/data.qpdata").read_bytes() == other
    joined = max(e.id for e in Project.open(project).entries)
    channels = shown(project, joined)
    assert list(channels)[-1] == "CD45RO (MAXIM)"
    assert mxbridge("qupath", "check", folder, "--no-qupath")[0] == 0
    assert mxbridge("undo", newest(project))[0] == 0
    assert values_of(folder) == before


@pytest.mark.qupath
@pytest.mark.skipif(bool(qupath_process.why_not()), reason=f"no real QuPath: {qupath_process.why_not()}")
def test_a_real_qupath_sees_the_imputed_channel(mxbridge: Call, project: Path, models: Path) -> None:
    """Every object, class, measurement and channel as we read it, in the image's entry and in the joined one."""
    code, _, err = mxbridge(
        "impute", "--project", project, "--model", models / "cd8.safetensors", "--marker", "CD8", "--uncertainty"
    )
    assert code == 0, err
    code, out, err = mxbridge("qupath", "check", project.parent)
    assert (code, "compared with QuPath" in out, "(joined)" in out) == (0, True, True), out + err


def test_an_imputation_model_scores_no_cells(mxbridge: Call, project: Path, models: Path) -> None:
    for more in ((), ("--dry-run",)):
        code, _, err = mxbridge("score", "--project", project, "--model", models / "cd8.safetensors", *more)
        assert (code, "scores no cells" in err, "Traceback" in err) == (5, True, False)


def test_a_dry_run_names_what_is_wrong_with_images_it_is_made_for(mxbridge: Call, data: Path, tmp_path: Path) -> None:
    """Not that another image of the project is a colour picture."""
    shutil.copytree(data / "qupath", tmp_path / "golden")
    model = write_model(tmp_path / "m.safetensors", ("DAPI", "CD99"), ("CD45RO",))
    project = tmp_path / "golden/v0.7.0/project.qpproj"
    for more in ((), ("--dry-run",)):
        code, _, err = mxbridge("impute", "--project", project, "--model", model, "--marker", "CD45RO", *more)
        assert (code, "no channel CD99" in err) == (6, True)
