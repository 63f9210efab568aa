"""The simulator: repeatable, consistent with its truth, and as large and varied as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.training.panels import demo_slide, scenarios
from mxbridge.training.simulator import Tissue, simulate
from mxbridge.training.tissue_settings import CellType, Marker, TissueSettings
from mxbridge.training.training_fields import random_settings


def small(**changes: object) -> TissueSettings:
    return replace(scenarios()["clean"], **({"height_um": 150, "width_um": 130} | changes))


@pytest.fixture(scope="module")
def slide():
    return demo_slide(5)


def test_demo_slide_is_what_the_readme_promises(slide: Tissue):
    assert slide.channels == ("DAPI", "CD3", "CD8", "CD20", "CD68", "PanCK", "Ki67", "FOXP3")
    assert slide.image.shape == (8, 1200, 1200) and slide.image.dtype == np.uint16
    assert 2500 <= slide.cells.max() <= 3600
    assert slide.truth.shape == (slide.cells.max(), 8)
    share = slide.truth.mean(0)
    assert share[0] == 1 and np.all((share[1:] > 0.02) & (share[1:] < 0.6))


def test_truth_follows_the_programme(slide: Tissue):
    cd3, cd8 = slide.truth[:, 1], slide.truth[:, 2]
    assert not (cd8 & ~cd3).any()
    assert not (cd3 & slide.truth[:, 3]).any()
    tumor = np.array(slide.types) == "Tumor"
    assert np.array_equal(tumor, slide.truth[:, 5])


def test_cells_have_natural_sizes(slide: Tissue):
    area = np.bincount(slide.cells.ravel())[1:] * 0.25
    diameter = 2 * np.sqrt(area / np.pi)
    assert np.quantile(diameter, 0.05) > 6 and np.quantile(diameter, 0.95) < 15


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_labels_are_consecutive_connected_and_nuclei_inside(seed):
    from skimage.measure import label

    tissue = simulate(random_settings(seed, size_um=90.0), seed)
    n = int(tissue.cells.max())
    assert np.array_equal(np.unique(tissue.cells[tissue.cells > 0]), np.arange(1, n + 1))
    assert tissue.truth.shape == (n, len(tissue.channels)) and len(tissue.types) == n
    assert label(tissue.cells, connectivity=1).max() == n
    nucleus = tissue.nuclei > 0
    assert np.array_equal(tissue.nuclei[nucleus], tissue.cells[nucleus])
    assert tissue.cells.dtype == tissue.nuclei.dtype == np.int32


def test_same_seed_same_arrays_and_another_seed_others():
    first, again, other = simulate(small(), 3), simulate(small(), 3), simulate(small(), 4)
    for name in ("image", "cells", "nuclei", "truth"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert first.types == again.types
    assert not np.array_equal(first.image, other.image)


def test_positive_cells_are_brighter_in_their_compartment():
    markers = (
        Marker("rim", membrane=1),
        Marker("body", membrane=0, cytoplasm=1),
        Marker("core", membrane=0, nucleus=1),
    )
    types = (
        CellType("none", 1.0),
        CellType("all", 1.0, positive=tuple((m.name, 1.0) for m in markers)),
    )
    tissue = simulate(small(markers=markers, types=types), 1)
    inside = tissue.nuclei > 0
    body = (tissue.cells > 0) & ~inside
    for index, zone in enumerate((body, body, inside)):
        positive = np.r_[False, tissue.truth[:, index]][tissue.cells]
        image = tissue.image[index].astype(float)
        assert image[zone & positive].mean() > 3 * image[zone & ~positive & (tissue.cells > 0)].mean() - 200
        elsewhere = inside if zone is body else body
        assert image[zone & positive].mean() > 1.3 * image[elsewhere & positive].mean()


def test_an_empty_marker_holds_no_signal():
    tissue = simulate(small(types=(CellType("none", 1.0),)), 1)
    assert not tissue.truth.any()
    assert tissue.image.max() < 3000


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"background": 0.5}, "mean"),
        ({"autofluorescence": 0.5}, "mean"),
        ({"matrix": 0.5}, "mean"),
        ({"specks_per_mm2": 2000}, "max"),
        ({"fibres_per_mm2": 500}, "mean"),
        ({"folds": 2}, "mean"),
        ({"bleed": 0.5}, "mean"),
        ({"membrane_sharing": 0.9}, "mean"),
    ],
)
def test_every_nuisance_changes_the_picture(change, more):
    base = getattr(simulate(small(), 2).image[1].astype(float), more)()
    assert getattr(simulate(small(**change), 2).image[1].astype(float), more)() > 1.02 * base


@pytest.mark.parametrize("change", [{"haze": 0.4}, {"psf_um": 1.5}, {"shading": 0.6}])
def test_optics_take_contrast(change):
    base = np.quantile(simulate(small(), 2).image[1], 0.99)
    assert np.quantile(simulate(small(**change), 2).image[1], 0.99) < 0.97 * base


def test_fewer_photons_are_noisier():
    def grain(photons: float) -> float:
        image = simulate(small(photons=photons), 2).image[5].astype(float)
        return float(np.abs(np.diff(image, axis=1)).mean())

    assert grain(10) > 1.5 * grain(1000)


def test_an_ion_counter_counts():
    markers = (Marker("dim", peak=1.5, photons=1.5), Marker("bright", peak=20, photons=20))
    types = (CellType("all", 1.0, positive=(("dim", 1.0), ("bright", 1.0))),)
    tissue = simulate(small(markers=markers, types=types, read_noise=0, offset=0), 1)
    dim, bright = tissue.image
    assert 0 < np.median(dim[dim > 0]) <= 2 and (dim == 0).mean() > 0.3
    assert bright.mean() == pytest.approx(20 / 1.5 * dim.mean(), rel=0.25)
    assert np.all(dim == dim.astype(int))


def test_a_field_with_hardly_a_cell():
    tissue = simulate(small(filled=0.0, gaps=0.0, height_um=30, width_um=30), 0)
    assert tissue.cells.max() <= 1 and tissue.truth.shape[0] == tissue.cells.max()


def test_pixel_size_keeps_the_tissue_in_um():
    half, full = simulate(small(um_per_px=0.5), 7), simulate(small(um_per_px=1.0), 7)
    assert full.image.shape == (8, 150, 130) and half.image.shape == (8, 300, 260)
    mean_area = [np.bincount(t.cells.ravel())[1:].mean() * t.settings.um_per_px**2 for t in (half, full)]
    assert mean_area[0] == pytest.approx(mean_area[1], rel=0.15)
