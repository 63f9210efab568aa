"""Pixels through the wire into the cache: every type, levels, faults in between, and what a slow or broken server does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxbridge.errors import InputError, MxbridgeError, SourceError
from mxbridge.image import Box, computed
from mxbridge.workspaces.omero.image_info import PIXEL_TYPES, image_info
from mxbridge.workspaces.omero.pixels.cache import PixelCache
from mxbridge.workspaces.omero.pixels.repository import open_in_place
from mxbridge.workspaces.omero.pixels.tiles import PlaneWriter, open_pixels, tiles_of
from mxbridge.workspaces.omero.sessions.address import Server
from mxbridge.workspaces.omero.sessions.login import Credentials
from mxbridge.workspaces.omero.sessions.session import Sessions
from tests.omero_workspace.toy_pixels import noise

pytestmark = pytest.mark.omero


@pytest.fixture
def sessions(server: Any) -> Iterator[Sessions]:
    sessions = Sessions(
        Server(server.host, server.port),
        credentials=lambda: Credentials("alice", "secret"),
        attempts=10,
        wait=0.05,
        linger=30,
    )
    yield sessions
    sessions.close()


def info_of(sessions: Sessions, image: int) -> Any:
    with sessions.use() as session:
        return image_info(session, image)


@pytest.mark.parametrize("name", sorted(PIXEL_TYPES))
def test_every_type_comes_as_it_was_stored(server: Any, sessions: Sessions, tmp_path: Path, name: str) -> None:
    pixels = noise(3, 70, 90, dtype=PIXEL_TYPES[name])
    info = info_of(sessions, server.add_image("slide", pixels, channels=["a", "b", "c"]))
    opened = PixelCache(tmp_path).open(info, sessions)
    assert (opened.dtype, opened.channel_names) == (np.dtype(PIXEL_TYPES[name]), ("a", "b", "c"))
    np.testing.assert_array_equal(computed(opened.levels[0]), pixels)


def test_levels_of_a_large_image(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    server.set(max_plane=256)
    pixels = noise(2, 600, 900, dtype="u1")
    info = info_of(sessions, server.add_image("slide", pixels))
    opened = PixelCache(tmp_path).open(info, sessions)
    assert len(opened.levels) > 1
    np.testing.assert_array_equal(computed(opened.levels[0]), pixels)
    for k, level in enumerate(opened.levels):
        got = computed(level[1])
        assert got.shape == level.shape[1:]
        assert abs(got.mean() - pixels[1].mean()) < 12, k


def test_the_plane_of_a_stack(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    pixels = noise(2, 2, 3, 20, 30)
    info = info_of(sessions, server.add_image("stack", pixels))
    np.testing.assert_array_equal(
        computed(PixelCache(tmp_path).open(info, sessions, plane=(2, 1)).levels[0]), pixels[1, :, 2]
    )
    with pytest.raises(InputError, match="there is no plane z=3, t=0"):
        PixelCache(tmp_path).open(info, sessions, plane=(3, 0))


@pytest.mark.parametrize("do", ["drop", "kill-connection-after", "expire", "restart"])
@pytest.mark.parametrize("operation", ["RawPixelsStore.getTile", "RawPixelsStore.setPixelsId"])
def test_a_fault_costs_what_was_on_its_way(
    server: Any, sessions: Sessions, tmp_path: Path, operation: str, do: str
) -> None:
    pixels = noise(1, 2100, 3100)
    info = info_of(sessions, server.add_image("slide", pixels))
    opened = PixelCache(tmp_path).open(info, sessions)
    before = server.calls()["RawPixelsStore.getTile"]
    server.fault(operation, nth=3, do=do, seconds=0.1)
    np.testing.assert_array_equal(computed(opened.levels[0]), pixels)
    assert server.struck()
    assert server.calls()["RawPixelsStore.getTile"] - before <= 12 + 5  # tiles, and those of four threads and one more


def test_random_faults_end_with_the_right_pixels(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    pixels = noise(3, 2100, 1100)
    info = info_of(sessions, server.add_image("slide", pixels))
    server.faults_at_random(5, 0.05, at_most=12)
    np.testing.assert_array_equal(computed(PixelCache(tmp_path).open(info, sessions).levels[0]), pixels)
    assert server.struck()


def test_an_image_that_is_deleted_before_it_is_read(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    info = info_of(sessions, server.add_image("slide", noise(1, 50, 60)))
    opened = PixelCache(tmp_path).open(info, sessions)
    with sessions.use() as session:
        session.delete("Image", [info.id], info.group_id)
    with pytest.raises(SourceError, match=f"no image {info.id}"):
        computed(opened.levels[0])
    with pytest.raises(SourceError):
        info_of(sessions, info.id)


def test_a_server_that_refuses_says_so_in_one_line(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    info = info_of(sessions, server.add_image("slide", noise(1, 50, 60)))
    opened = PixelCache(tmp_path).open(info, sessions)
    server.fault("RawPixelsStore.getTile", do="error", error="ResourceError", times=9)
    with pytest.raises(MxbridgeError) as caught:
        computed(opened.levels[0])
    assert caught.value.exit_code == 4
    server.clear_faults()
    assert computed(opened.levels[0]).shape == (1, 50, 60)


def test_no_tile_is_asked_for_twice_and_planning_asks_for_none(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    info = info_of(sessions, server.add_image("slide", noise(40, 300, 300, dtype="u1")))
    before = server.calls()
    opened = PixelCache(tmp_path).open(info, sessions)
    assert not (server.calls() - before)["RawPixelsStore.getTile"]
    computed(opened.levels[0][[3, 7, 8], :50, :50])
    computed(opened.levels[0][[3, 7, 8], 100:, 100:])
    assert (server.calls() - before)["RawPixelsStore.getTile"] == 3
    before = server.calls()
    again = PixelCache(tmp_path).open(info, sessions)
    computed(again.levels[0][3])
    assert not server.calls() - before, "what is in the cache needs no server"


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", ">f4", "f8"])
def test_what_is_written_comes_back(server: Any, sessions: Sessions, dtype: str) -> None:
    truth = noise(120, 170, dtype=dtype)
    image = server.add_image("new", np.zeros((2, 120, 170), np.dtype(dtype).newbyteorder("=")))
    info = info_of(sessions, image)
    with sessions.use() as session:
        with PlaneWriter(session, info.pixels_id, info.group_id) as writer:
            for box in tiles_of(info.shape, (64, 64)):
                writer.write(0, 1, 0, box, truth[box.y0 : box.y1, box.x0 : box.x1])
            writer.finish()
        with open_pixels(session, info.pixels_id, info.dtype, group_id=info.group_id) as source:
            np.testing.assert_array_equal(source.read(0, 1, 0, Box(0, 0, *info.shape)), truth)
            assert not source.read(0, 0, 0, Box(3, 4, 9, 9)).any()


def test_in_place_where_the_repository_is_mounted(server: Any, sessions: Sessions, tmp_path: Path) -> None:
    import tifffile

    pixels = noise(2, 150, 170)
    image = server.add_image("slide", pixels, channels=["DAPI", "CD3"], um_per_px=0.5)
    server.add_fileset(image, "alice_2/2026-11/21/slide.ome.tif", series=0)
    file = tmp_path / "alice_2" / "2026-11" / "21" / "slide.ome.tif"
    file.parent.mkdir(parents=True)
    tifffile.imwrite(file, pixels, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    info = info_of(sessions, image)
    with sessions.use() as session:
        opened, reason = open_in_place(session, info, tmp_path)
    assert opened is not None, reason
    assert (opened.channel_names, opened.pixel_size_um, opened.files) == (("DAPI", "CD3"), (0.5, 0.5), (file,))
    np.testing.assert_array_equal(computed(opened.levels[0]), pixels)
    assert opened.identity == PixelCache(tmp_path / "cache").open(info, sessions).identity
