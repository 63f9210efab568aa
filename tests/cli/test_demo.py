"""``mxbridge demo``: whole or not at all, and nothing but a demonstration is ever replaced."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry

from mxbridge.image import Box
from mxbridge.tasks import demo
from mxbridge.training.panels import demo_settings
from mxbridge.training.simulator import Tissue, simulate
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.qupath.check import check_project

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def small_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(seed: int) -> Tissue:
        return simulate(replace(demo_settings(), height_um=60.0, width_um=60.0), seed)

    monkeypatch.setattr(demo, "demo_slide", small)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refuses(mxbridge: Call, words: str, *command: object) -> None:
    code, _, err = mxbridge("demo", *command)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert (code, len(lines), "Traceback" in err) == (7, 1, False), err
    assert words in lines[0]


def test_a_demonstration_can_be_scored_and_replaced(mxbridge: Call, tmp_path: Path) -> None:
    code, out, err = mxbridge("demo", "place", "--json")
    assert code == 0, err
    assert json.loads(out)["project"] == str(tmp_path / "place/project.qpproj")
    assert {"made-by-mxbridge-demo", "project.qpproj", "truth/tissue A.csv", "truth/tissue B.csv"} <= set(
        files_of(tmp_path / "place")
    )
    assert mxbridge("score", "--project", "place/project.qpproj", "--no-tta")[0] == 0
    refuses(mxbridge, "--force", "place")
    assert mxbridge("demo", "place", "--force", "--seed", "2")[0] == 0
    assert not (tmp_path / "place/mxbridge-runs").exists()
    assert (tmp_path / "place/made-by-mxbridge-demo").read_text() == "seed 2\n"
    assert [p.name for p in tmp_path.iterdir() if "mxbridge-part" in p.name] == []


def test_links_and_files_in_the_way(mxbridge: Call, tmp_path: Path) -> None:
    mxbridge("demo", "place")
    before = files_of(tmp_path / "place")
    (tmp_path / "link").symlink_to(tmp_path / "place")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_text("mine")
    for force in ((), ("--force",)):
        refuses(mxbridge, "is a link", "link", *force)
        refuses(mxbridge, "is a link", "dangling", *force)
        refuses(mxbridge, "is a file", "file", *force)
        refuses(mxbridge, "does not exist", "no/such/place", *force)
    assert files_of(tmp_path / "place") == before
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_no_demonstration_is_never_replaced(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    before = files_of(project.parent)
    refuses(mxbridge, "is no demonstration", project.parent, "--force")
    assert files_of(project.parent) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/slide.tif").write_bytes(b"x")
    refuses(mxbridge, "is no demonstration", "mine", "--force")
    assert (tmp_path / "mine/slide.tif").exists()


def test_a_demonstration_stopped_half_way_can_be_made_again(mxbridge: Call, tmp_path: Path) -> None:
    """A kill right after the project took its name, and one while an earlier project was put aside."""
    mxbridge("demo", "place")
    place = tmp_path / "place"
    (place / demo.MARK).unlink()
    shutil.rmtree(place / "truth")
    shutil.rmtree(place / "mxbridge")
    (tmp_path / ".place.0badcafe.mxbridge-part").mkdir()
    assert mxbridge("demo", "place", "--force")[0] == 0
    assert (place / demo.MARK).exists() and (place / "truth/tissue B.csv").exists()
    assert [p.name for p in tmp_path.iterdir() if "mxbridge-part" in p.name] == []


@pytest.mark.parametrize("step", ["_write_truth", "create_project"])
def test_a_full_disk_leaves_what_was_there(
    mxbridge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    mxbridge("demo", "place")
    before = files_of(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(demo, step, full)
    refuses(mxbridge, "the disk is full", "place", "--force")
    refuses(mxbridge, "the disk is full", "another")
    assert files_of(tmp_path) == before
    assert not (tmp_path / "another").exists()


def test_a_real_ihc_image_ready_to_translate(mxbridge: Call, tmp_path: Path) -> None:
    code, out, err = mxbridge("demo", "place", "--kind", "ihc", "--json")
    assert code == 0, err
    assert json.loads(out) == {
        "project": str(tmp_path / "place/project.qpproj"),
        "kind": "ihc",
        "images": ["colon FHL2"],
        "cells": 0,
    }
    workspace = open_workspace(f"project:{tmp_path / 'place/project.qpproj'}")
    assert workspace.default_model == "deconvolution"
    (ref,) = workspace.list()
    pulled = workspace.pull(ref, "annotations")
    assert pulled.image.rgb and pulled.image.pixel_size_um == (0.5, 0.5)
    assert np.array_equal(np.moveaxis(pulled.image.levels[0].compute(), 0, -1), immunohistochemistry())
    assert pulled.cells is not None
    assert sorted(pulled.cells.classes) == ["Stroma", "Tumor", "Tumor", "Tumor", "Tumor"]
    raster = pulled.cells.raster(Box(0, 0, 512, 512))
    assert 0.8 < (raster > 0).mean() < 1
    brown = rgb2hed(immunohistochemistry())[..., 2]
    of_class = {
        c: brown[np.isin(raster, [k for k, x in enumerate(pulled.cells.classes, start=1) if x == c])]
        for c in ("Tumor", "Stroma")
    }
    assert np.median(of_class["Tumor"]) > 3 * np.median(of_class["Stroma"])
    report = check_project(tmp_path / "place/project.qpproj", ask_qupath=False)
    assert report.sound


def test_one_kind_replaces_the_other(mxbridge: Call, tmp_path: Path) -> None:
    assert mxbridge("demo", "place", "--kind", "ihc")[0] == 0
    assert mxbridge("demo", "place", "--force")[0] == 0
    assert (tmp_path / "place/truth").is_dir()
    assert mxbridge("demo", "place", "--kind", "ihc", "--force")[0] == 0
    assert not (tmp_path / "place/truth").exists()
    code, _, err = mxbridge("demo", "other", "--kind", "ihc", "--seed", "2")
    assert code == 2 and "--seed" in err
    assert not (tmp_path / "other").exists()
