"""Is an image like those a model was trained on? Judged by the mean of every input, as the network sees it (0..1).

In the published study the two cases on which the model failed stood apart in a principal component analysis of these means.
Here: the distance in units of the training images' own scatter, correlations included, shrunk where few images are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FORMAT = "familiarity 1"
FEWEST = 5
"""Images or fields below which nothing can be said of their scatter."""
MOST = 1000
"""Rows used; of more every n-th is taken."""
ROOM, SURE = 1.2, 2.5758
"""The limit is this times the 99 % quantile of the distances of training rows from all others, but at least where 99.5 % of
further rows are expected: few rows know little of what is usual. SURE is that quantile of a normal distribution."""
SMALLEST_SD = 0.005
"""Unit values; a channel that hardly differs between training images is not taken for one that must not differ at all."""
UNUSUAL = 2.0
"""Standard deviations from which a channel is named."""


@dataclass(frozen=True)
class Verdict:
    """distance: root mean square over the channels, in standard deviations. limit: beyond it ``flagged``.

    unusual: channels and how many standard deviations their mean lies off, the farthest first.
    """

    distance: float
    limit: float
    flagged: bool
    unusual: tuple[tuple[str, float], ...] = ()

    @property
    def words(self) -> str:
        """One line for people."""
        far = ", ".join(f"{name} {abs(z):.1f} SD {'above' if z > 0 else 'below'}" for name, z in self.unusual[:3])
        like = "unlike" if self.flagged else "like"
        return f"channel means are {like} those of the training images (distance {self.distance:.1f}, limit {self.limit:.1f}{f': {far}' if far else ''})"


@dataclass(frozen=True)
class Familiarity:
    """Scatter of the channel means of training images. names: of the channels; mean, sd: float64 ``(n,)``.

    correlation: float64 ``(n, n)``, shrunk towards the identity, so that it can always be inverted.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    correlation: NDArray[np.float64]
    limit: float
    rows: int

    @classmethod
    def fit(cls, names: Sequence[str], rows: ArrayLike) -> Familiarity | None:
        """rows: ``(images or fields, channels)`` means in unit values; rows that are not finite are left out.

        None where fewer than five are left.
        """
        table = np.asarray(rows, np.float64).reshape(-1, len(names))
        table = table[np.isfinite(table).all(axis=1)]
        table = table[:: max(1, -(-len(table) // MOST))]
        if len(table) < FEWEST:
            return None
        mean, sd, correlation = _scatter(table)
        apart = []
        for k in range(len(table)):
            m, s, c = _scatter(np.delete(table, k, axis=0))
            apart.append(_distance((table[k] - m) / s, c))
        limit = max(1.0, ROOM * float(np.quantile(apart, 0.99)), _reach(np.array(apart)))
        return cls(tuple(names), mean, sd, correlation, limit, len(table))

    def judge(self, means: Mapping[str, float]) -> Verdict | None:
        """means: of the channels of one image in unit values; those that are not there or not finite are left out.

        None where none is left.
        """
        known = [k for k, name in enumerate(self.names) if math.isfinite(means.get(name, math.nan))]
        if not known:
            return None
        z = (np.array([means[self.names[k]] for k in known]) - self.mean[known]) / self.sd[known]
        distance = _distance(z, self.correlation[np.ix_(known, known)])
        far = sorted(((self.names[k], float(v)) for k, v in zip(known, z, strict=True)), key=lambda p: -abs(p[1]))
        unusual = tuple(p for p in far if abs(p[1]) >= UNUSUAL)
        return Verdict(distance, self.limit, distance > self.limit, unusual)

    def record(self) -> dict[str, Any]:
        """For a model card."""
        return {
            "format": FORMAT,
            "names": list(self.names),
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "correlation": self.correlation.tolist(),
            "limit": self.limit,
            "rows": self.rows,
        }

    @classmethod
    def from_record(cls, record: object) -> Familiarity | None:
        """None for what is not a record of :meth:`record`, a matrix that cannot be inverted included."""
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            return None
        names = record.get("names")
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            return None
        try:
            mean, sd, correlation = (np.asarray(record[key], np.float64) for key in ("mean", "sd", "correlation"))
            found = cls(tuple(names), mean, sd, correlation, float(record["limit"]), int(record["rows"]))
        except (LookupError, TypeError, ValueError, OverflowError):
            return None
        return found if found._is_sound() else None

    def _is_sound(self) -> bool:
        n = len(self.names)
        arrays, shapes = (self.mean, self.sd, self.correlation), ((n,), (n,), (n, n))
        if tuple(a.shape for a in arrays) != shapes or not all(np.isfinite(a).all() for a in arrays):
            return False
        if not (
            0 < self.limit < math.inf and (self.sd > 0).all() and np.allclose(self.correlation, self.correlation.T)
        ):
            return False
        return bool(np.linalg.eigvalsh(self.correlation).min() > 1e-9)


def _scatter(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, standard deviation and shrunk correlation of ``(rows, channels)``."""
    n, p = table.shape
    mean = table.mean(axis=0)
    sd = np.maximum(table.std(axis=0, ddof=1), SMALLEST_SD)
    z = (table - mean) / sd
    found = z.T @ z / n
    # how much to shrink: the oracle approximating rule (Chen, Wiesel, Eldar and Hero 2010)
    trace, square = float(np.trace(found)), float((found**2).sum())
    below = (n + 1 - 2 / p) * (square - trace**2 / p)
    share = min(1.0, ((1 - 2 / p) * square + trace**2) / below) if below > 0 else 1.0
    share = max(share, 1e-3)  # one channel may repeat another exactly
    return mean, sd, (1 - share) * found + share * np.eye(p)


def _reach(values: NDArray[np.float64]) -> float:
    """Below this lie 99.5 % of further values like these, by Student's t; its quantile by the Cornish-Fisher series."""
    n, z = len(values), SURE
    v = n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return float(values.mean() + t * values.std(ddof=1) * math.sqrt(1 + 1 / n))


def _distance(z: NDArray[np.float64], correlation: NDArray[np.float64]) -> float:
    return math.sqrt(max(0.0, float(z @ np.linalg.solve(correlation, z)) / len(z)))
