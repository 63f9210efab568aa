"""Spectral norms of saved weights: the division is done once, when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ORIGINAL, LEFT, RIGHT = (f".parametrizations.weight.{part}" for part in ("original", "0._u", "0._v"))


def divided(weights: Mapping[str, Tensor], transposed: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """Plain weights in place of those that torch keeps beside their two singular vectors; others stay as they are.

    transposed: stems of transposed convolutions, whose outputs are their second axis. Raises ValueError where vectors are
    missing or do not fit.
    """
    out = {key: value for key, value in weights.items() if ".parametrizations." not in key}
    for key in [key for key in weights if key.endswith(ORIGINAL)]:
        stem, original = key.removesuffix(ORIGINAL), weights[key]
        left, right = weights.get(stem + LEFT), weights.get(stem + RIGHT)
        if left is None or right is None:
            raise ValueError(f"{stem} has a spectral norm, but not its vectors")
        matrix = (original.transpose(0, 1) if stem in transposed else original).flatten(1)
        if left.shape != matrix.shape[:1] or right.shape != matrix.shape[1:]:
            raise ValueError(f"the vectors of the spectral norm of {stem} do not fit its weights")
        out[stem + ".weight"] = original / torch.dot(left, matrix @ right)
    return out
