"""Which markers of one image an imputed marker came from: where it is looked at, and the sums that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError
from mxbridge.formats.atomic import write_atomically
from mxbridge.image import Box, LocalImage
from mxbridge.models.attribution import AttributionSettings, attribute
from mxbridge.models.maxim import Maxim, MaximStream, Request
from mxbridge.models.maxim_input import ScaledReader, find_markers
from mxbridge.stream.engine import Engine

KEPT = "importance.json"
LOOKED_AT = 10
"""Crops that are read, as a multiple of those wanted, in search of some that are not blank."""


@dataclass(frozen=True)
class Places:
    """Which parts of an image are looked at. whole: images with no longer side are taken whole. crop: side of the squares that
    others are cut into; patches: at most so many of them, drawn with ``seed``. All in pixels at the model's scale."""

    whole: int = 512
    crop: int = 256
    patches: int = 16
    seed: int = 1

    def count(self, shape: tuple[int, int]) -> int:
        """How many places an image has."""
        side = min(self.crop, *shape)
        return 1 if max(shape) <= self.whole else (shape[0] // side) * (shape[1] // side)

    def boxes(self, shape: tuple[int, int]) -> list[Box]:
        """The places that may be looked at, in the order in which they are tried."""
        if max(shape) <= self.whole:
            return [Box(0, 0, *shape)]
        side = min(self.crop, *shape)
        columns = shape[1] // side
        count = self.count(shape)
        some = min(count, LOOKED_AT * self.patches)
        drawn = np.random.default_rng(self.seed).choice  # to shuffle all of a slide's may not fit the memory
        order = drawn(count, some, replace=False)
        corners = ((int(k) // columns * side, int(k) % columns * side) for k in order)
        return [Box(y, x, y + side, x + side) for y, x in corners]


@dataclass(frozen=True)
class Importance:
    """What one imputed marker of one image came from; lists in the order of ``inputs``.

    absolute, positive, negative: sums over pixels of |a|, max(a, 0), max(-a, 0) of the attributions a to the mean imputed
    intensity (mean over the places). correlation: Pearson between the maps of two inputs over all pixels, NaN where one is
    constant. change: mean intensity minus that of an empty image; delta: sum of all attributions minus change.
    places: looked at, of ``possible``; side: (y, x) of each.
    """

    target: str
    model: str
    inputs: tuple[str, ...]
    absolute: tuple[float, ...]
    positive: tuple[float, ...]
    negative: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    change: float
    delta: float
    places: int
    possible: int
    side: tuple[int, int]

    def percent(self, which: str) -> NDArray[np.float64]:
        """``(inputs,)`` of absolute, positive or negative; NaN where all are 0."""
        values = np.array(getattr(self, which))
        total = values.sum()
        return 100 * values / total if total > 0 else np.full(len(values), np.nan)


class ImportanceJob:
    """One image and one model. Raises InputError (missing channels, other depths), NoPixelSize, UnknownName, UsageError."""

    def __init__(
        self,
        model: Maxim,
        label: str,
        image: LocalImage,
        engine: Engine,
        *,
        value_scale: float | None = None,
        compat_pad: int | None = None,
    ) -> None:
        self.model, self.label, self.engine, self.compat_pad = model, label, engine, compat_pad
        self.channels = find_markers(image, model.inputs)
        self.absent = frozenset(m for m in model.inputs if m not in self.channels)
        stream = MaximStream(
            model, image, engine, [self._request(model.outputs[0])], compat_pad=compat_pad, value_scale=value_scale
        )
        self.notes = stream.notes
        if compat_pad is not None:  # the published program looks at pixels as they are
            image = image.with_pixel_size(model.um_per_px)
        there = [m for m in model.inputs if m in self.channels]
        scalings = [model.scaling[m] for m in there]
        channels = [self.channels[m] for m in there]
        self._there, self._reader = (
            there,
            ScaledReader(image, channels, scalings, model.um_per_px, value_scale=stream.value_scale),
        )

    def _request(self, target: str) -> Request:
        return Request((target,), self.absent - {target} if self.model.any_marker else frozenset())

    def attribute(
        self,
        target: str,
        settings: AttributionSettings,
        places: Places,
        keep: Callable[[NDArray[np.float32]], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Importance:
        """keep: is given the map ``(inputs, y, x)`` of an image that is looked at whole. Raises InputError for a blank image."""
        request = self._request(target)
        boxes = [Box(0, 0, *self._reader.shape)] if self.compat_pad else places.boxes(self._reader.shape)
        wanted = min(len(boxes), 1 if self.compat_pad else places.patches)
        sums = _Sums(len(self.model.inputs))
        self.engine.prepare(self.model.plain)
        passes = settings.passes(self.model, boxes[0].shape[0] * boxes[0].shape[1])
        for units in _batches(self._signals(boxes, wanted), max(1, passes)):
            found = attribute(
                self.model,
                units,
                request,
                settings,
                self.engine.torch_device,
                zero_pad=self.compat_pad,
                reduced=self.engine.step_back,
            )
            sums.add(found.maps, found.change, found.delta)
            if keep is not None and len(boxes) == 1:
                keep(found.maps[0])
            if progress is not None:
                progress(sums.places, wanted)
        if not sums.places:
            raise InputError(f"{self.label} sees nothing in this image: all places looked at are blank")
        shown = [m for m in self.model.inputs if m not in request.hidden and m != target]
        possible = 1 if self.compat_pad else places.count(self._reader.shape)
        return sums.importance(self.model, target, self.label, shown, possible, boxes[0].shape)

    def _signals(self, boxes: Sequence[Box], wanted: int) -> Iterator[NDArray[np.float32]]:
        """Inputs ``(inputs, y, x)`` of the first places that are not blank; absent inputs are 0."""
        found = 0
        for box in boxes:
            if found == wanted:
                return
            read = self._reader.read(box)
            if len(boxes) > 1 and not read.any():
                continue
            unit = np.zeros((len(self.model.inputs), *box.shape), np.float32)
            unit[[self.model.inputs.index(m) for m in self._there]] = read
            found += 1
            yield unit


class _Sums:
    """Over pixels and places, per input: sums of attributions, and what their correlation needs."""

    def __init__(self, inputs: int) -> None:
        self.places, self.pixels = 0, 0
        self.parts = np.zeros((3, inputs))
        self.total, self.products = np.zeros(inputs), np.zeros((inputs, inputs))
        self.change, self.delta = 0.0, 0.0

    def add(self, maps: NDArray[np.float32], change: NDArray[np.float64], delta: NDArray[np.float64]) -> None:
        """maps: ``(n, inputs, y, x)``."""
        for one in maps:  # one after another: in double precision all of them can be gigabytes
            flat = one.reshape(len(one), -1).astype(np.float64)
            total = flat.sum(axis=1)
            self.products += flat @ flat.T
            absolute = np.abs(flat, out=flat).sum(axis=1)
            self.parts += np.maximum([absolute, (absolute + total) / 2, (absolute - total) / 2], 0)
            self.total += total
            self.pixels += flat.shape[1]
        self.places += len(maps)
        self.change += float(change.sum())
        self.delta += float(delta.sum())

    def importance(
        self, model: Maxim, target: str, label: str, shown: Sequence[str], possible: int, side: tuple[int, int]
    ) -> Importance:
        at = [model.inputs.index(m) for m in shown]
        mean = self.total / self.pixels
        covariance = self.products / self.pixels - np.outer(mean, mean)
        sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale = np.outer(sd, sd)
        correlation = np.where(scale > 0, np.clip(covariance / np.where(scale > 0, scale, 1), -1, 1), np.nan)
        absolute, positive, negative = (tuple(map(float, part[at] / self.places)) for part in self.parts)
        return Importance(
            target=target,
            model=label,
            inputs=tuple(shown),
            absolute=absolute,
            positive=positive,
            negative=negative,
            correlation=tuple(tuple(map(float, row)) for row in correlation[np.ix_(at, at)]),
            change=self.change / self.places,
            delta=self.delta / self.places,
            places=self.places,
            possible=possible,
            side=side,
        )


def _batches(units: Iterator[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """``(n, inputs, y, x)``, n at most ``size``."""
    batch: list[NDArray[np.float32]] = []
    for unit in units:
        batch.append(unit)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def save(found: Sequence[Importance], folder: Path) -> None:
    rows = [asdict(one) for one in found]
    for row in rows:
        row["correlation"] = [[None if v != v else v for v in line] for line in row["correlation"]]  # noqa: PLR0124 - NaN
    with write_atomically(folder / KEPT) as part:
        part.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")


def load(folder: Path) -> list[Importance]:
    """Raises BrokenFile."""
    path = folder / KEPT
    try:
        return [_from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrokenFile(path, f"is no result of importance ({error})", hint="Run again with --restart") from error


def _from_json(row: dict[str, Any]) -> Importance:
    lines = [tuple(np.nan if v is None else float(v) for v in line) for line in row["correlation"]]
    lists = {name: tuple(row[name]) for name in ("inputs", "absolute", "positive", "negative", "side")}
    return Importance(**{**row, **lists, "correlation": tuple(lines)})
