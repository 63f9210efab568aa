"""The unmodified omero.gateway against the test server: its methods for reading, writing, annotating, moving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.omero_server.running import RunningServer
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero
PIXELS = np.random.default_rng(1).integers(0, 4000, (3, 24, 36)).astype(np.uint16)


@pytest.fixture
def conn(server: RunningServer) -> Iterator[Any]:
    """A gateway on a server with one project, one dataset and one image (id 1)."""
    server.add_dataset("slides", project="study")
    server.add_image("slide", PIXELS, channels=["DAPI", "CD3", "CD8"], um_per_px=(0.5, 0.25))
    with client.logged_in(server.host, server.port) as found:
        yield found


def test_down_and_up_the_tree(conn: Any) -> None:
    (project,) = conn.getObjects("Project")
    (dataset,) = project.listChildren()
    (image,) = dataset.listChildren()
    assert (project.getName(), dataset.getName(), image.getName()) == ("study", "slides", "slide")
    assert image.getParent().getId() == dataset.getId()
    assert image.getProject().getId() == project.getId()
    assert [one.getName() for one in conn.getObjects("Image", opts={"dataset": dataset.getId()})] == ["slide"]


def test_facts_of_an_image(conn: Any) -> None:
    image = conn.getObject("Image", 1)
    assert (image.getSizeX(), image.getSizeY(), image.getSizeC(), image.getPixelsType()) == (36, 24, 3, "uint16")
    assert (image.getPixelSizeX(), image.getPixelSizeY()) == (0.25, 0.5)
    assert image.getOwner().getName() == "alice"
    assert image.getChannelLabels() == ["DAPI", "CD3", "CD8"]
    assert [one.getColor().getRGB() for one in image.getChannels()] == [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    assert [one.getWindowEnd() for one in image.getChannels()] == [float(plane.max()) for plane in PIXELS]
    assert {one.getWindowMax() for one in image.getChannels()} == {65535.0}
    image._closeRE()


def test_planes_and_tiles(conn: Any) -> None:
    pixels = conn.getObject("Image", 1).getPrimaryPixels()
    np.testing.assert_array_equal(pixels.getPlane(0, 1, 0), PIXELS[1])
    for plane, expected in zip(pixels.getPlanes([(0, c, 0) for c in range(3)]), PIXELS, strict=True):
        np.testing.assert_array_equal(plane, expected)
    np.testing.assert_array_equal(pixels.getTile(0, 2, 0, (5, 6, 7, 8)), PIXELS[2, 6:14, 5:12])


@pytest.mark.parametrize("source", [None, 1])
def test_an_image_from_arrays(conn: Any, source: int | None) -> None:
    (dataset,) = conn.getObjects("Dataset")
    more = {"sourceImageId": source} if source else {"dataset": dataset}
    made = conn.createImageFromNumpySeq(iter(PIXELS), "copy", sizeC=3, description="made", **more)
    np.testing.assert_array_equal(made.getPrimaryPixels().getPlane(0, 2, 0), PIXELS[2])
    found = conn.getObject("Image", made.getId())
    assert found.getName() == "copy"
    if not source:
        assert found.getParent().getId() == dataset.getId()


def test_annotations_of_all_kinds(conn: Any, server: RunningServer, tmp_path: Path) -> None:
    from omero.gateway import (
        BooleanAnnotationWrapper,
        CommentAnnotationWrapper,
        DoubleAnnotationWrapper,
        LongAnnotationWrapper,
        TagAnnotationWrapper,
    )

    image = conn.getObject("Image", 1)
    made = (
        (TagAnnotationWrapper, "tag"),
        (CommentAnnotationWrapper, "comment"),
        (LongAnnotationWrapper, 7),
        (DoubleAnnotationWrapper, 0.5),
        (BooleanAnnotationWrapper, True),
    )
    for kind, value in made:
        one = kind(conn)
        one.setValue(value)
        one.setNs("test")
        one.save()
        image.linkAnnotation(one)
    (tmp_path / "a.csv").write_text("a,b\n")
    image.linkAnnotation(conn.createFileAnnfromLocalFile(str(tmp_path / "a.csv"), mimetype="text/csv", ns="test"))
    found = list(conn.getObject("Image", 1).listAnnotations(ns="test"))
    assert [one.getValue() for one in found[:5]] == [value for _, value in made]
    assert found[5].getFile().getName() == "a.csv"
    assert len(server.state()["images"][0]["annotations"]) == 6
    assert [one.getValue() for one in conn.getObjects("TagAnnotation")] == ["tag"]


def test_regions(conn: Any) -> None:
    from omero.model import PolygonI, RectangleI, RoiI
    from omero.rtypes import rdouble, rstring

    box, outline, roi = RectangleI(), PolygonI(), RoiI()
    box.x, box.y, box.width, box.height = rdouble(1), rdouble(2), rdouble(3), rdouble(4)
    outline.points = rstring("1,1 2,1 2,2")
    roi.setImage(client.image(1))
    roi.addShape(box)
    roi.addShape(outline)
    saved = conn.getUpdateService().saveAndReturnObject(roi, client.in_group(conn))
    assert [shape.getId().val for shape in saved.copyShapes()] == [1, 2]
    assert conn.getObject("Image", 1).getROICount() == 1
    (found,) = {one.getId(): one for one in conn.getObjects("Roi", opts={"image": 1, "load_shapes": True})}.values()
    assert [type(shape).__name__ for shape in found._obj.copyShapes()] == ["RectangleI", "PolygonI"]
    conn.deleteObjects("Roi", [found.getId()], wait=True)
    assert conn.getObject("Image", 1).getROICount() == 0


def test_into_another_group(conn: Any) -> None:
    from omero.callbacks import CmdCallbackI

    handle = conn.chgrpObjects("Image", [1], 4)
    callback = CmdCallbackI(conn.c, handle)
    callback.loop(20, 100)
    callback.close(True)
    assert conn.getObject("Image", 1) is None
    conn.SERVICE_OPTS.setOmeroGroup("-1")
    moved = conn.getObject("Image", 1)
    assert moved.getDetails().getGroup().getName() == "private"
    assert moved.getParent() is None


def test_the_session_changes_its_group(conn: Any) -> None:
    assert conn.setGroupForSession(4)
    assert conn.getGroupFromContext().getName() == "private"
    assert list(conn.getObjects("Image")) == []
    assert conn.setGroupNameForSession("lab")
    assert [one.getId() for one in conn.getObjects("Image")] == [1]
