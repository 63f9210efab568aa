"""An image going through an imputation network, tile by tile: what is asked, what must be there, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mxbridge.cells import Cells
from mxbridge.errors import InputError, UnknownName, UsageError
from mxbridge.image import Box, LocalImage
from mxbridge.models.linear_start import corrected, network_input
from mxbridge.models.maxim_input import field_at, find_markers, measured_plane, own_field, scaled_plane
from mxbridge.models.scaling import PEER
from mxbridge.stream.ahead import read_ahead
from mxbridge.stream.engine import Engine
from mxbridge.stream.grid import Grid, Tile
from mxbridge.stream.measure import CellPixels, cell_pixels
from mxbridge.stream.reader import TileData, TileReader
from mxbridge.stream.resample import Field, pad_by_reflection
from mxbridge.stream.views import IDENTITY, Views

if TYPE_CHECKING:
    from mxbridge.models.maxim import Maxim

DEPTHS = {"uint8": 1, "uint16": 2}
"""Bytes of the pixel types between which numbers mean something else."""


LISTED = 40
"""Names in an error, at most."""


class Request(NamedTuple):
    """One forward pass. targets: markers asked for. hidden: inputs that the model shall not see (any-marker models only,
    where targets are always hidden)."""

    targets: tuple[str, ...]
    hidden: frozenset[str] = frozenset()


def targets_of(requests: Sequence[Request]) -> tuple[str, ...]:
    """The targets of all requests, one after another: the order of :attr:`PredictedTile.unit`."""
    return tuple(target for request in requests for target in request.targets)


def listed(markers: Iterable[str]) -> str:
    """For people: a card may name thousands."""
    names = list(markers)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def hidden_of(model: Maxim, request: Request) -> list[str]:
    """Markers that a request does not show to the model: its targets (a single-marker model's outputs all), and others."""
    if not model.any_marker:
        return list(model.outputs)
    return [marker for marker in model.inputs if marker in request.hidden or marker in request.targets]


@dataclass(frozen=True)
class PredictedTile:
    """What one tile gives; all arrays are of ``tile.core``, pixels of the grid.

    unit: ``(view, target, y, x)`` 0..1, targets in the order of :func:`targets_of`.
    measured: ``(m, y, x)`` stored values of the ``measured`` markers, scaled as the model sees them; NaN where a pixel that
    is not finite has a part.
    inputs_sum: ``(inputs,)`` sums of the scaled inputs; NaN for inputs that no request sees. Divided by ``tile.core``'s pixels
    they are means.
    pixels: which pixels belong to which cell, where cells were given.
    """

    tile: Tile
    unit: NDArray[np.float32]
    measured: NDArray[np.float32]
    inputs_sum: NDArray[np.float64]
    pixels: CellPixels | None


class MaximStream:
    """One image and what is asked of a model about it; nothing is read before :meth:`tiles`.

    measured: markers of the model whose stored values are handed out beside the imputed ones.
    compat_pad: pad with zeros on the right and at the bottom up to this side, divide by 255, and neither clip nor resample, as
    the published program does. value_scale: stored numbers are multiplied by it before they are scaled; None: by 1, and a
    depth other than that of the training images is refused.
    at_um_per_px: (y, x) scale to work at instead of the model's.
    Raises InputError (a channel that is missing or repeated, numbers of another depth, a scale too far away, an image larger
    than ``compat_pad``), NoPixelSize, UnknownName (no such marker in the model) and UsageError.
    """

    def __init__(
        self,
        model: Maxim,
        image: LocalImage,
        engine: Engine,
        requests: Sequence[Request],
        *,
        cells: Cells | None = None,
        measured: Sequence[str] = (),
        views: Views = (IDENTITY,),
        compat_pad: int | None = None,
        value_scale: float | None = None,
        at_um_per_px: tuple[float, float] | None = None,
    ) -> None:
        self.model, self.image, self.engine, self.views = model, image, engine, views
        self.compat_pad, self.value_scale = compat_pad, 1.0 if value_scale is None else value_scale
        self.requests = [_checked(model, request) for request in requests]
        if not targets_of(self.requests):
            raise UsageError("nothing is asked of the model", hint="Name a marker with --marker")
        self.measured = tuple(_known(model, [*model.inputs, *model.outputs], marker) for marker in measured)
        self.notes: tuple[str, ...] = ()
        self._check_numbers(said=value_scale is not None)
        self._channels = self._find_channels()
        self.field = self._field(at_um_per_px)
        self.shape = self.field.shape
        self.grid = self._grid()
        self._reader = TileReader(image, cells, sorted(set(self._channels.values())), self.field, self.grid)
        self._blank: _Blank | None = None

    @property
    def level(self) -> int:
        """The pyramid level that is read."""
        return self._reader.level

    def describe(self) -> dict[str, Any]:
        """Everything that decides the numbers, so that results of another run are not taken for these."""
        settings = self.engine.describe()
        return {
            **self.model.describe(),
            "image": self.image.identity,
            "shape": list(self.image.shape),
            "ratio": [self.field.y.ratio, self.field.x.ratio],
            "level": self.level,
            "channels": self._channels,
            "requests": [[list(r.targets), sorted(r.hidden)] for r in self.requests],
            "measured": list(self.measured),
            "views": [view.name for view in self.views],
            "core": self.grid.core,
            "compat_pad": self.compat_pad,
            "value_scale": self.value_scale,
            **{key: settings[key] for key in ("device_name", "precision", "threads", "torch")},
        }

    def tiles(
        self, done: Container[int] = (), progress: Callable[[int, int], None] | None = None
    ) -> Iterator[PredictedTile]:
        """The tiles that are not ``done``, in grid order. Closing the iterator ends its threads.

        progress: called with the tiles finished and all tiles. Raises InputError.
        """
        todo = [tile for tile in self.grid if tile.index not in done]
        finished = len(self.grid) - len(todo)
        if progress is not None:
            progress(finished, len(self.grid))
        if not todo:
            return
        self.engine.prepare(self.model.network)
        readers = self.engine.readers
        ahead = self._reader.ahead(readers, self.engine.queue_bytes)
        stream = read_ahead(todo, self._read, workers=readers, ahead=ahead, reduced=self.engine.step_back)
        with closing(stream):
            for read in stream:
                yield self._predicted(read)
                finished += 1
                if progress is not None:
                    progress(finished, len(self.grid))

    # --- what is checked before anything is read ---

    def _check_numbers(self, *, said: bool) -> None:
        """Raise where the numbers of the image cannot mean what they meant in training."""
        name, dtype, trained = self.image.name, self.image.dtype, self.model.dtype
        if not (math.isfinite(self.value_scale) and self.value_scale > 0):
            raise UsageError(f"--value-scale {self.value_scale} is not possible", hint="Give a positive number")
        if self.compat_pad is not None and not _as_published(self.model):
            raise UsageError(
                f"{self.model.name} is no model of the published program, which divides by 255 and knows no linear start",
                hint="Leave --compat away",
            )
        if dtype.kind == "c" or dtype.kind not in "biuf":
            raise InputError(f"{name}: pixels of type {dtype} are no intensities")
        if said or trained not in DEPTHS:
            return
        if dtype.kind == "f":
            self.notes += (
                f"{name}: holds {dtype} numbers, the model was trained on {trained}; they are taken as they are",
            )
        elif dtype.itemsize != DEPTHS[trained]:
            factor = 255 / 65535 if DEPTHS[trained] == 1 else 65535 / 255
            full = f"{factor:.6g} for the full range, " if dtype.name in DEPTHS else ""
            raise InputError(
                f"{name} holds {dtype} numbers, {self.model.name} was trained on {trained}",
                hint=f"Say what they are multiplied by: --value-scale {full}1 for as they are",
            )

    def _find_channels(self) -> dict[str, int]:
        """Channel of every marker that is read. Raises InputError."""
        seen = {m for request in self.requests for m in self._seen(request)}
        wanted = [m for m in dict.fromkeys([*self.model.inputs, *self.measured]) if m in seen or m in self.measured]
        found = find_markers(self.image, wanted)
        missing = [marker for marker in wanted if marker not in found]
        if missing:
            have = listed(self.image.channel_names)
            raise InputError(
                f"{self.image.name} has no channel {listed(missing)}, which {self.model.name} needs for"
                f" {listed(dict.fromkeys(targets_of(self.requests)))}",
                hint=f"Rename the channel, or impute it first with --chain. There is: {have}",
            )
        return found

    def _seen(self, request: Request) -> tuple[str, ...]:
        """The inputs that a request sees, in the model's order."""
        return tuple(m for m in self.model.inputs if m not in request.hidden and m not in request.targets)

    def _field(self, at_um_per_px: tuple[float, float] | None) -> Field:
        if self.compat_pad is not None:
            return own_field(self.image)
        model = at_um_per_px or (self.model.um_per_px, self.model.um_per_px)
        field = field_at(self.image, model)
        if field != own_field(self.image):
            um = self.image.require_pixel_size()[0]
            self.notes += (f"{self.image.name}: resampled {um:.4g} -> {model[0]:.4g} µm per pixel",)
        return field

    def _grid(self) -> Grid:
        network, pad = self.model.network, self.compat_pad
        if pad is not None:
            if pad < 1 or pad % network.stride:
                raise UsageError(f"--compat-pad {pad} is not possible", hint=f"Give a multiple of {network.stride}")
            if max(self.shape) > pad:
                raise InputError(
                    f"{self.image.name}: {self.shape[1]} x {self.shape[0]} px do not fit into the padding of {pad}",
                    hint="The published program would cut the image; use a larger --compat-pad, or leave --compat away",
                )
        full_pixels = 1 / (self.field.y.ratio * self.field.x.ratio)
        return self.engine.grid(network, self.shape, full_pixels, padded=pad or 1)

    # --- one tile ---

    def _read(self, tile: Tile) -> _ReadTile:
        """In a reading thread: pixels, and which of them belong to which cell."""
        data = self._reader.read(tile, empty_too=True)
        assert data is not None  # noqa: S101 - tiles without cells are read too
        if self._reader.cells is None:
            return _ReadTile(data, None)
        pixels = cell_pixels(data, data.labels > 0, self._reader)
        return _ReadTile(data.without_labels(), pixels)

    def _predicted(self, read: _ReadTile) -> PredictedTile:
        data, tile = read.data, read.data.tile
        at = {channel: k for k, channel in enumerate(self._reader.channels)}
        raw = {marker: data.raw[at[channel]] for marker, channel in self._channels.items()}
        inputs = {m: self._scaled(m, raw[m], data) for m in self.model.inputs if m in self._asked_inputs}
        inside = Box(*(c - s for c, s in zip(tile.core, (data.seen.y0, data.seen.x0) * 2, strict=True)))
        sums = np.full(len(self.model.inputs), np.nan)
        for k, marker in enumerate(self.model.inputs):
            if marker in inputs:
                part = inputs[marker][inside.y0 : inside.y1, inside.x0 : inside.x1]
                sums[k] = float(part.sum(dtype=torch.float64 if part.device.type != "mps" else torch.float32))
        measured = np.empty((len(self.measured), *tile.core.shape), np.float32)
        for k, marker in enumerate(self.measured):
            if marker in inputs and raw[marker].dtype.kind in "biu":  # whole numbers are all finite
                plane = inputs[marker]
            else:
                plane = self._plane(measured_plane, marker, raw[marker], data)
            measured[k] = plane[inside.y0 : inside.y1, inside.x0 : inside.x1].cpu().numpy()
        return PredictedTile(tile, self._unit(inputs, data), measured, sums, read.pixels)

    @property
    def _asked_inputs(self) -> set[str]:
        return {marker for request in self.requests for marker in self._seen(request)}

    def _scaled(self, marker: str, raw: NDArray[Any], data: TileData) -> Tensor:
        return self._plane(scaled_plane, marker, raw, data)

    def _plane(self, make: Callable[..., Tensor], marker: str, raw: NDArray[Any], data: TileData) -> Tensor:
        scaling = PEER if self.compat_pad is not None else self.model.scaling[marker]
        return make(raw, scaling, data.rows, data.columns, self.engine.torch_device, self.value_scale)

    def _unit(self, inputs: Mapping[str, Tensor], data: TileData) -> NDArray[np.float32]:
        """``(view, target, y, x)``; a blank tile like the one before it is not computed again."""
        kind = data.tile.outer.shape, data.tile.core_in_outer
        blank = not any(bool(plane.any()) for plane in inputs.values())
        if blank and self._blank is not None and self._blank.kind == kind:
            return self._blank.unit.copy()
        base = self._base(inputs, data)
        batch = self.engine.samples(self.model.network, self.grid)
        parts = []
        for passes in self._passes(batch):
            parts += self._answers(base, passes, data.tile.core_in_outer)
        unit = np.concatenate(parts, axis=1)
        if blank:
            self._blank = _Blank(kind, unit.copy())
        return unit

    def _passes(self, batch: int) -> Iterator[list[Request]]:
        """Requests that go through the network together; a single-marker model answers all of them in one pass."""
        if not self.model.any_marker:
            yield [Request(targets_of(self.requests))]
            return
        for first in range(0, len(self.requests), batch):
            yield self.requests[first : first + batch]

    def _padded(self, plane: Tensor, data: TileData) -> Tensor:
        """``(y, x)`` of what was seen -> of the outer box."""
        seen, outer = data.seen, data.tile.outer
        if self.compat_pad is None:
            return pad_by_reflection(plane, seen, outer, self.shape)
        return functional.pad(plane, (0, outer.x1 - seen.x1, 0, outer.y1 - seen.y1))

    def _base(self, inputs: Mapping[str, Tensor], data: TileData) -> Tensor:
        """``(planes, y, x)`` of the outer box: all that is known, 0 where nothing is."""
        markers = self.model.inputs if self.model.start is None else self.model.planes
        base = torch.zeros((len(markers), *data.tile.outer.shape), device=self.engine.torch_device)
        for k, marker in enumerate(markers):
            if marker in inputs:
                base[k] = self._padded(inputs[marker], data)
        return base

    def _answers(self, base: Tensor, passes: Sequence[Request], core: Box) -> list[NDArray[np.float32]]:
        """Of each request that goes through the network together: ``(view, target, y, x)`` of the core."""
        model, network = self.model, self.model.network
        size = len(passes), network.in_channels, *base.shape[1:]
        stacked = torch.empty(size, device=base.device, memory_format=network.memory_format)
        starts: list[Tensor | None] = []
        for request, out in zip(passes, stacked, strict=True):
            hidden = hidden_of(model, request)
            start = model.start.estimate(base, hidden) if model.start is not None else None
            at = [model.inputs.index(marker) for marker in hidden if marker in model.inputs]
            network_input(base[: len(model.inputs)], at, start, any_marker=model.any_marker, out=out)
            if start is not None:
                start = start[[hidden.index(target) for target in request.targets]]
                start = start[:, core.y0 : core.y1, core.x0 : core.x1]
            starts.append(start)
        outputs = list(dict.fromkeys(targets_of(passes)))
        asked = network.giving([model.outputs.index(target) for target in outputs])
        found = self.engine.predict(asked, stacked, core, self.views)
        answers = []
        for request, sample, start in zip(passes, found, starts, strict=True):
            unit = corrected(sample[:, [outputs.index(target) for target in request.targets]], start)
            answers.append((unit if start is None else unit.clamp_(0, 1)).cpu().numpy())
        return answers


@dataclass(frozen=True)
class _ReadTile:
    data: TileData
    pixels: CellPixels | None


@dataclass(frozen=True)
class _Blank:
    """What a tile without any signal gives; tiles of the same kind give the same."""

    kind: tuple[tuple[int, int], Box]
    unit: NDArray[np.float32]


def _as_published(model: Maxim) -> bool:
    kinds = {(s.transform, s.low, s.high) for s in model.scaling.values()}
    return model.start is None and kinds == {(PEER.transform, PEER.low, PEER.high)}


def _checked(model: Maxim, request: Request) -> Request:
    """The request with the model's own spelling of its markers. Raises UnknownName, UsageError."""
    targets = tuple(_known(model, model.outputs, target) for target in request.targets)
    if request.hidden and not model.any_marker:
        raise UsageError(
            f"{model.name} needs all of its inputs: {listed(model.inputs)}",
            hint="Inputs can be hidden from any-marker models only",
        )
    hidden = frozenset(_known(model, model.inputs, marker) for marker in request.hidden)
    if model.any_marker and len(hidden | set(targets)) == len(model.inputs):
        raise UsageError(f"{model.name} cannot impute {listed(targets)} from nothing", hint="Hide fewer markers")
    return Request(targets, hidden)


def _known(model: Maxim, markers: Sequence[str], wanted: str) -> str:
    """A marker as the model spells it. Raises UnknownName."""
    if wanted in markers:
        return wanted
    for marker in markers:
        if marker.casefold() == wanted.strip().casefold():
            return marker
    raise UnknownName("marker", wanted, dict.fromkeys(markers), where=f"the model {model.name}")
