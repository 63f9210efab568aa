"""One image, one imputation model: every marker it imputes that the image has is imputed without itself and compared.

One pass over the image in tiles. Beside the model stand the baselines of :mod:`mxbridge.metrics.baselines`. Held at once: a few
tiles, ten rows of the image per comparison (structural similarity), and some numbers per cell and marker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mxbridge.cells import Cells
from mxbridge.errors import InputError
from mxbridge.image import Box, LocalImage
from mxbridge.metrics.baselines import TRAIN_MEAN, ZERO, Baselines, with_margin
from mxbridge.metrics.pixel import PixelSums
from mxbridge.metrics.smoothed import SmallCopies, smoothed_scores
from mxbridge.metrics.ssim import SsimSums
from mxbridge.models.maxim import Maxim, MaximStream, PredictedTile, Request, map_stored, targets_of
from mxbridge.models.maxim_input import ScaledReader, find_markers
from mxbridge.results import ImageRef
from mxbridge.stream.engine import Engine
from mxbridge.stream.measure import CellPixels
from mxbridge.stream.views import IDENTITY, SIX_VIEWS, Views

MODEL = "model"
"""Name of the model's own predictions among those of the baselines."""

MEASURED, STORED = "measured", "measured (stored)"
"""Means of the cells: of scaled values, and of the numbers as they are stored."""

SAMPLES = 20_000
"""Pixels of each image and marker that are drawn for the pictures."""
SEED = 20261121

VIEWS: Mapping[str, Views] = {"one": (IDENTITY,), "six": SIX_VIEWS}
"""What can be averaged: the image as it is, or six flipped and turned views of it, as ``impute --uncertainty`` does."""

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A model that is judged, its unique name, and what it has to beat. why_few: why baselines are missing.

    uses: what its training did with images, by ``("id", ...)`` and ``("image", <name>)``, where its folder says so.
    """

    label: str
    model: Maxim
    baselines: Baselines
    why_few: str = ""
    uses: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def why_too_good(self, ref: ImageRef) -> str:
        """Words for an image whose figures say little of new images; empty for others."""
        use = self.uses.get(("id", ref.id), "")
        what = "it" if use else "an image of this name"
        use = use or self.uses.get(("image", ref.name), "")
        if use.startswith("training"):
            return f"{self.label} was trained on {what} ({use}): its figures say nothing of new images"
        return f"the weights of {self.label} were chosen by {what}" if use == "validation" else ""

    @property
    def methods(self) -> tuple[str, ...]:
        return (MODEL, *self.baselines.names)

    def truths(self, image: LocalImage, wanted: Collection[str] = ()) -> tuple[str, ...]:
        """Markers that the model imputes and the image has (of those wanted, where some are). Raises InputError."""
        there = find_markers(image, self.model.outputs)
        folded = {name.strip().casefold() for name in wanted}
        return tuple(marker for marker in there if not folded or marker.casefold() in folded)

    def requests(self, image: LocalImage, targets: Sequence[str]) -> list[Request]:
        """Each target without itself, from all other inputs that the image has. Raises InputError where there are none."""
        if not self.model.any_marker:
            return [Request(tuple(targets))]
        there = find_markers(image, self.model.inputs)
        absent = frozenset(self.model.inputs) - set(there)
        if len(there) < 2:
            raise InputError(
                f"{image.name} has only {', '.join(there)} of the markers of {self.label}: nothing to impute it from",
                hint=f"The model sees {', '.join(self.model.inputs[:40])}",
            )
        return [Request((target,), absent - {target}) for target in targets]


@dataclass(frozen=True)
class HowToCompare:
    """compat_pad: as the published program pads, at the image's own scale. value_scale: of stored numbers. views: of VIEWS."""

    compat_pad: int | None = None
    value_scale: float | None = None
    views: str = "one"


@dataclass(frozen=True)
class Compared:
    """rows: one table row per marker and method. channel_means: of the inputs, unit values, NaN where one is not seen.

    cells: per cell its id, pixels and means, None without cells. samples: by marker ``(1 + methods, pixels)``: measured, then
    each method.
    """

    rows: list[dict[str, Any]]
    channel_means: dict[str, float]
    cells: pd.DataFrame | None
    samples: dict[str, Plane]
    notes: tuple[str, ...]


def compare_image(
    candidate: Candidate,
    image: LocalImage,
    cells: Cells | None,
    engine: Engine,
    targets: Sequence[str],
    work: Path,
    how: HowToCompare = HowToCompare(),
    progress: Callable[[int, int], None] | None = None,
) -> Compared:
    """Impute ``targets`` and compare. work: a folder for what does not fit into memory. Raises InputError, OutputError."""
    if how.compat_pad is not None:  # the published program knows no scale: the image is taken as the model's
        image = image.with_pixel_size(candidate.model.um_per_px)
    stream = open_stream(candidate, image, cells, engine, targets, how)
    reader = _BaselineReader(candidate, image, stream.value_scale)
    targets = targets_of(stream.requests)
    copied = [method for method in candidate.methods if method not in (ZERO, TRAIN_MEAN)]
    copies = SmallCopies(work / "planes", stream.shape, len(targets) * (1 + len(copied)))
    means = CellMeans(cells, targets, copied) if cells is not None else None
    comparisons = [
        _Comparison(candidate.methods, copied, copies, k * (1 + len(copied)), stream.shape) for k in range(len(targets))
    ]
    sums, area = np.zeros(len(candidate.model.inputs)), stream.shape[0] * stream.shape[1]
    try:
        with closing(stream.tiles(progress=progress)) as tiles:  # type: ignore[type-var]
            for tile in tiles:
                sums += tile.inputs_sum
                features = candidate.baselines.features(reader.read(tile.tile.core), absent=reader.absent)
                imputed = tile.unit.mean(axis=0, dtype=np.float64).astype(np.float32)
                for k, target in enumerate(targets):
                    predictions = {MODEL: imputed[k], **features.predict(target)}
                    comparisons[k].add(tile, tile.measured[k], predictions, SAMPLES / area)
                    if means is not None and tile.pixels is not None:
                        stored = map_stored(candidate.model, target, tile.measured[k], stream.value_scale)
                        means.add(k, tile.pixels, tile.measured[k], stored, predictions)
        rows = [
            {"model": candidate.label, "marker": target, **row}
            for target, comparison in zip(targets, comparisons, strict=True)
            for row in comparison.rows()
        ]
    finally:
        copies.close()
    for row in rows:
        if row["method"] in (ZERO, TRAIN_MEAN):
            row["constant"] = candidate.baselines.constant(row["method"], row["marker"])
    return Compared(
        rows=rows,
        channel_means=dict(zip(candidate.model.inputs, (sums / area).tolist(), strict=True)),
        cells=means.table() if means is not None else None,
        samples={t: c.samples() for t, c in zip(targets, comparisons, strict=True)},
        notes=stream.notes + ((_reduced(copies.step),) if copies.step > 1 else ()),
    )


def open_stream(
    candidate: Candidate,
    image: LocalImage,
    cells: Cells | None,
    engine: Engine,
    targets: Sequence[str],
    how: HowToCompare = HowToCompare(),
) -> MaximStream:
    """The model at work on an image. Raises InputError for an image that it cannot be asked about."""
    return MaximStream(
        candidate.model,
        image,
        engine,
        candidate.requests(image, targets),
        cells=cells,
        measured=targets,
        views=VIEWS[how.views],
        compat_pad=how.compat_pad,
        value_scale=how.value_scale,
    )


def _reduced(step: int) -> str:
    return f"smoothed scores come from means of {step} x {step} px"


class _BaselineReader:
    """The inputs of the baselines, scaled as the model sees them; planes of 0 for those the image does not have."""

    def __init__(self, candidate: Candidate, image: LocalImage, value_scale: float) -> None:
        names, model = candidate.baselines.inputs, candidate.model
        found = find_markers(image, names)
        self.absent = frozenset(names) - set(found)
        self._at = [names.index(name) for name in found]
        self._planes = len(names)
        scalings = [model.scaling[name] for name in found]
        self._source = ScaledReader(image, list(found.values()), scalings, model.um_per_px, value_scale=value_scale)

    def read(self, core: Box) -> Plane:
        """``(inputs, y + 2, x + 2)``."""
        found = with_margin(self._source, core)
        if not self.absent:
            return found
        out = np.zeros((self._planes, *found.shape[1:]), np.float32)
        out[self._at] = found
        return out


@dataclass
class _Comparison:
    """All methods against the measured values of one marker. first: its first plane among the copies."""

    methods: tuple[str, ...]
    copied: list[str]
    copies: SmallCopies
    first: int
    shape: tuple[int, int]
    sums: dict[str, PixelSums] = field(init=False)
    picked: list[Plane] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.sums = {method: PixelSums() for method in self.methods}
        self.ssim = SsimSums(self.shape[1], len(self.methods))

    def add(self, tile: PredictedTile, measured: Plane, predictions: Mapping[str, Plane], share: float) -> None:
        """share: of the pixels that are drawn as samples."""
        core = tile.tile.core
        planes = [predictions[method] for method in self.methods]
        for method, plane in zip(self.methods, planes, strict=True):
            self.sums[method].add(measured, plane)
        self.ssim.add(core, measured, planes)
        self.copies.add(self.first, core, measured)
        for k, method in enumerate(self.copied, start=1):
            self.copies.add(self.first + k, core, predictions[method])
        rng = np.random.default_rng([SEED, tile.tile.index])
        at = rng.integers(measured.size, size=round(min(1.0, share) * measured.size))
        self.picked.append(np.stack([plane.ravel()[at] for plane in (measured, *planes)]))

    def rows(self) -> list[dict[str, Any]]:
        ssim = self.ssim.values()
        rows = []
        for k, method in enumerate(self.methods):
            sums = self.sums[method]
            smooth = self.copies.scores(self.first, self._copy(k)) if method in self.copied else self._flat(sums)
            rows.append(
                {
                    "method": method,
                    "pixels": sums.n,
                    **sums.values(),
                    "p_value": sums.p_value,
                    **{kind: float(values[k]) for kind, values in ssim.items()},
                    **smooth,
                    "constant": None,
                }
            )
        return rows

    def _copy(self, method: int) -> int:
        return self.first + 1 + self.copied.index(self.methods[method])

    def _flat(self, sums: PixelSums) -> dict[str, float]:
        """Smoothed scores of a prediction that is the same everywhere."""
        measured = self.copies.plane(self.first)
        return smoothed_scores(measured, np.full_like(measured, sums.mean[1]), self.copies.blur)

    def samples(self) -> Plane:
        return np.concatenate(self.picked, axis=1)


class CellMeans:
    """Sums over the pixels of each cell, per marker: measured (scaled, stored), and what varies among the predictions."""

    def __init__(self, cells: Cells, targets: Sequence[str], methods: Sequence[str]) -> None:
        self.cells, self.targets, self.methods = cells, targets, methods
        self._sums = np.zeros((len(targets), 2 + len(methods), len(cells)), np.float32)
        self._pixels = np.zeros(len(cells), np.float32)
        self._lost: dict[int, NDArray[np.float32]] = {}

    def add(
        self, target: int, pixels: CellPixels, measured: Plane, stored: Plane, predictions: Mapping[str, Plane]
    ) -> None:
        """One tile of one marker; targets of a tile follow each other, the first being number 0."""
        if target == 0:
            self._pixels[pixels.cells] += pixels.shape[0].astype(np.float32)
        planes = np.stack([measured, stored, *(predictions[m] for m in self.methods)]).reshape(
            2 + len(self.methods), -1
        )
        finite = np.isfinite(planes[0])
        if not finite.all():
            planes = np.where(finite, planes, 0)
            lost = self._lost.setdefault(target, np.zeros(len(self.cells), np.float32))
            lost[pixels.cells] += pixels.map_weights @ (~finite).astype(np.float64)
        self._sums[target][:, pixels.cells] += (pixels.map_weights @ planes.T.astype(np.float64)).T

    def table(self) -> pd.DataFrame:
        """``cell, pixels``, then per marker ``<marker>: measured``, ``: measured (stored)``, ``: <method>`` (float32)."""
        columns: dict[str, Any] = {"cell": list(self.cells.ids), "pixels": self._pixels.astype(np.int64)}
        for k, target in enumerate(self.targets):
            counted = self._pixels - self._lost[k] if k in self._lost else self._pixels
            with np.errstate(invalid="ignore", divide="ignore"):
                means = np.where(counted > 0, self._sums[k] / counted, np.nan).astype(np.float32)
            for what, values in zip((MEASURED, STORED, *self.methods), means, strict=True):
                columns[column(target, what)] = values
        return pd.DataFrame(columns)


def column(marker: str, what: str) -> str:
    """Of the table of cells."""
    return f"{marker}: {what}"
