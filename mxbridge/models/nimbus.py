"""Nimbus: how positive is each cell for each marker, 0..1, one marker at a time.

Source: Rumberger et al., "Automated classification of cellular expression in multiplexed imaging data with Nimbus", Nature
Methods 2025. Here the whole slide gives what one forward pass over it would give, whatever the tiles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mxbridge.cells import Cells
from mxbridge.errors import ModelError
from mxbridge.image import Box, LocalImage
from mxbridge.models.card import ModelCard
from mxbridge.models.nimbus_input import inner_mask, tile_input, tile_mask
from mxbridge.models.weights_files import read_weights
from mxbridge.networks.fused_unet import FusedUNet
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.stream.ahead import read_ahead
from mxbridge.stream.engine import Engine
from mxbridge.stream.grid import Grid, Tile
from mxbridge.stream.measure import CellPixels, CellSums, TileSums, bad_pixels, cell_pixels, raw_sums
from mxbridge.stream.reader import TileData, TileReader
from mxbridge.stream.records import RecordFile
from mxbridge.stream.resample import Field
from mxbridge.stream.views import IDENTITY, SIX_VIEWS, Views
from mxbridge.stream.writer import MapWriter, Writer

ALGORITHM = 2
"""Goes up when scores change for the same input; part of every fingerprint."""
VIEWS: dict[str, Views] = {"none": (IDENTITY,), "six": SIX_VIEWS}
RECORDS_NAME = "scores.records"


@dataclass(frozen=True)
class CellScores:
    """What was measured of each cell; rows are the markers asked for, columns the cells in their order.

    score: float32 ``(m, n)`` 0..1, mean over the views of the mean over the cell's pixels; NaN for a cell without pixels.
    view_sd: float32 ``(m, n)``, standard deviation over the views (population); NaN where there is only one.
    intensity: float32 ``(m, n)``, mean stored value over the cell's pixels, of the pyramid level that was read (``level``).
    area_px: int64 ``(n,)`` full-resolution pixels. centroid: float64 ``(n, 2)`` y, x in full-resolution pixels (the centre
    of the first pixel is 0.5, 0.5). eroded_px: int64 ``(n,)`` pixels left in the eroded mask. touches_edge: bool ``(n,)``.
    bad_pixels: int64 ``(m, 2)``: pixels that are not finite, negative pixels, in the tiles that were read.
    """

    score: NDArray[np.float32]
    view_sd: NDArray[np.float32]
    intensity: NDArray[np.float32]
    area_px: NDArray[np.int64]
    centroid: NDArray[np.float64]
    eroded_px: NDArray[np.int64]
    touches_edge: NDArray[np.bool_]
    bad_pixels: NDArray[np.int64]
    tiles_done: int
    tiles_skipped: int
    level: int = 0

    @property
    def cells_without_area(self) -> int:
        """Cells that own no pixel (outside the image, hidden under others, thinner than a pixel): their values are NaN."""
        return int(np.count_nonzero(self.area_px == 0))

    def only(self, which: NDArray[np.int64]) -> CellScores:
        """Of these cells alone, in this order."""
        by_cell = ("area_px", "centroid", "eroded_px", "touches_edge")
        columns = {name: getattr(self, name)[:, which] for name in ("score", "view_sd", "intensity")}
        return replace(self, **columns, **{name: getattr(self, name)[which] for name in by_cell})

    @property
    def cells_without_core(self) -> int:
        """Cells with pixels of which none is left in the eroded mask: the network hardly sees them."""
        return int(np.count_nonzero((self.area_px > 0) & (self.eroded_px == 0)))


@dataclass(frozen=True)
class Nimbus:
    """A loaded marker network. name: how its measurements are called. um_per_px: the scale it was trained at."""

    name: str
    um_per_px: float
    weights_sha256: str
    network: FusedUNet = field(repr=False)

    @property
    def halo(self) -> int:
        return self.network.halo

    @property
    def stride(self) -> int:
        return self.network.stride

    def describe(self) -> dict[str, Any]:
        """For run.json and fingerprints."""
        return {
            "name": self.name,
            "um_per_px": self.um_per_px,
            "weights_sha256": self.weights_sha256,
            "network": f"residual U-Net, width {self.network.width}, depth {self.network.depth}",
            "halo_px": self.halo,
            "algorithm": ALGORITHM,
        }

    def field(self, image: LocalImage) -> Field:
        """``image`` at the model's scale, where probability maps have their pixels. Raises NoPixelSize."""
        return Field.of(image.shape, image.require_pixel_size(), self.um_per_px)

    def score(
        self,
        image: LocalImage,
        cells: Cells,
        channels: Sequence[int],
        factors: Sequence[float],
        engine: Engine,
        *,
        views: Views = VIEWS["none"],
        work: Path | None = None,
        maps: MapWriter | None = None,
        near: Callable[[Box], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CellScores:
        """Score every cell for the markers in ``channels`` (indices), normalised by ``factors`` (stored value that is 1).

        work: folder for the records of finished tiles; with the same arguments and folder a stopped run goes on there and
        ends with identical arrays. maps: receives the mean map of each marker. progress: called with tiles done, in all.
        near: whether something is wanted of the pixels of a box (full-resolution ones that a tile owns); where not, cells have
        values of a part of them, or NaN.
        Raises NoPixelSize, InputError, OutputError, UsageError (tile too small).
        """
        check_factors(channels, factors)
        run = _Run(self, image, cells, channels, factors, engine, views, maps, near)
        with ExitStack() as stack:
            folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mxbridge-")))
            records = RecordFile(folder / RECORDS_NAME, run.header())
            stack.callback(records.close)
            sums = CellSums(records, cells=len(cells), markers=len(channels), views=len(views))
            run.work_through(sums, progress)
            return run.collect(sums)


class _Run:
    """One image going through the network, tile by tile."""

    def __init__(
        self,
        model: Nimbus,
        image: LocalImage,
        cells: Cells,
        channels: Sequence[int],
        factors: Sequence[float],
        engine: Engine,
        views: Views,
        maps: MapWriter | None,
        near: Callable[[Box], bool] | None,
    ) -> None:
        self.model, self.image, self.cells, self.engine, self.views, self.maps = (
            model,
            image,
            cells,
            engine,
            views,
            maps,
        )
        self.near = near
        self.channels, self.factors = list(channels), [float(f) for f in factors]
        self.field = Field.of(image.shape, image.require_pixel_size(), model.um_per_px)
        self.grid: Grid = engine.grid(model.network, self.field.shape, 1 / (self.field.y.ratio * self.field.x.ratio))
        self.reader = TileReader(image, cells, channels, self.field, self.grid)
        self.batch = engine.samples(model.network, self.grid)
        self.tiles = [tile for tile in self.grid if self.wanted(tile)] if channels else []
        together = max(1, self.batch // max(1, len(self.channels)))
        self.groups = [self.tiles[i : i + together] for i in range(0, len(self.tiles), together)]

    def wanted(self, tile: Tile) -> bool:
        if self.near is not None and not self.near(self.field.owned(tile.core)):
            return False
        return self.maps is not None or self.reader.wanted(tile)

    def header(self) -> dict[str, Any]:
        """Everything that decides the numbers in the records, so that no record of another run is taken over."""
        settings = self.engine.describe()
        return {
            **self.model.describe(),
            "image": self.image.identity,
            "um_image": list(self.image.require_pixel_size()),
            "shape": list(self.image.shape),
            "level": self.reader.level,
            "cells": self.cells.geometry_hash(),
            "channels": self.channels,
            "factors": self.factors,
            "views": [view.name for view in self.views],
            "core": self.grid.core,
            "batch": self.batch,
            "maps": self.maps is not None,
            **({} if self.near is None else {"tiles": [tile.index for tile in self.tiles]}),
            **{key: settings[key] for key in ("device_name", "precision", "threads", "torch")},
        }

    def work_through(self, sums: CellSums, progress: Callable[[int, int], None] | None) -> None:
        """Compute the groups of tiles that are not on disk yet."""
        done = sums.done
        todo = [group for group in self.groups if group[0].index not in done]
        finished = len(self.tiles) - sum(len(group) for group in todo)
        if progress is not None:
            progress(finished, len(self.tiles))
        if not todo:
            return
        self.engine.prepare(self.model.network)
        jobs = (tile for group in todo for tile in group)
        readers = self.engine.readers
        stream = read_ahead(
            jobs,
            self.read,
            workers=readers,
            ahead=self.reader.ahead(readers, self.engine.queue_bytes),
            reduced=self.engine.step_back,
        )
        with closing(stream), Writer() as writer:
            for group in todo:
                read = [(tile, next(stream)) for tile in group]
                added = [
                    TileSums.empty(tile.index, len(self.channels), len(self.views)) for tile, r in read if r is None
                ]
                added += self.compute([r for _, r in read if r is not None], writer)
                writer.put(_Append(sums, added))
                finished += len(group)
                if progress is not None:
                    progress(finished, len(self.tiles))

    def read(self, tile: Tile) -> _ReadTile | None:
        """In a reading thread: pixels, labels and what follows from the labels alone."""
        data = self.reader.read(tile, empty_too=self.maps is not None)
        if data is None:
            return None
        inner = inner_mask(data.labels)
        return _ReadTile(data.without_labels(), inner, cell_pixels(data, inner, self.reader))

    def compute(self, group: list[_ReadTile], writer: Writer) -> list[TileSums]:
        """Forward passes over tiles x markers x views, in batches of samples of one size."""
        markers, views = len(self.channels), len(self.views)
        device = self.engine.torch_device
        sums = [np.zeros((markers, views + 2, len(tile.pixels.cells))) for tile in group]
        bad = np.zeros((len(group), markers, 2), np.int64)
        masks = [tile_mask(tile.data, tile.inner, self.reader, device) for tile in group]
        for batch in self.batches(group):
            inputs = torch.stack(
                [tile_input(group[t].data, k, self.factors[k], masks[t], self.field.shape) for t, k in batch]
            )
            core = group[batch[0][0]].data.tile.core_in_outer
            outputs = self.engine.predict(self.model.network, inputs, core, self.views)[:, :, 0].cpu().numpy()
            for (t, k), maps in zip(batch, outputs, strict=True):
                tile = group[t]
                sums[t][k, :views] = (tile.pixels.map_weights @ maps.reshape(views, -1).T.astype(np.float64)).T
                sums[t][k, views:] = raw_sums(tile.data.raw[k], tile.pixels)
                bad[t, k] = bad_pixels(self.reader.owned_raw(tile.data)[k])
                if self.maps is not None:
                    mean = maps.mean(axis=0, dtype=np.float64).astype(np.float32)
                    writer.put(_Write(self.maps, k, tile.data.tile.core, mean))
        return [
            TileSums(tile.data.tile.index, tile.pixels.cells, tile.pixels.shape, bad[t], sums[t])
            for t, tile in enumerate(group)
        ]

    def batches(self, group: list[_ReadTile]) -> Iterator[list[tuple[int, int]]]:
        """Samples (tile of the group, marker) that can go through the network together."""
        same: dict[tuple[tuple[int, int], Box], list[tuple[int, int]]] = {}
        for t, tile in enumerate(group):
            kind = tile.data.tile.outer.shape, tile.data.tile.core_in_outer
            same.setdefault(kind, []).extend((t, k) for k in range(len(self.channels)))
        for samples in same.values():
            for first in range(0, len(samples), self.batch):
                yield samples[first : first + self.batch]

    def collect(self, sums: CellSums) -> CellScores:
        """Means from sums and counts."""
        n, markers, views = len(self.cells), len(self.channels), len(self.views)
        shape = sums.shape()
        area = np.where(shape[0] > 0, shape[0], np.nan)
        score, sd, intensity = (np.full((markers, n), np.nan, np.float32) for _ in range(3))
        for part, total in sums.sums():
            means = total[:, :views] / area
            score[part] = means.mean(axis=1)
            if views > 1:
                sd[part] = means.std(axis=1)
            counts = total[:, views + 1]
            intensity[part] = total[:, views] / np.where(counts > 0, counts, np.nan)
        return CellScores(
            score=score,
            view_sd=sd,
            intensity=intensity,
            area_px=shape[0].astype(np.int64),
            centroid=(shape[2:4] / area).T,
            eroded_px=shape[1].astype(np.int64),
            touches_edge=shape[4] > 0,
            bad_pixels=sums.bad(),
            tiles_done=len(self.tiles),
            tiles_skipped=len(self.grid) - len(self.tiles),
            level=self.reader.level,
        )


@dataclass(frozen=True)
class _ReadTile:
    data: TileData
    inner: NDArray[np.bool_]
    pixels: CellPixels


@dataclass(frozen=True)
class _Append:
    """Job of the writer: put finished tiles on disk, after the maps handed over before."""

    sums: CellSums
    tiles: list[TileSums]

    def __call__(self) -> None:
        self.sums.add(self.tiles)


@dataclass(frozen=True)
class _Write:
    """Job of the writer: one marker's map of one core."""

    maps: MapWriter
    marker: int
    box: Box
    values: NDArray[np.float32]

    def __call__(self) -> None:
        self.maps.write(self.marker, self.box, self.values)


def load(path: str | Path, *, name: str = "Nimbus", um_per_px: float = 1.0) -> Nimbus:
    """Load weights (``.pt`` or ``.safetensors``); width and depth are read from them.

    name: prefix of the measurements. um_per_px: the scale of training. Nothing in the file is executed. Raises ModelError.
    """
    path = Path(path)
    weights, digest = read_weights(path)
    try:
        network = ResidualUNet.from_state_dict(weights)
    except ValueError as error:
        raise ModelError(
            f"{path}: {error}", hint="Nimbus needs a V<number>.pt or a checkpoint tuned from one"
        ) from error
    if (network.in_channels, network.out_channels) != (2, 1):
        raise ModelError(
            f"{path}: a network from {network.in_channels} to {network.out_channels} channels; Nimbus goes from 2 to 1",
            hint="Nimbus needs a V<number>.pt or a checkpoint tuned from one",
        )
    return Nimbus(name, um_per_px, digest, FusedUNet(network))


def from_card(path: Path, card: ModelCard) -> Nimbus:
    """Load weights as their card says; the entry point of this system. Raises ModelError."""
    return load(path, name=card.name, um_per_px=card.um_per_px)


def check_factors(channels: Sequence[int], factors: Sequence[float]) -> None:
    """Raise ValueError when channels and factors do not match or a factor is not a positive number."""
    if len(channels) != len(factors) or not all(np.isfinite(f) and f > 0 for f in factors):
        raise ValueError(f"every channel needs one positive factor, got {list(factors)} for {list(channels)}")
