from __future__ import annotations

import math

import pytest
import torch

from mxbridge.training.losses import IGNORE, cell_loss, masked_loss, pixel_loss


def planes(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def test_known_value_with_smoothing():
    loss = pixel_loss(planes(0.0), planes(1.0), planes(1.0))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    confident = pixel_loss(planes(3.0), planes(1.0), planes(1.0))
    p = 1 / (1 + math.exp(-3))
    assert confident.item() == pytest.approx(-0.975 * math.log(p) - 0.025 * math.log(1 - p), rel=1e-5)


def test_ignored_pixels_count_nowhere():
    logits = planes(0.3, 5.0).requires_grad_()
    loss = pixel_loss(logits, planes(1.0, IGNORE), planes(1.0, 1.0))
    loss.backward()
    assert loss.item() == pytest.approx(pixel_loss(planes(0.3), planes(1.0), planes(1.0)).item())
    assert logits.grad[0, 0, 0, 1] == 0


def test_background_is_negative_at_its_weight():
    both = pixel_loss(planes(2.0, 2.0), planes(0.0, 0.0), planes(1.0, 0.0), background=0.5)
    assert both.item() == pytest.approx(pixel_loss(planes(2.0), planes(0.0), planes(1.0)).item())
    logits = planes(0.0, 0.0).requires_grad_()
    pixel_loss(logits, planes(0.0, 0.0), planes(1.0, 0.0), background=0.5).backward()
    inside, outside = logits.grad[0, 0, 0]
    assert outside > 0 and outside == pytest.approx(inside / 2)


def test_only_ignored_pixels_give_zero():
    assert pixel_loss(planes(1.0), planes(IGNORE), planes(1.0)).item() == 0


def test_smoothing_has_its_minimum_at_the_smoothed_target():
    logits = planes(math.log(0.975 / 0.025)).requires_grad_()
    pixel_loss(logits, planes(1.0), planes(1.0)).backward()
    assert abs(logits.grad.item()) < 1e-6


def test_cells_are_judged_by_their_mean():
    logits = torch.tensor([[[[4.0, -4.0, 1.0]]], [[[0.0, 2.0, 2.0]]]])
    target = torch.tensor([[[[1.0, 1.0, 0.0]]], [[[0.0, 0.0, IGNORE]]]])
    cells = torch.tensor([[[[1, 1, 2]]], [[[0, 1, 1]]]])
    p = torch.sigmoid(torch.tensor([1.0, 2.0])).tolist()
    mean = (0.5, p[0], p[1])
    wanted = (0.975, 0.025, 0.025)
    expected = sum(-t * math.log(m) - (1 - t) * math.log(1 - m) for m, t in zip(mean, wanted, strict=True)) / 3
    assert cell_loss(logits, target, cells, least_px=1).item() == pytest.approx(expected, rel=1e-5)
    only_first = -0.975 * math.log(0.5) - 0.025 * math.log(0.5)
    assert cell_loss(logits, target, cells, least_px=2).item() == pytest.approx(only_first, rel=1e-5)


def test_no_cells_give_zero():
    assert cell_loss(planes(1.0), planes(0.0), torch.zeros(1, 1, 1, 1, dtype=torch.int64)).item() == 0


def test_only_what_was_asked_for_is_judged():
    made, truth = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    truth[0, 0], truth[0, 1], truth[1, 2] = 0.5, 9.0, -0.1
    weights = torch.zeros(2, 3, 1, 1)
    weights[0, 0] = weights[1, 2] = 1
    for alpha in (0.0, 0.25, 1.0):
        expected = alpha * (0.5 + 0.1) / 2 + (1 - alpha) * (0.25 + 0.01) / 2
        assert masked_loss(made, truth, weights, alpha).item() == pytest.approx(expected)
    assert masked_loss(made, truth, torch.zeros(2, 3, 1, 1), 0.5).item() == 0
