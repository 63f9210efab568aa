"""How many cells of each class there are, in images and in their annotations, and the colours of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import OutlineCells
from mxbridge.errors import MxbridgeError
from mxbridge.nuclei.regions import Regions
from mxbridge.report.legends import Colour, Swatch

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace

CLASSLESS = "no class"
OTHERS = "others"
MOST_CLASSES = 12
"""Classes with a colour and a row of their own; rarer ones are taken together."""

CLASS_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (148, 103, 189), (140, 86, 75), (188, 189, 34), (23, 190, 207), (227, 119, 194),
)  # fmt: skip
"""Of classes that no project gives a colour: those of Okabe and Ito first."""
INTENSITIES: Mapping[str, Colour] = {"Positive": (200, 50, 50), "Negative": (90, 90, 180)}
"""Last parts of classes that QuPath has colours for."""
UNIMPORTANT: Colour = (150, 150, 150)


def class_counts(classes: Sequence[str | None]) -> dict[str, int]:
    """Cells by class, the most frequent first, those without one last."""
    counts = Counter(name or CLASSLESS for name in classes)
    return dict(sorted(counts.items(), key=lambda item: (item[0] == CLASSLESS, -item[1], item[0])))


def gathered(counts: Mapping[str, int], most: int = MOST_CLASSES) -> dict[str, int]:
    """The most frequent classes, and the number of cells of all others under :data:`OTHERS`."""
    named = [name for name in counts if name != CLASSLESS]
    kept = {name: counts[name] for name in named[:most]}
    rest = sum(counts[name] for name in named[most:])
    return kept | ({OTHERS: rest} if rest else {}) | ({CLASSLESS: counts[CLASSLESS]} if CLASSLESS in counts else {})


def colours_of(workspace: Workspace | None) -> Mapping[str, int | None]:
    """Full class name -> signed ARGB, as the place of the images has it; empty where it has none that can be read."""
    try:
        return {} if workspace is None else workspace.class_colors
    except MxbridgeError:
        return {}  # a report does not need them


def class_colours(names: Sequence[str], known: Mapping[str, int | None]) -> dict[str, Colour]:
    """A colour for every class: that of the project, QuPath's own for positive and negative, else the next free one."""
    colours: dict[str, Colour] = {}
    fresh = 0
    for name in names:
        argb = known.get(name)
        last = name.rsplit(": ", 1)[-1]
        if name in (CLASSLESS, OTHERS):
            colours[name] = UNIMPORTANT if name == CLASSLESS else (200, 200, 200)
        elif argb is not None:
            colours[name] = (argb >> 16 & 255, argb >> 8 & 255, argb & 255)
        elif last in INTENSITIES:
            colours[name] = INTENSITIES[last]
        else:
            colours[name] = CLASS_COLOURS[fresh % len(CLASS_COLOURS)]
            fresh += 1
    return colours


def colours_of_cells(classes: Sequence[str | None], colours: Mapping[str, Colour]) -> NDArray[np.uint8]:
    """``(cells, 3)``; a class that has no colour of its own is one of the others."""
    rest = colours.get(OTHERS, UNIMPORTANT)
    table = np.array([colours.get(name or CLASSLESS, rest) for name in classes], np.uint8)
    return table.reshape(-1, 3)


def swatches(counts: Mapping[str, int], colours: Mapping[str, Colour]) -> tuple[Swatch, ...]:
    """Of the classes that there are, with their numbers."""
    return tuple(Swatch(f"{name} ({count:,})".replace(",", " "), colours[name]) for name, count in counts.items())


def held_by(annotations: OutlineCells, centroids: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """For each annotation the indices of the cells whose centroids ``(n, 2)`` y, x (full-resolution pixels) it holds."""
    known = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    pairs = Regions(annotations.outlines).holding(centroids[known])
    return [known[pairs[pairs[:, 1] == k, 0]] for k in range(len(annotations))]


def annotation_names(annotations: OutlineCells) -> list[str]:
    """What to call each: its name, else the beginning of its id."""
    names = annotations.names or (None,) * len(annotations)
    return [name or own[:8] for name, own in zip(names, annotations.ids, strict=True)]
