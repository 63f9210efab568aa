"""Which cells a gallery shows: those nearest the threshold, a few of every image, the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SHOWN = 24
"""Cells in a gallery."""


@dataclass(frozen=True, order=True)
class Candidate:
    """A cell that may be shown. distance: of its score from the threshold. image: its number in the run. row: in its table."""

    distance: float
    image: int
    cell: str
    row: int = field(compare=False)
    score: float = field(compare=False)
    mean: float = field(compare=False)


def nearest(
    image: int, cells: Sequence[str], scores: NDArray[np.floating], means: NDArray[np.floating], threshold: float
) -> list[Candidate]:
    """The cells of one image whose scores are nearest the threshold, at most :data:`SHOWN`; ties by id. NaN is left out."""
    distance = np.abs(np.asarray(scores, np.float64) - threshold)
    known = np.flatnonzero(np.isfinite(distance))
    if len(known) > SHOWN:  # of all that are as near as the last one ids decide
        edge = np.partition(distance[known], SHOWN - 1)[SHOWN - 1]
        known = known[distance[known] <= edge]
    found = [
        Candidate(float(distance[row]), image, str(cells[row]), row, float(scores[row]), float(means[row]))
        for row in known.tolist()
    ]
    return sorted(found)[:SHOWN]


def chosen(candidates: Sequence[Sequence[Candidate]], shown: int = SHOWN) -> list[Candidate]:
    """Of the candidates of every image those shown, nearest first: from each image its share as far as it has so many."""
    there = [sorted(of_image) for of_image in candidates if of_image]
    if not there:
        return []
    share = -(-shown // len(there))
    first = sorted(cell for of_image in there for cell in of_image[:share])
    rest = sorted(cell for of_image in there for cell in of_image[share:])
    return sorted((first + rest)[:shown])
