"""What the marker network sees: one marker and the eroded mask of the cells, at the model's scale.

Training and inference both go through here, so that they cannot drift apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.image import Box
from mxbridge.stream.grid import round_up
from mxbridge.stream.reader import TileData, TileReader
from mxbridge.stream.resample import Field, Taps, at_least_half, pad_by_reflection, resample


def inner_mask(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """``(y, x)`` pixels of cells without the rim of each: those whose four neighbours carry the same label.

    The border of the array makes no rim.
    """
    inner = labels > 0
    down = labels[1:] != labels[:-1]
    right = labels[:, 1:] != labels[:, :-1]
    inner[1:] &= ~down
    inner[:-1] &= ~down
    inner[:, 1:] &= ~right
    inner[:, :-1] &= ~right
    return inner


def marker_channel(raw: NDArray[Any], factor: float, device: torch.device | None = None) -> Tensor:
    """Stored numbers ``(..., y, x)`` -> float32 0..1: divided by ``factor`` and clipped; what is not finite becomes 0."""
    if raw.dtype in (np.bool_, np.float64) or (device is not None and device.type not in ("cpu", "cuda")):
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and that becomes 0 below
            raw = raw.astype(
                np.float32
            )  # booleans are no numbers to torch, some devices lack float64 and unsigned types
    pixels = torch.from_numpy(np.ascontiguousarray(raw)).to(device).to(torch.float32)
    if np.issubdtype(raw.dtype, np.floating):
        pixels = torch.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
    return (pixels / factor).clamp_(0, 1)


def mask_channel(inner: NDArray[np.bool_], rows: Taps, columns: Taps, device: torch.device | None = None) -> Tensor:
    """The eroded mask ``(y, x)``, whose first pixel is ``rows.start, columns.start`` -> binary float32 at model scale."""
    cover = torch.from_numpy(np.ascontiguousarray(inner)).to(device)
    return at_least_half(resample(cover, rows, columns))


def tile_mask(data: TileData, inner: NDArray[np.bool_], reader: TileReader, device: torch.device) -> Tensor:
    """The mask channel ``(y, x)`` of a tile, over its part inside the image. inner: of ``data.label_box``."""
    rows, columns = reader.label_taps(data.seen)
    y, x = rows.start - data.label_box.y0, columns.start - data.label_box.x0
    part = inner[y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]
    return mask_channel(part, rows, columns, device)


def tile_input(data: TileData, marker: int, factor: float, mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """``(2, y, x)`` of the outer box: marker number ``marker`` of ``data.raw`` and the mask. shape: the image's, model px."""
    pixels = marker_channel(data.raw[marker], factor, mask.device)
    both = torch.stack([resample(pixels, data.rows, data.columns), mask])
    return pad_by_reflection(both, data.seen, data.tile.outer, shape)


def whole_input(
    raw: NDArray[Any],
    labels: NDArray[np.int32],
    factors: NDArray[Any] | list[float],
    um_image: tuple[float, float],
    um_model: float,
    *,
    stride: int = 1,
) -> Tensor:
    """A whole (small) image as the network sees it: raw ``(m, y, x)``, labels ``(y, x)`` -> ``(m, 2, y, x)`` float32.

    Padded by reflection on the right and at the bottom to multiples of ``stride``, at least two of them when stride > 1.
    """
    field = Field.of((labels.shape[0], labels.shape[1]), um_image, um_model)
    height, width = field.shape
    rows, columns = field.y.taps(0, height, labels.shape[0]), field.x.taps(0, width, labels.shape[1])
    mask = mask_channel(inner_mask(labels), rows, columns)
    markers = [
        resample(marker_channel(plane, float(factor)), rows, columns)
        for plane, factor in zip(raw, factors, strict=True)
    ]
    both = torch.stack([torch.stack([marker, mask]) for marker in markers])
    least = 2 * stride if stride > 1 else 1
    padded = Box(0, 0, max(least, round_up(height, stride)), max(least, round_up(width, stride)))
    return pad_by_reflection(both, Box(0, 0, height, width), padded, (height, width))
