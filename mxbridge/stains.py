"""The colours of stains on a brightfield image: what each dye absorbs of red, green and blue.

What travels from a workspace (QuPath keeps the colours that people estimated or drew) to the model that takes colours apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError, UsageError

Triple = tuple[float, float, float]

SMALLEST_ANGLE = 5.0
"""Degrees between two stains below which their colours are too alike to be taken apart."""


WHITE: Triple = (255.0, 255.0, 255.0)

_HINT = "Set the stain vectors anew in QuPath (Analyze > Estimate stain vectors), or leave them out"


def unit(vector: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Of length 1."""
    values = np.asarray(vector, np.float64)
    return np.asarray(values / np.linalg.norm(values))


@dataclass(frozen=True)
class StainVectors:
    """Optical densities (red, green, blue) of two dyes; of any length, they are made unit vectors before use.

    name: as QuPath shows it ("H-DAB default", "H&E modified", ...). second: the other dye, ``second_name`` is "DAB" or "Eosin".
    residual: the third colour, None (or nothing but zeros) for what is at right angles to both, as in QuPath. background: brightness (red, green, blue)
    of glass without tissue, 1 to 255; None where nobody measured it. Raises InputError for what is no colour of a stain.
    """

    name: str
    hematoxylin: Triple
    second: Triple
    second_name: str = "DAB"
    residual: Triple | None = None
    background: Triple | None = None

    @property
    def glass(self) -> Triple | None:
        """The background, unless it is white: QuPath writes 255 where nobody measured it."""
        return None if self.background in (None, WHITE) else self.background

    def __post_init__(self) -> None:
        for what, vector in (("hematoxylin", self.hematoxylin), (self.second_name, self.second)):
            if len(vector) != 3 or not all(map(math.isfinite, vector)) or max(vector) <= 0:
                raise InputError(f"stain vectors {self.name!r}: {vector} is no colour of {what}", hint=_HINT)
        if self.background is not None and not (
            len(self.background) == 3 and all(1 <= b <= 255 for b in self.background)
        ):
            raise InputError(
                f"stain vectors {self.name!r}: background {self.background} is not within 1..255", hint=_HINT
            )
        first, second = unit(self.hematoxylin), unit(self.second)
        if math.degrees(math.acos(min(1.0, float(first @ second)))) < SMALLEST_ANGLE:
            raise InputError(
                f"stain vectors {self.name!r}: hematoxylin and {self.second_name} have nearly the same colour",
                hint=_HINT,
            )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """``(stain, colour)``, rows of length 1: hematoxylin, the second dye, the third colour."""
        first, second = unit(self.hematoxylin), unit(self.second)
        across = np.cross(first, second)
        third = unit(self.residual if self.residual is not None and any(self.residual) else across)
        rows = np.stack([first, second, third])
        if abs(np.linalg.det(rows)) < 0.01:  # a residual in the plane of both says nothing
            rows[2] = unit(across)
        return rows

    @property
    def inverse(self) -> NDArray[np.float64]:
        """``(colour, stain)``: optical densities (red, green, blue) times this are amounts of the three."""
        return np.asarray(np.linalg.inv(self.matrix))


HEMATOXYLIN: Triple = (0.65, 0.70, 0.29)
EOSIN: Triple = (0.07, 0.99, 0.11)
DAB: Triple = (0.27, 0.57, 0.78)
"""Colours that Ruifrok and Johnston measured (2001); those of scikit-image's ``rgb2hed``."""

H_DAB = StainVectors("H-DAB", HEMATOXYLIN, DAB, "DAB", residual=EOSIN)
H_E = StainVectors("H&E", HEMATOXYLIN, EOSIN, "Eosin", residual=DAB)

KNOWN = {"h-dab": H_DAB, "h&e": H_E, "he": H_E, "hdab": H_DAB}


def known_stains(name: str) -> StainVectors:
    """``H-DAB`` or ``H&E``. Raises UsageError."""
    found = KNOWN.get(name.strip().casefold().replace("_", "-"))
    if found is None:
        raise UsageError(f"stains {name!r} are not known", hint="There are H-DAB and H&E")
    return found
