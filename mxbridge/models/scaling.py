"""How stored numbers of a marker become 0..1 and back; part of a model, because a network means nothing without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxbridge.errors import ModelError

Transform = Literal["linear", "arcsinh"]

SMALLEST, LARGEST, LARGEST_ARCSINH = 1e-30, 1e30, 60.0
"""Widths that float32 still divides by; stored numbers that it still holds, and what arcsinh makes of them."""


@dataclass(frozen=True)
class Scaling:
    """``unit = (f(stored) - low) / (high - low)``, clipped to 0..1 unless ``clip`` is off; f is v or arcsinh(v / cofactor).

    low, high: in units of f. The published program is ``Scaling("linear", high=255, clip=False)``; imaging mass cytometry
    is usually seen as ``Scaling("arcsinh", cofactor=5, high=<99.5 % quantile>)``.
    """

    transform: Transform = "linear"
    low: float = 0.0
    high: float = 255.0
    cofactor: float = 5.0
    clip: bool = True

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.cofactor)
        if self.transform not in get_args(Transform) or not all(_is_plain(n) for n in numbers):
            raise ModelError(f"no scaling of a marker: {str(asdict(self))[:200]}")
        if not (self.high - self.low >= SMALLEST and self.cofactor >= SMALLEST):
            raise ModelError(f"a scaling needs high above low and a positive cofactor: {asdict(self)}")
        farthest = max(abs(self.low), abs(self.high))
        if self.transform == "arcsinh" and not (
            farthest <= LARGEST_ARCSINH and self.cofactor * math.sinh(farthest) <= LARGEST
        ):
            raise ModelError(f"a scaling beyond all numbers that images hold: {asdict(self)}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Scaling:
        """From a model card. Raises ModelError."""
        if not isinstance(values, Mapping) or not set(values) <= {"transform", "low", "high", "cofactor", "clip"}:
            raise ModelError(f"{where}: {str(values)[:80]} is no scaling of a marker")
        try:
            return cls(**values)
        except (ModelError, TypeError) as error:
            raise ModelError(f"{where}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_unit(self, stored: Tensor) -> Tensor:
        """Float32 stored numbers -> 0..1, any shape; what is not finite becomes 0."""
        values = torch.nan_to_num(stored, nan=0.0, posinf=0.0, neginf=0.0)
        if self.transform == "arcsinh":
            values = torch.asinh(values / self.cofactor)
        unit = (values - self.low) / (self.high - self.low)
        return unit.clamp(0, 1) if self.clip else unit

    def to_stored(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """0..1 -> stored numbers as float32, before any rounding; any shape."""
        values = unit.astype(np.float64) * (self.high - self.low) + self.low
        if self.transform == "arcsinh":
            values = np.sinh(values) * self.cofactor
        return values.astype(np.float32)


def _is_plain(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= LARGEST


PEER = Scaling("linear", 0.0, 255.0, clip=False)
"""The published program: divided by 255, whatever the depth."""
