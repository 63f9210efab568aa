"""The pixel cache: fetched once, whole or not read, never zeros for what is missing, bounded, shared, killed."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, OutputError, SourceError
from mxbridge.formats.open_image import open_image
from mxbridge.image import LocalImage
from mxbridge.workspaces.omero.image_info import PIXEL_TYPES
from mxbridge.workspaces.omero.pixels import cache as cache_module
from mxbridge.workspaces.omero.pixels.cache import PixelCache
from tests.omero_workspace.toy_pixels import Lost, ToyServer, noise

REPOSITORY = Path(__file__).resolve().parents[2]


def pixels_of(lazy: da.Array) -> np.ndarray:
    return np.asarray(lazy.compute(scheduler="sync"))


def opened(cache: PixelCache, server: ToyServer, **options: object) -> LocalImage:
    return cache.open(server.info, server, **options)  # type: ignore[arg-type]


def chunks(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("images/*/*/c/*/*/*") if p.name.isdigit())


def test_opening_reads_no_pixels_and_reading_fetches_whole_planes_once(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 4, 1, 300, 2100), levels=2, tile=(256, 256))
    image = opened(PixelCache(tmp_path), server)
    assert (server.calls["tiles"], image.levels[0].shape, image.levels[1].shape) == (0, (4, 300, 2100), (4, 150, 1050))
    assert (image.name, image.channel_names, image.pixel_size_um) == ("slide", ("m0", "m1", "m2", "m3"), (0.5, 0.5))
    np.testing.assert_array_equal(pixels_of(image.levels[0][2, 5:6, 7:8]), server.levels[0][0, 2, 0, 5:6, 7:8])
    assert server.calls["tiles"] == 3
    np.testing.assert_array_equal(pixels_of(image.levels[0][2]), server.levels[0][0, 2, 0])
    assert server.calls["tiles"] == 3
    again = opened(PixelCache(tmp_path), server)
    np.testing.assert_array_equal(pixels_of(again.levels[0][2]), server.levels[0][0, 2, 0])
    assert (server.calls["tiles"], server.calls["layout"]) == (3, 1)
    np.testing.assert_array_equal(pixels_of(again.levels[1][3]), server.levels[1][0, 3, 0])
    assert server.calls["tiles"] == 3 + 2
    assert server.open_stores == 0


@given(
    dtype=st.sampled_from(sorted(PIXEL_TYPES.values())),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)),
    levels=st.integers(1, 3),
    box=st.tuples(*[st.integers(0, 70)] * 4),
)
@settings(max_examples=25, deadline=None)
def test_any_box_of_any_level_and_type(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    shape: tuple[int, int, int],
    levels: int,
    box: tuple[int, int, int, int],
) -> None:
    server = ToyServer(noise(1, shape[0], 1, *shape[1:], dtype=dtype), levels=levels)
    image = opened(PixelCache(tmp_path_factory.mktemp("cache")), server)
    rows, columns = slice(min(box[:2]), max(box[:2])), slice(min(box[2:]), max(box[2:]))
    assert image.dtype == np.dtype(dtype)
    for k in range(len(image.levels)):
        truth = next(a for a in server.levels if a.shape[-2:] == image.levels[k].shape[1:])[0, :, 0]
        np.testing.assert_array_equal(pixels_of(image.levels[k][:, rows, columns]), truth[:, rows, columns])


def test_other_programs_open_an_entry_as_ome_zarr(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 2, 1, 90, 110), levels=2)
    image = opened(PixelCache(tmp_path), server)
    truth = pixels_of(image.levels[0])
    pixels_of(image.levels[1])
    (entry,) = (tmp_path / "images").iterdir()
    seen = open_image(entry)
    np.testing.assert_array_equal(pixels_of(seen.levels[0]), truth)
    assert (seen.channel_names, seen.pixel_size_um, len(seen.levels)) == (("m0", "m1"), (0.5, 0.5), 2)


def test_the_plane_of_a_stack_is_chosen_and_told(tmp_path: Path) -> None:
    server = ToyServer(noise(2, 1, 3, 20, 30))
    first = opened(PixelCache(tmp_path), server)
    chosen = opened(PixelCache(tmp_path), server, plane=(2, 1))
    assert first.warnings == ("image 7 has 3 z-planes and 2 time points; only the first was read",)
    assert not chosen.warnings
    assert first.identity != chosen.identity
    np.testing.assert_array_equal(pixels_of(first.levels[0][0]), server.levels[0][0, 0, 0])
    np.testing.assert_array_equal(pixels_of(chosen.levels[0][0]), server.levels[0][1, 0, 2])


def test_an_interrupted_fetch_goes_on(tmp_path: Path) -> None:
    def fail(number: int, data: bytes) -> bytes:
        if number == 7:
            raise SourceError("the server went away")
        return data

    server = ToyServer(noise(1, 1, 1, 1600, 1600), tile=(700, 700), fail=fail)
    image = opened(PixelCache(tmp_path), server, readers=1)
    assert image.levels[0].numblocks == (1, 3, 3)  # tiles of 700 x 700
    with pytest.raises(SourceError, match="went away"):
        pixels_of(image.levels[0])
    done = chunks(tmp_path)
    assert len(done) == 6
    left = done[0].with_name("9.abc.mxbridge-part")  # by a process that was killed
    left.write_bytes(b"torn")
    server.fail = None
    before = server.calls["tiles"]
    np.testing.assert_array_equal(pixels_of(image.levels[0][0]), server.levels[0][0, 0, 0])
    assert server.calls["tiles"] - before == 3
    assert not left.exists()


def test_a_lost_session_costs_one_tile(tmp_path: Path) -> None:
    def fail(number: int, data: bytes) -> bytes:
        if number in (2, 5):
            raise Lost
        return data

    server = ToyServer(noise(1, 1, 1, 2000, 3000), tile=(1000, 1000), fail=fail)
    image = opened(PixelCache(tmp_path), server)
    np.testing.assert_array_equal(pixels_of(image.levels[0][0]), server.levels[0][0, 0, 0])
    assert server.calls["tiles"] == 6 + 2


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "empty", "zeros"])
def test_a_damaged_chunk_is_fetched_again_and_never_read(tmp_path: Path, damage: str) -> None:
    server = ToyServer(noise(1, 1, 1, 1500, 2100), tile=(256, 256))
    pixels_of(opened(PixelCache(tmp_path), server).levels[0])
    victim = chunks(tmp_path)[2]
    data = victim.read_bytes()
    spoilt = {"short": data[:-9], "flipped": data[:40] + b"\xff" + data[41:], "empty": b"", "zeros": bytes(len(data))}
    victim.unlink() if damage == "missing" else victim.write_bytes(spoilt[damage])
    before = server.calls["tiles"]
    np.testing.assert_array_equal(
        pixels_of(opened(PixelCache(tmp_path), server).levels[0][0]), server.levels[0][0, 0, 0]
    )
    assert server.calls["tiles"] - before == 1


def test_a_disk_that_keeps_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ToyServer(noise(1, 1, 1, 50, 50))
    monkeypatch.setattr(cache_module, "write_chunk", lambda *chunk: None)
    with pytest.raises(BrokenFile, match="does not keep what is written"):
        pixels_of(opened(PixelCache(tmp_path), server).levels[0])


def test_other_pixels_are_another_image(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 1, 1, 50, 50))
    cache = PixelCache(tmp_path)
    old = opened(cache, server)
    pixels_of(old.levels[0])
    server.levels = [noise(1, 1, 1, 50, 50, seed=5)]
    server.info, server.event = replace(server.info, update_event=12), 12
    new = opened(cache, server)
    assert new.identity != old.identity
    np.testing.assert_array_equal(pixels_of(new.levels[0][0]), server.levels[0][0, 0, 0])
    renamed = replace(server.info, name="another name", pixel_size_um=None)
    assert cache.open(renamed, server).identity == new.identity  # type: ignore[arg-type]


@pytest.mark.parametrize(("event", "words"), [(None, "the server has no image 7"), (12, "were changed while")])
def test_an_image_that_is_deleted_or_changed_meanwhile(tmp_path: Path, event: int | None, words: str) -> None:
    server = ToyServer(noise(1, 1, 1, 50, 50))
    image = opened(PixelCache(tmp_path), server)
    server.event = event
    for _ in range(2):
        with pytest.raises(SourceError, match=words):
            pixels_of(image.levels[0])
    assert not chunks(tmp_path)


def several(count: int, side: int = 100) -> list[ToyServer]:
    servers = []
    for k in range(count):
        server = ToyServer(noise(1, 1, 1, side, side, dtype="u1", seed=k))
        server.info = replace(server.info, id=k + 1)
        servers.append(server)
    return servers


def there(folder: Path) -> list[int]:
    return sorted(int(p.name.split("-")[0]) for p in (folder / "images").iterdir())


def test_the_entry_unused_for_longest_goes_whatever_the_clock_says(tmp_path: Path) -> None:
    servers = several(4)
    for k, server in enumerate(servers[:3]):
        pixels_of(opened(PixelCache(tmp_path, 30_100), server).levels[0])
        gc.collect()
        for path in tmp_path.rglob("*"):
            os.utime(path, (10_000 * (5 - k), 10_000 * (5 - k)))  # the newest looks oldest
    pixels_of(opened(PixelCache(tmp_path, 30_100), servers[0]).levels[0])  # 2 is now unused for longest
    pixels_of(opened(PixelCache(tmp_path, 30_100), servers[3]).levels[0])
    assert there(tmp_path) == [1, 3, 4]
    assert PixelCache(tmp_path)._room.size() <= 30_100


def test_a_process_goes_round_its_own_images_in_a_small_cache(tmp_path: Path) -> None:
    """Normalisation holds all images of a cohort open at once; more than the cache has room for."""
    cache, servers = PixelCache(tmp_path, 25_000), several(5)
    images = [opened(cache, server) for server in servers]
    for _ in range(2):
        for server, image in zip(servers, images, strict=True):
            np.testing.assert_array_equal(pixels_of(image.levels[0][0]), server.levels[0][0, 0, 0])
            assert cache._room.size() <= 25_000
    assert len(there(tmp_path)) == 2


def test_an_image_larger_than_the_cache_may_be(tmp_path: Path) -> None:
    image = opened(PixelCache(tmp_path, 5000), several(1)[0])
    with pytest.raises(
        OutputError, match=r"slide \(image 1\) needs .* MB in the pixel cache, which may .*--cache-size"
    ):
        pixels_of(image.levels[0])
    assert not chunks(tmp_path)


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.omero_workspace.test_omero_cache import chunks, opened, pixels_of, several
from mxbridge.workspaces.omero.pixels.cache import PixelCache
server = several(2)[0]
if sys.argv[3] == "fetching":
    def fail(number, data):
        if number == 2:
            while not chunks(Path(sys.argv[2])):  # the first tile
                time.sleep(0.01)
            print("now", flush=True)
            time.sleep(60)
        return data
    server = several(2, 1500)[0]
    server.fail = fail
image = opened(PixelCache(Path(sys.argv[2]), 10_100 if sys.argv[3] == "using" else None), server, readers=1)
pixels_of(image.levels[0])
print("now", flush=True)
time.sleep(60)
"""


def holder(folder: Path, what: str) -> subprocess.Popen[str]:
    """Another process that uses (or is fetching) the first image."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(REPOSITORY), str(folder), what], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    return process


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL) if os.name != "nt" else process.kill()
    process.communicate(timeout=20)


def test_what_a_live_process_uses_stays_and_what_a_killed_one_used_goes(tmp_path: Path) -> None:
    other = holder(tmp_path, "using")
    try:
        image = opened(PixelCache(tmp_path, 10_100), several(2)[1])
        with pytest.raises(OutputError, match="are in use by running programs"):
            pixels_of(image.levels[0])
        assert 1 in there(tmp_path)
    finally:
        stop(other)
    pixels_of(image.levels[0])
    assert there(tmp_path) == [2]
    for folder, left in (("layouts", 1), ("leases", 1), ("locks", 1)):
        assert len(list((tmp_path / folder).iterdir())) == left, folder


def test_a_process_killed_while_it_fetches_holds_up_nobody(tmp_path: Path) -> None:
    stop(holder(tmp_path, "fetching"))
    server = several(2, 1500)[0]
    np.testing.assert_array_equal(
        pixels_of(opened(PixelCache(tmp_path), server).levels[0][0]), server.levels[0][0, 0, 0]
    )
    assert server.calls["tiles"] == 3  # of four; one came before the kill
    assert not list(tmp_path.rglob("*.mxbridge-part"))


def test_one_fetches_while_the_other_waits(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 2, 1, 2100, 2100))
    images = [opened(PixelCache(tmp_path), server) for _ in range(3)]  # as three processes
    got: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda i=i: got.append(pixels_of(i.levels[0]))) for i in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 3
    for values in got:
        np.testing.assert_array_equal(values, server.levels[0][0, :, 0])
    assert server.calls["tiles"] == 2 * 9


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = several(2, 1500)
    cache = PixelCache(tmp_path)
    kept = opened(cache, first)
    pixels_of(kept.levels[0])
    real, written = cache_module.write_chunk, []

    def full(*chunk: Any) -> None:
        written.append(chunk)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*chunk)

    monkeypatch.setattr(cache_module, "write_chunk", full)
    image = opened(cache, second)
    with pytest.raises(OutputError, match=r"the disk is full.*--cache"):
        pixels_of(image.levels[0])
    monkeypatch.setattr(cache_module, "write_chunk", real)
    before = first.calls["tiles"]
    np.testing.assert_array_equal(pixels_of(kept.levels[0][0]), first.levels[0][0, 0, 0])
    assert first.calls["tiles"] == before
    np.testing.assert_array_equal(pixels_of(image.levels[0][0]), second.levels[0][0, 0, 0])


def test_too_little_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mxbridge.workspaces.omero.pixels.cache_room.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})
    )
    (server,) = several(1)
    with pytest.raises(OutputError, match=r"[GM]B left"):
        pixels_of(opened(PixelCache(tmp_path), server).levels[0])
    assert server.calls["tiles"] == 0


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="needs a user's permissions"
)
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="no permission"):
            opened(PixelCache(tmp_path / "cache"), several(1)[0])
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_the_cache_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(OutputError):
        opened(PixelCache(tmp_path / "cache"), several(1)[0])


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "[[[9, 9]], [null], [0, 5]]", '["a", 1, 2]', "[[[50, 50]], [], [9, 9]]"]
)
def test_a_kept_layout_that_makes_no_sense_is_asked_for_again(tmp_path: Path, text: str) -> None:
    server = ToyServer(noise(1, 1, 1, 50, 50))
    opened(PixelCache(tmp_path), server)
    (kept,) = (tmp_path / "layouts").iterdir()
    kept.write_text(text)
    np.testing.assert_array_equal(
        pixels_of(opened(PixelCache(tmp_path), server).levels[0][0]), server.levels[0][0, 0, 0]
    )
    assert server.calls["layout"] == 2


def test_a_pickled_level_reads_what_is_there_and_says_what_is_not(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 2, 1, 50, 50))
    image = opened(PixelCache(tmp_path), server)
    pixels_of(image.levels[0][0])
    copy = pickle.loads(pickle.dumps(image.levels[0]))
    np.testing.assert_array_equal(pixels_of(copy[0]), server.levels[0][0, 0, 0])
    with pytest.raises(SourceError, match="has no session"):
        pixels_of(copy[1])


def test_names_of_folders_suit_every_system(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 1, 1, 50, 50))
    server.info = replace(server.info, name="CON: a/b\\c*?<>|.")
    pixels_of(opened(PixelCache(tmp_path), server).levels[0])
    for path in tmp_path.rglob("*"):
        assert not set(path.name) & set(':*?"<>|\\ '), path
        assert len(str(path.relative_to(tmp_path))) < 100
