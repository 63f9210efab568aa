"""ROIs on a server: people's become cells, ours are saved, linked at once, and known again."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest

from mxbridge.cells import LabelCells, Rings
from mxbridge.errors import ChangedMeanwhile, UsageError
from mxbridge.formats.labels import scan_labels
from mxbridge.image import Box
from mxbridge.results import NewObjects
from mxbridge.workspaces.omero.image_info import ImageInfo, image_info
from mxbridge.workspaces.omero.objects import roi_parts, rois
from mxbridge.workspaces.omero.objects.masks import packed
from mxbridge.workspaces.omero.objects.roi_parts import SavedRois, edited_rois, rgba, rois_to_link, save_rois
from mxbridge.workspaces.omero.objects.rois import cells_from_rois

pytestmark = pytest.mark.omero

SHAPE = (60, 80)


@pytest.fixture
def slide(server: Any, session: Any) -> ImageInfo:
    image = server.add_image("slide", np.zeros((1, *SHAPE), np.uint8))
    return image_info(session, image)


def _shape(kind: str, *, plane: tuple[int | None, int | None] = (0, 0), text: str | None = None, **fields: Any) -> Any:
    import omero.model
    from omero.rtypes import rdouble, rint, rstring

    shape = getattr(omero.model, f"{kind}I")()
    for name, value in fields.items():
        wrapped = (
            value
            if name in ("bytes", "transform")
            else rdouble(value)
            if isinstance(value, int | float)
            else rstring(value)
        )
        setattr(shape, name, wrapped)
    shape.theZ, shape.theT = (None if at is None else rint(at) for at in plane)
    shape.textValue = None if text is None else rstring(text)
    return shape


def _save(session: Any, slide: ImageInfo, *shapes: Any, description: str | None = None) -> int:
    from omero.model import ImageI, RoiI
    from omero.rtypes import rstring

    roi = RoiI()
    roi.setImage(ImageI(slide.id, False))
    roi.description = None if description is None else rstring(description)
    for shape in shapes:
        roi.addShape(shape)
    return session.save([roi], slide.group_id)[0]


def _raster(cells: Any) -> np.ndarray:
    return cells.raster(Box(0, 0, *SHAPE))


def test_every_kind_of_shape_is_a_cell_and_several_of_one_roi_are_several(session: Any, slide: ImageInfo) -> None:
    from omero.model import AffineTransformI
    from omero.rtypes import rdouble

    turn = AffineTransformI()
    for name, value in zip(("a00", "a10", "a01", "a11", "a02", "a12"), (0, 1, -1, 0, 60, 0), strict=True):
        setattr(turn, name, rdouble(value))
    bits = np.eye(5, 9, dtype=bool)
    first = _save(
        session, slide,
        _shape("Polygon", points="10,10 20,10 20,20 10,20", text="Tumor"),
        _shape("Rectangle", x=30, y=2, width=4, height=3, text="Stroma"),
    )  # fmt: skip
    second = _save(
        session, slide, _shape("Mask", x=40, y=30, width=9, height=5, bytes=packed(bits, 0, 0).bits, text="")
    )
    third = _save(session, slide, _shape("Ellipse", x=60, y=50, radiusX=6, radiusY=4))
    fourth = _save(session, slide, _shape("Rectangle", x=20, y=10, width=6, height=2, transform=turn))
    cells, notes = cells_from_rois(session, slide, "cells")
    assert notes == [] and cells is not None
    assert [int(i.split(":")[0]) for i in cells.ids] == [first, first, second, third, fourth]
    assert len({i.split(":")[1] for i in cells.ids}) == 5
    assert cells.names == ("Tumor", "Stroma", None, None, None) and cells.classes == (None,) * 5
    raster = _raster(cells)
    expected = np.zeros(SHAPE, int)
    expected[10:20, 10:20], expected[2:5, 30:34] = 1, 2
    expected[30:35, 40:49][bits] = 3
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    expected[((x + 0.5 - 60) / 6) ** 2 + ((y + 0.5 - 50) / 4) ** 2 <= 1] = 4
    expected[20:26, 48:50] = 5
    assert np.array_equal(raster, expected)
    annotations, _ = cells_from_rois(session, slide, "annotations")
    assert annotations is not None and annotations.classes == ("Tumor", "Stroma", None, None, None)


def test_what_is_no_cell_is_left_out_with_a_remark(session: Any, slide: ImageInfo) -> None:
    kept = _save(session, slide, _shape("Rectangle", x=-5, y=-5, width=8, height=8, plane=(None, None)))
    _save(session, slide, _shape("Line", x1=1, y1=1, x2=5, y2=5), _shape("Point", x=3, y=3))
    _save(session, slide, _shape("Rectangle", x=100, y=3, width=8, height=8))
    _save(session, slide, _shape("Rectangle", x=1, y=3, width=8, height=8, plane=(1, 0)))
    _save(session, slide, _shape("Mask", x=1, y=3, width=8, height=8, bytes=b"123"))
    _save(session, slide, _shape("Polygon", points="1,1 2,2"), _shape("Polygon", points="1,1 2,2 a,b"))
    cells, notes = cells_from_rois(session, slide, "cells")
    assert cells is not None and [i.split(":")[0] for i in cells.ids] == [str(kept)]
    assert (_raster(cells) > 0).sum() == 9
    text = "\n".join(notes)
    for part in ("2 shapes of ROIs left out: lines", "1 shape of ROIs left out: outside", "not on the plane z = 0, t = 0",
                 "masks that cannot be used", "a mask of 8 x 8 pixels needs 8 bytes, it has 3", "2 shapes of ROIs left out: polygons"):  # fmt: skip
        assert part in text
    there, _ = cells_from_rois(session, slide, "cells", plane=(1, 0))
    assert there is not None and len(there) == 2  # the one of that plane and the one of every plane


def test_an_image_without_rois_has_no_cells(session: Any, slide: ImageInfo) -> None:
    assert cells_from_rois(session, slide, "cells") == (None, [])


def test_pages_change_nothing(session: Any, slide: ImageInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(7):
        _save(session, slide, _shape("Mask", x=3 * k, y=k, width=20, height=20, bytes=bytes([255] * 50)))
    whole, _ = cells_from_rois(session, slide, "cells")
    monkeypatch.setattr(rois, "PAGE_BYTES", 120)
    paged, _ = cells_from_rois(session, slide, "cells")
    monkeypatch.setattr(rois, "PAGE_ROIS", 1)
    single, _ = cells_from_rois(session, slide, "cells")
    assert whole is not None and paged is not None and single is not None
    assert (
        whole.ids == paged.ids == single.ids
        and whole.geometry_hash() == paged.geometry_hash() == single.geometry_hash()
    )
    monkeypatch.setattr(rois, "MASK_BYTES", 49)
    none, notes = cells_from_rois(session, slide, "cells")
    assert none is None and "too large to be unpacked" in notes[0]


def _cells() -> tuple[LabelCells, np.ndarray]:
    labels = np.zeros(SHAPE, np.int32)
    labels[5:15, 10:30] = 1
    labels[20:40, 20:50] = 5
    labels[30, 30] = 0
    labels[50:60, 60:70] = 7
    labels[52:54, 72:80] = 7
    return scan_labels(da.from_array(labels), SHAPE, where="here"), labels


def described(saved: SavedRois, who: str) -> dict[int, str]:
    return {roi: f"{who} {hash_}" for roi, hash_ in zip(saved.ids, saved.hashes, strict=True)}


@pytest.mark.parametrize("as_", ["masks", "polygons"])
def test_saved_rois_are_seen_by_nobody_until_they_are_linked_and_then_hold_the_objects(
    session: Any, slide: ImageInfo, as_: Any
) -> None:
    cells, labels = _cells()
    saved = save_rois(session, cells, shape=SHAPE, group_id=slide.group_id, token="a token", as_=as_, cap=3)
    assert len(saved.ids) == len(set(saved.ids)) == 3 and sorted(saved.objects) == [0, 1, 2] and saved.notes == ()
    assert cells_from_rois(session, slide, "cells") == (None, [])
    found = session.rows("select r.description from Roi r where r.image is null")
    assert found == [("a token",)] * 3
    linked = rois_to_link(session, described(saved, "theirs"), slide.id)
    session.save_all(linked, slide.group_id)
    assert edited_rois(session, saved.ids) == []
    read, notes = cells_from_rois(session, slide, "cells")
    assert read is not None and notes == []
    number = {roi: cells.values[k] for roi, k in zip(saved.ids, saved.objects, strict=True)}
    value = np.array([0, *(number[int(i.split(":")[0])] for i in read.ids)])
    filled = labels.copy()
    filled[30, 30] = 5 if as_ == "polygons" else 0
    assert np.array_equal(value[_raster(read)], filled)
    assert len(read) == (3 if as_ == "masks" else 4)  # two parts are two polygons


def test_our_rois_are_no_inputs_and_edits_of_people_are_noticed(session: Any, slide: ImageInfo) -> None:
    from omero.rtypes import rdouble, rstring

    cells, _ = _cells()
    saved = save_rois(
        session, cells, shape=SHAPE, group_id=slide.group_id, token="mxbridge:pending:1:ab", as_="masks", cap=9
    )
    session.save_all(rois_to_link(session, described(saved, "mxbridge:key"), slide.id), slide.group_id)
    assert cells_from_rois(session, slide, "cells") == (None, [])
    hql = "select s from Shape s where s.roi.id in (:rois) order by s.id"
    moved, renamed = session.objects(hql, rois=list(saved.ids[:2]))
    moved.x, renamed.textValue = rdouble(moved.x.val + 1), rstring("mine")
    session.save_all([moved, renamed], slide.group_id)
    assert edited_rois(session, saved.ids) == list(saved.ids[:2])
    session.delete("Roi", [saved.ids[0]], slide.group_id)
    assert edited_rois(session, saved.ids) == [saved.ids[1]]
    with pytest.raises(ChangedMeanwhile, match="not on the server any more"):
        rois_to_link(session, described(saved, "mxbridge:key"), slide.id)


def test_objects_with_large_holes_become_masks_and_invisible_ones_no_roi(session: Any, slide: ImageInfo) -> None:
    square = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]])
    hole = np.array([[12.0, 12], [28, 12], [28, 28], [12, 28]])
    objects = NewObjects(
        "cell", "key", ("a", "b", "c"), Rings.of([[square, hole], [square + 500], [square + 20]]),
        nuclei=Rings.of([[], [], [hole + 20]]), class_names=("Positive", None, None), names=(None, None, "third"),
    )  # fmt: skip
    saved = save_rois(session, objects, shape=SHAPE, group_id=slide.group_id, token="t", as_="polygons", cap=3)
    assert saved.objects == (0, 2)
    assert "1 of 2 objects became masks" in saved.notes[0] and "1 objects have no pixel" in saved.notes[1]
    shapes = session.objects("select s from Shape s where s.roi.id in (:rois) order by s.id", rois=list(saved.ids))
    assert [type(s).__name__ for s in shapes] == ["MaskI", "PolygonI"]
    assert [s.textValue.val for s in shapes] == ["Positive", "third"]
    assert shapes[0].strokeColor.val == rgba(0xC83232, 255) and (shapes[0].theZ.val, shapes[0].theT.val) == (0, 0)
    assert shapes[1].points.val.count(",") == 4


def test_batches_save_all_and_more_than_the_cap_is_refused_before_anything_is_sent(
    session: Any, slide: ImageInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, _ = _cells()
    with pytest.raises(UsageError, match="3 objects are more than the 2"):
        save_rois(session, cells, shape=SHAPE, group_id=slide.group_id, token="t", as_="masks", cap=2)
    assert session.rows("select r.id from Roi r") == []
    monkeypatch.setattr(roi_parts, "BATCH_ROIS", 2)
    assert len(save_rois(session, cells, shape=SHAPE, group_id=slide.group_id, token="t", cap=3).ids) == 3
    monkeypatch.setattr(roi_parts, "BATCH_BYTES", 1)
    saved = save_rois(session, cells, shape=SHAPE, group_id=slide.group_id, token="t", cap=3)
    assert len(set(saved.ids)) == 3 == len(saved.objects) == len(saved.hashes)


@pytest.mark.parametrize(
    ("color", "alpha", "number"), [(0xFF0000, 255, -16776961), (0x00FF00, 255, 16711935), (0x010203, 4, 0x01020304)]
)
def test_colours_are_signed_rgba(color: int, alpha: int, number: int) -> None:
    assert rgba(color, alpha) == number
