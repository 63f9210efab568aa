"""Maps on disk and in memory, what decides their pixels, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from toy_translator import ToyTranslator, picture, quiet, tissue

from mxbridge.errors import BrokenFile, InputError, NoPixelSize, NotApplicable, SourceError, UsageError
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.translators import Weighting
from mxbridge.stream.engine import Engine
from mxbridge.tasks.mapping.maps import Maps, MapSettings, map_basis
from mxbridge.tasks.mapping.windows_run import make_maps

SHAPE = (70, 90)
SETTINGS = MapSettings(("Seg", "Marker"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    image, target = picture(tissue(SHAPE)), tmp_path / "maps.zarr"
    make_maps(image, ToyTranslator(), Engine(device="cpu"), SETTINGS, tmp_path / "work", target, None, quiet)
    return target


def test_maps_are_read_again(kept: Path) -> None:
    maps = Maps.open(kept)
    assert (maps.images, maps.shape, maps.um_per_px) == (("Seg", "Marker"), SHAPE, (0.25, 0.25))
    assert (maps.translator, maps.compat, maps.made["windows"]) == ("Toy", False, 4)
    assert maps.field.shape == SHAPE
    assert maps.read("Marker", Box(3, 4, 13, 44)).shape == (3, 10, 40)
    with pytest.raises(InputError, match=r"no image DAPI.*Seg, Marker"):
        maps.read("DAPI", Box(0, 0, 1, 1))


def test_maps_from_arrays() -> None:
    seg = tissue(SHAPE)
    maps = Maps.of_arrays({"Seg": seg}, (0.5, 0.5))
    assert (maps.images, maps.shape, maps.um_per_px, maps.fingerprint) == (("Seg",), SHAPE, (0.5, 0.5), "")
    np.testing.assert_array_equal(maps.read("Seg", Box(5, 6, 20, 30)), seg[:, 5:20, 6:30])


@pytest.mark.parametrize(
    ("images", "what"),
    [
        ({}, "none given"),
        ({"Seg": np.zeros((4, 5), np.uint8)}, "one size"),
        ({"Seg": np.zeros((3, 0, 5), np.uint8)}, "one size"),
        ({"Seg": np.zeros((3, 4, 5), np.uint8), "Marker": np.zeros((3, 4, 6), np.uint8)}, r"Marker \(3, 4, 6\)"),
        ({"Seg": np.zeros((3, 4, 5), np.uint16)}, "8 bits"),
    ],
)
def test_arrays_that_are_no_maps(images: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        Maps.of_arrays(images, None)


def attributes(path: Path, change: dict[str, Any]) -> None:
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["mxbridge"].update(change)
    (path / "zarr.json").write_text(json.dumps(document))


def test_unfinished_and_foreign_folders_are_no_maps(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there are no maps"):
        Maps.open(tmp_path / "none")
    with pytest.raises(BrokenFile, match="no finished maps"):
        Maps.open(tmp_path)
    attributes(kept, {"made": {}})
    with pytest.raises(BrokenFile, match="no finished maps"):
        Maps.open(kept)
    (kept / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(BrokenFile, match="no finished maps"):
        Maps.open(kept)


@pytest.mark.parametrize(
    "change",
    [
        {"images": ["Seg", "Marker", "DAPI"]},
        {"images": []},
        {"full": [1 << 40, 90]},
        {"full": ["a", 90]},
        {"ratio": [0.0, 1.0]},
        {"ratio": [1e308, 1.0]},
        {"um_per_px": 3},
        {"made": "yes"},
        {"images": [["../other"], "Marker", "x"]},
    ],
)
def test_damaged_attributes_are_one_line(kept: Path, change: dict[str, Any]) -> None:
    attributes(kept, change)
    with pytest.raises(BrokenFile, match="damaged"):
        Maps.open(kept)


def test_a_damaged_chunk_is_one_line(kept: Path) -> None:
    chunk = next(path for path in (kept / "0" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(b"\0" * 7)
    with pytest.raises(BrokenFile, match="the map Seg cannot be read"):
        Maps.open(kept).read("Seg", Box(0, 0, *SHAPE))


def test_everything_that_decides_pixels_is_in_the_basis() -> None:
    image, toy = picture(tissue(SHAPE)), ToyTranslator()
    base = map_basis(toy, image, SETTINGS)
    assert map_basis(ToyTranslator(), picture(tissue(SHAPE)), SETTINGS) == base
    others = [
        map_basis(toy, picture(tissue(SHAPE, seed=2)), SETTINGS),
        map_basis(toy, image.with_pixel_size(0.3), SETTINGS),
        map_basis(replace(toy, weights_sha256="others"), image, SETTINGS),
        map_basis(replace(toy, samples_slide=True), image, SETTINGS),
        map_basis(replace(toy, window=128), image, SETTINGS),
        map_basis(toy, image, replace(SETTINGS, images=("Seg",))),
        map_basis(toy, image, replace(SETTINGS, overlap=8)),
        map_basis(toy, image, replace(SETTINGS, weighting=Weighting.parse("paper", 5))),
        map_basis(toy, image, replace(SETTINGS, skip_blank=False)),
        map_basis(toy, image, replace(SETTINGS, compat=True, tile_size=64)),
        map_basis(toy, image, replace(SETTINGS, compat=True, tile_size=32)),
        map_basis(toy, image.with_pixel_size(0.3), replace(SETTINGS, compat=True, tile_size=32)),
    ]
    hashes = {json.dumps(basis, sort_keys=True) for basis in [base, *others]}
    assert len(hashes) == 1 + len(others)
    frozen = map_basis(toy, image, replace(SETTINGS, statistics="slide"))
    assert frozen["statistics"]["windows"] == 2  # networks sample fewer windows than what learns colours
    assert json.dumps(frozen, sort_keys=True) not in hashes


def test_what_is_refused_before_pixels_are_read() -> None:
    toy, pixels = ToyTranslator(), tissue(SHAPE)
    with pytest.raises(NoPixelSize, match="--um-per-px"):
        map_basis(toy, picture(pixels, None), SETTINGS)
    map_basis(toy, picture(pixels, None), replace(SETTINGS, compat=True, tile_size=512))
    with pytest.raises(InputError, match="more than a factor of 4"):
        map_basis(toy, picture(pixels, 2.0), SETTINGS)
    with pytest.raises(InputError, match="2 pictures of the same place"):
        map_basis(replace(toy, input_images=2), picture(pixels), SETTINGS)
    with pytest.raises(UsageError, match="overlap"):
        map_basis(toy, picture(pixels), replace(SETTINGS, overlap=33))
    markers = LocalImage(
        "panel", (da.zeros((3, 9, 9), dtype=np.uint16),), tuple(Channel(c) for c in ("DAPI", "CD3", "CD8")), (1, 1), "m"
    )
    with pytest.raises(NotApplicable, match=r"panel is a fluorescence image \(3 channels of uint16: DAPI, CD3, CD8\)"):
        map_basis(toy, markers, SETTINGS)


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="--statistics slide"):
        MapSettings(("Seg",), compat=True, tile_size=512, statistics="slide")
    for compat, tile in ((False, 512), (True, None)):
        with pytest.raises(UsageError, match="go together"):
            MapSettings(("Seg",), compat=compat, tile_size=tile)
