"""Training sees what inference sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mxbridge.models.nimbus_input import inner_mask
from mxbridge.training.data import SimulatedPatches, foreground_quantile, jitter, prepare
from mxbridge.training.losses import IGNORE
from mxbridge.training.panels import scenarios
from mxbridge.training.simulator import Tissue, simulate
from mxbridge.training.training_fields import random_settings


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return simulate(replace(scenarios()["clean"], height_um=120, width_um=101), 1)


def patches(**options: object) -> SimulatedPatches:
    def grow(n: int) -> Tissue:
        return simulate(random_settings(n, size_um=60.0), n)

    return SimulatedPatches(grow, 1.0, 7, **({"batch": 4, "side": 32, "window": 3, "renew": 2} | options))


def test_integer_scale_is_the_plain_block_average(tissue):
    sample = prepare(tissue, 1.0)
    height, width = tissue.cells.shape[0] // 2, tissue.cells.shape[1] // 2
    assert tuple(sample.mask.shape) == (height, width)
    plane = np.clip(tissue.image[3] / foreground_quantile(tissue.image[3]), 0, 1)
    blocks = plane.reshape(height, 2, width, 2).mean((1, 3))
    assert np.allclose(sample.planes[3], blocks, atol=1e-6)
    cover = inner_mask(tissue.cells).reshape(height, 2, width, 2).mean((1, 3))
    assert np.array_equal(sample.mask.numpy(), (cover >= 0.5).astype(np.float32))


def test_targets_are_the_truth_of_the_cells(tissue):
    sample = prepare(tissue, tissue.settings.um_per_px)
    for marker in range(len(tissue.channels)):
        wanted = np.r_[False, tissue.truth[:, marker]][tissue.cells]
        assert np.array_equal(sample.target[marker].numpy(), wanted.astype(np.float32))
    coarse = prepare(tissue, 1.0).target
    assert (coarse == IGNORE).any()
    known = coarse[coarse != IGNORE]
    assert known.min() >= 0 and known.max() <= 1


def test_batches_depend_on_the_step_alone():
    one, other = patches(), patches()
    for step in (5, 0, 3):
        other(step)
    for step in range(6):
        for a, b in zip(one(step), other(step), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one(0)[0], one(1)[0])


def test_inputs_targets_and_cells_are_turned_alike():
    drawn = patches(batch=12)
    drawn(0)
    for sample in drawn._kept.values():  # every cell is wholly positive or wholly negative, so is its target
        sample.planes.copy_(sample.mask.expand_as(sample.planes))
    inputs, target, cells = drawn(0)
    assert (inputs[:, 0] > 0.5).eq(inputs[:, 1] > 0).float().mean() > 0.98
    for patch in range(12):
        for label in cells[patch].unique()[1:]:
            inside = (cells[patch] == label) & (inputs[patch, 1:] > 0)
            if inside.sum() > 9:
                assert target[patch][inside].std() < 0.3


def test_batches_have_the_networks_shape_and_range():
    inputs, target, cells = patches()(0)
    assert inputs.shape == (4, 2, 32, 32) and target.shape == cells.shape == (4, 1, 32, 32)
    assert inputs.dtype == target.dtype == torch.float32
    assert inputs.min() >= 0 and inputs.max() <= 1
    assert set(inputs[:, 1].unique().tolist()) <= {0.0, 1.0}


def test_fields_are_renewed():
    drawn = patches()
    drawn(0)
    early = set(drawn._kept)
    for step in range(20):
        drawn(step)
    assert len(drawn._kept) <= drawn.window and not early & set(drawn._kept)


def test_jitter_stays_in_range_and_is_seeded():
    plane = torch.linspace(0, 1, 64).reshape(8, 8)
    first = jitter(plane, np.random.default_rng(1))
    assert torch.equal(first, jitter(plane, np.random.default_rng(1)))
    assert first.min() >= 0 and first.max() <= 1 and not torch.equal(first, plane)


def test_no_foreground_gives_factor_one():
    assert foreground_quantile(np.zeros((4, 4), np.uint16)) == 1.0
