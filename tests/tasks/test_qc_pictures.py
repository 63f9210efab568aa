"""What pictures of flagged stains are made from, and what they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mxbridge.errors import BrokenFile
from mxbridge.image import Box
from mxbridge.report.qc_pictures import FLAG, GREY, KEPT, MarkerPicture, draw_marker
from mxbridge.tasks.judging.one_image import PREVIEW, Previews


@given(st.integers(1, 900), st.integers(1, 900), st.integers(150, 700))
@settings(max_examples=20, deadline=None)
def test_previews_are_means_however_the_image_is_cut(height: int, width: int, step: int) -> None:
    rng = np.random.default_rng(height)
    imputed, measured = rng.random((2, 1, height, width), np.float32)
    measured[0, : height // 3] = np.nan
    previews = Previews(1, (height, width))
    for y in range(0, height, step):
        for x in range(0, width, step):
            box = Box(y, x, y + step, x + step).clip((height, width))
            part = np.s_[:, box.y0 : box.y1, box.x0 : box.x1]
            previews.add(box, imputed[part], measured[part])
    small, seen = previews.of(0)
    assert max(small.shape) <= PREVIEW
    side = previews.side
    assert small[0, 0] == pytest.approx(imputed[0, :side, :side].mean(), abs=1e-5)
    assert small[-1, -1] == pytest.approx(
        imputed[0, (small.shape[0] - 1) * side :, (small.shape[1] - 1) * side :].mean(), abs=1e-5
    )
    assert np.isnan(seen[0, 0]) == bool(np.isnan(measured[0, :side, :side]).all())


@pytest.fixture
def picture() -> MarkerPicture:
    rng = np.random.default_rng(0)
    measured, imputed = rng.random((2, 130, 100), np.float32)
    measured[:10] = np.nan
    blocks = np.array([[0.9, 0.8], [np.nan, 0.1], [0.5, 0.5]])
    return MarkerPicture("MAXIM", "CD3 é 日", measured, imputed, blocks, np.zeros((3, 2), bool), 1, (32.0, 32.0))


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as opened:
        return {colour for _, colour in opened.getcolors(1 << 24)}  # type: ignore[union-attr,misc]


def test_bad_blocks_are_outlined(picture: MarkerPicture, tmp_path: Path) -> None:
    draw_marker(picture, tmp_path / "a" / "none.png", "x: 日, flagged")
    assert FLAG not in colours(tmp_path / "a" / "none.png")
    assert GREY in colours(tmp_path / "a" / "none.png")  # where nothing was measured
    bad = picture.bad.copy()
    bad[2, 1] = True
    draw_marker(replace(picture, bad=bad), tmp_path / "one.png", "x")
    assert FLAG in colours(tmp_path / "one.png")


@pytest.mark.parametrize("side", [3, 17, 40, 67, 300])
def test_blocks_of_slides_are_smaller_than_a_pixel(side: int, tmp_path: Path) -> None:
    """The last block may also begin behind the last whole pixel of the picture."""
    high, wide = 64 * 11 + 1, 64 * 9 + 17
    small = np.random.default_rng(0).random((-(-high // side), -(-wide // side)), np.float32)
    blocks = np.zeros((12, 10))
    picture = MarkerPicture("MAXIM", "CD3", small, small, blocks, blocks == 0, side, (32.0, 32.0))
    draw_marker(picture, tmp_path / "a.png", "slide")
    assert FLAG in colours(tmp_path / "a.png")


def test_what_is_kept_comes_back(picture: MarkerPicture, tmp_path: Path) -> None:
    MarkerPicture.save_all([picture, replace(picture, marker="B", side=3)], tmp_path)
    assert MarkerPicture.names(tmp_path) == [("MAXIM", "CD3 é 日"), ("MAXIM", "B")]
    back = MarkerPicture.load(tmp_path, "MAXIM", "B")
    np.testing.assert_allclose(back.measured, picture.measured, atol=1e-3)
    np.testing.assert_allclose(back.blocks, picture.blocks, atol=1e-3)
    assert (back.side, back.um) == (3, (32.0, 32.0))
    MarkerPicture.save_all([], tmp_path)
    assert MarkerPicture.names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"no zip at all"])
def test_damaged_pictures_are_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEPT).write_bytes(content)
    with pytest.raises(BrokenFile, match="holds no pictures"):
        MarkerPicture.names(tmp_path)
