"""Patches of real images for MAXIM, drawn on the fly from the training regions.

A batch is a function of (seed, step) alone, so that a training that goes on after a stop sees what it would have seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.errors import InputError
from mxbridge.image import Box
from mxbridge.models.linear_start import LinearStart, network_input
from mxbridge.models.maxim_input import ScaledReader
from mxbridge.stream.ahead import read_ahead
from mxbridge.training.maxim.images import Panel
from mxbridge.training.maxim.split import Region

KEPT_BYTES = 1 << 30
"""Images are kept in memory, scaled, as long as they fit into this; pixels of the others are read where they are needed."""
LEAST_PATCHES = 8
"""A training area of fewer patches than this is too small."""
ATTEMPTS = 4
"""Places that are drawn for one patch until one is not blank (a slide is mostly glass)."""
ONE_HIDDEN = 0.6
"""How often a single marker is hidden, as it is when one stain failed; else two to ``most_hidden`` are."""


@dataclass
class PixelStore:
    """Scaled pixels of all markers by image and box."""

    readers: Sequence[ScaledReader]
    planes: int
    room: int = KEPT_BYTES
    _kept: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def shape(self, image: int) -> tuple[int, int]:
        """(y, x) at the model's scale."""
        return self.readers[image].shape

    def read(self, image: int, box: Box) -> NDArray[np.float32]:
        """``(planes, y, x)`` of a box inside the image, 0..1; not to be written to. Raises InputError."""
        kept = self._kept.get(image)
        if kept is None:
            kept = self._keep(image)
        return self.readers[image].read(box) if kept is None else kept[:, box.y0 : box.y1, box.x0 : box.x1]

    def _keep(self, image: int) -> NDArray[np.float32] | None:
        """Read a whole image, once, if it fits into what room there is."""
        height, width = self.shape(image)
        size = 4 * self.planes * height * width
        with self._loading:
            if image not in self._kept and size <= self.room:
                self.room -= size
                self._kept[image] = self.readers[image].read(Box(0, 0, height, width))
            return self._kept.get(image)


@dataclass(frozen=True)
class RegionSource:
    """One region as an image of its own: what is beside it cannot be read."""

    store: PixelStore
    region: Region

    @property
    def shape(self) -> tuple[int, int]:
        return self.region.box.shape

    def read(self, box: Box) -> NDArray[np.float32]:
        """``(planes, y, x)`` of a box counted from the region's first pixel."""
        if box.clip(self.shape) != box:
            raise ValueError(f"{tuple(box)} is not inside {self.shape}")
        y, x = self.region.box.y0, self.region.box.x0
        return self.store.read(self.region.image, Box(y + box.y0, x + box.x0, y + box.y1, x + box.x1))


@dataclass(frozen=True)
class MaximPatches:
    """Batches of patches from training regions, flipped and turned.

    panel: its planes are those of the store. start: where the model corrects a regression. Calling with a step gives float32
    tensors: network inputs ``(n, inputs or 2 x inputs, y, x)``, truth ``(n, outputs, y, x)``, weights ``(n, outputs, 1, 1)``,
    0 for what is not asked for, and with a start also that, ``(n, outputs, y, x)``. Any-marker models are asked for a random
    choice of hidden markers.
    """

    store: PixelStore
    regions: tuple[Region, ...]
    panel: Panel
    seed: int
    start: LinearStart | None = None
    batch: int = 16
    side: int = 96
    most_hidden: int = 4
    jitter: float = 0.0

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """Cumulated share of the area of each region; a study may have ten thousand."""
        area = np.cumsum([r.pixels for r in self.regions], dtype=np.float64)
        return np.asarray(area / area[-1])

    def check(self) -> None:
        """Raises InputError when the regions are too small or too few."""
        for region in self.regions:
            if min(region.box.shape) < self.side:
                height, width = region.box.shape
                raise InputError(
                    f"a training region of {width} x {height} pixels is smaller than a patch of {self.side}",
                    hint="Use a smaller --patch, or leave small images out",
                )
        patches = sum(r.pixels for r in self.regions) / self.side**2
        if patches < LEAST_PATCHES:
            raise InputError(
                f"the training area holds {patches:.1f} patches of {self.side} x {self.side} pixels, {LEAST_PATCHES} are the least",
                hint="Add images, or use a smaller --patch",
            )

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, 33, step])
        samples = [self._sample(rng) for _ in range(self.batch)]
        return tuple(torch.stack(column) for column in zip(*samples, strict=True))

    def _sample(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """One sample of a batch."""
        planes = torch.from_numpy(np.ascontiguousarray(self._patch(rng)))
        panel, outputs = self.panel, len(self.panel.outputs)
        hidden = self._hidden(rng)
        truth = planes[panel.output_planes]
        seen = planes
        if self.jitter:
            gain = np.exp(rng.normal(0, self.jitter, len(planes))).astype(np.float32)
            seen = (planes * torch.from_numpy(gain)[:, None, None]).clamp(0, 1)
        weights = torch.zeros(outputs, 1, 1)
        weights[hidden] = 1
        names = [panel.outputs[k] for k in hidden]
        start = self.start.estimate(seen, names) if self.start is not None else None
        inputs = network_input(seen[: len(panel.inputs)], hidden, start, any_marker=panel.any_marker)
        if start is None:
            return inputs, truth, weights
        spread = torch.zeros(outputs, *planes.shape[1:])
        spread[hidden] = start
        return inputs, truth, weights, spread

    def _patch(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """``(planes, side, side)`` of one place."""
        for _ in range(ATTEMPTS):
            region = self.regions[int(np.searchsorted(self._shares, rng.random(), side="right"))]
            y = int(rng.integers(region.box.y0, region.box.y1 - self.side + 1))
            x = int(rng.integers(region.box.x0, region.box.x1 - self.side + 1))
            planes = self.store.read(region.image, Box(y, x, y + self.side, x + self.side))
            if planes.any():
                break
        planes = np.rot90(planes, int(rng.integers(4)), (1, 2))
        return planes[:, :, ::-1] if rng.integers(2) else planes

    def _hidden(self, rng: np.random.Generator) -> list[int]:
        """Positions of the outputs that are asked for: all of a single model's, some of an any-marker one's."""
        outputs = len(self.panel.outputs)
        if not self.panel.any_marker:
            return list(range(outputs))
        one = self.most_hidden == 1 or rng.random() < ONE_HIDDEN
        count = 1 if one else int(rng.integers(2, self.most_hidden + 1))
        return sorted(int(k) for k in rng.choice(outputs, count, replace=False))


class DrawnAhead:
    """Batches drawn by threads while the step before is learned from; the same batches, whatever the number of threads.

    Close it to end the threads.
    """

    def __init__(self, batches: Callable[[int], tuple[Tensor, ...]], steps: int, threads: int) -> None:
        self._batches, self._steps, self._threads = batches, steps, threads
        self._next = -1
        self._stream: Generator[tuple[Tensor, ...], None, None] | None = None

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        if self._stream is None or step != self._next:
            self.close()
            jobs = range(step, max(self._steps, step + 1))
            self._stream = read_ahead(jobs, self._batches, workers=self._threads, ahead=self._threads)
        self._next = step + 1
        return next(self._stream)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
