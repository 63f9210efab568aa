"""What the benchmark of imputation compares: its images, its checkpoint, the way it runs the other program, its checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from benchmarks import imputation, impute, imputing, peers, slides, tissue
from mxbridge.networks.maxim_unet import MaximUNet

SIZE = (70, 130)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[slides.Slide, Path]:
    folder = tmp_path_factory.mktemp("made")
    return slides.slide(folder, *SIZE), slides.random_weights(folder)[0]


def test_both_programs_get_the_same_pixels(made: tuple[slides.Slide, Path]) -> None:
    at, _ = made
    planes = np.load(at.array)
    with tifffile.TiffFile(at.image) as tiff:
        assert np.array_equal(tiff.asarray(), planes)
        assert all(f'Name="{name}"' in str(tiff.ome_metadata) for name in slides.PANEL)
    assert (planes.shape, planes.dtype) == ((len(slides.PANEL), *SIZE), np.uint8)
    assert all(plane.std() > 10 for plane in planes)
    assert at.table.read_text() == f"Image_Path,Split_Name\n{at.array},test\n"


def test_the_network_alone_gives_what_the_published_layout_gives(
    made: tuple[slides.Slide, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, checkpoint = made
    report, kept = tmp_path / "r.json", tmp_path / "kept.npy"
    given = (at.image, checkpoint, report, "--pad", 144, "--keep", kept)
    monkeypatch.setattr(sys, "argv", ["imputing", *map(str, given)])
    imputing.main()
    record = json.loads(report.read_text())
    assert (record["pixels"], record["tiles"]) == (SIZE[0] * SIZE[1], 1)
    assert record["cpu"] > 0
    network = MaximUNet(len(slides.INPUTS)).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    inputs = np.load(at.array)[[slides.PANEL.index(name) for name in slides.INPUTS]]
    padded = np.pad(inputs.astype(np.float32) / 255, ((0, 0), (0, 144 - SIZE[0]), (0, 144 - SIZE[1])))
    with torch.inference_mode():
        theirs = network(torch.from_numpy(padded)[None])[0, 0, : SIZE[0], : SIZE[1]].numpy()
    assert "largest difference" in impute.same_maps(theirs, np.load(kept))


def test_maps_that_differ_are_no_equal_work() -> None:
    theirs = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    other = theirs.copy()
    other[3, 4] += 2e-5
    broken = theirs.copy()
    broken[3, 4] = np.nan
    for ours, why in ((other, "differ by 2"), (broken, "differ by nan"), (theirs[:9], "peer's map is")):
        with pytest.raises(RuntimeError, match=why):
            impute.same_maps(theirs, ours)
    with pytest.raises(RuntimeError, match="spans only"):
        impute.same_maps(np.full((2, 2), 0.5), np.full((2, 2), 0.5))


def test_costs_are_those_of_the_tiles(tmp_path: Path) -> None:
    for name, cpu, pixels in (
        (impute.ONE_PASS, 10.0, 1_000_000),
        (impute.TILES.format(impute.LARGE), 48.0, 4_000_000),
        (impute.TILES.format(impute.LARGEST), 208.0, 16_000_000),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"cpu": cpu, "pixels": pixels, "tiles": 1}))
    lines = impute._cost_per_pixel(tmp_path)
    assert [line.partition("x one pass")[2][:21] for line in lines] == [
        "",
        " (bar 1.25: kept).",
        " (bar 1.25: **missed*",
    ]


PEER = """
import numpy as np
import pandas, torch
import torchvision.transforms as transforms
from captum.attr import IntegratedGradients
from scipy import stats as st
from skimage.metrics import structural_similarity as ssim

class Trainer:
    def __init__(self, panel, inputs, outputs, out, lr=0.002, seed=1):
        self.lowest = np.Inf
        self.said = [panel, inputs, outputs]
        self.out = out

    def eval(self, table, split_name="test", img_size=256, batch_size=64, num_workers=4):
        crop = transforms.Compose([transforms.CenterCrop(img_size)])
        self.said += [table, split_name, img_size, batch_size, num_workers]
        self.said += [list(crop(np.zeros((1, img_size, img_size))).shape)]
        self.said += [sorted(self.pixel_metrics(1, 2, max_val=255, baseline=b)) for b in (False, True)]
        open(self.out + "/said", "w").write(repr(self.said))
        try:
            crop(np.zeros((1, 5, img_size)))
        except SystemExit:
            return
        raise RuntimeError("an image was cut")
"""


def test_the_peer_is_run_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "source/maxim").mkdir(parents=True)
    (tmp_path / "source/maxim/__init__.py").write_text(PEER)
    (tmp_path / "out").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"weights")
    given = (tmp_path / "source", "table.csv", tmp_path / "weights.pt", tmp_path / "out", "A,B,C", "B", 64)
    subprocess.run([sys.executable, str(peers.HERE / "maxim.py"), *map(str, given)], check=True)
    assert (tmp_path / "out/checkpoint.pt").read_bytes() == b"weights"
    metrics = sorted(("MAE", "MSE", "SSIM", "PSNR", "RMSE"))
    said = [["A", "B", "C"], ["A", "C"], ["B"], "table.csv", "test", 64, 1, 0, [1, 64, 64]]
    assert (tmp_path / "out/said").read_text() == repr([*said, sorted([*metrics, "Corr", "p-value"]), metrics])


@pytest.mark.parametrize("peer", sorted(peers.CHECKOUTS))
def test_another_version_of_the_peer_is_not_measured(
    peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = peers.CHECKOUTS[peer]
    monkeypatch.setenv("MXBRIDGE_PEERS", str(tmp_path))
    with pytest.raises(RuntimeError, match=rf"git clone .* && git -C .*{peer} checkout {wanted.commit}"):
        peers.source(peer)
    for name in wanted.files:
        path = tmp_path / peer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# something else")
    with pytest.raises(RuntimeError, match=r"\.py is missing or another version"):
        peers.source(peer)


COLUMNS = ("marker", "method", "mae", "cell_pearson", "pearson", "smooth_iou")
ROWS = [
    ("CD3", "model", 0.1, 0.9, 0.8, 0.5), ("CD3", "ridge", 0.3, 0.7, 0.6, 0.4), ("CD3", "ridge 3x3", 0.2, 0.8, 0.7, 0.6),
    ("DNA1", "model", 0.2, 0.9, 0.8, ""), ("DNA1", "ridge", 0.1, 0.9, 0.6, 0.4), ("DNA1", "ridge 3x3", 0.2, 0.8, 0.9, 0.3),
]  # fmt: skip


def test_tables_of_quality_say_who_is_ahead(tmp_path: Path) -> None:
    path = tmp_path / "markers.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in [COLUMNS, *ROWS]))
    scores, markers = imputation.read_scores(path), ("DNA1", "CD20", "CD3")
    spectre, orion = imputation.MEASURES["spectre"], imputation.MEASURES["orion"]
    lines = imputation.table(scores, markers, spectre).splitlines()
    assert lines[0] == (
        "| marker | MAE: model | MAE: ridge 3x3 | MAE: ridge | "
        "Pearson of cells: model | Pearson of cells: ridge 3x3 | Pearson of cells: ridge |"
    )
    assert lines[2] == "| DNA1 | 0.2000 | 0.2000 | **0.1000** | **0.9000** | 0.8000 | **0.9000** |"
    assert lines[3] == "| CD3 | **0.1000** | 0.2000 | 0.3000 | **0.9000** | 0.8000 | 0.7000 |"
    assert lines[4].startswith("| **mean** | 0.1500 | 0.2000 |")
    assert imputation.verdict(scores, markers, spectre, "spectre") == [
        "- ahead of ridge 3x3 in MAE: 1 of 2 markers",
        "- ahead of ridge 3x3 in Pearson of cells: 2 of 2 markers",
        "- in all of them: 1 of 2 (bar 9: **missed**); not: DNA1",
        "- DNA1 no worse than ridge: **missed** in MAE",
    ]
    assert imputation.verdict(scores, markers, orion, "orion")[:3] == [
        "- ahead of ridge 3x3 in Pearson of pixels: 1 of 2 markers",
        "- ahead of ridge 3x3 in smoothed IoU: 0 of 2 markers",
        "- in all of them: 0 of 2; not: DNA1, CD3",
    ]
    path.write_text(path.read_text() + "\nCD3,model,0,0,0,0")
    with pytest.raises(RuntimeError, match="two models impute CD3"):
        imputation.read_scores(path)


@pytest.mark.shared
def test_real_fields_keep_all_their_channels(shared: Path, tmp_path: Path) -> None:
    found = tissue.spectre(shared / "data", tmp_path)
    assert (found.train, found.test) == (("ROI002", "ROI004", "ROI006"), ("ROI008",))
    assert len(found.markers) == 13 and {"DNA1", "DNA3"} < set(found.markers)
    counts = tifffile.imread(next((shared / "data/imc_spectre/ROI008").glob("CD3_*.tiff")))
    assert np.array_equal(tifffile.imread(found.images["ROI008"])[found.markers.index("CD3")], counts)
    field = ["--files", str(tmp_path / "ROI008.ome.tif")]
    masks = ["--labels", str(found.masks["ROI008"]), "--stretched-labels"]
    assert found.options(found.test, cells=True) == [*field, *masks, "--panel", str(found.panel)]
    assert found.options(found.test, cells=False) == [*field, "--panel", str(found.panel)]
    assert found.panel.read_text().splitlines()[1] == "CD11b,CD11b,marker,1"
