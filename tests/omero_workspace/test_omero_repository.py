"""Images read where the server keeps them: only below the folder that was given, and only when they are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.workspaces.omero.pixels.cache import PixelCache
from mxbridge.workspaces.omero.pixels.repository import below, open_in_place
from tests.omero_workspace.toy_pixels import ToyServer, noise

FOLDER = "alice_2/2026-11/21/12-00-00.000/"


def imported(server: ToyServer, repository: Path, pixels: np.ndarray, name: str = "slide.ome.tif") -> Path:
    """As the server keeps an image (c, y, x) that was imported as one file."""
    path = repository / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": "CYX", "Channel": {"Name": [f"file {c}" for c in range(len(pixels))]}}
    tifffile.imwrite(path, pixels, ome=True, metadata=metadata, photometric="minisblack")
    server.files = [(FOLDER, name, 0, 0)]
    return path


def toy() -> ToyServer:
    return ToyServer(noise(1, 3, 1, 150, 170))


def test_pixels_come_from_the_file_and_names_from_omero(tmp_path: Path) -> None:
    server = toy()
    path = imported(server, tmp_path, server.levels[0][0, :, 0])
    image, reason = open_in_place(server, server.info, tmp_path)  # type: ignore[arg-type]
    assert image is not None, reason
    assert reason == ""
    tiles = server.calls["tiles"]
    np.testing.assert_array_equal(image.levels[0].compute(scheduler="sync"), server.levels[0][0, :, 0])
    assert server.calls["tiles"] == tiles
    assert (image.name, image.channel_names, image.pixel_size_um) == ("slide", ("m0", "m1", "m2"), (0.5, 0.5))
    assert image.files == (path,)
    assert server.open_stores == 0
    cached = PixelCache(tmp_path / "cache").open(server.info, server)  # type: ignore[arg-type]
    assert cached.identity == image.identity  # the same pixels, whichever way they are read


def test_an_ome_zarr_that_was_imported_file_by_file(tmp_path: Path) -> None:
    server = toy()
    zarr = tmp_path / FOLDER / "slide.zarr"
    writer = OmeZarrWriter(zarr, (3, 150, 170), np.dtype("u2"), [Channel(n) for n in "abc"], None)
    for c in range(3):
        writer.write(c, Box(0, 0, 150, 170), server.levels[0][0, c, 0])
    writer.finish()
    server.files = [(FOLDER + "slide.zarr/0/c/0/0", str(k), 0, k) for k in range(30)]
    image, _ = open_in_place(server, server.info, tmp_path)  # type: ignore[arg-type]
    assert image is not None
    assert image.files == (zarr,)
    server.files = []
    for lsid in (f"file:///mnt/elsewhere/{FOLDER}slide.zarr", f"/mnt/{FOLDER}slide.zarr/", "/mnt/elsewhere/slide.zarr"):
        server.registered = [(lsid, "com.glencoesoftware.ngff:multiscales")]
        image, reason = open_in_place(server, server.info, tmp_path)  # type: ignore[arg-type]
        assert (image is None) == ("alice_2" not in lsid), reason
    server.registered = [(f"s3://bucket/{FOLDER}slide.zarr", "com.glencoesoftware.ngff:multiscales")]
    assert open_in_place(server, server.info, tmp_path)[0] is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pixels", "channel 0 has other pixels than OMERO's"),
        ("last pixels", "channel 2 has other pixels than OMERO's at"),
        ("size", "150 x 150 pixels with 3 channels, OMERO's has 170 x 150"),
        ("channels", "170 x 150 pixels with 2 channels"),
        ("type", "uint8 pixels, OMERO's are uint16"),
        ("damaged", "slide.ome.tif"),
        ("missing", "none of its files lies below"),
    ],
)
def test_what_does_not_fit_is_fetched_from_the_server(tmp_path: Path, change: str, words: str) -> None:
    server = toy()
    pixels = server.levels[0][0, :, 0].copy()
    if "pixels" in change:
        pixels[2 if "last" in change else 0, -1, -1] += 1
    wrong = {"size": pixels[:, :, :150], "channels": pixels[:2], "type": pixels.astype("u1")}.get(change, pixels)
    path = imported(server, tmp_path, wrong)
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:200])
    if change == "missing":
        path.unlink()
    image, reason = open_in_place(server, server.info, tmp_path)  # type: ignore[arg-type]
    assert image is None
    assert words in reason
    assert reason.startswith("slide (image 7) is not read in place (")
    assert server.open_stores == 0


def test_a_jpeg_that_unpacks_a_little_differently_is_the_same_picture_but_not_the_same_pixels(tmp_path: Path) -> None:
    server = ToyServer(noise(1, 3, 1, 100, 120, dtype="u1"))
    server.info = replace(server.info, rgb=True)
    path = tmp_path / FOLDER / "slide.tif"
    path.parent.mkdir(parents=True)
    near = server.levels[0][0, :, 0].copy()
    near[:, ::7, ::7] += 1
    tifffile.imwrite(path, np.moveaxis(near, 0, -1), photometric="rgb")
    server.files = [(FOLDER, "slide.tif", 0, 0)]
    image, reason = open_in_place(server, server.info, tmp_path)  # type: ignore[arg-type]
    assert image is not None, reason
    cached = PixelCache(tmp_path / "cache").open(server.info, server)  # type: ignore[arg-type]
    assert cached.identity != image.identity


@pytest.mark.parametrize(
    "folder", ["../outside/", "/outside/", "a/../../outside/", "C:/outside/", "..\\outside/", "a\0/"]
)
def test_a_path_that_leads_elsewhere_is_not_opened(tmp_path: Path, folder: str) -> None:
    server = toy()
    repository = tmp_path / "repository"
    repository.mkdir()
    imported(server, tmp_path / "outside", server.levels[0][0, :, 0])
    (tmp_path / "outside" / "slide.ome.tif").symlink_to(tmp_path / "outside" / FOLDER / "slide.ome.tif")
    server.files = [(folder, "slide.ome.tif", 0, 0)]
    assert open_in_place(server, server.info, repository)[0] is None  # type: ignore[arg-type]
    server.files, server.registered = [], [(f"file://{folder}slide.ome.tif", "x:multiscales")]
    assert open_in_place(server, server.info, repository)[0] is None  # type: ignore[arg-type]


@given(st.text(alphabet="ab./\\:C\0~", max_size=12))
@settings(max_examples=200, deadline=None)
def test_no_text_leads_out_of_the_folder(named: str) -> None:
    path = below(Path("/repository"), named)
    assert path is None or (".." not in path.parts and path.is_relative_to("/repository"))
