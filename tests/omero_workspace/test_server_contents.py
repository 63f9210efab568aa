"""What the test server holds: pyramids, pixel types, plates, files, and what it refuses to hold."""

from __future__ import annotations

import numpy as np
import pytest

from tests.omero_server.running import RunningServer
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero


def test_a_large_plane_has_levels(server: RunningServer) -> None:
    values = np.random.default_rng(0).integers(0, 255, (1, 1200, 700)).astype(np.uint8)
    server.set(max_plane=512)
    image = server.add_image("large", values)
    with client.logged_in(server.host, server.port) as conn, client.pixels_of(conn, image) as store:
        sizes = [(one.sizeX, one.sizeY) for one in store.getResolutionDescriptions()]
        assert sizes == [(700, 1200), (350, 600), (175, 300), (87, 150)]  # largest first
        assert store.requiresPixelsPyramid()
        assert list(store.getTileSize()) == [700, 1024]
        assert store.getResolutionLevel() == 3  # and 0 is the smallest
        assert store.getTile(0, 0, 0, 5, 6, 7, 8) == values[0, 6:14, 5:12].tobytes()
        store.setResolutionLevel(0)
        assert len(store.getTile(0, 0, 0, 0, 0, 87, 150)) == 87 * 150
        assert conn.getMaxPlaneSize() == (512, 512)


def test_planes_of_time_and_depth(server: RunningServer) -> None:
    values = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.int16).reshape(2, 3, 4, 5, 6)
    image = server.add_image("stack", values)
    with client.logged_in(server.host, server.port) as conn, client.pixels_of(conn, image) as store:
        assert store.getPlane(3, 2, 1) == values[1, 2, 3].astype(">i2").tobytes()
        with pytest.raises(Exception, match="DimensionsOutOfBounds"):
            store.getPlane(4, 0, 0)


def test_bits_are_packed(server: RunningServer) -> None:
    image = server.add_image("mask", np.eye(8, dtype=np.uint8)[None], pixel_type="bit")
    with client.logged_in(server.host, server.port) as conn, client.pixels_of(conn, image) as store:
        assert store.getPlane(0, 0, 0) == bytes(2 ** (7 - n) for n in range(8))


def test_a_tile_of_the_wrong_length_is_refused(server: RunningServer) -> None:
    import omero

    image = server.add_image("slide", np.zeros((1, 8, 8), np.uint16))
    with (
        client.logged_in(server.host, server.port) as conn,
        client.pixels_of(conn, image, write=True) as store,
        pytest.raises(omero.ApiUsageException),
    ):
        store.setTile(bytes(64), 0, 0, 0, 0, 0, 8, 8)


def test_a_full_disk(server: RunningServer) -> None:
    import omero

    image = server.add_image("slide", np.zeros((1, 8, 8), np.uint8))
    server.set(disk_full=True)
    with client.logged_in(server.host, server.port) as conn:
        with client.pixels_of(conn, image, write=True) as store, pytest.raises(omero.ResourceError):
            store.setPlane(bytes(64), 0, 0, 0)
        with pytest.raises(omero.ResourceError):
            conn.c.sf.sharedResources().newTable(1, "x.h5")


def test_a_server_without_tables(server: RunningServer) -> None:
    server.set(tables=False)
    with client.logged_in(server.host, server.port) as conn:
        resources = conn.c.sf.sharedResources()
        assert not resources.areTablesEnabled()
        assert resources.newTable(1, "x.h5") is None


def test_a_message_above_the_limit_breaks_the_connection(server: RunningServer) -> None:
    import Ice

    image = server.add_image("slide", np.zeros((1, 8, 8), np.uint8))
    with client.logged_in(server.host, server.port) as conn:
        store = conn.c.sf.createRawPixelsStore()
        store.setPixelsId(image, True)
        with pytest.raises(Ice.ConnectionLostException):
            store.setPlane(bytes(257_000_000), 0, 0, 0)


def test_plates_and_screens(server: RunningServer) -> None:
    images = [server.add_image(name, np.zeros((1, 4, 4), np.uint8), dataset=None) for name in "ab"]
    plate = server.add_plate("plate", [(0, 1, images[0]), (7, 11, images[1])], screen="screen")
    with client.logged_in(server.host, server.port) as conn:
        question = "select i.name, w.row, w.column from Plate p join p.wells w join w.wellSamples s join s.image i where p.id = :id"
        assert sorted(client.rows(conn, question, id=plate)) == [["a", 0, 1], ["b", 7, 11]]
        assert client.rows(
            conn, "select s.name from Screen s join s.plateLinks l where l.child.id = :id", id=plate
        ) == [["screen"]]
        assert conn.getObject("Image", images[0]).getParent().getWell().getPlate().getName() == "plate"


def test_files_of_an_import(server: RunningServer) -> None:
    image = server.add_image("slide", np.zeros((1, 4, 4), np.uint8))
    server.add_fileset(image, "alice_2/2026-11/21/slide.tif", series=2)
    with client.logged_in(server.host, server.port) as conn:
        question = "select f.path, f.name, i.series from Image i join i.fileset fs join fs.usedFiles e join e.originalFile f where i.id = :id"
        assert client.rows(conn, question, id=image) == [["alice_2/2026-11/21/", "slide.tif", 2]]


def test_windows_of_the_owner(server: RunningServer) -> None:
    image = server.add_image("slide", np.zeros((2, 4, 4), np.uint8))
    server.add_windows(image, [(0, 10), (5, 200)])
    with client.logged_in(server.host, server.port) as conn:
        question = "select index(cb), cb.inputStart, cb.inputEnd from RenderingDef r join r.waveRendering cb join r.pixels p where p.image.id = :id"
        assert sorted(client.rows(conn, question, id=image)) == [[0, 0.0, 10.0], [1, 5.0, 200.0]]


@pytest.mark.parametrize(
    "kind", ["DatasetI", "ProjectI", "PlateI", "OriginalFileI", "PolygonI", "ImageAnnotationLinkI"]
)
def test_required_fields(server: RunningServer, kind: str) -> None:
    import omero
    import omero.model

    with client.logged_in(server.host, server.port) as conn, pytest.raises(omero.ValidationException, match="not-null"):
        client.save(conn, getattr(omero.model, kind)())


def test_names_have_255_characters_at_most(server: RunningServer) -> None:
    import omero

    with client.logged_in(server.host, server.port) as conn:
        client.save(conn, client.dataset("x" * 255))
        with pytest.raises(omero.ValidationException, match="too long"):
            client.save(conn, client.dataset("x" * 256))


def test_a_dataset_takes_its_only_images_along(server: RunningServer) -> None:
    from omero.model import DatasetI

    image = server.add_image("shared", np.zeros((1, 4, 4), np.uint8), dataset="one")
    server.add_image("only here", np.zeros((1, 4, 4), np.uint8), dataset="one")
    other = server.add_dataset("two")
    with client.logged_in(server.host, server.port) as conn:
        client.save(conn, client.link(DatasetI(other, False), client.image(image)))
        ((first,),) = client.rows(conn, "select d.id from Dataset d where d.name = :name", name="one")
        client.delete(conn, "Dataset", first)
    assert [one["name"] for one in server.state()["images"]] == ["shared"]


def test_deleting_what_is_not_there_is_told(server: RunningServer) -> None:
    import omero.cmd

    with client.logged_in(server.host, server.port) as conn:
        assert isinstance(client.delete(conn, "Image", 12345), omero.cmd.ERR)


def test_states_are_equal_when_contents_are(server: RunningServer) -> None:
    def filled() -> dict:
        server.reset()
        for name in ("b", "a"):
            server.add_image(name, np.full((1, 4, 4), ord(name), np.uint8), channels=["DAPI"])
        with client.logged_in(server.host, server.port) as conn:
            client.save(conn, client.link(client.image(1), client.map_annotation("x", a="b")))
        return server.state()

    first = filled()
    assert first == filled()
    server.add_image("a", np.full((1, 4, 4), ord("a") + 1, np.uint8), channels=["DAPI"])
    assert server.state() != first


def test_many_shapes_are_read_in_pages(server: RunningServer) -> None:
    from omero.model import PolygonI, RoiI
    from omero.rtypes import rstring

    image = server.add_image("slide", np.zeros((1, 4, 4), np.uint8))
    made = []
    for n in range(300):
        roi, shape = RoiI(), PolygonI()
        shape.points = rstring(f"{n},0 1,1 0,1")
        roi.setImage(client.image(image))
        roi.addShape(shape)
        made.append(roi)
    with client.logged_in(server.host, server.port) as conn:
        client.save(conn, *made)
        question = "select s.id, s.roi.id from Polygon s where s.roi.image.id = :id and s.id > :last order by s.id"
        found = client.rows(conn, question, id=image, last=290)
        assert [shape for shape, _ in found] == list(range(291, 301))
        assert client.rows(conn, "select count(s.id) from Shape s join s.roi r where r.image.id = :id", id=image) == [
            [300]
        ]
