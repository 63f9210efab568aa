"""What an imputation has to beat: nothing, the mean of the other markers, the training mean, and linear regressions.

A ridge regression predicts a marker's pixel from the other markers' values there, without or with their means over 3x3 pixels.
It is fitted by normal equations summed block by block, so the images may be of any size.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError, SourceError, UnknownName
from mxbridge.formats.atomic import write_atomically
from mxbridge.image import Box
from mxbridge.metrics.moments import MomentSums, means_3x3

ZERO, MEAN, TRAIN_MEAN, RIDGE, RIDGE_3X3 = "zero", "mean of inputs", "train mean", "ridge", "ridge 3x3"
NAMES = (ZERO, MEAN, TRAIN_MEAN, RIDGE, RIDGE_3X3)
"""The first two need no training; zero and mean of inputs are the published BL-Zero and BL-Mean."""

PENALTY = 1.0
"""Added to every feature's sum of squares: nothing beside some 100,000 pixels, enough for a marker without signal."""

BLOCK = 512
"""Pixels along a side that are read at once."""

MOST_PIXELS = 16_000_000
"""A regression with a few hundred weights learns nothing from more; of larger sets a seeded choice of blocks is read."""

LIMIT = 64_000_000
"""Bytes; a longer file holds no baselines."""

Plane = NDArray[np.float32]
Weights = tuple[NDArray[np.float64], NDArray[np.float64]]


class ScaledSource(Protocol):
    """Pixels as a network sees them (:class:`~mxbridge.models.maxim_input.ScaledReader`)."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(y, x)``."""

    def read(self, box: Box) -> Plane:
        """Float32 0..1 ``(c, y, x)`` of a box inside the shape."""


@dataclass(frozen=True)
class Baselines:
    """Predictions of every target from the inputs other than itself, in unit values (scaled 0..1).

    inputs, targets: names of markers. pixels: how many the regressions saw, 0 where nothing was trained.
    input_mean: float64 ``(inputs,)``, train_mean: ``(targets,)``. ridge: ``(targets, inputs + 1)``, ridge_3x3:
    ``(targets, 2 inputs + 1)``: weights of the values, of the 3x3 means, then the constant; 0 for a target's own values.
    mean, products: ``(2 n,)``, ``(2 n, 2 n)`` of the values and 3x3 means of all n markers (inputs, then targets that are none),
    from which the regressions are solved anew where an image lacks an input.
    scaling: per marker the scaling that made the unit values, where it was given.
    """

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    pixels: int = 0
    input_mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    train_mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    ridge: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    ridge_3x3: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    products: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    scaling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _solved: dict[frozenset[str], Weights] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def untrained(cls, inputs: Sequence[str], targets: Sequence[str]) -> Baselines:
        """Only zero and the mean of the inputs."""
        return cls(tuple(inputs), tuple(targets))

    @classmethod
    def fit(
        cls,
        images: Iterable[ScaledSource],
        markers: Sequence[str],
        *,
        inputs: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        scaling: Mapping[str, Mapping[str, Any]] | None = None,
        most_pixels: int = MOST_PIXELS,
        seed: int = 1,
    ) -> Baselines:
        """Learn from training images; a pixel that is not finite in some marker is left out.

        markers: of the planes that the images give, in order. inputs, targets: which of them predict and are predicted
        (else each from all others, as any-marker models do). Raises UnknownName, and InputError when there are no pixels.
        """
        inputs, targets = tuple(markers if inputs is None else inputs), tuple(markers if targets is None else targets)
        for name in (*inputs, *targets):
            if name not in markers:
                raise UnknownName("marker", name, markers, where="the training images")
        sums = MomentSums(len(markers))
        for block in _blocks(list(images), most_pixels, seed):
            sums.add(block)
        if not sums.n:
            raise InputError("the training images have no pixels to fit baselines to")
        used = [markers.index(name) for name in dict.fromkeys((*inputs, *targets))]
        both = [*used, *(len(markers) + k for k in used)]
        mean, products = sums.mean[both], sums.products[np.ix_(both, both)]
        ridge, wide = _regressions(inputs, targets, mean, products)
        return cls(
            inputs,
            targets,
            int(sums.n),
            sums.mean[[markers.index(name) for name in inputs]],
            sums.mean[[markers.index(name) for name in targets]],
            ridge,
            wide,
            mean,
            products,
            dict(scaling or {}),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the predictions there are."""
        return NAMES if self.pixels else NAMES[:2]

    def predict(self, unit: Plane, target: str, *, absent: Collection[str] = ()) -> dict[str, Plane]:
        """All predictions ``(y, x)`` of one target, clipped to 0..1 where they are regressions.

        unit: ``(inputs, y + 2, x + 2)``, with one pixel more on each side (see :func:`with_margin`).
        absent: inputs the image does not have; the regressions are those on the others, the mean of inputs is without them.
        """
        return self.features(unit, absent=absent).predict(target)

    def predict_many(self, unit: Plane, targets: Sequence[str], *, absent: Collection[str] = ()) -> dict[str, Plane]:
        """As :meth:`predict`, ``(targets, y, x)`` for each name."""
        features = self.features(unit, absent=absent)
        each = [features.predict(target) for target in targets]
        return {name: np.stack([planes[name] for planes in each]) for name in self.names}

    def features(self, unit: Plane, *, absent: Collection[str] = ()) -> Features:
        """What the predictions of all targets have in common. unit, absent: as in :meth:`predict`."""
        gone = np.array([name in absent for name in self.inputs])
        if gone.any():
            unit = np.where(gone[:, None, None], np.float32(0), unit)
        values = np.asarray(unit[:, 1:-1, 1:-1])
        if self.pixels:
            values = np.concatenate([values, means_3x3(unit)])
        return Features(self, values, frozenset(absent))

    def regressions(self, absent: frozenset[str]) -> Weights:
        """``ridge`` and ``ridge_3x3`` as they are for images without some inputs, whose weights are 0."""
        absent &= set(self.inputs)
        if not absent:
            return self.ridge, self.ridge_3x3
        if absent not in self._solved:
            self._solved[absent] = _regressions(self.inputs, self.targets, self.mean, self.products, absent)
        return self._solved[absent]

    def constant(self, name: str, target: str) -> float | None:
        """What zero and the train mean say everywhere; None for the others."""
        if name == TRAIN_MEAN and self.pixels:
            return float(np.float32(self.train_mean[self.targets.index(target)]))
        return 0.0 if name == ZERO else None

    def save(self, path: Path) -> None:
        """Write one ``.npz``. Raises OutputError."""
        about = {"format": "mxbridge baselines 1", "pixels": self.pixels, "scaling": self.scaling}
        about |= {"inputs": self.inputs, "targets": self.targets}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        with write_atomically(path) as part, part.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Baselines:
        """Read what :meth:`save` wrote. Raises SourceError and BrokenFile."""
        try:
            if path.stat().st_size > LIMIT:
                raise BrokenFile(path, f"is longer than {LIMIT:,} bytes; it holds no baselines")
            with zipfile.ZipFile(path) as packed:
                if sum(entry.file_size for entry in packed.infolist()) > LIMIT:
                    raise BrokenFile(path, f"unpacks to more than {LIMIT:,} bytes; it holds no baselines")
            with np.load(path, allow_pickle=False) as stored:
                return _checked(json.loads(str(stored["about"])), {name: stored[name] for name in _ARRAYS})
        except FileNotFoundError as error:
            raise SourceError(f"no baselines at {path}") from error
        except PermissionError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror})") from error
        except _UNREADABLE as error:
            raise BrokenFile(path, f"holds no baselines of mxbridge ({error})") from error


@dataclass(frozen=True)
class Features:
    """Planes that every target is predicted from. values: ``(inputs, y, x)``, where trained ``(2 inputs, y, x)``."""

    baselines: Baselines
    values: Plane
    absent: frozenset[str]

    def predict(self, target: str) -> dict[str, Plane]:
        """All predictions ``(y, x)`` of one target. Raises UnknownName."""
        fitted = self.baselines
        if target not in fitted.targets:
            raise UnknownName("marker", target, fitted.targets, where="the baselines")
        shape, n, k = self.values.shape[1:], len(fitted.inputs), fitted.targets.index(target)
        used = np.array([name != target and name not in self.absent for name in fitted.inputs] + [False], np.float64)
        out = {ZERO: np.zeros(shape, np.float32), MEAN: _linear(used / max(1.0, used.sum()), self.values[:n])}
        if fitted.pixels:
            out[TRAIN_MEAN] = np.full(shape, fitted.train_mean[k], np.float32)
            ridge, wide = fitted.regressions(self.absent)
            out[RIDGE] = np.clip(_linear(ridge[k], self.values[:n]), 0, 1)
            out[RIDGE_3X3] = np.clip(_linear(wide[k], self.values), 0, 1)
        return out


_ARRAYS = ("input_mean", "train_mean", "ridge", "ridge_3x3", "mean", "products")
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError, MemoryError,
               NotImplementedError, zipfile.BadZipFile, zipfile.LargeZipFile)  # fmt: skip


def _checked(about: dict[str, Any], arrays: dict[str, NDArray[np.float64]]) -> Baselines:
    """Raises ValueError for what does not fit together."""
    if about["format"] != "mxbridge baselines 1":
        raise ValueError("made by another version")
    inputs, targets, scaling = about["inputs"], about["targets"], about["scaling"]
    if not all(isinstance(name, str) for name in [*inputs, *targets]) or not isinstance(scaling, dict):
        raise ValueError("names are not text")
    n, t = len(inputs), len(targets)
    shapes: dict[str, tuple[int, ...]] = {
        "input_mean": (n,),
        "train_mean": (t,),
        "ridge": (t, n + 1),
        "ridge_3x3": (t, 2 * n + 1),
    }
    m = 2 * len(dict.fromkeys([*inputs, *targets]))
    shapes |= {"mean": (m,), "products": (m, m)}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"{name} is {array.dtype} {array.shape}, or not finite")
    if not isinstance(about["pixels"], int) or about["pixels"] < 1:
        raise ValueError("fitted to no pixels")
    return Baselines(tuple(inputs), tuple(targets), about["pixels"], scaling=scaling, **arrays)


def with_margin(source: ScaledSource, box: Box) -> Plane:
    """``(c, y + 2, x + 2)`` of ``box`` and one pixel around it; beyond the image the pixels at its border are repeated."""
    wanted = box.grow(1)
    inside = wanted.clip(source.shape)
    margins = [(inside.y0 - wanted.y0, wanted.y1 - inside.y1), (inside.x0 - wanted.x0, wanted.x1 - inside.x1)]
    return np.pad(source.read(inside), [(0, 0), *margins], mode="edge")


def _linear(weights: NDArray[np.float64], features: Plane) -> Plane:
    """``(y, x)``: weights ``(features + 1,)`` on features ``(features, y, x)``."""
    flat = weights[:-1].astype(np.float32) @ features.reshape(len(features), -1)
    flat += np.float32(weights[-1])
    return np.asarray(flat.reshape(features.shape[1:]))


def _blocks(images: Sequence[ScaledSource], most_pixels: int, seed: int) -> Iterator[Plane]:
    """Blocks with their margin; all of them, or a seeded choice of about ``most_pixels``."""
    places = [
        (image, Box(y, x, y + BLOCK, x + BLOCK).clip(image.shape))
        for image in images
        for y in range(0, image.shape[0], BLOCK)
        for x in range(0, image.shape[1], BLOCK)
    ]
    sizes = [box.shape[0] * box.shape[1] for _, box in places]
    order = range(len(places))
    if sum(sizes) > most_pixels:
        shuffled = np.random.default_rng(seed).permutation(len(places))
        enough = int(np.searchsorted(np.cumsum([sizes[k] for k in shuffled]), most_pixels)) + 1
        order = sorted(int(k) for k in shuffled[:enough])  # type: ignore[assignment]
    for k in order:
        yield with_margin(*places[k])


def _regressions(
    inputs: Sequence[str],
    targets: Sequence[str],
    mean: NDArray[np.float64],
    products: NDArray[np.float64],
    absent: Collection[str] = (),
) -> Weights:
    """``ridge`` and ``ridge_3x3`` of :class:`Baselines`, from its moments."""
    markers = list(dict.fromkeys((*inputs, *targets)))
    names = ["" if name in absent else name for name in inputs]
    at = [markers.index(name) for name in inputs]
    both = [*at, *(len(markers) + k for k in at)]
    plain = [_solve(mean, products, markers.index(t), at, names, t) for t in targets]
    wide = [_solve(mean, products, markers.index(t), both, [*names, *names], t) for t in targets]
    return np.stack(plain), np.stack(wide)


def _solve(
    mean: NDArray[np.float64],
    products: NDArray[np.float64],
    target: int,
    features: Sequence[int],
    names: Sequence[str],
    target_name: str,
) -> NDArray[np.float64]:
    """Weights ``(features + 1,)`` of one target, 0 for features of the target itself and without a name; then the constant."""
    at = [k for k, name in enumerate(names) if name not in ("", target_name)]
    used = [features[k] for k in at]
    out = np.zeros(len(features) + 1)
    left = products[np.ix_(used, used)] + PENALTY * np.eye(len(used))
    out[at] = np.linalg.solve(left, products[used, target])
    out[-1] = mean[target] - out[at] @ mean[used]
    return out
