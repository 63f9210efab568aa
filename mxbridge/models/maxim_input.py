"""What an imputation network sees of an image: the markers it knows, scaled to 0..1, at its scale.

Training, imputation, quality control and attribution all go through here, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.errors import InputError
from mxbridge.image import Box, LocalImage
from mxbridge.models.scaling import Scaling
from mxbridge.stream.reader import LevelReader
from mxbridge.stream.resample import Field, Scale, Taps, resample

SAME_SCALE = 0.01
"""Pixel sizes that differ by no more than this share are the same: nothing is resampled."""
FARTHEST = 4.0
"""Images whose pixels are more than this many times larger or smaller than the model's are refused."""


def find_markers(image: LocalImage, markers: Iterable[str]) -> dict[str, int]:
    """Channel of each marker that the image has: the exact name, then the name in any case; others are left out.

    Raises InputError where a name that is wanted stands on several channels.
    """
    names = [channel.name.strip() for channel in image.channels]
    folded = [name.casefold() for name in names]
    found = {}
    for marker in markers:
        hits = [k for k, name in enumerate(names) if name == marker.strip()]
        hits = hits or [k for k, name in enumerate(folded) if name == marker.strip().casefold()]
        if len(hits) > 1:
            raise InputError(
                f"{image.name}: {len(hits)} channels are called {marker} (number {', '.join(map(str, hits))} from 0)",
                hint="Rename all but the right one, so that the model cannot be given the wrong stain",
            )
        if hits:
            found[marker] = hits[0]
    return found


def field_at(image: LocalImage, um_per_px: float | tuple[float, float]) -> Field:
    """The image seen at ``um_per_px`` (both axes, or y and x): its own pixels where the sizes are equal within 1 %.

    Raises NoPixelSize, and InputError beyond a factor of 4.
    """
    um_image = image.require_pixel_size()
    um_model = um_per_px if isinstance(um_per_px, tuple) else (um_per_px, um_per_px)
    ratios = um_image[0] / um_model[0], um_image[1] / um_model[1]
    for um, model, ratio in zip(um_image, um_model, ratios, strict=True):
        if not 1 / FARTHEST - 1e-9 <= ratio <= FARTHEST + 1e-9:
            raise InputError(
                f"{image.name}: its pixels are {um:g} µm wide, the model's {model:g}: more than a factor of {FARTHEST:g}",
                hint="Check --um-per-px; for this scale a model has to be trained",
            )
    if all(abs(ratio - 1) <= SAME_SCALE + 1e-9 for ratio in ratios):
        return own_field(image)
    return Field(Scale(image.shape[0], ratios[0]), Scale(image.shape[1], ratios[1]))


def own_field(image: LocalImage) -> Field:
    """The image as it is stored."""
    return Field(Scale(image.shape[0], 1.0), Scale(image.shape[1], 1.0))


def scaled_plane(
    raw: NDArray[Any], scaling: Scaling, rows: Taps, columns: Taps, device: torch.device, value_scale: float = 1.0
) -> Tensor:
    """Stored numbers ``(y, x)`` of one channel -> 0..1 at the model's scale; what is not finite becomes 0."""
    return resample(scaling.to_unit(_stored(raw, device) * value_scale), rows, columns)


def measured_plane(
    raw: NDArray[Any], scaling: Scaling, rows: Taps, columns: Taps, device: torch.device, value_scale: float = 1.0
) -> Tensor:
    """As :func:`scaled_plane`, but NaN wherever a pixel that is not finite has a part."""
    plane = scaled_plane(raw, scaling, rows, columns, device, value_scale)
    if np.issubdtype(raw.dtype, np.floating):
        broken = ~torch.isfinite(_stored(raw, device))
        if bool(broken.any()):
            plane = plane.masked_fill(resample(broken, rows, columns) > 0, torch.nan)
    return plane


def _stored(raw: NDArray[Any], device: torch.device) -> Tensor:
    """As float32 on the device."""
    if raw.dtype in (np.bool_, np.float64) or device.type not in ("cpu", "cuda"):
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and that is not finite
            raw = raw.astype(
                np.float32
            )  # booleans are no numbers to torch, some devices lack float64 and unsigned types
    return torch.from_numpy(np.ascontiguousarray(raw)).to(device).to(torch.float32)


class ScaledReader:
    """Boxes of some channels of an image, scaled and at a model's scale.

    channels: indices. scalings: of each. um_per_px: the model's. value_scale: stored numbers are multiplied by it first.
    Raises NoPixelSize, and InputError beyond a factor of 4 between the pixel sizes.
    """

    def __init__(
        self,
        image: LocalImage,
        channels: Sequence[int],
        scalings: Sequence[Scaling],
        um_per_px: float,
        *,
        value_scale: float = 1.0,
    ) -> None:
        if len(channels) != len(scalings):
            raise ValueError(f"{len(channels)} channels but {len(scalings)} scalings")
        self.scalings, self.value_scale = list(scalings), value_scale
        self.reader = LevelReader(image, channels, field_at(image, um_per_px))

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) at the model's scale."""
        return self.reader.field.shape

    def read(self, box: Box) -> NDArray[np.float32]:
        """``(c, y, x)`` of a box inside the image, in model pixels: the same numbers whatever the boxes. Raises InputError."""
        if 0 in box.shape or box.clip(self.shape) != box:
            raise ValueError(f"{tuple(box)} is not inside {self.shape}")
        rows, columns = self.reader.level_taps(box)
        raw = self.reader.pixels(Box(rows.start, columns.start, rows.stop, columns.stop))
        out = np.empty((len(raw), *box.shape), np.float32)
        for k, (plane, scaling) in enumerate(zip(raw, self.scalings, strict=True)):
            out[k] = scaled_plane(plane, scaling, rows, columns, torch.device("cpu"), self.value_scale).numpy()
        return out
