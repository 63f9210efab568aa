"""The whole command beside the published program: its pictures, counts and JSON, from its own weights files and Seg images."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.shared

Mxbridge = Callable[..., tuple[int, str, str]]
PICTURES = ("mod1-Hema", "mod2-DAPI", "mod3-Lap2", "mod4-Marker", "Seg", "SegOverlaid", "SegRefined")


@pytest.fixture(scope="module")
def weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    with tarfile.open(shared / "oracles" / "deepliif" / "weights_eager_pth.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return next(folder.rglob("train_opt.txt")).parent


@pytest.fixture
def tile(shared: Path) -> Path:
    return shared / "oracles" / "deepliif" / "output_512" / "22_2.png"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.slow
def test_compat_writes_what_the_peer_writes(mxbridge: Mxbridge, weights: Path, tile: Path) -> None:
    words = ["--model", weights, "--files", tile, "--compat", "deepliif", "--tile-size", 512, "--outputs", "all"]
    code, out, err = mxbridge("translate", *words, "--json")
    assert code == 0, err
    (image,) = json.loads(out)["images"]
    truth = json.loads(tile.with_name("22_2.json").read_text())
    assert (truth["num_total"], truth["num_pos"]) == (95, 15)
    assert image["score"] == truth
    folder = Path(json.loads(out)["folder"]) / "images" / "0001-22_2"
    assert json.loads((folder / "22_2.json").read_text()) == truth
    for name in PICTURES:
        apart = np.abs(pixels(folder / f"22_2_{name}.png") - pixels(tile.with_name(f"22_2_{name}.png"))).max(axis=2)
        assert apart.max() <= 1, name
        assert np.count_nonzero(apart) < 0.01 * apart.size, name
    code, out, err = mxbridge("translate", "--rescore", folder.parents[1], "--seg-threshold", 150, "--json")
    assert code == 0, err
    assert json.loads(out)["images"][0]["score"]["seg_thresh"] == 150


def test_windows_at_the_models_scale(mxbridge: Mxbridge, weights: Path, tile: Path) -> None:
    """Weights, statistics and images are chosen; nuclei are parted; only the networks that are needed have run."""
    words = ["--model", weights, "--files", tile, "--um-per-px", 0.25, "--no-publish", "--json"]
    code, out, err = mxbridge("translate", *words, "--weighting", "test", "--marker", "Ki67")
    assert code == 0, err
    (image,) = json.loads(out)["images"]
    assert sorted(image["maps"]["networks"]) == ["G4", "G51", "G55"]
    assert image["score"]["num_total"] > 50
    assert json.loads(out)["model"]["weighting"] == {"name": "test", "values": [0.5, 0, 0, 0, 0.5]}
    folder = Path(json.loads(out)["folder"]) / "images" / "0001-22_2"
    assert "Ki67 mean" in (folder / "nuclei.csv").read_text(encoding="utf-8").splitlines()[0]
    code, out, err = mxbridge("translate", *words, "--weighting", "test", "--separate", "--statistics", "slide")
    assert code == 0, err
    (parted,) = json.loads(out)["images"]
    assert parted["maps"]["sample"] is not None
    assert "G3" in parted["maps"]["networks"]


SETTINGS: dict[str, list[str]] = {
    "default_nomarker": [],
    "marker_thresh_default": ["--marker-threshold", "auto"],
    "seg150_nomarker": ["--seg-threshold", "150"],
    "seg120_size0": ["--size-threshold", "0"],
    "size50_upper400": ["--size-threshold", "50", "--size-upper", "400"],
    "largenoise_default": ["--large-noise-threshold", "auto"],
    "res20x": ["--resolution", "20x"],
    "res10x": ["--resolution", "10x"],
}
"""What the published program was asked for, as options."""


@pytest.mark.parametrize("name", SETTINGS)
def test_official_segmentations_have_the_peers_counts(mxbridge: Mxbridge, shared: Path, name: str) -> None:
    with gzip.open(shared / "oracles" / "deepliif" / "postprocessing_truth.json.gz") as stream:
        truth: dict[str, Any] = json.load(stream)
    results = shared / "data" / "deepliif" / "test_DeepLIIF_results"
    samples = ("6_2", "34_3")
    words: list[Any] = ["--outputs", "score", "--json", *SETTINGS[name]]
    for sample in samples:
        words += ["--from-seg", results / f"{sample}_fake_B_5.png"]
        if "--marker-threshold" in words:
            words += ["--marker-image", results / f"{sample}_fake_B_4.png"]
    code, out, err = mxbridge("translate", *words)
    assert code == 0, err
    found = [image["score"] for image in json.loads(out)["images"]]
    assert found == [truth[sample][name]["scoring"] for sample in samples]
