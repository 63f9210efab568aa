"""From scores to classes: which markers a cell is positive for, and what it is then called in QuPath.

A class is its base (``Tumor``) followed by the positive markers in the order of the image's channels
(``Tumor: CD3: CD8``). One cell gets one class for all markers of a run together, so markers never overwrite each other.
Parts of a class that name other markers of the image (a user's own calls) are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEPARATOR = ": "
"""Between the parts of a derived class, as QuPath writes it."""


def class_part(marker: str) -> str:
    """A marker as a part of a class name: QuPath keeps the colon for itself, so ``CD3:FITC`` becomes ``CD3-FITC``."""
    return " ".join(marker.replace(":", "-").split()) or "?"


def derived_classes(
    current: Sequence[str | None],
    positive: NDArray[np.bool_],
    markers: Sequence[str],
    order: Sequence[str],
) -> list[str | None]:
    """New class names of cells.

    current: class of each cell now, or None. positive: ``(markers, cells)``. markers: the names scored in this run.
    order: all marker names of the image in channel order; parts of a class that are among them count as marker calls.
    """
    markers = [class_part(m) for m in markers]
    known = list(dict.fromkeys([*(class_part(m) for m in order), *markers]))
    out: list[str | None] = []
    for cell, name in enumerate(current):
        parts = name.split(SEPARATOR) if name else []
        base = [p for p in parts if p not in known]
        calls = {p for p in parts if p in known and p not in markers}
        calls |= {m for m, is_positive in zip(markers, positive[:, cell], strict=True) if is_positive}
        out.append(SEPARATOR.join([*base, *(m for m in known if m in calls)]) or None)
    return out


def base_classes(current: Sequence[str | None], markers: Sequence[str]) -> list[str | None]:
    """Classes without the calls of ``markers``: what a run of these markers starts from."""
    nobody = np.zeros((len(markers), len(current)), bool)
    return derived_classes(current, nobody, markers, markers)
