"""How bright and how varied the channels of good images were, and what is unlike them in a new one.

This is coarse on purpose: good slides differ by a factor of two. What it finds is a channel that is dead, saturated, or
scaled as no channel in training was; :mod:`mxbridge.metrics.agreement` finds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import ModelError

FACTOR = 3.0
"""Beyond the means and spreads of training by this factor a channel is out of range."""
DARKEST = 1e-3
"""Means and spreads below this (units) are all called dark: their ratio says nothing."""
SATURATED = 0.05
"""Share of pixels at 1 or above from which a channel may be called saturated."""
TEXTURE = 0.5, 0.15
"""A channel whose neighbouring pixels correlate less than this part of training's, and this much less, is called noise."""
FLAT = 1e-6
"""Spread (units) up to which a channel is constant."""
BROKEN = 0.5
"""Share of pixels that are no numbers from which a channel is called broken."""


@dataclass(frozen=True)
class ChannelSummary:
    """Of one channel of one image, in units. top: share of pixels at 1 or above. broken: share that is not finite.

    texture: how pixels correlate with their neighbours in a row, 0 for noise; NaN for a constant channel.
    """

    mean: float
    sd: float
    top: float
    broken: float
    texture: float


class InputSums:
    """Sums of scaled pixels per channel of one image, whatever the order in which parts come."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._sums = np.zeros((7, len(names)))

    def add(self, unit: NDArray[np.floating[Any]]) -> None:
        """Pixels ``(channel, y, x)`` of some part in units, NaN where there is no number.

        A pixel that is no number in any of several channels lies outside of what was imaged, and is not counted.
        """
        pixels = unit[0].size if len(unit) == 1 else int(np.isfinite(unit).any(axis=0).sum()) if len(unit) else 0
        for k, plane in enumerate(unit):
            finite = np.isfinite(plane)
            values = plane[finite].astype(np.float64)
            top = int(np.count_nonzero(values >= 1))
            steps = np.diff(plane.astype(np.float64), axis=-1)
            steps = steps[np.isfinite(steps)]
            self._sums[:, k] += (
                *(pixels, values.size, values.sum(), (values * values).sum(), top),
                *(steps.size, (steps * steps).sum()),
            )

    def summaries(self) -> dict[str, ChannelSummary]:
        """Per channel; NaN for the mean and spread of a channel without a number."""
        pixels, n, total, squares, top, pairs, steps = self._sums
        some = np.maximum(n, 1)
        mean = np.where(n > 0, total / some, np.nan)
        sd = np.sqrt(np.maximum(squares / some - (total / some) ** 2, 0.0))
        broken = 1 - n / np.maximum(pixels, 1)
        noise = steps / np.maximum(pairs, 1) / np.where(sd > FLAT, 2 * sd**2, np.nan)
        texture = np.where(pairs > 0, np.clip(1 - noise, -1, 1), np.nan)
        rows = np.stack([mean, np.where(n > 0, sd, np.nan), top / some, broken, texture], axis=1)
        return {name: ChannelSummary(*map(float, row)) for name, row in zip(self.names, rows, strict=True)}


@dataclass(frozen=True)
class InputRange:
    """Lowest and highest mean and spread of a channel over the good images, the largest share of pixels at the top, and the
    lowest texture (NaN where no image had any)."""

    mean: tuple[float, float]
    sd: tuple[float, float]
    top: float
    texture: float
    fields: int

    @classmethod
    def from_record(cls, record: Any, where: str = "the model card") -> InputRange:
        """From ``card.validation["input_ranges"][marker]``. Raises ModelError."""
        try:
            mean, sd = ((float(record[key][0]), float(record[key][1])) for key in ("mean", "sd"))
            texture = np.nan if record.get("texture") is None else float(record["texture"])
            found = cls(mean, sd, float(record["top"]), texture, int(record["fields"]))
            if (
                np.isinf(texture)
                or not np.isfinite([*mean, *sd, found.top]).all()
                or mean[0] > mean[1]
                or sd[0] > sd[1]
            ):
                raise ValueError("numbers that are no range")
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
            raise ModelError(f"{where}: no usable range of an input ({error})") from error
        return found

    def what_is_wrong(self, seen: ChannelSummary) -> str:
        """Why a channel is unlike those of training, in words; empty where it is not."""
        if dead := nothing_in(seen):
            return dead
        if seen.top >= SATURATED and seen.top > FACTOR * self.top:
            return f"{seen.top:.0%} of its pixels are at or above the top of the scale"
        for word, value, (low, high) in (("mean", seen.mean, self.mean), ("contrast", seen.sd, self.sd)):
            if max(value, DARKEST) * FACTOR < max(low, DARKEST):
                return f"its {word} {value:.3g} is far below what the model was trained on ({low:.3g} to {high:.3g})"
            if value > FACTOR * max(high, DARKEST):
                return f"its {word} {value:.3g} is far above what the model was trained on ({low:.3g} to {high:.3g})"
        if seen.texture < min(TEXTURE[0] * self.texture, self.texture - TEXTURE[1]):
            return f"it looks like noise: neighbouring pixels correlate by {seen.texture:.2f}, in training by {self.texture:.2f}"
        return ""


def is_broken(seen: ChannelSummary) -> bool:
    """Whether most of a channel is no numbers."""
    return seen.broken >= BROKEN


def nothing_in(seen: ChannelSummary) -> str:
    """Why a channel can hold no stain, whatever the model knows; empty where it may."""
    if is_broken(seen):
        return f"{seen.broken:.0%} of its pixels are no numbers"
    if seen.sd <= FLAT:
        return "it is constant"
    return ""


def input_ranges(fields: Sequence[InputSums]) -> dict[str, Any]:
    """``card.validation["input_ranges"]`` from the sums of good images or regions, all of the same channels."""
    seen: Mapping[str, list[ChannelSummary]] = {name: [] for name in (fields[0].names if fields else ())}
    for field in fields:
        for name, summary in field.summaries().items():
            if np.isfinite(summary.mean):
                seen[name].append(summary)
    record = {}
    for name, rows in seen.items():
        if rows:
            means, sds = [r.mean for r in rows], [r.sd for r in rows]
            textures = [r.texture for r in rows if np.isfinite(r.texture)]
            top, lowest = max(r.top for r in rows), min(textures, default=None)
            record[name] = {
                "mean": [min(means), max(means)],
                "sd": [min(sds), max(sds)],
                "top": top,
                "texture": lowest,
                "fields": len(rows),
            }
    return record
