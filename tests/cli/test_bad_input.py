"""Bad input: one line, the right exit code, what to do next, and nothing written."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

Call = Callable[..., tuple[int, str, str]]
DEMO = ("--model", "demo", "--no-tta")


def snapshot(folder: Path) -> dict[str, bytes]:
    """User files; the lock of a project is none."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def refuses(mxbridge: Call, code: int, *words: str, command: tuple, untouched: Path | None = None) -> str:
    """Run a command that must fail with ``code`` and one line that holds ``words``; returns the line."""
    before = snapshot(untouched) if untouched else {}
    given, _, err = mxbridge(*command)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert (given, len(lines)) == (code, 1), err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0], lines[0]
    if untouched:
        assert snapshot(untouched) == before
    return lines[0]


def test_no_such_project(mxbridge: Call, tmp_path: Path) -> None:
    refuses(mxbridge, 4, "nothing.qpproj", command=("score", "--project", tmp_path / "nothing.qpproj", *DEMO))


def test_no_such_image_lists_what_there_is(mxbridge: Call, project: Path) -> None:
    refuses(
        mxbridge,
        2,
        "no image 'west'",
        "north.ome.tif (1)",
        command=("score", "--project", project, "--image", "west", *DEMO),
        untouched=project.parent,
    )


def test_no_such_marker_lists_what_there_is(mxbridge: Call, project: Path) -> None:
    refuses(
        mxbridge,
        2,
        "no marker 'CD8'",
        "DAPI, CD3, Ki67",
        command=("score", "--project", project, "--markers", "CD3,CD8", *DEMO),
        untouched=project.parent,
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--threshold", "2"),
        ("--quantile", "0.1"),
        ("--normalize", "never"),
        ("--compat", "nimbus-9"),
        ("--device", "abacus"),
        ("--precision", "fp4"),
        ("--path-map", "nonsense"),
        ("--markers", " , "),
        ("--compat", "nimbus-0.0.5", "--precision", "bf16"),
        ("--labels", "x.tif"),
    ],
    ids=lambda o: o[0],
)
def test_wrong_usage(mxbridge: Call, project: Path, options: tuple) -> None:
    refuses(mxbridge, 2, command=("score", "--project", project, *DEMO, *options), untouched=project.parent)


def test_images_must_be_named_in_exactly_one_way(mxbridge: Call, project: Path) -> None:
    refuses(mxbridge, 2, "--project", command=("score", *DEMO))
    refuses(mxbridge, 2, "--project", command=("score", "--project", project, "--files", project, *DEMO))


def test_an_unknown_option_is_wrong_usage(mxbridge: Call) -> None:
    code, _, err = mxbridge("score", "--projekt", "x")
    assert code == 2
    assert "No such option" in err


def test_a_project_without_cells(mxbridge: Call, project: Path) -> None:
    for entry in (1, 2):
        (project.parent / f"data/{entry}/data.qpdata").unlink()
    refuses(mxbridge, 6, "has no cells", command=("score", "--project", project, *DEMO), untouched=project.parent)


def test_no_pixel_size(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    image = tmp_path / "bare.tif"
    tifffile.imwrite(image, tifffile.imread(fields / "north.ome.tif"), photometric="minisblack")
    command = ("score", "--files", image, "--labels", fields / "north_mask.tif", *DEMO)
    refuses(mxbridge, 6, "--um-per-px", command=command)
    assert mxbridge(*command, "--um-per-px", "0.5", "--markers", "1")[0] == 0


def test_a_moved_image_says_where_it_was_looked_for(
    mxbridge: Call, project: Path, fields: Path, tmp_path: Path
) -> None:
    text = project.read_text()
    elsewhere = tmp_path / "elsewhere"
    project.write_text(text.replace(fields.as_uri().replace("file://", "file:"), f"file:{elsewhere}"))
    command = ("score", "--project", project, *DEMO)
    refuses(mxbridge, 4, "north.ome.tif", str(elsewhere), "--path-map", command=command, untouched=project.parent)
    assert mxbridge(*command, "--path-map", f"{elsewhere}={fields}")[0] == 0


@pytest.mark.parametrize("keep", [0, 7, 200, 5000, 100_000])
def test_a_truncated_image(mxbridge: Call, fields: Path, tmp_path: Path, keep: int) -> None:
    image = tmp_path / "cut.ome.tif"
    image.write_bytes((fields / "north.ome.tif").read_bytes()[:keep])
    command = ("score", "--files", image, "--labels", fields / "north_mask.tif", "--um-per-px", "1", *DEMO)
    refuses(mxbridge, 6, "cut.ome.tif", command=command)


def test_one_bad_image_does_not_stop_the_others(mxbridge: Call, project: Path) -> None:
    path = project.parent / "data/1/data.qpdata"
    path.write_bytes(path.read_bytes()[:3000])
    line = refuses(mxbridge, 3, "1 of 2 images failed", "north", command=("score", "--project", project, *DEMO))
    assert "data.qpdata" in line
    assert path.stat().st_size == 3000
    assert "NimbusDemo" in (project.parent / "mxbridge-runs").rglob("cells.csv").__next__().read_text()


def test_a_mask_of_another_size(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.tif"
    tifffile.imwrite(mask, np.ones((100, 120), np.uint16))
    command = ("score", "--files", fields / "north.ome.tif", "--labels", mask, *DEMO)
    refuses(mxbridge, 6, "120 x 100", "192 x 192", command=command)


def test_a_mask_that_fits_no_image_or_labels_nothing(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    command = ("score", "--files", fields / "north.ome.tif", "--files", fields / "south.ome.tif", *DEMO)
    line = refuses(
        mxbridge, 3, "none of the masks given fits it", command=(*command, "--labels", fields / "south_mask.tif")
    )
    assert "north" in line
    empty = tmp_path / "north_mask.tif"
    tifffile.imwrite(empty, np.zeros((192, 192), np.uint16))
    refuses(
        mxbridge, 6, "labels nothing", command=("score", "--files", fields / "north.ome.tif", "--labels", empty, *DEMO)
    )


def test_repeated_channel_names_can_be_told_apart(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    image = tmp_path / "twice.ome.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": ["CD3", "CD3", ""]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(image, tifffile.imread(fields / "north.ome.tif"), photometric="minisblack", metadata=metadata)
    command = ("score", "--files", image, "--labels", fields / "north_mask.tif", *DEMO)
    code, out, err = mxbridge(*command, "--json")
    assert code == 0, err
    names = [p["measurement"] for p in json.loads(out)["positive"]]
    assert names == ["NimbusDemo: CD3", "NimbusDemo: CD3#2", "NimbusDemo: Channel 3"]


def test_wrong_weights(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    import torch

    command = ("score", "--project", project, "--model")
    other, text = tmp_path / "other.pt", tmp_path / "text.pt"
    torch.save(torch.nn.Linear(3, 3).state_dict(), other)
    text.write_text("these are no weights")
    refuses(mxbridge, 5, "other.pt", command=(*command, other), untouched=project.parent)
    refuses(mxbridge, 5, "text.pt", command=(*command, text), untouched=project.parent)
    refuses(mxbridge, 5, "nothing.pt", command=(*command, tmp_path / "nothing.pt"), untouched=project.parent)


class Gadget:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.proof),)


def test_weights_that_would_run_code_do_not_run_it(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    import torch

    for name, save in {"zip.pt": torch.save, "raw.pt": lambda o, p: p.write_bytes(pickle.dumps(o))}.items():
        path, proof = tmp_path / name, tmp_path / f"ran {name}"
        save({"a": Gadget(proof)}, path)
        refuses(mxbridge, 5, name, command=("score", "--project", project, "--model", path), untouched=project.parent)
        assert not proof.exists()


def test_without_official_weights_the_ways_to_get_them(mxbridge: Call, project: Path) -> None:
    refuses(
        mxbridge,
        5,
        "mxbridge models fetch nimbus",
        "mxbridge models add",
        "--model demo",
        command=("score", "--project", project),
        untouched=project.parent,
    )


class FullDisk(io.BufferedWriter):
    """A file for which there was some room, and now is none."""

    def write(self, data: Any) -> int:
        super().write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("part", ["data.qpdata.mxbridge-part", "data.qpdata.mxbridge-backup."])
def test_a_full_disk_leaves_everything_as_it_was(
    mxbridge: Call, project: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    folder = project.parent / "data" / "1"
    before, filled, opened = snapshot(folder), [], Path.open

    def open_there(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode == "wb" and path.name.startswith(part):
            filled.append(path)
            return FullDisk(io.FileIO(path, mode))
        return opened(path, mode, *more, **named)

    with monkeypatch.context() as full:
        full.setattr(Path, "open", open_there)
        line = refuses(mxbridge, 7, "disk is full", command=("score", "--project", project, "--image", "1", *DEMO))
    assert "mxbridge publish" in line
    assert {path.parent for path in filled} == {folder}
    after = snapshot(folder)
    assert after.pop("data.qpdata.mxbridge-backup", before["data.qpdata"]) == before["data.qpdata"]
    assert after == before
    (run,) = (project.parent / "mxbridge-runs").iterdir()
    assert mxbridge("publish", run)[0] == 0
    assert snapshot(folder)["data.qpdata"] != before["data.qpdata"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_project(mxbridge: Call, project: Path) -> None:
    folder = project.parent / "data/1"
    folder.chmod(0o500)
    try:
        refuses(mxbridge, 7, "read-only", "--no-publish", command=("score", "--project", project, *DEMO))
    finally:
        folder.chmod(0o700)


def test_two_runs_on_one_project_at_once(mxbridge: Call, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mxbridge.workspaces.qupath.workspace.PUBLISHING_TAKES", 1.0)
    with QuPathWorkspace(project).locked():
        refuses(mxbridge, 7, "process", command=("score", "--project", project, *DEMO))
    assert mxbridge("score", "--project", project, *DEMO)[0] == 0


def test_a_project_changed_meanwhile_is_not_written_over(
    mxbridge: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QuPath saves the image between our reading and our replacing it."""
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    path = project.parent / "data/1/data.qpdata"
    verify = ImageDataFile.verify

    def save_meanwhile(self: ImageDataFile, data: bytes) -> None:
        path.write_bytes(other)
        verify(self, data)

    monkeypatch.setattr(ImageDataFile, "verify", save_meanwhile)
    other = (project.parent / "data/2/data.qpdata").read_bytes()
    line = refuses(mxbridge, 7, "data.qpdata", command=("score", "--project", project, "--image", "1", *DEMO))
    assert "changed" in line
    assert path.read_bytes() == other
