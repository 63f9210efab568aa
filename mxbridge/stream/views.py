"""The eight ways to turn and mirror a tile, and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mxbridge.image import Box


class View(NamedTuple):
    """Rotate by ``turns`` quarter turns (from y towards x, as numpy.rot90), then flip ``flip`` axes."""

    name: str
    turns: int = 0
    flip: tuple[int, ...] = ()

    def apply(self, image: Tensor) -> Tensor:
        """``(..., y, x)`` as this view shows it."""
        turned = torch.rot90(image, self.turns, (-2, -1)) if self.turns else image
        return torch.flip(turned, self.flip) if self.flip else turned

    def invert(self, image: Tensor) -> Tensor:
        """Undo :meth:`apply`."""
        flipped = torch.flip(image, self.flip) if self.flip else image
        return torch.rot90(flipped, -self.turns, (-2, -1)) if self.turns else flipped

    def box(self, box: Box, shape: tuple[int, int]) -> Box:
        """Where :meth:`apply` puts a part of an image of ``shape`` (y, x)."""
        height, width = shape
        for _ in range(self.turns):
            box = Box(width - box.x1, box.y0, width - box.x0, box.y1)
            height, width = width, height
        if -2 in self.flip:
            box = Box(height - box.y1, box.x0, height - box.y0, box.x1)
        if -1 in self.flip:
            box = Box(box.y0, width - box.x1, box.y1, width - box.x0)
        return box


Views = tuple[View, ...]

IDENTITY = View("identity")
SIX_VIEWS: Views = (
    IDENTITY,
    View("rot90", 1),
    View("rot180", 2),
    View("rot270", 3),
    View("flip vertical", 0, (-2,)),
    View("flip horizontal", 0, (-1,)),
)
