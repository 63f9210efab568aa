from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mxbridge.models.nimbus_input import inner_mask
from mxbridge.training.judge import auroc, best_f1, cell_means, cell_scores, f1, judge
from mxbridge.training.panels import scenarios
from mxbridge.training.simulator import simulate


class Mask(torch.nn.Module):
    """Gives its second input back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x[:, 1:] * self.weight


class Threshold(Mask):
    """Gives whether the marker is bright."""

    def forward(self, x):
        return (x[:, :1] > 0.25).float() * self.weight


def test_figures_on_small_tables():
    truth = np.array([True, True, False, False])
    assert f1(truth, np.array([True, False, True, False])) == 0.5
    assert f1(truth, truth) == 1.0 and f1(~truth & truth, ~truth & truth) == 0.0
    assert best_f1(truth, np.array([4.0, 3.0, 2.0, 1.0])) == 1.0
    assert best_f1(truth, np.array([1.0, 1.0, 1.0, 1.0])) == pytest.approx(2 / 3)
    assert auroc(truth, np.array([4.0, 3.0, 2.0, 1.0])) == 1.0
    assert auroc(truth, np.array([1.0, 1.0, 1.0, 1.0])) == 0.5
    assert auroc(truth, np.array([3.0, 1.0, 2.0, 0.0])) == 0.75


def test_scores_are_means_over_whole_labels():
    tissue = simulate(replace(scenarios()["clean"], height_um=61, width_um=53, um_per_px=1.0), 1)
    scores = cell_scores(Mask(), tissue, 1.0, 8)
    inside = inner_mask(tissue.cells)
    for label in (1, 2, int(tissue.cells.max())):
        assert scores[label - 1, 0] == pytest.approx(inside[tissue.cells == label].mean())
        expected = tissue.image[4][tissue.cells == label].mean()
        assert cell_means(tissue)[label - 1, 4] == pytest.approx(expected)


def test_markers_without_both_kinds_are_left_out():
    tissue = simulate(replace(scenarios()["clean"], height_um=80, width_um=80), 1)
    verdict = judge(Threshold(), tissue, 1.0, 8)
    assert np.isnan(verdict.f1[0])  # every cell has a nucleus
    assert np.isfinite(verdict.macro).all()
