"""Patches for training, drawn on the fly: what the network sees at inference, with the truth and some jitter.

Batches are a function of (seed, step) alone, so that a training that goes on after a stop sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.models.nimbus_input import whole_input
from mxbridge.stream.resample import Field, Scale, resample
from mxbridge.training.losses import IGNORE
from mxbridge.training.simulator import Tissue

QUANTILE = 0.999
"""Foreground quantile by which a marker is divided."""


@dataclass(frozen=True)
class Sample:
    """One simulated field at the model's scale.

    planes: float32 ``(m, y, x)`` markers, normalised and in 0..1. mask: float32 ``(y, x)``, 1 inside eroded cells.
    target: float32 ``(m, y, x)``, share of the labelled area that belongs to positive cells; 0 on background, IGNORE
    where only a sliver of a cell lies.
    cells: int64 ``(y, x)``, label at each model pixel's centre.
    positives: per marker the model pixels (y, x) of positive cells' centres.
    """

    planes: Tensor
    mask: Tensor
    target: Tensor
    cells: Tensor
    positives: tuple[NDArray[np.int64], ...]


def foreground_quantile(plane: NDArray[np.uint16], quantile: float = QUANTILE) -> float:
    """Quantile of the pixels above 0; 1 where there are none."""
    above = plane[plane > 0]
    return float(np.quantile(above, quantile)) if above.size else 1.0


def prepare(tissue: Tissue, um_per_px: float, factors: Sequence[float] | None = None) -> Sample:
    """A tissue as the network sees it at ``um_per_px``; ``factors`` default to each channel's foreground quantile."""
    if factors is None:
        factors = [foreground_quantile(plane) for plane in tissue.image]
    um = tissue.settings.um_per_px
    field = Field.of(tissue.cells.shape, (um, um), um_per_px)
    rows = field.y.taps(0, field.y.size, tissue.cells.shape[0])
    columns = field.x.taps(0, field.x.size, tissue.cells.shape[1])
    inputs = whole_input(tissue.image, tissue.cells, list(factors), (um, um), um_per_px)
    labelled = resample(torch.from_numpy(tissue.cells > 0), rows, columns)
    lookup = np.concatenate([np.zeros((1, tissue.truth.shape[1]), bool), tissue.truth]).T
    positive = resample(torch.from_numpy(lookup[:, tissue.cells]), rows, columns)
    target = torch.where(labelled >= 0.5, positive / labelled.clamp(min=1e-6), torch.zeros(()))
    target[:, (labelled > 0) & (labelled < 0.5)] = IGNORE
    y, x = (_nearest(field.y), _nearest(field.x))
    cells = torch.from_numpy(tissue.cells[y[:, None], x[None, :]].astype(np.int64))
    centres = _centres(tissue.cells) * um / um_per_px
    places = tuple(np.floor(centres[column]).astype(np.int64) for column in tissue.truth.T)
    return Sample(inputs[:, 0], inputs[0, 1], target, cells, places)


def _nearest(scale: Scale) -> NDArray[np.int64]:
    """The full-resolution pixel at the centre of each model pixel of an axis."""
    at = np.floor((np.arange(scale.size) + 0.5) / scale.ratio).astype(np.int64)
    return np.minimum(at, scale.full - 1)


def _centres(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Centroids ``(cells, 2)`` (y, x) in pixels of labels 1..n."""
    flat = labels.ravel()
    count = np.maximum(np.bincount(flat)[1:], 1)
    y = np.bincount(flat, np.repeat(np.arange(labels.shape[0]) + 0.5, labels.shape[1]))[1:]
    x = np.bincount(flat, np.tile(np.arange(labels.shape[1]) + 0.5, labels.shape[0]))[1:]
    return np.stack([y / count, x / count], axis=1)


@dataclass
class SimulatedPatches:
    """Batches of patches from a sliding window of simulated fields.

    grow: makes the tissue of a number. window: fields in use at a time; every ``renew`` steps the oldest goes.
    Calling with a step gives inputs ``(n, 2, y, x)`` (marker, mask) and targets ``(n, 1, y, x)``, both float32, and cell
    labels int64 ``(n, 1, y, x)``.
    """

    grow: Callable[[int], Tissue]
    um_per_px: float
    seed: int
    batch: int = 16
    side: int = 96
    window: int = 12
    renew: int = 16
    positive_share: float = 0.5
    _kept: dict[int, Sample] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 22, step])
        first = step // self.renew
        for number in [n for n in self._kept if not first <= n < first + self.window]:
            del self._kept[number]
        drawn = [self._patch(first + int(rng.integers(self.window)), rng) for _ in range(self.batch)]
        inputs, targets, cells = (torch.stack(planes) for planes in zip(*drawn, strict=True))
        return inputs, targets, cells

    def _patch(self, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        sample = self._sample(number)
        marker = int(rng.integers(len(sample.planes)))
        height, width = sample.mask.shape
        side = min(self.side, height, width)
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        centres = sample.positives[marker]
        if len(centres) and rng.random() < self.positive_share:
            cy, cx = centres[rng.integers(len(centres))] - rng.integers(0, side, 2)
            y, x = int(np.clip(cy, 0, height - side)), int(np.clip(cx, 0, width - side))
        here = (slice(y, y + side), slice(x, x + side))
        plane = jitter(sample.planes[marker][here], rng)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def turned(planes: Tensor) -> Tensor:
            planes = torch.rot90(planes, turns, (1, 2))
            return planes.flip(2) if flip else planes

        inputs = torch.stack([plane, sample.mask[here]])
        return turned(inputs), turned(sample.target[marker][here][None]), turned(sample.cells[here][None])

    def _sample(self, number: int) -> Sample:
        if number not in self._kept:
            tissue = self.grow(number)
            rng = np.random.default_rng([self.seed, 23, number])
            factors = [foreground_quantile(plane) * float(np.exp(rng.normal(0, 0.25))) for plane in tissue.image]
            self._kept[number] = prepare(tissue, self.um_per_px, factors)
        return self._kept[number]


def jitter(plane: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness and noise of one patch; stays in 0..1."""
    noise = torch.from_numpy(rng.standard_normal(tuple(plane.shape), dtype=np.float32))
    brightness, level = float(np.exp(rng.normal(0, 0.15))), float(rng.uniform(0, 0.02))
    return torch.clamp(plane * brightness + noise * level, 0, 1)
