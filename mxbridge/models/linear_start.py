"""The linear part of an imputation: what regression on the other markers expects, which the network then corrects.

A small network that learns from a few fields spends its first hours on what a regression finds at once, and seldom gets as
exact where two stains are nearly one (DNA by two isotopes). So the house's models predict ``start + 2 (network - 0.5)``,
clipped to 0..1: with a network that says one half everywhere that is the regression itself. The regression is the best linear
estimate from the values and the 3x3 means of the markers that are there; it comes from one covariance, whatever is hidden.
The published program has no such part, and models without ``linear_start`` in their card have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mxbridge.errors import ModelError

PENALTY = 1e-5
"""Added to every variance (unit values squared): two stains that are one still give a regression."""

LARGEST = 1e6
"""Means and covariances beyond are none of unit values."""

RADIUS = 1
"""Pixels around a pixel that its estimate depends on."""


@dataclass(frozen=True)
class LinearStart:
    """names: markers. mean: float64 ``(2 n,)``, covariance: ``(2 n, 2 n)`` of their unit values and then of their 3x3 means."""

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    _known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], markers: Sequence[str], where: str) -> LinearStart | None:
        """From a model card; None where it has none. markers: that it must be about, in order. Raises ModelError."""
        if not values:
            return None
        try:
            names = tuple(values["names"])
            if names != tuple(dict.fromkeys(markers)):
                alike = all(isinstance(name, str) for name in names) and set(names) == set(markers)
                what = "is about other markers" if alike else "does not fit its markers"
                raise ModelError(f"{where}: the linear start of its card {what}")
            mean, covariance = np.asarray(values["mean"], np.float64), np.asarray(values["covariance"], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{where}: the linear start of its card is broken ({str(error)[:120]})") from error
        n = 2 * len(names)
        good = mean.shape == (n,) and covariance.shape == (n, n)
        if not good or not (np.abs(mean) <= LARGEST).all() or not (np.abs(covariance) <= LARGEST).all():
            raise ModelError(f"{where}: the linear start of its card does not fit its markers")
        if np.abs(covariance - covariance.T).max() > PENALTY / 2 or not _is_positive(covariance):
            raise ModelError(f"{where}: the covariance of its linear start is none")
        return cls(names, mean, covariance)

    def to_json(self) -> dict[str, Any]:
        rounded = np.vectorize(lambda v: float(f"{v:.9g}"))
        return {
            "names": list(self.names),
            "mean": rounded(self.mean).tolist(),
            "covariance": rounded(self.covariance).tolist(),
        }

    def estimate(self, unit: Tensor, hidden: Sequence[str]) -> Tensor:
        """Hidden markers ``(..., hidden, y, x)`` in 0..1 from ``unit`` ``(..., n, y, x)``, whose hidden planes are not looked at.

        At the border of what is given its outermost pixels are repeated.
        """
        at = tuple(self.names.index(name) for name in hidden)
        weights, constant = self._weights(at, unit.device)
        planes = functional.pad(unit.reshape(-1, *unit.shape[-3:]), (1, 1, 1, 1), mode="replicate")
        found = functional.conv2d(planes, weights, constant)
        return found.clamp(0, 1).reshape(*unit.shape[:-3], len(at), *unit.shape[-2:])

    def _weights(self, hidden: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """A 3x3 convolution, ``(hidden, n, 3, 3)``, and its constant ``(hidden,)``; weights of hidden markers are 0."""
        if hidden not in self._known:
            n = len(self.names)
            there = [k for k in range(2 * n) if k % n not in hidden]
            weights = np.zeros((len(hidden), 2 * n))
            if there:
                own = self.covariance[np.ix_(there, there)] + PENALTY * np.eye(len(there))
                weights[:, there] = np.linalg.solve(own, self.covariance[np.ix_(there, list(hidden))]).T
            constant = self.mean[list(hidden)] - weights @ self.mean
            kernel = np.repeat(weights[:, n:, None] / 9, 9, axis=2)  # the mean's share of each of its pixels
            kernel[:, :, 4] += weights[:, :n]
            kernel = kernel.reshape(len(hidden), n, 3, 3)
            self._known[hidden] = torch.from_numpy(kernel).float(), torch.from_numpy(constant).float()
        found = self._known[hidden]
        return found[0].to(device), found[1].to(device)


def _is_positive(covariance: NDArray[np.float64]) -> bool:
    """Whether there is no negative variance in any direction, to half of what is added in any case."""
    try:
        np.linalg.cholesky(covariance + PENALTY / 2 * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        return False
    return True


def network_input(
    unit: Tensor, hidden: Sequence[int], start: Tensor | None, *, any_marker: bool, out: Tensor | None = None
) -> Tensor:
    """What a network sees of one field: ``unit`` ``(inputs, y, x)`` with the planes in ``hidden`` (positions) replaced.

    Any-marker models see the linear start of hidden markers ``(hidden, y, x)`` where there is one, else 0, and then for each
    marker a plane of 1 where it is there and 0 where it is hidden. Single models see ``unit`` as it is.
    out: ``(planes, y, x)`` to write to, in any memory layout.
    """
    n = len(unit)
    if out is None:
        if not any_marker:
            return unit
        out = unit.new_empty((2 * n, *unit.shape[1:]))
    out[:n] = unit
    if any_marker:
        out[n:] = 1
        if len(hidden):
            out[list(hidden)] = 0 if start is None else start
            out[[n + k for k in hidden]] = 0
    return out


def corrected(output: Tensor, start: Tensor | None) -> Tensor:
    """The prediction, not yet clipped to 0..1, from the network's output and the linear start of its shape (or broadcast)."""
    return output if start is None else start + (2 * output - 1)  # in this order one half changes nothing
