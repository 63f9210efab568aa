"""What mxbridge relies on in a server, as statements that clients can see.

They run against the test server and, with MXBRIDGE_TEST_OMERO=host:port (MXBRIDGE_TEST_OMERO_USER, OMERO_PASSWORD), unchanged
against a real one: everything they make is in a dataset of their own, which goes at the end. Against a real server they
have not been run yet.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.omero_server.needs import missing_client
from tests.omero_server.running import RunningServer
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero
NS = "mxbridge/test"


@pytest.fixture
def account(request: pytest.FixtureRequest) -> tuple[str, int, str, str]:
    """Host, port, user and password of the server under test."""
    real = os.environ.get("MXBRIDGE_TEST_OMERO", "")
    if real:
        if reason := missing_client():
            pytest.skip(reason)
        host, _, port = real.partition(":")
        return host, int(port or 4064), os.environ["MXBRIDGE_TEST_OMERO_USER"], os.environ["OMERO_PASSWORD"]
    running: RunningServer = request.getfixturevalue("server")
    return running.host, running.port, "alice", "secret"


@pytest.fixture
def conn(account: tuple[str, int, str, str]) -> Iterator[Any]:
    """A logged-in gateway."""
    with client.logged_in(*account) as found:
        yield found


@pytest.fixture
def place(conn: Any) -> Iterator[int]:
    """An own dataset; it and the images in it are deleted afterwards."""
    (dataset_id,) = client.save(conn, client.dataset(f"mxbridge conformance {uuid.uuid4().hex}"))
    yield dataset_id
    client.delete(conn, "Dataset", dataset_id)


@pytest.fixture
def slide(conn: Any, place: int) -> int:
    """A small image in the own dataset."""
    from omero.model import DatasetI

    image_id = client.new_image(conn, "slide", PIXELS)
    client.save(conn, client.link(DatasetI(place, False), client.image(image_id)))
    return image_id


PIXELS = np.random.default_rng(3).integers(0, 65535, (2, 20, 30)).astype(np.uint16)


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_refused(account: tuple[str, int, str, str]) -> None:
    import Glacier2
    from omero import client as omero_client

    made = omero_client(account[0], account[1])
    with pytest.raises(Glacier2.PermissionDeniedException):
        made.createSession(account[2], "certainly not this")
    made.__del__()  # closeSession and ignore that there is none


def test_a_second_client_joins_by_key_and_leaves_the_session_alive(
    conn: Any, account: tuple[str, int, str, str]
) -> None:
    from omero.gateway import BlitzGateway

    second = BlitzGateway(host=account[0], port=account[1], secure=True)
    assert second.connect(sUuid=conn.c.getSessionId())
    assert second.getUser().getName() == conn.getUser().getName()
    second.close(hard=False)
    assert conn.keepAlive()


def test_stateful_services_are_listed_until_they_are_closed(conn: Any) -> None:
    before = len([one for one in conn.c.sf.activeServices() if "RawPixelsStore" in one])
    store = conn.c.sf.createRawPixelsStore()
    assert len([one for one in conn.c.sf.activeServices() if "RawPixelsStore" in one]) == before + 1
    store.close()
    assert len([one for one in conn.c.sf.activeServices() if "RawPixelsStore" in one]) == before


def test_a_service_that_was_closed_is_gone(conn: Any) -> None:
    import Ice

    store = conn.c.sf.createRawPixelsStore()
    store.close()
    with pytest.raises(Ice.ObjectNotExistException):
        store.getByteWidth()


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_pixels_come_back_as_they_were_written(conn: Any, place: int, name: str) -> None:
    from omero.model import DatasetI

    dtype = np.dtype(name)
    values = np.random.default_rng(0).integers(0, 2**31, (2, 13, 17)).astype(dtype)
    image_id = client.new_image(conn, name, values)
    client.save(conn, client.link(DatasetI(place, False), client.image(image_id)))
    for c in range(2):
        np.testing.assert_array_equal(client.read_plane(conn, image_id, dtype, (13, 17), c), values[c])


def test_bytes_travel_big_endian(conn: Any, slide: int) -> None:
    with client.pixels_of(conn, slide) as store:
        assert store.getTile(0, 1, 0, 3, 4, 5, 6) == PIXELS[1, 4:10, 3:8].astype(">u2").tobytes()


def test_a_tile_outside_is_an_error_and_the_store_still_closes(conn: Any, slide: int) -> None:
    import omero

    with client.pixels_of(conn, slide) as store, pytest.raises(omero.ServerError):
        store.getTile(0, 0, 0, 25, 0, 10, 5)


def test_a_small_image_has_one_level(conn: Any, slide: int) -> None:
    with client.pixels_of(conn, slide) as store:
        assert not store.requiresPixelsPyramid()
        assert store.getResolutionLevels() == 1


def test_writing_pixels_changes_their_update_event(conn: Any, slide: int) -> None:
    question = "select p.details.updateEvent.id, p.sha1 from Pixels p where p.image.id = :id"
    before = client.rows(conn, question, id=slide)
    with client.pixels_of(conn, slide, write=True) as store:
        store.setPlane(np.ones((20, 30), ">u2").tobytes(), 0, 0, 0)
        store.save()
    after = client.rows(conn, question, id=slide)
    assert before[0][0] != after[0][0]
    assert before[0][1] != after[0][1]


def test_channel_names_are_kept_in_order(conn: Any, slide: int) -> None:
    conn.setChannelNames("Image", [slide], {1: "DAPI", 2: "CD3"})
    assert conn.getObject("Image", slide).getChannelLabels() == ["DAPI", "CD3"]
    question = "select index(c), lc.name from Pixels p join p.channels c join c.logicalChannel lc where p.image.id = :id order by index(c)"
    assert client.rows(conn, question, id=slide) == [[0, "DAPI"], [1, "CD3"]]


# -- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["saveArray", "saveAndReturnArray", "saveAndReturnIds", "saveCollection"])
def test_saving_many_is_all_or_nothing(conn: Any, slide: int, call: str) -> None:
    import omero

    good = client.link(client.image(slide), client.map_annotation(NS, run=call))
    bad = client.link(client.image(2**40), client.map_annotation(NS, run=call))
    with pytest.raises(omero.ServerError):
        getattr(conn.getUpdateService(), call)([good, bad], client.in_group(conn))
    question = "select a.id from MapAnnotation a join a.mapValue mv where a.ns = :ns and mv.value = :value"
    assert client.rows(conn, question, ns=NS, value=call) == []
    assert client.rows(conn, "select l.id from ImageAnnotationLink l where l.parent.id = :id", id=slide) == []


def test_a_name_that_must_be_there(conn: Any) -> None:
    import omero
    from omero.model import DatasetI

    with pytest.raises(omero.ValidationException):
        client.save(conn, DatasetI())


def test_nothing_is_written_in_group_minus_one(conn: Any) -> None:
    import omero

    with pytest.raises(omero.ServerError):
        client.save(conn, client.dataset(), group_id=-1)


def test_a_link_is_there_once(conn: Any, slide: int) -> None:
    import omero
    from omero.model import MapAnnotationI

    (annotation,) = client.save(conn, client.map_annotation(NS, a="b"))
    client.save(conn, client.link(client.image(slide), MapAnnotationI(annotation, False)))
    with pytest.raises(omero.ValidationException):
        client.save(conn, client.link(client.image(slide), MapAnnotationI(annotation, False)))


def test_linking_leaves_the_image_as_it_was(conn: Any, slide: int) -> None:
    question = "select i.details.updateEvent.id, i.name, p.details.updateEvent.id from Image i join i.pixels p where i.id = :id"
    before = client.rows(conn, question, id=slide)
    client.save(conn, client.link(client.image(slide), client.map_annotation(NS, a="b")))
    assert client.rows(conn, question, id=slide) == before


def test_what_was_not_loaded_is_not_emptied_by_saving(conn: Any, slide: int, place: int) -> None:
    from omero.rtypes import rstring

    (loaded,) = client.find(conn, "select i from Image i where i.id = :id", id=slide)
    assert not loaded.isPixelsLoaded()
    loaded.description = rstring("seen")
    conn.getUpdateService().saveObject(loaded, client.in_group(conn))
    question = "select i.description, size(i.pixels), l.parent.id from Image i join i.datasetLinks l where i.id = :id"
    assert client.rows(conn, question, id=slide) == [["seen", 1, place]]


def test_an_object_that_changed_meanwhile_is_not_overwritten(conn: Any, slide: int) -> None:
    import omero
    from omero.rtypes import rstring

    (first,) = client.find(conn, "select i from Image i where i.id = :id", id=slide)
    (second,) = client.find(conn, "select i from Image i where i.id = :id", id=slide)
    first.description = rstring("first")
    conn.getUpdateService().saveObject(first, client.in_group(conn))
    second.description = rstring("second")
    with pytest.raises(omero.ServerError):
        conn.getUpdateService().saveObject(second, client.in_group(conn))
    assert client.rows(conn, "select i.description from Image i where i.id = :id", id=slide) == [["first"]]


# -- objects ----------------------------------------------------------------------------------------------------------


def test_a_region_waits_without_image_and_is_linked_later(conn: Any, slide: int) -> None:
    from omero.model import PolygonI, RoiI
    from omero.rtypes import rint, rstring

    shape = PolygonI()
    shape.points = rstring("1,1 9,1 9,9")
    shape.theZ, shape.theT = rint(0), rint(0)
    waiting = RoiI()
    waiting.addShape(shape)
    (roi_id,) = client.save(conn, waiting)
    assert client.rows(conn, "select count(r.id) from Roi r where r.image.id = :id", id=slide) == [[0]]
    (loaded,) = client.find(conn, "select r from Roi r where r.id = :id", id=roi_id)
    loaded.setImage(client.image(slide))
    conn.getUpdateService().saveArray([loaded], client.in_group(conn))
    found = conn.getRoiService().findByImage(slide, None, client.ALL_GROUPS).rois
    assert [(one.id.val, [type(part).__name__ for part in one.copyShapes()]) for one in found] == [
        (roi_id, ["PolygonI"])
    ]


def test_mask_bits_come_back(conn: Any, slide: int) -> None:
    from omero.model import MaskI, RoiI
    from omero.rtypes import rdouble

    bits = np.packbits(np.eye(11, dtype=np.uint8)).tobytes()
    mask = MaskI()
    mask.x, mask.y, mask.width, mask.height = rdouble(3), rdouble(4), rdouble(11), rdouble(11)
    mask.setBytes(bits)
    made = RoiI()
    made.setImage(client.image(slide))
    made.addShape(mask)
    client.save(conn, made)
    (found,) = client.find(conn, "select m from Mask m where m.roi.image.id = :id", id=slide)
    assert found.getBytes() == bits


def test_annotations_are_found_by_namespace_and_value(conn: Any, slide: int) -> None:
    key = uuid.uuid4().hex
    client.save(conn, client.link(client.image(slide), client.map_annotation(NS, key=key, other="x")))
    question = (
        "select l.parent.id from ImageAnnotationLink l join l.child a join a.mapValue mv "
        "where a.ns = :ns and mv.name = 'key' and mv.value = :value"
    )
    assert client.rows(conn, question, ns=NS, value=key) == [[slide]]
    assert dict(conn.getObject("Image", slide).getAnnotation(NS).getValue()) == {"key": key, "other": "x"}


def test_a_file_comes_back_with_its_digest(conn: Any, slide: int, tmp_path: Any) -> None:
    data = os.urandom(100_000)
    path = tmp_path / "cells.bin"
    path.write_bytes(data)
    annotation = conn.createFileAnnfromLocalFile(str(path), mimetype="application/octet-stream", ns=NS)
    conn.getObject("Image", slide).linkAnnotation(annotation)
    file = conn.getObject("Image", slide).getAnnotation(NS).getFile()
    assert b"".join(file.getFileInChunks()) == data
    assert (file.getSize(), file.getHash()) == (len(data), hashlib.sha1(data, usedforsecurity=False).hexdigest())


def test_a_table_grows_in_chunks_and_is_searched(conn: Any, slide: int) -> None:
    from omero.grid import DoubleColumn, ImageColumn, LongColumn, StringColumn
    from omero.model import OriginalFileI

    if not conn.c.sf.sharedResources().areTablesEnabled():
        pytest.skip("this server has no OMERO.tables")
    context = client.in_group(conn)
    repository = conn.c.sf.sharedResources().repositories().descriptions[0].id.val
    table = conn.c.sf.sharedResources().newTable(repository, f"mxbridge/{uuid.uuid4().hex}.h5", context)
    try:
        table.initialize([ImageColumn("Image", "", []), LongColumn("Cell", "", []), DoubleColumn("Nimbus_CD3", "Nimbus: CD3", []), StringColumn("Class", "", 16, [])])  # fmt: skip
        for start in (0, 50):
            cells = list(range(start, start + 50))
            table.addData([ImageColumn("Image", "", [slide] * 50), LongColumn("Cell", "", cells), DoubleColumn("Nimbus_CD3", "", [cell / 100 for cell in cells]), StringColumn("Class", "", 16, ["T cell"] * 50)])  # fmt: skip
        file_id = table.getOriginalFile().id.val
    finally:
        table.close()
    table = conn.c.sf.sharedResources().openTable(OriginalFileI(file_id, False), context)
    try:
        assert table.getNumberOfRows() == 100
        assert list(table.getWhereList("Nimbus_CD3 > 0.965", {}, 0, 100, 1)) == [97, 98, 99]
        found = table.read([1, 2, 3], 98, 100).columns
        assert [list(column.values) for column in found] == [[98, 99], [0.98, 0.99], ["T cell", "T cell"]]
        assert [column.description for column in table.getHeaders()][2] == "Nimbus: CD3"
    finally:
        table.close()
    client.delete(conn, "OriginalFile", file_id)


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_an_image_goes_with_its_parts(conn: Any, slide: int, tmp_path: Any) -> None:
    import omero.cmd

    (tmp_path / "a.txt").write_text("a")
    annotation = conn.createFileAnnfromLocalFile(str(tmp_path / "a.txt"), ns=NS)
    conn.getObject("Image", slide).linkAnnotation(annotation)
    file_id = annotation.getFile().getId()
    assert not isinstance(client.delete(conn, "Image", slide), omero.cmd.ERR)
    assert client.rows(conn, "select i.id from Image i where i.id = :id", id=slide) == []
    assert client.rows(conn, "select p.id from Pixels p where p.image.id = :id", id=slide) == []
    assert client.rows(conn, "select f.id from OriginalFile f where f.id = :id", id=file_id) == []


def test_a_deleted_annotation_leaves_the_image(conn: Any, slide: int) -> None:
    client.save(conn, client.link(client.image(slide), client.map_annotation(NS, a="b")))
    ((annotation,),) = client.rows(
        conn, "select l.child.id from ImageAnnotationLink l where l.parent.id = :id", id=slide
    )
    client.delete(conn, "Annotation", annotation)
    assert client.rows(conn, "select l.id from ImageAnnotationLink l where l.parent.id = :id", id=slide) == []
    assert client.rows(conn, "select i.id from Image i where i.id = :id", id=slide) == [[slide]]


# -- questions --------------------------------------------------------------------------------------------------------


def test_what_is_not_fetched_is_not_loaded(conn: Any, slide: int) -> None:
    (bare,) = client.find(conn, "select i from Image i where i.id = :id", id=slide)
    assert not bare.details.owner.isLoaded()
    assert not bare.isPixelsLoaded()
    (fetched,) = client.find(conn, "select i from Image i join fetch i.pixels where i.id = :id", id=slide)
    assert fetched.getPrimaryPixels().isLoaded()
    assert not fetched.getPrimaryPixels().pixelsType.isLoaded()


def test_a_fetched_collection_repeats_its_owner(conn: Any, slide: int) -> None:
    found = client.find(conn, "select p from Pixels p join fetch p.channels where p.image.id = :id", id=slide)
    assert [len(one.copyChannels()) for one in found] == [2, 2]
    assert len({one.id.val for one in found}) == 1


@pytest.mark.parametrize(
    "hql",
    [
        "select i from Imag i",
        "select i.nme from Image i",
        "select i from Image i where i.id in",
        "select x from Image i",
        "select p.id from Image i join fetch i.pixels p",
    ],
)
def test_a_wrong_question_is_an_error(conn: Any, hql: str) -> None:
    import omero

    with pytest.raises(omero.ServerError):
        client.rows(conn, hql)


def test_an_empty_relation_drops_the_line_unless_it_is_joined_outside(conn: Any) -> None:
    from omero.model import RoiI

    (roi_id,) = client.save(conn, RoiI())
    assert client.rows(conn, "select r.id, r.image.name from Roi r where r.id = :id", id=roi_id) == []
    question = "select r.id, i.name from Roi r left outer join r.image i where r.id = :id"
    assert client.rows(conn, question, id=roi_id) == [[roi_id, None]]
    client.delete(conn, "Roi", roi_id)


def test_own_objects_may_be_changed(conn: Any, slide: int) -> None:
    found = conn.getObject("Image", slide)
    assert (found.canEdit(), found.canDelete(), found.canAnnotate(), found.canLink()) == (True,) * 4
