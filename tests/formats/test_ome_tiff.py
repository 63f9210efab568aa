"""The OME-TIFF we write: read back by tifffile and by ourselves."""

from __future__ import annotations

import errno
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, OutputError
from mxbridge.formats import ome_tiff
from mxbridge.formats.ome_tiff import halve, level_shapes, write_ome_tiff
from mxbridge.formats.open_image import open_image
from mxbridge.image import Channel

CHANNELS = (Channel("DAPI", 0x0000FF), Channel("CD8 µ <test>", 0xFF0000), Channel("CD3", 0x00FF00))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ome_tiff")


@settings(max_examples=25, deadline=None)
@example(dtype="u1", height=1025, width=1, rgb=False)
@given(
    dtype=st.sampled_from(["u1", "u2", "i2", "u4", "f4", "f8", "f2", "?"]),
    height=st.integers(1, 1100),
    width=st.sampled_from([1, 511, 512, 513, 1025]),
    rgb=st.booleans(),
)
def test_pixels_names_and_pyramid_survive(folder: Path, dtype: str, height: int, width: int, rgb: bool) -> None:
    rgb = rgb and dtype in ("u1", "u2")
    pixels = (np.random.default_rng(height).random((3, height, width)) * 255).astype(dtype)
    path = folder / "a.ome.tif"
    write_ome_tiff(path, da.from_array(pixels, chunks=(2, 300, 300)), CHANNELS, (0.25, 0.325), rgb=rgb)
    image = open_image(path)
    np.testing.assert_array_equal(image.levels[0].compute(), pixels)
    assert [level.shape[1:] for level in image.levels] == level_shapes((height, width))
    expected = image.levels[0].compute()
    for level in image.levels[1:]:
        expected = np.stack([halve(plane) for plane in expected])
        np.testing.assert_array_equal(level.compute(), expected)
    assert image.pixel_size_um == pytest.approx((0.25, 0.325)) and image.rgb is rgb and not image.warnings
    if not rgb:
        assert image.channels == CHANNELS
    assert [p.name for p in folder.iterdir()] == ["a.ome.tif"]


def test_what_qupath_needs(tmp_path: Path) -> None:
    path = tmp_path / "q.ome.tif"
    write_ome_tiff(path, da.zeros((3, 700, 1300), chunks=512, dtype="u2"), CHANNELS, (0.5, 0.5))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert len(tiff.series) == 1 and len(tiff.series[0].levels) == 3
        assert (page.tilelength, page.tilewidth, page.compression.name, page.predictor) == (
            512,
            512,
            "ADOBE_DEFLATE",
            2,
        )
        assert 'PhysicalSizeX="0.5"' in tiff.ome_metadata and 'Color="65535"' in tiff.ome_metadata


def test_halving_averages_and_rounds_half_up() -> None:
    np.testing.assert_array_equal(halve(np.array([[1, 2, 9], [2, 1, 9], [4, 6, 255]], "u1")), [[2, 9], [5, 255]])
    assert halve(np.full((2, 2), 2**32 - 1, "u4"))[0, 0] == 2**32 - 1
    assert halve(np.array([[0.0, 1.0], [2.0, 4.0]], "f4"))[0, 0] == 1.75


def test_each_block_is_computed_once(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def block(block_info=None) -> np.ndarray:
        location = block_info[None]["chunk-location"]
        seen.append(location)
        return np.ones(block_info[None]["chunk-shape"], "u1")

    pixels = da.map_blocks(block, chunks=((1, 1), (512,) * 4, (512,) * 3), dtype="u1", meta=np.empty((0, 0, 0), "u1"))
    write_ome_tiff(tmp_path / "a.ome.tif", pixels, CHANNELS[:2], None)
    assert len(seen) == len(set(seen)) == 24
    assert open_image(tmp_path / "a.ome.tif").pixel_size_um is None


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for height in (2048, 16384):
        pixels = da.zeros((1, height, 512), chunks=(1, 512, 512), dtype="u1")
        tracemalloc.start()
        write_ome_tiff(tmp_path / "a.ome.tif", pixels, CHANNELS[:1], None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (2 << 20)  # the raw image grew by 7 MB


def test_nothing_is_left_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.ome.tif"
    target.write_bytes(b"earlier")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ome_tiff._Spool, "append", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_ome_tiff(target, da.zeros((1, 600, 600), dtype="u1"), CHANNELS[:1], None)
    assert target.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int64"):
        write_ome_tiff(tmp_path / "a.ome.tif", da.zeros((1, 9, 9), dtype="i8"), CHANNELS[:1], None)
    with pytest.raises(InputError, match="2 channel names for 1 planes"):
        write_ome_tiff(tmp_path / "a.ome.tif", da.zeros((1, 9, 9), dtype="u1"), CHANNELS[:2], None)
