"""``mxbridge inspect`` says what ``mxbridge score`` would do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile

Call = Callable[..., tuple[int, str, str]]


def errors_in(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error:")]


def scored(out: str) -> dict[str, str | None]:
    """Reason by channel, None for those that would be scored."""
    channels = json.loads(out)[0]["channels"]
    assert all(c["scored"] == (c["why_not"] is None) for c in channels)
    return {c["channel"]: c["why_not"] for c in channels}


@pytest.mark.parametrize(
    ("panel", "reasons"),
    [
        (None, {"DAPI": "counterstain", "CD3": None, "Ki67": None}),
        ("channel,keep\nDAPI,1\nCD3,1\n", {"DAPI": "counterstain", "CD3": None, "Ki67": "not in the panel"}),
        (
            "channel,role,keep\nDAPI,marker,1\nCD3,other,1\nKi67,,no\n",
            {"DAPI": None, "CD3": "other", "Ki67": "keep is no in the panel"},
        ),
        ("channel,role\nCD3,empty\n", {"DAPI": "not in the panel", "CD3": "empty", "Ki67": "not in the panel"}),
    ],
)
def test_which_channels_would_be_scored(
    mxbridge: Call, fields: Path, tmp_path: Path, panel: str | None, reasons: dict[str, str | None]
) -> None:
    """And score does the same with the same panel."""
    options: tuple[object, ...] = ()
    if panel:
        (tmp_path / "panel.csv").write_text(panel)
        options = ("--panel", tmp_path / "panel.csv")
    image = ("--files", fields / "north.ome.tif", *options)
    code, out, _ = mxbridge("inspect", *image, "--json")
    assert (code, scored(out)) == (0, reasons)
    code, out, err = mxbridge(
        "score", *image, "--labels", fields / "north_mask.tif", "--model", "demo", "--dry-run", "--json"
    )
    taken = [name for name, why in reasons.items() if why is None]
    if not taken:
        assert code == 6 and "no channel is a marker" in err + out
    else:
        assert json.loads(out)["images"][0]["channels"] == taken


def test_people_read_why_and_how_it_will_be_called(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    (tmp_path / "panel.csv").write_text("channel,name,keep\nCD3,CD3e,1\nKi67,,0\n")
    _, out, _ = mxbridge("inspect", "--files", fields / "north.ome.tif", "--panel", tmp_path / "panel.csv")
    assert "CD3 -> CD3e  (marker)" in out
    assert "Ki67  (marker, not scored: keep is no in the panel)" in out
    assert "DAPI  (counterstain, not scored: not in the panel)" in out


def test_a_colour_picture_is_not_scored(mxbridge: Call, tmp_path: Path) -> None:
    import numpy as np

    tifffile.imwrite(tmp_path / "he.tif", np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    code, out, _ = mxbridge("inspect", "--files", tmp_path / "he.tif", "--json")
    assert code == 0
    assert set(scored(out).values()) == {"a colour picture"}


def test_some_images_cannot_be_read(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes((fields / "north.ome.tif").read_bytes()[:500])
    command = ("inspect", "--files", fields / "north.ome.tif", "--files", tmp_path / "broken.tif")
    code, out, err = mxbridge(*command)
    assert (code, len(errors_in(err))) == (3, 1)
    assert "1 of 2 images cannot be read (broken)" in err
    assert "CD3  (marker)" in out and "broken  (id" in out
    code, out, _ = mxbridge(*command, "--json")
    seen = {one["name"]: one for one in json.loads(out)}
    assert code == 3
    assert "error" not in seen["north"]
    assert (seen["broken"]["error_code"], "broken.tif" in seen["broken"]["error"]) == (6, True)


def test_no_image_can_be_read(mxbridge: Call, tmp_path: Path) -> None:
    """The code is the error's own; the answer is still one JSON document on stdout, the line on stderr."""
    (tmp_path / "a.tif").write_bytes(b"")
    code, out, err = mxbridge("inspect", "--files", tmp_path / "a.tif", "--json")
    assert (code, len(errors_in(err))) == (6, 1)
    assert [one["name"] for one in json.loads(out)] == ["a"]
    assert "error:" not in out.replace('"error":', "")


def test_a_moved_image_of_a_project(mxbridge: Call, project: Path, fields: Path, tmp_path: Path) -> None:
    text = project.read_text().replace(fields.as_uri().replace("file://", "file:"), f"file:{tmp_path / 'elsewhere'}")
    project.write_text(text)
    code, out, err = mxbridge("inspect", "--project", project, "--json")
    assert (code, len(errors_in(err)), [one["error_code"] for one in json.loads(out)]) == (4, 1, [4, 4])
