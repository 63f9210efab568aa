"""One image seen through a model that imputes its markers: how imputed and measured agree, and what its channels hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import ModelError, UsageError
from mxbridge.image import Box, LocalImage
from mxbridge.metrics.agreement import BLOCK, BlockSums, Range, cuts
from mxbridge.metrics.input_range import InputRange, InputSums
from mxbridge.models.maxim import Maxim, MaximStream, Request
from mxbridge.models.maxim_input import find_markers
from mxbridge.models.maxim_stream import listed
from mxbridge.stream.engine import Engine
from mxbridge.tasks.regions import Region

PREVIEW = 384
"""Longest side of the pictures of an image."""


@dataclass(frozen=True)
class Expectation:
    """What a model's card says of its validation. ranges: of agreement, by marker. why_not: of markers without a usable one."""

    ranges: dict[str, Range]
    why_not: dict[str, str]
    inputs: dict[str, InputRange]

    @classmethod
    def of(cls, model: Maxim) -> Expectation:
        """Raises ModelError for a card whose numbers are broken."""
        seen, inputs = (model.card.validation.get(key) or {} for key in ("agreement", "input_ranges"))
        where = f"the card of {model.name}"
        if not isinstance(seen, dict) or not isinstance(inputs, dict):
            raise ModelError(f"{where}: its validation is no table")
        ranges = {m: Range.from_record(seen[m], f"{where}, {m}") for m in model.outputs if m in seen}
        why_not = {m: found.why_not for m, found in ranges.items() if found.why_not}
        missing = "the model's card has no range of agreement from validation"
        why_not |= {m: missing for m in model.outputs if m not in ranges}
        known = {m: InputRange.from_record(v, f"{where}, {m}") for m, v in inputs.items()}
        return cls(ranges, why_not, known)


def refuse_repeated(models: Sequence[Maxim]) -> None:
    """Raise UsageError where two models are the same weights: what is kept of an image is told apart by them."""
    by_weights: dict[str, Maxim] = {}
    for model in models:
        other = by_weights.setdefault(model.weights_sha256, model)
        if other is not model:
            raise UsageError(
                f"two of the models, {other.name} and {model.name}, are the same weights", hint="Name one of them"
            )


@dataclass(frozen=True)
class Asked:
    """What a model is asked of an image. markers: outputs that are measured there. absent: inputs that are not.

    why_not: why nothing can be asked (of an any-marker model: it would see less than half of its inputs); empty where it can.
    """

    model: Maxim
    markers: tuple[str, ...]
    channels: dict[str, int]
    absent: frozenset[str]
    why_not: str = ""

    @classmethod
    def of(cls, model: Maxim, image: LocalImage, wanted: Sequence[str] = ()) -> Asked:
        """wanted: only these markers, in any case. Raises InputError for a name on two channels."""
        channels = find_markers(image, [*model.inputs, *model.outputs])
        folded = {m.strip().casefold() for m in wanted}
        markers = tuple(m for m in model.outputs if m in channels and (not folded or m.strip().casefold() in folded))
        absent = tuple(m for m in model.inputs if m not in channels)
        why_not = ""
        if absent and not model.any_marker:
            why_not = f"the image has no channel {listed(absent)}"
        elif model.any_marker and 2 * (len(absent) + 1) > len(model.inputs):
            why_not = f"the image lacks {len(absent)} of the {len(model.inputs)} markers of the model"
        return cls(model, markers, channels, frozenset(absent), why_not)

    def requests(self, markers: Sequence[str], hidden: Sequence[str] = ()) -> list[Request]:
        """Each marker from all others but ``hidden`` (any-marker models only)."""
        if not self.model.any_marker:
            return [Request(tuple(markers))] if markers else []
        return [Request((m,), self.absent | (frozenset(hidden) - {m})) for m in markers]


@dataclass(frozen=True)
class Look:
    """What a pass over an image gives: sums per block, sums per channel, small pictures; markers in the order asked for."""

    markers: tuple[str, ...]
    sums: BlockSums
    inputs: InputSums
    previews: Previews
    notes: tuple[str, ...]
    um_per_px: tuple[float, float]
    """(y, x) of a pixel of the blocks, at the model's scale."""


def stream_of(asked: Asked, image: LocalImage, engine: Engine, value_scale: float | None = None) -> MaximStream:
    """Everything that is measured beside what is imputed of it; nothing is read yet. Raises InputError, NoPixelSize."""
    requests = asked.requests(asked.markers)
    return MaximStream(asked.model, image, engine, requests, measured=list(asked.channels), value_scale=value_scale)


def look(
    asked: Asked,
    image: LocalImage,
    engine: Engine,
    *,
    value_scale: float | None = None,
    region: Region | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Look:
    """Impute every marker from the others over the whole image, or what of it is needed for the blocks in a ``region``.

    Raises InputError, NoPixelSize.
    """
    names = list(asked.channels)
    stream = stream_of(asked, image, engine, value_scale)
    at = [names.index(m) for m in asked.markers]
    sums, inputs = BlockSums(len(at), stream.shape), InputSums(names)
    previews = Previews(len(at), stream.shape)
    blocks = None if region is None else region.at_scale(stream.field).blocks(BLOCK)
    left_out = {t.index for t in stream.grid if blocks is not None and not blocks_of(blocks, t.core).any()}
    for tile in stream.tiles(left_out, progress):
        imputed, measured, core = tile.unit[0], tile.measured[at], tile.tile.core
        sums.add(core, imputed, measured)
        previews.add(core, imputed, measured)
        if blocks is None:
            inputs.add(tile.measured)
            continue
        for box in boxes_of(blocks, core):
            y, x = core.y0, core.x0
            inputs.add(tile.measured[:, box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x])
    if blocks is not None:
        sums.keep(blocks)
    full, model = image.require_pixel_size(), stream.shape
    um = full[0] * image.shape[0] / model[0], full[1] * image.shape[1] / model[1]
    return Look(asked.markers, sums, inputs, previews, stream.notes, um)


def blocks_of(blocks: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """The blocks ``(by, bx)`` that the pixels of a box lie in."""
    rows, columns = cuts(box.y0, box.y1)[0], cuts(box.x0, box.x1)[0]
    return blocks[rows, columns]


def boxes_of(blocks: NDArray[np.bool_], box: Box) -> Iterator[Box]:
    """The pixels of a box that lie in blocks, as boxes: neighbours in a row of blocks are one."""
    rows, columns = cuts(box.y0, box.y1)[0], cuts(box.x0, box.x1)[0]
    for row in range(rows.start, rows.stop):
        wanted = blocks[row, columns].astype(np.int8)
        steps = np.diff(wanted, prepend=0, append=0)
        for first, last in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
            y0, y1 = max(box.y0, row * BLOCK), min(box.y1, (row + 1) * BLOCK)
            x0, x1 = (columns.start + int(first)) * BLOCK, (columns.start + int(last)) * BLOCK
            yield Box(y0, max(box.x0, x0), y1, min(box.x1, x1))


class Previews:
    """Imputed and measured markers averaged to at most PREVIEW pixels a side."""

    def __init__(self, markers: int, shape: tuple[int, int]) -> None:
        self.side = max(1, -(-max(shape) // PREVIEW))
        """Model pixels per pixel of the picture."""
        small = -(-shape[0] // self.side), -(-shape[1] // self.side)
        self._sums = np.zeros((2, markers, *small), np.float32)
        self._counts = np.zeros((2, markers, *small), np.float32)

    def add(self, box: Box, imputed: NDArray[np.float32], measured: NDArray[np.float32]) -> None:
        """Pixels ``(marker, y, x)`` of a box of the image; NaN is left out."""
        y, rows = cuts(box.y0, box.y1, self.side)
        x, columns = cuts(box.x0, box.x1, self.side)
        for which, planes in enumerate((imputed, measured)):
            for k, plane in enumerate(planes):
                finite = np.isfinite(plane)
                for total, values in ((self._sums, np.where(finite, plane, 0)), (self._counts, finite)):
                    part = np.add.reduceat(values.astype(np.float32), rows, axis=0)
                    total[which, k, y, x] += np.add.reduceat(part, columns, axis=1)

    def of(self, marker: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Imputed and measured ``(y, x)``; NaN where nothing was measured."""
        some = np.maximum(self._counts[:, marker], 1)
        found = np.where(self._counts[:, marker] > 0, self._sums[:, marker] / some, np.float32(np.nan))
        return found[0], found[1]
