"""Colours in 8 bits from whatever a file holds, each change with a warning; and which parts of a slide are blank."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from toy_translator import glass, picture, tissue

from mxbridge.errors import BrokenFile, NotApplicable
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.maxim_input import own_field
from mxbridge.stream.resample import Field
from mxbridge.tasks.mapping.colours import ColourReader, colours_of, grey
from mxbridge.tasks.mapping.tissue import LowLevel, is_blank_tile, is_blank_window, tissue_share

SHAPE = (40, 50)
PIXELS = tissue(SHAPE)
LAST = np.ascontiguousarray(np.moveaxis(PIXELS, 0, -1))


def rgb(image: LocalImage, field: Field, box: Box) -> NDArray[np.uint8]:
    return ColourReader(colours_of(image), field).read(box)


def colours(image: LocalImage) -> NDArray[np.uint8]:
    return rgb(image, own_field(image), Box(0, 0, *image.shape))


def told(image: LocalImage) -> str:
    found = colours_of(image)
    return " ".join([*image.warnings, *found.warnings, *ColourReader(found, own_field(image)).warnings])


# --- files ---


def test_alpha_is_dropped_with_a_warning(tmp_path: Path) -> None:
    with_alpha = np.dstack([LAST, np.full(SHAPE, 9, np.uint8)])
    Image.fromarray(with_alpha).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", with_alpha, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        image = open_image(tmp_path / name)
        np.testing.assert_array_equal(colours(image), PIXELS)
        assert "alpha channel was left out" in told(image)


@pytest.mark.parametrize("name", ["p.png", "p.tif"])
def test_palettes_are_filled_in_with_a_warning(tmp_path: Path, name: str) -> None:
    palette = Image.fromarray(LAST).quantize(64)
    if name == "p.png":
        palette.save(tmp_path / name)
    else:
        colormap = np.zeros((3, 256), np.uint16)
        table = np.array(palette.getpalette(), np.uint16).reshape(-1, 3).T
        colormap[:, : table.shape[1]] = table * 257
        tifffile.imwrite(tmp_path / name, np.asarray(palette), photometric="palette", colormap=colormap)
    image = open_image(tmp_path / name)
    np.testing.assert_array_equal(colours(image), np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0))
    assert "palette were filled in" in told(image)


def test_what_imagej_showed_a_channel_with_is_no_palette(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "i.tif", PIXELS[0], imagej=True, colormap=np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    )
    with pytest.raises(NotApplicable, match="one channel"):
        colours_of(open_image(tmp_path / "i.tif"))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_by_the_range_in_use(tmp_path: Path, bits: int, suffix: str) -> None:
    top = (1 << bits) - 1
    deep = np.rint(LAST / 255 * top).astype(np.uint16)
    deep[0, 0] = top
    path = tmp_path / f"d.{suffix}"
    if suffix == "png":
        path.write_bytes(imagecodecs.png_encode(deep))
    else:
        tifffile.imwrite(path, deep, photometric="rgb")
    image = open_image(path)
    expected = np.moveaxis(np.rint(deep * (255 / top)), -1, 0)
    assert np.abs(colours(image) - expected).max() <= 1
    assert np.mean(colours(image) != expected) < 0.01
    assert f"{bits} bits were scaled to 8 (0..{top}" in told(image)


def test_a_png_of_16_bits_that_is_cut_short(tmp_path: Path) -> None:
    whole = imagecodecs.png_encode(LAST.astype(np.uint16) * 257)
    (tmp_path / "d.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenFile, match=r"d\.png"):
        open_image(tmp_path / "d.png")


def test_a_grey_image_is_refused_whatever_it_is_stored_in(tmp_path: Path) -> None:
    folder = tmp_path / "g.ome.zarr"
    OmeZarrWriter(folder, (1, *SHAPE), np.uint8, [Channel("DAPI")], None).finish()
    Image.fromarray(PIXELS[0]).save(tmp_path / "g.png")
    tifffile.imwrite(tmp_path / "g.tif", PIXELS[0])
    for name in ("g.ome.zarr", "g.png", "g.tif"):
        with pytest.raises(NotApplicable, match=r"fluorescence or grey image \(one channel of uint8"):
            colours_of(open_image(tmp_path / name))


# --- channels ---


def channels(names: tuple[str, ...], dtype: str = "u1", *, rgb: bool = False) -> LocalImage:
    values = np.stack([np.full((4, 5), 5 * k, dtype) for k in range(len(names))])
    lazy = da.from_array(values, chunks=-1)
    return LocalImage("x", (lazy,), tuple(Channel(name) for name in names), None, "x", rgb=rgb)


def test_colours_are_found_by_name() -> None:
    assert colours_of(channels(("Blue", "Green", "Red"))).channels == (2, 1, 0)
    assert colours_of(channels(("r", "g", "b"))).channels == (0, 1, 2)
    for names in (("Channel 1", "Channel 2", "Channel 3"), ("Channel 0", "Channel 1", "Channel 2"), ("0", "1", "2")):
        unnamed = colours_of(channels(names))
        assert unnamed.channels == (0, 1, 2)
        assert "no names" in unnamed.warnings[0]
    assert colours_of(channels(("a", "b", "c"), rgb=True)).channels == (0, 1, 2)


@pytest.mark.parametrize(
    "image",
    [
        channels(("DAPI", "CD3", "CD8")),
        channels(("DAPI",)),
        channels(("Red", "Green")),
        channels(("Red", "Green", "Blue"), "f4"),
        channels(("Red", "Green", "Blue"), "f4", rgb=True),
        channels(("Red", "Green", "Blue", "DAPI")),
        channels(tuple(f"m{k}" for k in range(40))),
    ],
)
def test_images_of_markers_are_refused(image: LocalImage) -> None:
    with pytest.raises(NotApplicable, match=r"fluorescence.*mxbridge impute"):
        colours_of(image)


def test_beyond_the_border_the_picture_is_mirrored() -> None:
    image = picture(PIXELS)
    once = ColourReader(colours_of(image), own_field(image)).read(Box(20, 30, 60, 90))
    twice = ColourReader(colours_of(image), own_field(image), mirrored_twice=True).read(Box(20, 30, 60, 90))
    np.testing.assert_array_equal(once, np.pad(PIXELS, ((0, 0), (0, 20), (0, 40)), "reflect")[:, 20:, 30:])
    np.testing.assert_array_equal(twice, np.pad(PIXELS, ((0, 0), (0, 20), (0, 40)), "symmetric")[:, 20:, 30:])


def test_grey_is_that_of_pillow() -> None:
    every = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    np.testing.assert_array_equal(grey(np.moveaxis(every, -1, 0)), np.asarray(Image.fromarray(every).convert("L")))


# --- blank ---


def test_the_published_rule() -> None:
    blank = np.full((3, 64, 64), 240, np.uint8)
    assert is_blank_tile(blank)
    assert is_blank_tile(np.where(np.arange(64) % 2, np.uint8(0), np.uint8(255))[None, None] + 0 * blank)
    assert not is_blank_tile(tissue((64, 64)))
    spread = blank.copy()
    spread[:, :32] -= 5  # variance 6.25
    assert is_blank_tile(spread)
    spread[:, :32] -= 2  # 12.25
    assert not is_blank_tile(spread)


def nucleus(pixels: NDArray[np.uint8], y: float, x: float, radius: float, darker: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[: pixels.shape[1], : pixels.shape[2]]
    inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    out = pixels.copy()
    out[:, inside] -= np.uint8(darker)
    return out


@given(y=st.floats(12, 499), x=st.floats(12, 499), darker=st.integers(25, 120), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_a_single_nucleus_in_an_empty_window_is_not_overlooked(y: float, x: float, darker: int, seed: int) -> None:
    """5 µm wide at 0.25 µm per pixel; the variance of the whole window alone would often miss it."""
    window = nucleus(glass((512, 512), seed), y, x, 10, darker)
    assert not is_blank_window(window)
    image = picture(window, levels=3)  # 4 µm per pixel
    low = LowLevel(colours_of(image), own_field(image))
    assert low.level == 2
    assert not low.is_blank(Box(0, 0, 512, 512))


def test_pale_nuclei_on_white_glass_are_tissue() -> None:
    """White is no part of a picture to the published program, and the nuclei alone hardly vary."""
    window = np.full((3, 512, 512), 255, np.uint8)
    for y in range(20, 512, 48):
        for x in range(20, 512, 48):
            window = nucleus(window, y, x, 12, 13)
    assert is_blank_tile(window) and not is_blank_window(window)


def test_empty_glass_is_blank() -> None:
    window = glass((512, 512))
    assert is_blank_tile(window) and is_blank_window(window)
    assert tissue_share(window) == 0
    image = picture(window, levels=3)
    assert LowLevel(colours_of(image), own_field(image)).is_blank(Box(0, 0, 512, 512))
    small = nucleus(window, 200, 300, 10, 40)
    assert is_blank_tile(small) and not is_blank_window(small)
    assert 0 < tissue_share(small) < 0.1


@pytest.mark.parametrize(
    ("um", "levels", "level"),
    [(0.25, 1, None), (0.25, 2, 1), (0.25, 3, 2), (0.25, 4, 2), (0.5, 3, 1), (1.0, 3, 1), (None, 3, None)],
)
def test_which_level_is_of_use(um: float | None, levels: int, level: int | None) -> None:
    """No larger than 4 µm, and four times the maps' pixels."""
    image = picture(tissue((512, 512)), um, levels=levels)
    seen = own_field(image) if um is None else Field.of((512, 512), (um, um), 0.25)
    assert LowLevel(colours_of(image), seen).level == level


def test_windows_are_found_at_any_scale() -> None:
    """The tissue of one corner is seen by the windows that touch it, and by no others."""
    pixels = glass((512, 512))
    pixels[:, :100, :100] = tissue((100, 100))
    image = picture(pixels, 0.5, levels=2)
    low = LowLevel(colours_of(image), Field.of((512, 512), (0.5, 0.5), 0.25))
    assert not low.is_blank(Box(0, 0, 100, 100))
    assert not low.is_blank(Box(150, 150, 662, 662))
    assert low.is_blank(Box(220, 220, 732, 732))
    assert low.is_blank(Box(600, 600, 1112, 1112))  # reaches beyond the image
