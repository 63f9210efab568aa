"""Imputing the markers of one image, step by step: tiles from the models, their values onto cells and into derived images.

What is finished lies on disk: a killed run goes on at the tile where it was and ends with identical numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Cells
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box, LocalImage
from mxbridge.models.maxim import MaximStream, PredictedTile, map_stored
from mxbridge.results import DerivedImage
from mxbridge.runs import digest
from mxbridge.stream.engine import Engine
from mxbridge.stream.measure import CellSums, TileSums
from mxbridge.stream.records import RecordFile
from mxbridge.stream.views import IDENTITY, SIX_VIEWS, Views
from mxbridge.stream.writer import Writer
from mxbridge.tasks.imputing.chain import Step
from mxbridge.tasks.imputing.channels import ChannelPlace, ImputedChannel, with_channels
from mxbridge.tasks.regions import Region

Tell = Callable[[int, int], None]
NUMBER = struct.Struct("<Q")
STATS = 5
"""Kept of every input of a tile: sum, smallest, largest, pixels at 1 or above, pixels that are not finite."""

QUEUE_BYTES = 128 * 1024**2
"""Finished pixels that wait to be written take no more than about this."""


@dataclass(frozen=True)
class Settings:
    """spread: also how much the views, or the models of an ensemble, differ. The rest as in ``MaximStream``."""

    spread: bool = False
    compat_pad: int | None = None
    value_scale: float | None = None

    def views(self, step: Step) -> Views:
        """An ensemble is spread enough by itself."""
        return SIX_VIEWS if self.spread and len(step.models) == 1 else (IDENTITY,)

    def source(self, step: Step) -> str:
        """Of the spread, as spread tables name it."""
        return "six views" if len(step.models) == 1 else "models"


@dataclass(frozen=True)
class InputFacts:
    """One input of one model over a whole image. mean, low, high: as the network sees it, NaN where it is hidden or missing.

    low is above high where no pixel is finite. top: share of the pixels at 1 or above. bad: pixels that are not finite.
    """

    marker: str
    mean: float
    low: float
    high: float
    top: float
    bad: int


@dataclass(frozen=True)
class StepFound:
    """What a step found on the cells. mean, spread: float32 ``(targets, cells)`` in stored units, NaN for a cell without
    pixels; spread is NaN where none was asked for.

    area_px: int64 ``(cells,)`` full-resolution pixels. centroid: float64 ``(cells, 2)`` y, x there. touches_edge: bool.
    inputs: of every model of the step. tiles: how many there were.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    area_px: NDArray[np.int64]
    centroid: NDArray[np.float64]
    touches_edge: NDArray[np.bool_]
    inputs: tuple[tuple[InputFacts, ...], ...]
    tiles: int

    def only(self, which: NDArray[np.int64]) -> StepFound:
        """Of these cells alone, in this order."""
        return replace(
            self,
            mean=self.mean[:, which],
            spread=self.spread[:, which],
            area_px=self.area_px[which],
            centroid=self.centroid[which],
            touches_edge=self.touches_edge[which],
        )


def impute_image(
    steps: Sequence[Step],
    image: LocalImage,
    cells: Cells | None,
    engine: Engine,
    work: Path,
    places: Mapping[str, ChannelPlace],
    settings: Settings,
    version: Literal["0.4", "0.5"],
    tell: Callable[[str], Tell],
    region: Region | None = None,
) -> tuple[list[StepFound], tuple[DerivedImage, ...]]:
    """Do all steps on one image. places: by marker. work: folder of what a killed run goes on with. Raises MxbridgeError.

    region: outside of which derived images are 0, and only whose tiles are computed (so that other cells have values of a part
    of them, or NaN); what later steps impute from is imputed everywhere.

    Once a derived image has left the work folder the records of finished tiles there must not be believed any more: a run that
    is killed then computes its tiles again, instead of leaving images empty.
    """
    found, growing = [], []
    records: list[Path] = []
    later = {marker for step in steps for marker in step.uses}
    for number, step in enumerate(steps):
        seen = _with_imputed(image, step, places, digest([s.describe() for s in steps[:number]]))
        run = _StepRun(step, seen, cells, engine, settings, None if later & set(step.targets) else region)
        channels = [ImputedChannel(places[target], image, run.streams[0].field, version) for target in step.targets]
        paths = work / f"step-{number}.records", work / f"step-{number}.inputs"
        found.append(run.go(paths, channels, tell(f"imputing {', '.join(step.targets)}")))
        for channel in channels:
            channel.finish()
        growing += channels
        records += paths
    for path in records:
        path.unlink(missing_ok=True)
    return found, tuple(channel.settle() for channel in growing)


def streams_of(
    step: Step, image: LocalImage, cells: Cells | None, engine: Engine, settings: Settings
) -> list[MaximStream]:
    """A stream for each model of a step, over the same tiles; nothing is read. Only the first carries cells.

    Raises as MaximStream does.
    """
    if len(step.models) > 1:  # networks of different widths have different tiles by default
        sides = [engine.tile or engine.default_tile(model.network) for model in step.models]
        engine = _sharing(engine, min(sides))
    return [
        MaximStream(
            model,
            image,
            engine,
            [request],
            cells=cells if k == 0 else None,
            measured=[m for m in model.inputs if m not in request.hidden and m not in request.targets],
            views=settings.views(step),
            compat_pad=settings.compat_pad,
            value_scale=settings.value_scale,
        )
        for k, (model, request) in enumerate(zip(step.models, step.requests, strict=True))
    ]


def _sharing(engine: Engine, tile: int) -> Engine:
    """The same engine with another tile; what it steps back from is still told by the first."""
    other = replace(engine, tile=tile)
    other.steps_back = engine.steps_back
    return other


def _with_imputed(image: LocalImage, step: Step, places: Mapping[str, ChannelPlace], before: str) -> LocalImage:
    if not step.uses:
        return image
    derived = [(marker, open_image(places[marker].growing)) for marker in step.uses]
    return with_channels(image, derived, digest([image.identity, before]))


class _StepRun:
    """One step over one image."""

    def __init__(
        self,
        step: Step,
        image: LocalImage,
        cells: Cells | None,
        engine: Engine,
        settings: Settings,
        region: Region | None,
    ) -> None:
        self.step, self.cells, self.settings = step, cells, settings
        self.streams = streams_of(step, image, cells, engine, settings)
        stream = self.streams[0]
        self.region = None if region is None else region.at_scale(stream.field)
        wanted = None if region is None else region.wants(cells, pixels=True)
        self.left_out = [t for t in stream.grid if wanted is not None and not wanted(stream.field.owned(t.core))]
        self.columns = 1
        if settings.spread:
            self.columns += max(len(step.models), len(settings.views(step)))

    def header(self) -> dict[str, Any]:
        """Everything that decides the numbers in the records, so that no record of another run is taken over."""
        return {
            "streams": [stream.describe() for stream in self.streams],
            "cells": None if self.cells is None else self.cells.geometry_hash(),
            "columns": self.columns,
            **({} if self.region is None else {"left out": [tile.index for tile in self.left_out]}),
        }

    def go(self, paths: tuple[Path, Path], channels: Sequence[ImputedChannel], tell: Tell) -> StepFound:
        with ExitStack() as stack:
            records, inputs = (RecordFile(path, self.header()) for path in paths)
            stack.callback(records.close)
            stack.callback(inputs.close)
            count = 0 if self.cells is None else len(self.cells)
            sums = CellSums(records, cells=count, markers=len(self.step.targets), views=self.columns)
            with Writer(self._waiting()) as writer:
                for tiles in self._tiles(sums.done | {tile.index for tile in self.left_out}, tell):
                    writer.put(_Keep(channels, sums, inputs, *self._measured(tiles)))
            return self._collect(sums, inputs)

    def _waiting(self) -> int:
        """Tiles that may wait to be written."""
        planes = len(self.step.targets) * (2 if self.settings.spread else 1)
        return int(min(4, max(1, QUEUE_BYTES // (4 * planes * self.streams[0].grid.core ** 2))))

    def _tiles(self, done: set[int], tell: Tell) -> Iterator[tuple[PredictedTile, ...]]:
        """The same tile of every model, tile after tile."""
        with ExitStack() as stack:
            first, *others = (
                stack.enter_context(closing(stream.tiles(done, tell if k == 0 else None)))  # type: ignore[type-var]
                for k, stream in enumerate(self.streams)
            )
            yield from zip(first, *others, strict=True)

    def _measured(
        self, tiles: tuple[PredictedTile, ...]
    ) -> tuple[Box, NDArray[np.float32], TileSums, NDArray[np.float64]]:
        """Of one tile: its core, the planes ``(targets, planes, y, x)`` of the derived images, sums of cells, of inputs."""
        tile, pixels = tiles[0].tile, tiles[0].pixels
        planes, sums = [], []
        for k, target in enumerate(self.step.targets):
            mean, views = self._stored(tiles, k, target)
            shown = [mean, views.std(axis=0, dtype=np.float64).astype(np.float32)] if self.settings.spread else [mean]
            planes.append(np.stack(shown))
            if pixels is not None:
                maps = np.stack([mean, *views][: self.columns]).reshape(self.columns, -1).astype(np.float64)
                raw = np.zeros((2, len(pixels.cells)))  # stored numbers of the image are not measured here
                sums.append(np.concatenate([(pixels.map_weights @ maps.T).T, raw]))
        if self.region is not None:
            inside = self.region.mask(tile.core)
            planes = [np.where(inside, shown, np.float32(0)) for shown in planes]
        nothing = np.zeros((len(self.step.targets), 2), np.int64)
        cells = (
            TileSums.empty(tile.index, len(self.step.targets), self.columns)
            if pixels is None
            else TileSums(tile.index, pixels.cells, pixels.shape, nothing, np.stack(sums))
        )
        return (
            tile.core,
            np.stack(planes),
            cells,
            np.concatenate([_stats(*p) for p in zip(self.streams, tiles, strict=True)], axis=1),
        )

    def _stored(
        self, tiles: tuple[PredictedTile, ...], k: int, target: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``(y, x)`` mean and ``(views or models, y, x)`` of one target in stored numbers, unrounded.

        Views are averaged as the network gives them, models, which may scale differently, as stored numbers.
        """
        scale = self.streams[0].value_scale
        if len(tiles) > 1:
            pairs = zip(self.step.models, tiles, strict=True)
            each = np.stack([map_stored(model, target, tile.unit[0, k], scale) for model, tile in pairs])
            return each.mean(axis=0, dtype=np.float64).astype(np.float32), each
        model, unit = self.step.models[0], tiles[0].unit[:, k]
        mean = unit.mean(axis=0, dtype=np.float64).astype(np.float32)
        return map_stored(model, target, mean, scale), map_stored(model, target, unit, scale)

    def _collect(self, sums: CellSums, inputs: RecordFile) -> StepFound:
        """Means from sums and counts."""
        n, targets = sums.cells, len(self.step.targets)
        shape = sums.shape()
        area = np.where(shape[0] > 0, shape[0], np.nan)
        mean, spread = (np.full((targets, n), np.nan, np.float32) for _ in range(2))
        for part, total in sums.sums():
            means = total[:, : self.columns] / area
            mean[part] = means[:, 0]
            if self.settings.spread:
                spread[part] = means[:, 1:].std(axis=1)
        stream = self.streams[0]
        pixels = stream.shape[0] * stream.shape[1] - sum(t.core.shape[0] * t.core.shape[1] for t in self.left_out)
        return StepFound(
            mean=mean,
            spread=spread,
            area_px=shape[0].astype(np.int64),
            centroid=(shape[2:4] / area).T,
            touches_edge=shape[4] > 0,
            inputs=self._facts(inputs, pixels),
            tiles=len(stream.grid) - len(self.left_out),
        )

    def _facts(self, records: RecordFile, pixels: int) -> tuple[tuple[InputFacts, ...], ...]:
        """Inputs of every model, from the tiles added in their order."""
        counts = [len(model.inputs) for model in self.step.models]
        tiles: dict[int, NDArray[np.float64]] = {}
        for payload in records:
            (tile,) = NUMBER.unpack_from(payload)
            tiles[tile] = np.frombuffer(payload, np.float64, offset=NUMBER.size).reshape(STATS, -1)
        found = np.stack([tiles[k] for k in sorted(tiles)])
        total = found.sum(axis=0)
        low, high = found[:, 1].min(axis=0), found[:, 2].max(axis=0)
        facts = []
        at = 0
        for model, count in zip(self.step.models, counts, strict=True):
            facts.append(
                tuple(
                    InputFacts(
                        marker,
                        mean=float(total[0, k]) / pixels,
                        low=float(low[k]),
                        high=float(high[k]),
                        top=float(total[3, k]) / pixels,
                        bad=0 if np.isnan(total[4, k]) else int(total[4, k]),
                    )
                    for k, marker in enumerate(model.inputs, start=at)
                )
            )
            at += count
        return tuple(facts)


def _stats(stream: MaximStream, tile: PredictedTile) -> NDArray[np.float64]:
    """``(STATS, inputs)`` of one tile; NaN for inputs that were not seen."""
    out = np.full((STATS, len(stream.model.inputs)), np.nan)
    out[0] = tile.inputs_sum
    for marker, plane in zip(stream.measured, tile.measured, strict=True):
        finite = plane[np.isfinite(plane)]
        ends = (finite.min(), finite.max()) if finite.size else (np.inf, -np.inf)
        out[1:, stream.model.inputs.index(marker)] = (*ends, np.count_nonzero(finite >= 1), plane.size - finite.size)
    return out


@dataclass(frozen=True)
class _Keep:
    """Job of the writer: pixels of a tile, then what was measured, and with the last of it the tile is done."""

    channels: Sequence[ImputedChannel]
    sums: CellSums
    inputs: RecordFile
    core: Box
    planes: NDArray[np.float32]
    cells: TileSums
    stats: NDArray[np.float64]

    def __call__(self) -> None:
        for channel, planes in zip(self.channels, self.planes, strict=True):
            channel.write(self.core, planes)
        self.inputs.append(NUMBER.pack(self.cells.tile) + np.ascontiguousarray(self.stats).tobytes())
        self.sums.add([self.cells])
