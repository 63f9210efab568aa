"""Derived images of maps: the slide's extent, names, values at the same and at another scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from toy_translator import picture, tissue

from mxbridge.formats.ome_zarr import is_derived
from mxbridge.formats.open_image import open_image
from mxbridge.stream.resample import Field
from mxbridge.tasks.mapping import derived_channels
from mxbridge.tasks.mapping.colours import colours_of
from mxbridge.tasks.mapping.derived_channels import shown_channels, write_brightfield, write_channels
from mxbridge.tasks.mapping.maps import Maps

SHAPE = (60, 90)
KEY = "0123456789abcdef"


def maps_of(shape: tuple[int, int], **fields: Any) -> Maps:
    images = {name: tissue(shape, seed) for seed, name in enumerate(("Hematoxylin", "DAPI", "Marker", "Seg"))}
    return replace(Maps.of_arrays(images, (0.25, 0.25)), **fields)


def quiet(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_channels_have_names_and_the_brightness_of_the_maps(tmp_path: Path, version: Literal["0.4", "0.5"]) -> None:
    maps, image = maps_of(SHAPE), picture(tissue(SHAPE))
    channels = shown_channels(maps, ("DAPI", "Lap2", "Marker"), ("Seg",), "Marker", "Ki67")
    calls: list[tuple[int, int]] = []
    derived = write_channels(
        maps, image, channels, KEY, tmp_path, version, lambda done, total: calls.append((done, total))
    )
    names = (
        "DAPI (DeepLIIF)", "Ki67 (DeepLIIF)", "positive (DeepLIIF)", "negative (DeepLIIF)", "border (DeepLIIF)",
    )  # fmt: skip
    assert (derived.channels, derived.result_key, derived.show, derived.rgb) == (names, KEY, "apart", False)
    path = tmp_path / "derived" / derived.file
    found = open_image(path)
    assert (found.channel_names, found.shape, found.dtype) == (names, SHAPE, np.uint8)
    assert found.pixel_size_um == (0.25, 0.25)
    assert is_derived(path)
    pixels = found.levels[0].compute()
    red, green, blue = tissue(SHAPE, 1).astype(float)
    assert np.abs(pixels[0] - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51
    for plane, source in ((2, 0), (3, 2), (4, 1)):  # positive is red, negative blue, border green
        np.testing.assert_array_equal(pixels[plane], tissue(SHAPE, 3)[source])
    assert calls[-1] == (1, 1)
    assert not list((tmp_path / "work").iterdir())


def test_several_segmentations_are_told_apart() -> None:
    maps = Maps.of_arrays({name: tissue(SHAPE) for name in ("mod1", "Seg1", "Seg2")}, None, translator="DeepLIIFExt")
    channels = shown_channels(maps, ("mod1", "mod2"), ("Seg1", "Seg2"), None, None)
    assert [c.name for c in channels[:3]] == [
        "mod1 (DeepLIIFExt)",
        "Seg1 positive (DeepLIIFExt)",
        "Seg1 negative (DeepLIIFExt)",
    ]
    assert len(channels) == 7


def test_brightfield_stains_stay_in_colour(tmp_path: Path) -> None:
    maps, image = maps_of(SHAPE), picture(tissue(SHAPE))
    derived = write_brightfield(maps, image, "Hematoxylin", KEY, tmp_path, "0.5", quiet)
    assert (derived.rgb, derived.show, derived.title) == (True, "apart", "Hematoxylin, DeepLIIF")
    found = open_image(tmp_path / "derived" / derived.file)
    np.testing.assert_array_equal(found.levels[0].compute(), tissue(SHAPE))
    assert colours_of(found).channels == (0, 1, 2)
    again = write_brightfield(maps, image, "Hematoxylin", KEY, tmp_path, "0.5", quiet)  # takes its place
    assert again == derived
    assert len(list((tmp_path / "derived").iterdir())) == 1


@pytest.mark.parametrize("um", [0.5, 0.125, 0.2])
def test_maps_of_another_scale_are_brought_to_the_extent_of_the_slide(
    tmp_path: Path, um: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (61, 83)
    seen = Field.of(source, (um, um), 0.25)
    y, x = np.mgrid[: seen.shape[0], : seen.shape[1]]
    slope = np.clip(np.stack([y + x, y, x]) * 0.5 + 10, 0, 255).astype(np.uint8)
    maps = replace(Maps.of_arrays({"Hematoxylin": slope}, (0.25, 0.25)), field=seen)
    write = write_brightfield(maps, picture(tissue(source), um), "Hematoxylin", KEY, tmp_path / "a", "0.5", quiet)
    pixels = open_image(tmp_path / "a" / "derived" / write.file).levels[0].compute()
    assert pixels.shape == (3, *source)
    middle = (np.arange(20, 40) + 0.5) * um / 0.25 - 0.5  # of slide's pixels, in maps' pixels
    expected = np.clip(middle * 0.5 + 10, 0, 255)
    assert np.abs(pixels[1, 20:40, 40] - expected).max() < 1.1
    monkeypatch.setattr(derived_channels, "BLOCK", 16)  # however it is cut into blocks
    write_brightfield(maps, picture(tissue(source), um), "Hematoxylin", KEY, tmp_path / "b", "0.5", quiet)
    np.testing.assert_array_equal(open_image(tmp_path / "b" / "derived" / write.file).levels[0].compute(), pixels)
