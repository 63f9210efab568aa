"""Losses: on logits, where pixels whose target is IGNORE count nowhere; and on predicted intensities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = -1.0
"""Target of a pixel nobody is sure about."""

SMOOTHING = 0.05
"""Targets are drawn towards one half by this much: 0 -> 0.025, 1 -> 0.975."""


def pixel_loss(
    logits: Tensor, target: Tensor, mask: Tensor, *, smoothing: float = SMOOTHING, background: float = 0.5
) -> Tensor:
    """Mean binary cross-entropy over the pixels that are not ignored; a scalar.

    logits, target, mask: ``(n, 1, y, x)``; targets in 0..1 or IGNORE, mask 1 inside cells. Background counts as negative
    with weight ``background``.
    """
    weight = (target != IGNORE) * torch.where((mask > 0) | (target > 0), 1.0, background)
    smooth = target.clamp(0, 1) * (1 - smoothing) + 0.5 * smoothing
    each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1)


def cell_loss(
    logits: Tensor, target: Tensor, cells: Tensor, *, smoothing: float = SMOOTHING, least_px: int = 12
) -> Tensor:
    """Mean binary cross-entropy over cells, each judged by the mean of its probabilities, as its score will be; a scalar.

    cells: ``(n, 1, y, x)`` labels, 0 background. A cell is positive where most of its target is. Parts of fewer than
    ``least_px`` pixels (cut off by the patch) do not count.
    """
    patch = torch.arange(len(cells), device=cells.device).view(-1, 1, 1, 1)
    inside = (cells > 0) & (target != IGNORE)
    keys = (patch * (int(cells.max()) + 1) + cells)[inside]
    names, which = torch.unique(keys, return_inverse=True)
    zeros = logits.new_zeros(len(names))
    count = zeros.index_add(0, which, torch.ones_like(which, dtype=logits.dtype))
    mean = zeros.index_add(0, which, torch.sigmoid(logits[inside])) / count
    wanted = (zeros.index_add(0, which, target[inside]) / count > 0.5).to(logits.dtype)
    large = count >= least_px
    smooth = wanted * (1 - smoothing) + 0.5 * smoothing
    each = functional.binary_cross_entropy(mean.clamp(1e-4, 1 - 1e-4), smooth, reduction="none")
    return (each * large).sum() / large.sum().clamp(min=1)


def masked_loss(made: Tensor, truth: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``alpha * L1 + (1 - alpha) * L2`` between predicted and measured intensities, both ``(n, outputs, y, x)``; a scalar.

    weights: ``(n, outputs, 1, 1)``, 0 for outputs that were not asked for; the mean is over the others.
    """
    error = made - truth
    each = alpha * error.abs() + (1 - alpha) * error.square()
    asked = weights.sum() * made.shape[-1] * made.shape[-2]
    return (each * weights).sum() / asked.clamp(min=1)
