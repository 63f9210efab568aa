"""The small picture of an image in QuPath's project list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mxbridge.image import Channel, LocalImage

SIDE = 256
"""Longest side in pixels."""

_CHANNELS = 6
"""More channels than this on top of each other show nothing but white."""


def write_thumbnail(path: Path, image: LocalImage, channels: Sequence[Channel]) -> None:
    """Write a JPEG: the picture itself, or the first channels in their colours, each stretched to its own range."""
    small = [level for level in image.levels if max(level.shape[1:]) >= SIDE] or list(image.levels)
    step = max(1, -(-max(small[-1].shape[1:]) // SIDE))
    planes = small[-1][: len(channels) if image.rgb else _CHANNELS, ::step, ::step].compute()
    if image.rgb and planes.dtype == np.uint8:
        picture = np.moveaxis(planes, 0, -1)
    else:
        picture = _composite(planes, [c.color or 0xFFFFFF for c in channels])
    Image.fromarray(np.ascontiguousarray(picture)).save(path, quality=85)


def _composite(planes: NDArray, colors: Sequence[int]) -> NDArray[np.uint8]:
    out = np.zeros((*planes.shape[1:], 3), np.float32)
    for plane, color in zip(planes, colors, strict=False):
        values = np.nan_to_num(plane.astype(np.float32), posinf=0.0, neginf=0.0)
        low, high = np.percentile(values, (1, 99.5))
        stretched = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
        out += stretched[..., None] * np.array([color >> 16 & 255, color >> 8 & 255, color & 255], np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)
