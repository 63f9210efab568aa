"""Real tissue (imaging mass cytometry): stains spoiled on purpose are found, and their victims are not blamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors.torch import save_file

from mxbridge.metrics.moments import MomentSums
from mxbridge.models.card import ModelCard
from mxbridge.models.linear_start import LinearStart
from mxbridge.models.maxim import Maxim, from_card
from mxbridge.models.scaling import Scaling
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.stream.engine import Engine
from mxbridge.tasks.qc import QcOptions, qc
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.linked_stains import scrambled, seen_in

MARKERS = (
    "CD11b",
    "CD20",
    "CD3",
    "CD45",
    "CD4",
    "CD68",
    "CD8a",
    "CollagenI",
    "DNA1",
    "DNA3",
    "HistoneH3",
    "VIM",
    "alphaSMA",
)
HELD_BACK = 125
"""Rows of every training field."""

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def fields(shared: Path) -> dict[str, np.ndarray]:
    """Counts ``(13, y, x)``; ROI006 is the new image here."""
    folder = shared / "data" / "imc_spectre"

    def read(name: str) -> np.ndarray:
        return np.stack([tifffile.imread(next((folder / name).glob(f"{marker}_*.tiff"))) for marker in MARKERS])

    return {name: read(name) for name in ("ROI002", "ROI004", "ROI006")}


@pytest.fixture(scope="module")
def model(fields: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Maxim:
    """A model that is nothing but its linear start, fitted on two fields without their held-back rows."""
    training = [fields[name][:, HELD_BACK:] for name in ("ROI002", "ROI004")]
    pooled = np.concatenate([np.arcsinh(f / 5).reshape(len(MARKERS), -1) for f in training], axis=1)
    scalings = {
        m: Scaling("arcsinh", 0.0, float(high))
        for m, high in zip(MARKERS, np.quantile(pooled, 0.995, axis=1), strict=True)
    }
    sums = MomentSums(len(MARKERS))
    high = np.array([s.high for s in scalings.values()])[:, None, None]
    for field in training:
        sums.add(np.clip(np.arcsinh(field / 5) / high, 0, 1).astype(np.float32))
    network = MaximUNet(2 * len(MARKERS), len(MARKERS), 2)
    network.conv.weight.data.zero_()
    assert network.conv.bias is not None
    network.conv.bias.data.zero_()
    path = tmp_path_factory.mktemp("model") / "linear.safetensors"
    save_file(network.state_dict(), path)
    card = ModelCard(
        name="MAXIM",
        system="maxim",
        um_per_px=1.0,
        channels=MARKERS,
        outputs=MARKERS,
        any_marker=True,
        scaling={m: s.to_json() for m, s in scalings.items()},
        linear_start=LinearStart(MARKERS, sums.mean, sums.products / sums.n).to_json(),
    )
    held_back = [fields[name][:, :HELD_BACK] for name in ("ROI002", "ROI004")]
    card.validation.update(seen_in(from_card(path, card), held_back, MARKERS, 1.0))
    return from_card(path, card)


def judged(model: Maxim, pixels: np.ndarray, home: Path) -> dict[str, str]:
    workspace = MemoryWorkspace({"ROI006": (pixels, MARKERS, 1.0)}, runs_home=home)
    finished, rows = qc(workspace, [model], Engine(device="cpu"), QcOptions())
    finished.raise_for_errors()
    return {row.marker: row.verdict for row in rows}


def spoiled(pixels: np.ndarray, marker: str, how: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    out = pixels.copy()
    out[MARKERS.index(marker)] = how(out[MARKERS.index(marker)])
    return out


def test_a_good_field_of_another_slide_place(model: Maxim, fields: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert set(judged(model, fields["ROI006"], tmp_path).values()) <= {"ok", "not judged"}


@pytest.mark.parametrize(
    ("marker", "how", "victims"),
    [
        ("DNA1", lambda plane: np.roll(plane, 8, axis=1), {"DNA3"}),
        ("CD8a", lambda plane: np.roll(plane, 10, axis=0), set()),
        ("CD45", np.zeros_like, set()),
        ("CD3", scrambled, set()),
    ],
)
def test_a_spoiled_stain_is_flagged_and_its_victims_are_not(
    model: Maxim,
    fields: dict[str, np.ndarray],
    tmp_path: Path,
    marker: str,
    how: Callable[[np.ndarray], np.ndarray],
    victims: set[str],
) -> None:
    verdicts = judged(model, spoiled(fields["ROI006"], marker, how), tmp_path)
    assert [m for m, verdict in verdicts.items() if verdict == "flagged"] == [marker]
    suspects = {m for m, verdict in verdicts.items() if verdict.startswith("suspect")}
    assert {verdicts[m] for m in suspects} <= {f"suspect input {marker}"}
    assert victims <= suspects
