"""The workspace as commands use it: listing, pulling with cells from everywhere, options, and no session while a model computes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxbridge.errors import InputError, OutputError, SourceError, UnknownName, UsageError
from mxbridge.image import computed
from mxbridge.results import ImageRef
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.omero.workspace import OmeroWorkspace
from tests.omero_server.running import RunningServer
from tests.omero_workspace.toy_results import SHAPE, add_slide, asking, nuclei, open_omero, sessions_of

LABELS = np.zeros((1, *SHAPE), np.uint16)
LABELS[0, 3:9, 4:12], LABELS[0, 20:30, 20:30] = 1, 7


# --- without a server ---


def test_the_address_says_all_that_decides(tmp_path: Path) -> None:
    workspace = OmeroWorkspace(
        "dataset:5",
        server="alice@h.example.org:4065",
        group="lab",
        labels=("rois", "attachment:a b.zip"),
        um_per_px=0.5,
        plane=(1, 2),
        repository=tmp_path,
        beside=True,
        rois=100,
        rois_as="polygons",
        large="zarr",
        as_owner=True,
        verify=True,
        runs_home=tmp_path,
    )
    again = OmeroWorkspace(workspace.address)
    assert again.address == workspace.address
    assert again.address.startswith("omero:alice@h.example.org:4065/dataset:5?")
    assert again._publishing == workspace._publishing
    assert again._publishing.plane == (1, 2)
    assert (again._labels, again._um_per_px, again._as_owner) == (("rois", "attachment:a b.zip"), 0.5, True)
    assert again._repository == tmp_path
    assert workspace.default_model is None
    assert workspace.derived_folder(ImageRef("1", "a")) is None
    assert workspace.stain_vectors(ImageRef("1", "a")) is None


def test_opened_by_the_door_that_all_use() -> None:
    workspace = open_workspace("omero:h.example.org/image:3,1", rois=5)
    assert isinstance(workspace, OmeroWorkspace)
    assert workspace.address == "omero:h.example.org/image:3,1?rois=5"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"um_per_px": -1.0}, UsageError),
        ({"rois": -3}, UsageError),
        ({"rois_as": "circles"}, UnknownName),
        ({"large": "pigeon"}, UnknownName),
        ({"labels": "somewhere"}, UsageError),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        OmeroWorkspace("h.example.org/dataset:5", **options)


@pytest.mark.parametrize("query", ["um_per_px=wide", "plane=1", "rois=many", "colour=red"])
def test_addresses_that_make_no_sense(query: str) -> None:
    with pytest.raises(UsageError):
        OmeroWorkspace(f"h.example.org/dataset:5?{query}")


# --- with the test server ---


@pytest.mark.omero
def test_listing_by_name_and_id(server: RunningServer, tmp_path: Path) -> None:
    refs = [add_slide(server, name) for name in ("b.tif", "a.tif", "a.tif")]
    workspace = open_omero(server, tmp_path, "dataset:1")
    assert workspace.list() == refs, "by id"
    assert workspace.list(["a.tif"]) == refs[1:]
    assert workspace.list([refs[2].id, "B.TIF"]) == [refs[2], refs[0]]
    with pytest.raises(UnknownName, match=r"no image 'c.tif' in dataset:1.*a.tif"):
        workspace.list(["c.tif"])
    with pytest.raises(UnknownName):
        workspace.pull(ImageRef("x", "x"))
    with pytest.raises(SourceError, match="no image 999"):
        workspace.pull(ImageRef("999", "gone"))
    workspace._sessions.close()


@pytest.mark.omero
def test_pulling_asks_for_pixels_only_when_they_are_read(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server)
    workspace = open_omero(server, tmp_path, f"image:{ref.id}")
    pulled = workspace.pull(ref)
    assert not server.calls()["RawPixelsStore.getTile"]
    assert (pulled.image.shape, pulled.image.channel_names) == (SHAPE, ("CD3", "CD8"))
    assert pulled.image.pixel_size_um == (0.5, 0.5)
    assert pulled.cells is None
    expected = np.arange(2 * SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(2, *SHAPE)
    assert np.array_equal(computed(pulled.image.levels[0]), expected)
    assert pulled.image.identity == workspace.pull(ref).image.identity
    workspace._sessions.close()


@pytest.mark.omero
def test_no_session_is_held_while_a_model_computes(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server)
    workspace = open_omero(server, tmp_path, f"image:{ref.id}", sessions=sessions_of(server, linger=60.0))
    workspace.list()
    pulled = workspace.pull(ref)
    assert server.sessions() == 1
    workspace.rest()
    assert server.sessions() == 0
    assert computed(pulled.image.levels[0]).max() > 0, "pixels are fetched all the same"
    workspace.rest()
    assert server.sessions() == 0


@pytest.mark.omero
def test_um_per_px_replaces_what_omero_says(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server)
    workspace = open_omero(server, tmp_path, f"image:{ref.id}", um_per_px=0.25)
    pulled = workspace.pull(ref)
    assert pulled.image.pixel_size_um == (0.25, 0.25)
    assert any("0.5 µm per pixel; 0.25 was given" in note for note in pulled.warnings)
    workspace._sessions.close()


@pytest.mark.omero
def test_a_plane_of_a_stack(server: RunningServer, tmp_path: Path) -> None:
    stack = np.arange(2 * 1 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 1, 3, 4, 5)
    image = server.add_image("stack", stack, um_per_px=1.0)
    workspace = open_omero(server, tmp_path, f"image:{image}", plane=(2, 1))
    pulled = workspace.pull(ImageRef(str(image), "stack"), None)
    assert np.array_equal(computed(pulled.image.levels[0][0]), stack[1, 0, 2])
    workspace._sessions.close()


@pytest.mark.omero
def test_cells_from_rois_then_attachment(server: RunningServer, tmp_path: Path) -> None:
    ref = add_slide(server)
    _attach_labels(server, ref, tmp_path)
    workspace = open_omero(server, tmp_path, f"image:{ref.id}")
    from_file = workspace.pull(ref)
    assert from_file.cells is not None
    assert len(from_file.cells) == 2
    assert any("attachment" in note for note in from_file.warnings)
    roi, shape = _draw(server, ref)
    from_roi = workspace.pull(ref)
    assert from_roi.cells is not None
    assert from_roi.cells.ids == (f"{roi}:{shape}",)
    chosen = open_omero(server, tmp_path, f"image:{ref.id}", labels=("attachment",))
    pulled = chosen.pull(ref)
    assert pulled.cells is not None
    assert len(pulled.cells) == 2
    for one in (workspace, chosen):
        one._sessions.close()


@pytest.mark.omero
def test_cells_from_label_images(server: RunningServer, tmp_path: Path) -> None:
    first, second = add_slide(server, "fov1.tif"), add_slide(server, "fov10.tif")
    mask = server.add_image("fov1_mask", LABELS, dataset="masks")
    server.add_image("fov10_mask", LABELS * 3, dataset="masks")
    with asking(server) as session:
        ((dataset,),) = session.rows("select d.id from Dataset d where d.name = 'masks'")
    by_name = open_omero(server, tmp_path, "dataset:1", labels=(f"dataset:{dataset}",))
    assert [_values(by_name.pull(ref)) for ref in (first, second)] == [("1", "7"), ("3", "21")]
    by_id = open_omero(server, tmp_path, f"image:{first.id}", labels=(f"image:{mask}",))
    assert _values(by_id.pull(first)) == ("1", "7")
    small = server.add_image("small", LABELS[:, :10, :10])
    wrong = open_omero(server, tmp_path, f"image:{first.id}", labels=(f"image:{small}",))
    with pytest.raises(InputError, match="10 x 10"):
        wrong.pull(first)
    for workspace in (by_name, by_id, wrong):
        workspace._sessions.close()


@pytest.mark.omero
def test_our_own_labels_are_not_taken_for_cells(server: RunningServer, tmp_path: Path) -> None:
    from mxbridge.results import Results

    ref = add_slide(server)
    workspace = open_omero(server, tmp_path, f"image:{ref.id}")
    made = Results(ref, "run", objects=(nuclei(ref),), provenance={"task": "translate", "name": "D"})
    workspace.publish(made)
    assert workspace.pull(ref).cells is None
    named = open_omero(server, tmp_path, f"image:{ref.id}", labels=("attachment:D translate objects.ome.zarr.zip",))
    cells = named.pull(ref).cells
    assert cells is not None, "named one by one they are inputs like any other"
    assert len(cells) == 2
    for one in (workspace, named):
        one._sessions.close()


@pytest.mark.omero
def test_nobody_may_write_is_said_before_hours_of_work(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = add_slide(server)
    workspace = open_omero(server, tmp_path, f"image:{ref.id}")
    workspace.check_writable()
    monkeypatch.setattr("mxbridge.workspaces.omero.publishing.permissions.refused", lambda *args, **more: "nobody may")
    with pytest.raises(OutputError, match=r"nobody may.*--no-publish"):
        workspace.check_writable()
    workspace._sessions.close()


def _values(pulled: Any) -> tuple[str, ...]:
    assert pulled.cells is not None
    return tuple(pulled.cells.ids)


def _draw(server: RunningServer, ref: ImageRef) -> tuple[int, int]:
    """A rectangle that somebody draws; ids of ROI and shape."""
    from omero.model import ImageI, RectangleI, RoiI
    from omero.rtypes import rdouble

    roi, shape = RoiI(), RectangleI()
    shape.x, shape.y, shape.width, shape.height = (rdouble(v) for v in (2.0, 3.0, 10.0, 8.0))
    roi.addShape(shape)
    roi.setImage(ImageI(int(ref.id), False))
    with asking(server) as session:
        saved = session.save_return(roi, 3)
        return saved.id.val, next(iter(saved.copyShapes())).id.val


def _attach_labels(server: RunningServer, ref: ImageRef, folder: Path) -> None:
    """A zipped OME-Zarr label image that somebody attaches."""
    from omero.model import FileAnnotationI, ImageAnnotationLinkI, ImageI, OriginalFileI

    from mxbridge.workspaces.omero.attachments.files import upload_file
    from mxbridge.workspaces.omero.attachments.label_zip import write_labels

    path = folder / "labels.ome.zarr.zip"
    write_labels(path, nuclei(ref), SHAPE, "cells", (0.5, 0.5))
    assert zipfile.is_zipfile(path)
    with asking(server) as session:
        file = upload_file(session, path, group_id=3, name="people/labels.ome.zarr.zip", mimetype="application/zip")
        link, annotation = ImageAnnotationLinkI(), FileAnnotationI()
        annotation.setFile(OriginalFileI(file, False))
        link.setParent(ImageI(int(ref.id), False))
        link.setChild(annotation)
        session.save_return(link, 3)
