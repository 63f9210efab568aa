"""Which annotations of an image get a score of their own, and which limit where nuclei are looked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import OutlineCells
from mxbridge.errors import InputError, UnknownName
from mxbridge.workspaces.base import Pulled

CLASSLESS = "(no class)"


@dataclass(frozen=True)
class Annotations:
    """The annotations that get scores. limiting: nuclei are looked for inside them only. warnings: for people."""

    cells: OutlineCells | None
    limiting: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def limit(self) -> OutlineCells | None:
        """Outside these nothing is looked for; None for the whole image."""
        return self.cells if self.limiting else None

    @property
    def limit_hash(self) -> str:
        """Of what limits the search; empty for the whole image."""
        return self.cells.geometry_hash() if self.limiting and self.cells is not None else ""

    @property
    def ids(self) -> tuple[str, ...]:
        return () if self.cells is None else self.cells.ids

    @property
    def labels(self) -> tuple[str, ...]:
        """What to call each: its name, else its id. Names need not be unique."""
        names = () if self.cells is None else self.cells.names
        return tuple(name or own for name, own in zip(names or self.ids, self.ids, strict=True))

    @property
    def classes(self) -> tuple[str | None, ...]:
        return () if self.cells is None else self.cells.classes


def choose(pulled: Pulled, inside: tuple[str, ...]) -> Annotations:
    """All annotations with an area, or those of the classes ``inside``. Those that lie outside the image are left out.

    Raises UnknownName where the image has no annotation of such a class, InputError where all of them lie outside.
    """
    cells = pulled.cells if isinstance(pulled.cells, OutlineCells) else None
    if inside:
        cells = _of_classes(pulled, cells, inside)
    if cells is None:
        return Annotations(None)
    outside = _outside(cells.outlines.bounds(), cells.shape)
    if not outside.any():
        return Annotations(cells, bool(inside))
    if outside.all() and inside:
        raise InputError(
            f"image {pulled.ref}: all annotations of the class {' or '.join(inside)} lie outside the image",
            hint="They may belong to another image, or to one of another resolution",
        )
    warning = f"{int(outside.sum())} of {len(cells)} annotations lie outside the image and get no score"
    kept = _subset(cells, np.flatnonzero(~outside))
    return Annotations(kept if len(kept) else None, bool(inside), (warning,))


def _of_classes(pulled: Pulled, cells: OutlineCells | None, inside: tuple[str, ...]) -> OutlineCells:
    if cells is None:
        why = f" ({'; '.join(pulled.warnings)})" if pulled.warnings else ""
        raise InputError(
            f"image {pulled.ref} has no annotations{why}",
            hint="Draw them, or leave --inside out; for image files they come as GeoJSON with --labels",
        )
    there = list(dict.fromkeys(name or CLASSLESS for name in cells.classes))
    for wanted in inside:
        if wanted not in there:
            raise UnknownName("annotation of the class", wanted, there, where=f"image {pulled.ref}")
    return _subset(cells, np.flatnonzero([(name or CLASSLESS) in inside for name in cells.classes]))


def _outside(bounds: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    y0, x0, y1, x1 = bounds.T
    return np.asarray((y1 <= 0) | (x1 <= 0) | (y0 >= shape[0]) | (x0 >= shape[1]))


def _subset(cells: OutlineCells, which: NDArray[np.int64]) -> OutlineCells:
    return OutlineCells(
        ids=tuple(cells.ids[k] for k in which),
        classes=tuple(cells.classes[k] for k in which),
        shape=cells.shape,
        outlines=cells.outlines.take(which),
        names=tuple(cells.names[k] for k in which) if cells.names else (),
    )
