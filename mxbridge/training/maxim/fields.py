"""Held-back regions through a network while it is trained, and how far off it is there.

The regions are predicted in tiles with the network's halo of true neighbours, so that the figures are those of the whole image
at once. An any-marker network is asked for one marker at a time, with that one hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.image import Box
from mxbridge.models.linear_start import LinearStart, corrected, network_input
from mxbridge.models.nimbus_input import pad_by_reflection
from mxbridge.networks.fused_maxim import FusedMaxim
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.stream.grid import round_up
from mxbridge.stream.views import IDENTITY, Views
from mxbridge.training.loop import SCORE
from mxbridge.training.maxim.images import Panel
from mxbridge.training.maxim.patches import PixelStore
from mxbridge.training.maxim.split import Region

CORE = 512
"""Side of the part of a tile that counts."""
TOGETHER = 1 << 20
"""Pixels that go through the network at once."""


@dataclass(frozen=True)
class FieldTile:
    """A part of region number ``field``. box: counted from the region's first pixel.

    unit: ``(view, output, y, x)`` predictions 0..1. truth: ``(output, y, x)``. planes: ``(plane, y, x)`` all markers.
    """

    field: int
    box: Box
    unit: NDArray[np.float32]
    truth: NDArray[np.float32]
    planes: NDArray[np.float32]


@dataclass(frozen=True)
class Fields:
    """Regions that a network is judged on. most: pixel passes (pixels x markers) of one judgement; where the regions have
    more, a seeded choice of their tiles is taken."""

    store: PixelStore
    regions: tuple[Region, ...]
    panel: Panel
    start: LinearStart | None
    seed: int
    most: int

    def tiles(self) -> list[tuple[int, Box]]:
        """Region and core (pixels of the image) of every tile that is judged."""
        every = [(k, core) for k, region in enumerate(self.regions) for core in cores(region.box)]
        room = self.most / (len(self.panel.outputs) if self.panel.any_marker else 1)
        chosen: list[int] = []
        pixels = 0
        for k in np.random.default_rng([self.seed, 34]).permutation(len(every)):
            if chosen and pixels >= room:
                break
            chosen.append(int(k))
            pixels += every[k][1].shape[0] * every[k][1].shape[1]
        return [every[k] for k in sorted(chosen)]

    @property
    def pixels(self) -> int:
        """Of all regions."""
        return sum(region.pixels for region in self.regions)

    def predict(
        self, network: MaximUNet, views: Views = (IDENTITY,), *, most_in_views: int | None = None
    ) -> Iterator[FieldTile]:
        """Every tile of :meth:`tiles`. network: in evaluation mode, on any device.

        most_in_views: pixel passes, views not counted, beyond which tiles are seen in the first view alone.
        """
        fused = FusedMaxim(network)
        every = self.tiles()
        turned = every if most_in_views is None else replace(self, most=min(self.most, most_in_views)).tiles()
        for k, core in every:
            region = self.regions[k]
            shape = self.store.shape(region.image)
            outer = _outer(core, shape)
            seen = outer.clip(shape)
            planes = torch.from_numpy(np.ascontiguousarray(self.store.read(region.image, seen)))
            padded = pad_by_reflection(planes, seen, outer, shape)
            inside = _within(core, outer)
            own = _cut(padded, inside).numpy()
            shown = views if (k, core) in turned else views[:1]
            unit = predicted(fused, padded, inside, self.panel, self.start, shown)
            box = _within(core, region.box)
            yield FieldTile(k, box, unit, own[self.panel.output_planes], own)


def cores(box: Box, side: int = CORE) -> Iterator[Box]:
    """Parts of a box that meet at multiples of ``side``."""
    for y in range(box.y0 // side * side, box.y1, side):
        for x in range(box.x0 // side * side, box.x1, side):
            yield Box(max(y, box.y0), max(x, box.x0), min(y + side, box.y1), min(x + side, box.x1))


def _outer(core: Box, shape: tuple[int, int]) -> Box:
    """What the network must see for a core: on its stride, with its halo, beyond the image only up to the stride."""
    stride, halo = MaximUNet.stride, MaximUNet.halo
    y0, x0 = core.y0 // stride * stride - halo, core.x0 // stride * stride - halo
    y1, x1 = round_up(core.y1, stride) + halo, round_up(core.x1, stride) + halo
    return Box(max(0, y0), max(0, x0), min(y1, round_up(shape[0], stride)), min(x1, round_up(shape[1], stride)))


def _within(box: Box, outer: Box) -> Box:
    """``box`` counted from the first pixel of ``outer``."""
    return Box(box.y0 - outer.y0, box.x0 - outer.x0, box.y1 - outer.y0, box.x1 - outer.x0)


def _cut(planes: Tensor, box: Box) -> Tensor:
    return planes[..., box.y0 : box.y1, box.x0 : box.x1]


def predicted(
    network: FusedMaxim,
    planes: Tensor,
    core: Box,
    panel: Panel,
    start: LinearStart | None,
    views: Views = (IDENTITY,),
) -> NDArray[np.float32]:
    """``(view, output, y, x)`` 0..1 of ``core``, from ``planes`` ``(plane, y, x)`` whose sides are multiples of the stride."""
    device = next(network.parameters()).device
    shape = int(planes.shape[-2]), int(planes.shape[-1])
    outputs = len(panel.outputs)
    asked = [[k] for k in range(outputs)] if panel.any_marker else [list(range(outputs))]
    at_once = max(1, TOGETHER // (shape[0] * shape[1]))
    out = np.empty((len(views), outputs, *core.shape), np.float32)
    with torch.inference_mode():
        for first in range(0, len(asked), at_once):
            group = asked[first : first + at_once]
            begun = [_begun(planes, hidden, panel, start) for hidden in group]
            stacked = torch.stack([inputs for inputs, _ in begun]).to(device)
            for v, view in enumerate(views):
                turned = view.apply(stacked).contiguous(memory_format=network.memory_format)
                found = view.invert(network(turned, tuple(view.box(core, shape)))).float().cpu()
                for n, hidden in enumerate(group):
                    begin = begun[n][1]
                    unit = corrected(found[n, hidden], None if begin is None else _cut(begin, core))
                    out[v, hidden] = unit.clamp(0, 1).numpy()
    return out


def _begun(
    planes: Tensor, hidden: Sequence[int], panel: Panel, start: LinearStart | None
) -> tuple[Tensor, Tensor | None]:
    """What the network sees, and the linear start of what is hidden."""
    names = [panel.outputs[k] for k in hidden]
    begun = start.estimate(planes, names) if start is not None else None
    inputs = network_input(planes[: len(panel.inputs)], list(hidden), begun, any_marker=panel.any_marker)
    return inputs, begun


class ErrorSums:
    """Errors and correlations of some outputs, tile by tile."""

    def __init__(self, outputs: int) -> None:
        self._sums = np.zeros((8, outputs))

    def add(self, unit: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        """Both ``(output, y, x)``; pairs that are not finite are left out."""
        for k, (a, b) in enumerate(zip(unit.astype(np.float64), truth.astype(np.float64), strict=True)):
            kept = np.isfinite(a) & np.isfinite(b)
            a, b = a[kept], b[kept]
            off = a - b
            parts = (a.size, np.abs(off).sum(), (off**2).sum(), a.sum(), b.sum(), (a * a).sum(), (b * b).sum())
            self._sums[:, k] += (*parts, (a * b).sum())

    @property
    def mae(self) -> NDArray[np.float64]:
        return np.asarray(self._sums[1] / np.maximum(1, self._sums[0]))

    @property
    def mse(self) -> NDArray[np.float64]:
        return np.asarray(self._sums[2] / np.maximum(1, self._sums[0]))

    @property
    def pearson(self) -> NDArray[np.float64]:
        """NaN where one of the two is constant."""
        n, _, _, a, b, aa, bb, ab = self._sums
        n = np.maximum(1, n)
        va, vb = aa / n - (a / n) ** 2, bb / n - (b / n) ** 2
        flat = (va < 1e-12) | (vb < 1e-12)
        r = (ab / n - a * b / n**2) / np.sqrt(np.where(flat, 1.0, va * vb))
        return np.where(flat, np.nan, r)


def judge(network: MaximUNet, fields: Fields, alpha: float) -> dict[str, float]:
    """``score``: minus the mean over markers of ``alpha L1 + (1 - alpha) L2``; ``mae``, ``pearson`` and the MAE of each marker."""
    sums = ErrorSums(len(fields.panel.outputs))
    for tile in fields.predict(network):
        sums.add(tile.unit[0], tile.truth)
    mae, mse, r = sums.mae, sums.mse, sums.pearson
    known = r[np.isfinite(r)]
    return {
        SCORE: -float((alpha * mae + (1 - alpha) * mse).mean()),
        "mae": float(mae.mean()),
        "pearson": float(known.mean()) if len(known) else 0.0,
        **{f"mae {name}": float(value) for name, value in zip(fields.panel.outputs, mae, strict=True)},
    }
