"""The embedded weights through the real inference path, against the simulator's truth."""

from __future__ import annotations

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest

from mxbridge.cells import LabelCells
from mxbridge.image import Channel, LocalImage
from mxbridge.models import catalogue
from mxbridge.models.normalization import fit
from mxbridge.stream.engine import Engine
from mxbridge.training.data import SimulatedPatches
from mxbridge.training.judge import auroc, best_f1, cell_means, cell_scores, f1
from mxbridge.training.nimbus import grow, recipe_hash
from mxbridge.training.panels import demo_slide, scenarios
from mxbridge.training.simulator import Tissue, simulate


def as_image(tissue: Tissue) -> tuple[LocalImage, LabelCells]:
    um = tissue.settings.um_per_px
    channels = tuple(Channel(name) for name in tissue.channels)
    image = LocalImage("tissue", (da.from_array(tissue.image),), channels, (um, um), "a")
    n = int(tissue.cells.max())
    boxes = np.tile([0, 0, *tissue.cells.shape], (n, 1)).astype(np.int64)
    ids = tuple(str(k + 1) for k in range(n))
    cells = LabelCells(
        ids, (None,) * n, tissue.cells.shape, da.from_array(tissue.cells), np.arange(1, n + 1), boxes, "b"
    )
    return image, cells


@pytest.fixture(scope="module")
def model():
    return catalogue.open_model(catalogue.resolve("demo"))


def test_the_card_is_of_these_settings():
    """Who changes the simulator's settings must train anew, or keep the old ones for these weights."""
    card = catalogue.resolve("demo").card
    patches = SimulatedPatches(lambda n: grow(card.seed, n), card.um_per_px, card.seed)
    assert card.settings_hash == recipe_hash(card.seed, patches)


def scores(model, tissue: Tissue) -> np.ndarray:
    image, cells = as_image(tissue)
    columns = {name: index for index, name in enumerate(tissue.channels)}
    factors = fit([("tissue", image, columns)]).for_image("tissue", tissue.channels)
    return model.score(image, cells, range(len(tissue.channels)), factors, Engine(device="cpu")).score.T


@pytest.mark.parametrize("um_per_px", [0.5, 0.325, 1.0])
def test_inference_sees_what_training_saw(model, um_per_px):
    tissue = simulate(replace(scenarios()["clean"], height_um=71, width_um=83, um_per_px=um_per_px), 11)
    assert np.allclose(scores(model, tissue), cell_scores(model.network, tissue, 1.0, model.stride), atol=1e-5)


@pytest.mark.parametrize("seed", [31, 32])
def test_far_better_than_chance_on_clean_tissue(model, seed):
    tissue = simulate(replace(scenarios()["clean"], height_um=150, width_um=150), seed)
    got = scores(model, tissue)
    assert tissue.truth.shape[0] > 100
    for marker, name in enumerate(tissue.channels):
        truth = tissue.truth[:, marker]
        if truth.sum() >= 3 and not truth.all():
            assert auroc(truth, got[:, marker]) > 0.9, name


@pytest.mark.slow
def test_every_marker_of_the_demonstration_slide(model):
    tissue = demo_slide(77)
    got = scores(model, tissue)
    for marker, name in enumerate(tissue.channels):
        assert f1(tissue.truth[:, marker], got[:, marker] >= 0.5) > 0.8, name


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["artefacts", "autofluorescence", "all at once"])
def test_better_than_any_threshold_on_intensity_where_it_is_hard(model, scenario):
    tissue = simulate(scenarios()[scenario], 41)
    got, means = scores(model, tissue), cell_means(tissue)
    judged = [m for m in range(len(tissue.channels)) if not tissue.truth[:, m].all()]
    ours = np.mean([f1(tissue.truth[:, m], got[:, m] >= 0.5) for m in judged])
    rival = np.mean([best_f1(tissue.truth[:, m], means[:, m]) for m in judged])
    assert ours > rival
