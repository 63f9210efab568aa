"""Nimbus-Inference 0.0.5 reproduced, its four identical rotations, aliased rescaling and shifted tiles included.

For comparing with results made by that version; everything else should use :meth:`mxbridge.models.nimbus.Nimbus.score`. As
there, a whole image is held in memory, one marker at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from mxbridge.cells import Cells
from mxbridge.errors import Unsupported
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.image import Box, LocalImage, computed
from mxbridge.models.nimbus import CellScores, Nimbus, check_factors
from mxbridge.models.nimbus_input import inner_mask
from mxbridge.networks.fused_unet import FusedUNet
from mxbridge.stream.engine import Engine
from mxbridge.stream.resample import reflect_index
from mxbridge.stream.views import IDENTITY, View

NAME = "nimbus-0.0.5"
MODEL_MAGNIFICATION = 10.0
INPUT_SHAPE = (1024, 1024)
WEIGHTED_VIEWS = (
    (View("rot270", 3), 4 / 6),
    (View("flip vertical", 0, (-2,)), 1 / 6),
    (View("flip horizontal", 0, (-1,)), 1 / 6),
)
"""Its six passes: four times the same rotation and two flips; the identity is never used."""
TILES_AT_ONCE = 4


@dataclass(frozen=True)
class CompatOptions:
    """tta: average its views. magnification: of the image; None takes 10 / (µm per pixel). input_shape: largest image (y, x)
    at the model's scale that goes through in one pass, and the size of its tiles."""

    tta: bool = True
    magnification: float | None = None
    input_shape: tuple[int, int] = INPUT_SHAPE


def score(
    model: Nimbus,
    image: LocalImage,
    cells: Cells,
    channels: Sequence[int],
    factors: Sequence[float],
    engine: Engine,
    *,
    options: CompatOptions = CompatOptions(),
    predicted: Callable[[int, NDArray[np.float64]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CellScores:
    """The scores Nimbus-Inference 0.0.5 gives with these factors, and our measures of the cells beside them.

    Raises Unsupported for image sizes at which that version stops. view_sd is the weighted deviation over its three distinct
    views. predicted: receives the position of each marker and its full-resolution map ``(y, x)`` 0..1. Holds about 40 bytes
    per full-resolution pixel.
    """
    check_factors(channels, factors)
    whole = Box(0, 0, *image.shape)
    labels = cells.raster(whole)
    inner = inner_mask(labels)
    predictor = Predictor(model, image, engine, options)
    mask = predictor.shrink_mask(inner.astype(np.float32))
    n = len(cells)
    area = np.bincount(labels.ravel(), minlength=n + 1)[1:].astype(np.float64)
    weights = np.array([w for _, w in predictor.views])
    values, sd, intensity = (np.full((len(channels), n), np.nan, np.float32) for _ in range(3))
    bad = np.zeros((len(channels), 2), np.int64)
    for k, (channel, factor) in enumerate(zip(channels, factors, strict=True)):
        raw = computed(image.levels[0][channel])
        views = predictor.views_of(raw, factor, mask)
        means = np.stack([_means(labels, predictor.enlarge(view), area) for view in views])
        values[k] = weights @ means
        if len(views) > 1:
            sd[k] = np.sqrt(weights @ (means - weights @ means) ** 2)
        intensity[k] = _means(labels, raw, area)
        bad[k] = _bad(raw)
        if predicted is not None:
            predicted(k, predictor.enlarge(np.tensordot(weights, views, 1)))
        if progress is not None:
            progress(k + 1, len(channels))
    return CellScores(
        values, sd, intensity, **_geometry(labels, inner, area), bad_pixels=bad, tiles_done=1, tiles_skipped=0
    )


class Predictor:
    """The network of that version around one image size."""

    def __init__(self, model: Nimbus, image: LocalImage, engine: Engine, options: CompatOptions) -> None:
        self.shape, self.options = image.shape, options
        magnification = options.magnification or _magnification(image)
        self.rescales = not math.isclose(magnification, MODEL_MAGNIFICATION)
        scale = MODEL_MAGNIFICATION / magnification if self.rescales else 1.0
        self.small = int(self.shape[0] * scale), int(self.shape[1] * scale)
        self.views = WEIGHTED_VIEWS if options.tta else ((IDENTITY, 1.0),)
        self.tiled = self.small[0] > options.input_shape[0] or self.small[1] > options.input_shape[1]
        if min(self.small) < model.network.minimum:
            raise Unsupported(
                f"{image.name}: {self.small[0]} x {self.small[1]} px at 10x is too small for {NAME}, which stops there",
                hint="Leave --compat out",
            )
        stride = model.network.stride
        if not self.tiled and not self.rescales and (self.small[0] % stride or self.small[1] % stride):
            raise Unsupported(
                f"{image.name}: {NAME} stops at 10x images whose sides are no multiples of {stride} px",
                hint="Leave --compat out",
            )
        network = model.network
        if self.tiled:
            network = model.network.with_padding("valid")
            for name in {view.turns % 2 for view, _ in self.views}:
                self._check_tiles(image.name, network, self.small[::-1] if name else self.small)
        self.network, self.device = network, engine.torch_device
        engine.prepare(network)

    def shrink_mask(self, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        return nearest(mask, self.small) if self.rescales else mask

    def enlarge(self, prediction: NDArray[Any]) -> NDArray[Any]:
        """A map at the model's scale, of whatever size the network returned, at full resolution."""
        return nearest(prediction, self.shape) if self.rescales else prediction

    def views_of(self, raw: NDArray[Any], factor: float, mask: NDArray[np.float32]) -> NDArray[np.float64]:
        """``(view, y, x)`` maps of one marker at the model's scale, turned back. mask: at that scale."""
        with np.errstate(invalid="ignore"):
            marker = np.clip(raw.astype(np.float32) / np.float32(factor), 0, 1)
        if self.rescales:
            marker = bilinear(marker, self.small)
        inputs = torch.from_numpy(np.stack([marker, mask])[None])
        out = []
        for view, _ in self.views:
            seen = view.apply(inputs)
            prediction = self._tiles(seen.numpy()) if self.tiled else self._forward(seen)
            out.append(view.invert(prediction)[0, 0].numpy().astype(np.float64))
        return np.stack(out)

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.network(inputs.to(self.device).contiguous(memory_format=self.network.memory_format)).to(
                "cpu", torch.float64
            )

    def _tiles(self, inputs: NDArray[np.float32]) -> torch.Tensor:
        """Tiles of the valid network laid side by side, ``(1, 1, y, x)`` float64."""
        height, width = inputs.shape[2:]
        y, x = (
            _axis(self.network, height, self.options.input_shape[0]),
            _axis(self.network, width, self.options.input_shape[1]),
        )
        rows = reflect_index(-y.before, height + y.after, height)
        columns = reflect_index(-x.before, width + x.after, width)
        padded = inputs[:, :, rows][:, :, :, columns]
        places = [(i, j) for i in range(y.tiles) for j in range(x.tiles)]
        out = torch.zeros((1, 1, y.tiles * y.step, x.tiles * x.step), dtype=torch.float64)
        for first in range(0, len(places), TILES_AT_ONCE):
            part = places[first : first + TILES_AT_ONCE]
            cut = [padded[0, :, i * y.step : i * y.step + y.size, j * x.step : j * x.step + x.size] for i, j in part]
            predicted = self._forward(torch.from_numpy(np.stack(cut)))
            inside = predicted[:, :, y.crop : predicted.shape[2] - y.crop, x.crop : predicted.shape[3] - x.crop]
            for (i, j), tile in zip(part, inside, strict=True):
                out[0, 0, i * y.step : (i + 1) * y.step, j * x.step : (j + 1) * x.step] = tile[0]
        return out[:, :, y.strip_before : out.shape[2] - y.strip_after, x.strip_before : out.shape[3] - x.strip_after]

    def _check_tiles(self, name: str, network: FusedUNet, shape: tuple[int, int]) -> None:
        for length, size in zip(shape, self.options.input_shape, strict=True):
            axis = _axis(network, length, size)
            if axis.crop < 1 or axis.strip_after < 1 or axis.strip_before < 0:
                raise Unsupported(
                    f"{name}: {NAME} stops at {shape[0]} x {shape[1]} px at 10x (its tiles leave nothing of {length} px)",
                    hint="Leave --compat out",
                )


@dataclass(frozen=True)
class _TiledAxis:
    """Along one axis: tile size, step, pixels cropped on each side of a tile's output, padding, strips cut off the result."""

    size: int
    step: int
    crop: int
    before: int
    after: int
    tiles: int

    @property
    def strip_before(self) -> int:
        return self.before - (self.size - self.step) // 2

    @property
    def strip_after(self) -> int:
        return self.after - (self.size - self.step) // 2


def _axis(network: FusedUNet, length: int, size: int) -> _TiledAxis:
    output = valid_size(size, network.depth)
    surplus = output % 32
    step = output - surplus
    if step < 1:
        raise Unsupported(f"tiles of {size} px leave nothing in {NAME}", hint="Use a larger input shape")
    total = size - length % step
    return _TiledAxis(size, step, surplus // 2, total - total // 2, total // 2, length // step + 1)


def valid_size(size: int, depth: int) -> int:
    """Side of the output of the valid network for an input of ``size``."""
    for _ in range(depth - 1):
        size = (size - 4) // 2
    size -= 4
    for _ in range(depth - 1):
        size = 2 * size - 4
    return size


def bilinear(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Two-by-two interpolation without any smoothing, pixel centres aligned (OpenCV's INTER_LINEAR)."""
    for axis, size in enumerate(shape):
        length = image.shape[axis]
        place = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
        low = np.floor(place).astype(np.int64)
        share = np.where((low < 0) | (low >= length - 1), np.float32(0), place - low.astype(np.float32))
        low = np.clip(low, 0, length - 1)
        share = share[:, None] if axis == 0 else share
        first, second = image.take(low, axis), image.take(np.minimum(low + 1, length - 1), axis)
        image = first * (1 - share) + second * share
    return image


def nearest(image: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The pixel at or before each place, counted from the first (OpenCV's INTER_NEAREST)."""
    for axis, size in enumerate(shape):
        length = image.shape[axis]
        place = np.floor(np.arange(size) * (1.0 / (size / length))).astype(np.int64)
        image = image.take(np.minimum(place, length - 1), axis)
    return image


def write_prediction(path: Path, prediction: NDArray[Any]) -> None:
    """A full-resolution map as its uint8 TIFF: ``floor(p * 255)``. Raises OutputError."""
    make_folder(path.parent)
    with write_atomically(path) as part:
        tifffile.imwrite(part, np.floor(prediction * 255).astype(np.uint8), photometric="minisblack")


def _magnification(image: LocalImage) -> float:
    y, x = image.require_pixel_size()
    if not math.isclose(y, x, rel_tol=0.01):
        raise Unsupported(f"{image.name}: {NAME} knows no pixels of {y} x {x} µm", hint="Leave --compat out")
    return MODEL_MAGNIFICATION / y


def _means(labels: NDArray[np.int32], values: NDArray[Any], area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of ``values`` over the pixels of each cell; NaN for a cell without pixels."""
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=len(area) + 1)[1:]
    return sums / np.where(area > 0, area, np.nan)


def _geometry(labels: NDArray[np.int32], inner: NDArray[np.bool_], area: NDArray[np.float64]) -> dict[str, Any]:
    n = len(area)
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    y, x = np.indices(labels.shape, sparse=True)
    return {
        "area_px": area.astype(np.int64),
        "centroid": np.stack(
            [_means(labels, np.broadcast_to(axis + 0.5, labels.shape), area) for axis in (y, x)], axis=1
        ),
        "eroded_px": np.bincount(labels[inner], minlength=n + 1)[1:].astype(np.int64),
        "touches_edge": np.isin(np.arange(1, n + 1), rim),
    }


def _bad(raw: NDArray[Any]) -> tuple[int, int]:
    return int(np.count_nonzero(~np.isfinite(raw))), int(np.count_nonzero(raw < 0))
