"""``--compat deepliif``: the published program's own tiles, pasted as it pastes them, within one grey level.

Its outputs for images that are no single tile are in the folder of oracles (recipes in its meta.json).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from toy_translator import picture, quiet

from mxbridge.image import Box
from mxbridge.metrics.seams import seam_score
from mxbridge.models.translators import Translator, Weighting, open_translator
from mxbridge.stream.engine import Engine
from mxbridge.tasks.mapping.maps import Maps, MapSettings
from mxbridge.tasks.mapping.windows_run import MadeMaps, make_maps

pytestmark = pytest.mark.shared

PEER = {"mod2-DAPI": "DAPI", "Seg": "Seg"}
Pixels = NDArray[np.uint8]
GEOMETRIES: dict[str, tuple[Callable[[Pixels], Pixels], int, int]] = {
    "tiles_640x560": (lambda rgb: np.pad(rgb, ((24, 24), (64, 64), (0, 0)), "reflect"), 512, 4),
    "small_300x200": (lambda rgb: rgb[100:300, 50:350], 512, 1),
    "tile256_on_512": (lambda rgb: rgb, 256, 9),
    "duplicate_tile_960x512": (lambda rgb: np.pad(rgb, ((0, 0), (0, 448), (0, 0)), "reflect"), 512, 2),
}


@pytest.fixture(scope="module")
def oracle(shared: Path) -> Path:
    return shared / "oracles" / "deepliif"


@pytest.fixture(scope="module")
def translator(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Translator:
    folder = tmp_path_factory.mktemp("weights")
    with tarfile.open(oracle / "weights_eager_pth.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return open_translator(next(folder.rglob("train_opt.txt")).parent)


@pytest.fixture(scope="module")
def tile(oracle: Path) -> Pixels:
    return np.asarray(Image.open(oracle / "output_512" / "22_2.png").convert("RGB"))


def made(pixels: Pixels, translator: Translator, folder: Path, um: float | None = None, **settings: Any) -> MadeMaps:
    """pixels: ``(y, x, 3)``."""
    weighting = Weighting.parse("test", 5)
    chosen = MapSettings(tuple(PEER.values()), weighting=weighting, **settings)
    image = picture(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), um)
    return make_maps(image, translator, Engine(device="cpu"), chosen, folder / "work", folder / "maps", None, quiet)


@pytest.mark.slow
@pytest.mark.parametrize("name", GEOMETRIES)
def test_tiles_are_cut_and_pasted_as_published(
    name: str, oracle: Path, translator: Translator, tile: Pixels, tmp_path: Path
) -> None:
    recipe, side, windows = GEOMETRIES[name]
    found = made(recipe(tile), translator, tmp_path, compat=True, tile_size=side)
    assert (found.windows, found.run) == (windows, windows)
    with np.load(oracle / f"geometry_{name}.npz") as expected:
        for peer, image in PEER.items():
            pixels = np.moveaxis(found.maps.read(image, Box(0, 0, *found.maps.shape)), 0, -1)[::4, ::4]
            difference = np.abs(pixels.astype(int) - expected[peer])
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001


def test_a_blank_tile_has_the_colours_of_the_published_program(
    oracle: Path, translator: Translator, tmp_path: Path
) -> None:
    blank = np.broadcast_to(np.array([240, 238, 241], np.uint8), (512, 512, 3))
    found = made(blank, translator, tmp_path, compat=True, tile_size=512)
    colours = json.loads((oracle / "meta.json").read_text())["geometries"]["blank_512"]["colours"]
    assert (found.run, found.skipped) == (0, {"blank": 1})
    for peer, image in PEER.items():
        pixels = found.maps.read(image, Box(0, 0, 512, 512)).reshape(3, -1)
        assert np.unique(pixels, axis=1).T.tolist() == colours[peer]


def seams(maps: Maps) -> float:
    def read(*box: int) -> NDArray[np.uint8]:
        return maps.read("DAPI", Box(*box))

    rows, columns = maps.made["seams"]
    return seam_score(read, maps.shape, rows, columns).score


@pytest.mark.slow
def test_networks_show_seams_when_pasted_and_hardly_when_blended_or_frozen(
    translator: Translator, tile: Pixels, tmp_path: Path
) -> None:
    dark = (tile[:, ::-1].astype(np.float32) * 0.6).astype(np.uint8)  # windows beside each other that differ
    pixels = np.concatenate([tile, dark], axis=1)[:, :896]
    compat = made(pixels, translator, tmp_path / "compat", compat=True, tile_size=512)
    blended = made(pixels, translator, tmp_path / "blended", 0.25)
    frozen = made(pixels, translator, tmp_path / "frozen", 0.25, statistics="slide")
    assert seams(compat.maps) > 1.5 > 1 > max(seams(blended.maps), seams(frozen.maps))
    assert blended.disagreement["DAPI"] > 5 > 0.1 > frozen.disagreement["DAPI"]
    assert blended.disagreement["Seg"] > 3 * frozen.disagreement["Seg"] > 0  # U-Nets see the whole window
