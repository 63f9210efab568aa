"""Imputing images of a project that have no cells: the channel is all there is, and it comes and goes like any result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_field

from mxbridge.workspaces.qupath.new import create_project, open_new_image
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace
from tests.toy_maxim import write_model

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A project of one image without objects; the path of its .qpproj."""
    image, _ = write_field(tmp_path, "north", 0, 150)
    create_project(tmp_path / "bare", [open_new_image(image)])
    return tmp_path / "bare" / "project.qpproj"


def channels(project: Path) -> dict[str, np.ndarray]:
    workspace = QuPathWorkspace(project)
    entry = max(e.id for e in Project.open(project).entries)
    image = workspace.pull(workspace.list([str(entry)])[0]).image
    return dict(zip(image.channel_names, np.asarray(image.levels[0]), strict=True))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("with_data", [False, True])
def test_the_channel_alone(mxbridge: Call, bare: Path, tmp_path: Path, with_data: bool) -> None:
    if not with_data:  # as for an image that was never opened in QuPath
        (bare.parent / "data/1/data.qpdata").unlink(missing_ok=True)
    model = write_model(tmp_path / "m.safetensors", ("DAPI", "CD3"), ("CD8",))
    command = ("impute", "--project", bare, "--model", model, "--marker", "CD8")
    code, out, err = mxbridge(*command)
    assert code == 0, err
    assert "no cells: only channels are made" in err
    assert "CD8 (MAXIM)" in out
    assert "nan" not in out
    first = channels(bare)
    assert list(first) == ["DAPI", "CD3", "Ki67", "CD8 (MAXIM)"]
    before = files_of(bare.parent)
    code, out, _ = mxbridge(*command)
    assert (code, "Nothing to do" in out) == (0, True)
    assert files_of(bare.parent) == before
    earlier = max((bare.parent / "mxbridge-runs").iterdir())
    mxbridge(*command, "--uncertainty")
    assert list(channels(bare)) == [*first, "CD8 spread (MAXIM)"]
    mxbridge("undo", earlier)  # its channel has been replaced since: nothing of it is left
    assert list(channels(bare)) == [*first, "CD8 spread (MAXIM)"]
    assert mxbridge(*command)[0] == 0
    assert all(np.array_equal(values, first[name]) for name, values in channels(bare).items())
    assert mxbridge("undo", earlier)[0] == 0
    assert [e.id for e in Project.open(bare).entries] == [1]
    assert not list((bare.parent / "mxbridge" / "derived").rglob("*.tif"))
