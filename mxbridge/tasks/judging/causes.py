"""Whose fault it is that a marker does not agree: its own stain, or a channel that it is imputed from.

Markers that disagree are imputed again without a channel that may be bad, on a few crops of the image. Those that then agree
were victims of that channel. An any-marker model simply does not see the channel; for single-marker models it is replaced by
what another model imputes, where one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray

from mxbridge.image import Box, LocalImage, computed
from mxbridge.metrics.agreement import BLOCK, MARGIN, Agreement, BlockSums, Range, fisher
from mxbridge.models.maxim import Maxim, MaximStream, Request, map_stored
from mxbridge.stream.engine import Engine
from mxbridge.tasks.judging.one_image import Asked

CROPS = 2
CROP = 512
"""Crops of an image on which channels are tried, and their side in model pixels."""
TRIALS = 48
"""Forward passes per crop and round, and pairs of a marker and a channel that it may hang on."""
ROUNDS = 3
"""Bad channels that are looked for one after another."""
HANGS = 0.8
"""Correlation of a map with the one imputed from a decoy in place of a channel, below which the map hangs on that channel."""
RECOVERED = 0.5
"""Part of what an agreement lacks (Fisher z) that must come back without a channel for that channel to be the cause."""


class Suspicious(NamedTuple):
    """A marker that agrees less with one model than it should. deficit: below the usual, in standard deviations.

    patchy: it fails in places only.
    """

    asked: Asked
    marker: str
    range: Range
    deficit: float
    patchy: bool = False


@dataclass(frozen=True)
class Cause:
    """A channel without which a marker agrees again. before, after: agreement on the crops with and without it."""

    channels: tuple[str, ...]
    before: float
    after: float


class Seen(NamedTuple):
    """Over the blocks of the crops. agreement: median. bad: share of blocks that are bad. NaN where nothing can be imputed."""

    agreement: float
    bad: float


Key = tuple[str, str]
"""sha256 of a model's weights, marker."""


def key(one: Suspicious) -> Key:
    return one.asked.model.weights_sha256, one.marker


@dataclass
class Search:
    """Looks for the causes in one image. suspicious: worst first. bad: channels that are known to be bad (dead, out of range).

    others: channels that might be bad and that nothing speaks for or against (no model can judge them). models: all of the run.
    """

    image: LocalImage
    engine: Engine
    suspicious: Sequence[Suspicious]
    models: Sequence[Maxim]
    bad: Sequence[str] = ()
    others: Sequence[str] = ()
    value_scale: float | None = None
    progress: Callable[[int, int], None] | None = None
    causes: dict[Key, Cause] = field(default_factory=dict, init=False)
    hangs_on: dict[Key, tuple[str, ...]] = field(default_factory=dict, init=False)
    """Of markers without a cause: bad or suspicious channels without which nothing can be said of them."""

    def run(self, crops: Sequence[LocalImage]) -> None:
        """Fill ``causes`` and ``hangs_on``; markers in neither are bad themselves. Raises InputError."""
        if self.progress is not None:
            self.progress(0, ROUNDS)
        before = self._agreements(crops, self.suspicious, ())
        left = [
            one for one in self.suspicious if one.marker not in self.bad and np.isfinite(before[key(one)].agreement)
        ]
        hidden = tuple(dict.fromkeys(self.bad))
        if hidden and left:
            left = self._settle(left, before, self._agreements(crops, left, hidden), hidden)
        for number in range(ROUNDS):
            if self.progress is not None:
                self.progress(number + 1, ROUNDS)
            named = [one.marker for one in left]
            candidates = [c for c in dict.fromkeys([*named, *self.others]) if c not in hidden]
            found = self._best(crops, left, before, hidden, candidates)
            if found is None:
                break
            channel, after = found
            left = self._settle([o for o in left if o.marker != channel], before, after, (channel,))
            hidden = (*hidden, channel)
        doubtful = dict.fromkeys([*hidden, *(one.marker for one in left)])
        self._find_hangs(crops, [one for one in self.suspicious if key(one) not in self.causes], list(doubtful))

    def _find_hangs(self, crops: Sequence[LocalImage], ones: Sequence[Suspicious], channels: Sequence[str]) -> None:
        """Fill ``hangs_on``. Where nearly every marker fails there are too many pairs; the channels known to be bad come first."""
        pairs = [(one, c) for c in channels for one in ones if c != one.marker and _is_input(one, c)][:TRIALS]
        as_they_are = {
            key(one): [self._map(crop, one) for crop in crops] for one in {key(o): o for o, _ in pairs}.values()
        }
        for one, channel in pairs:
            if self._hangs(crops, as_they_are[key(one)], one, channel):
                self.hangs_on[key(one)] = (*self.hangs_on.get(key(one), ()), channel)

    def _hangs(
        self, crops: Sequence[LocalImage], maps: Sequence[NDArray[np.float32]], one: Suspicious, channel: str
    ) -> bool:
        """Whether what is imputed changes much when the channel shows something else: the marker's own image, turned.

        maps: what is imputed from the crops as they are.
        """
        asked, scaling = one.asked, one.asked.model.scaling
        found, scale = [], 1.0 if self.value_scale is None else self.value_scale
        for crop, before in zip(crops, maps, strict=True):
            decoy = np.ascontiguousarray(computed(crop.levels[0][asked.channels[one.marker]])[::-1, ::-1])
            unit = scaling[one.marker].to_unit(torch.from_numpy(decoy.astype(np.float32)) * scale)
            stored = scaling[channel].to_stored(unit.numpy()) / np.float32(scale)
            after = self._map(_replaced(crop, asked.channels[channel], stored), one)
            sums = BlockSums(1, before.shape[1:])
            sums.add(Box(0, 0, *before.shape[1:]), before, after)
            found.append(sums.pearson_blocks().ravel())
        return not _median(found) >= HANGS

    def _map(self, crop: LocalImage, one: Suspicious) -> NDArray[np.float32]:
        """``(1, y, x)`` imputed from everything in the crop."""
        requests = one.asked.requests((one.marker,))
        stream = MaximStream(one.asked.model, crop, self.engine, requests, value_scale=self.value_scale)
        out = np.empty((1, *stream.shape), np.float32)
        for tile in stream.tiles():
            box = tile.tile.core
            out[0, box.y0 : box.y1, box.x0 : box.x1] = tile.unit[0, 0]
        return out

    def _best(
        self,
        crops: Sequence[LocalImage],
        left: Sequence[Suspicious],
        before: dict[Key, Seen],
        hidden: tuple[str, ...],
        candidates: Sequence[str],
    ) -> tuple[str, dict[Key, Seen]] | None:
        """The channel without which most markers recover, and then their agreements; None where none does."""
        best, most = None, (0, 0.0)
        for channel in candidates[: max(1, TRIALS // max(1, len(left)))]:
            others = [one for one in left if one.marker != channel]
            after = self._agreements(crops, others, (*hidden, channel)) if others else {}
            gains = [_gain(one, before, after) for one in others]
            worth = sum(g >= RECOVERED for g in gains), sum(max(g, 0.0) for g in gains)
            if worth > most and worth[0]:
                best, most = (channel, after), worth
        return best

    def _settle(
        self,
        left: Sequence[Suspicious],
        before: dict[Key, Seen],
        after: dict[Key, Seen],
        channels: tuple[str, ...],
    ) -> list[Suspicious]:
        """Note the cause of those that recovered; the others are left."""
        rest = []
        for one in left:
            if _gain(one, before, after) >= RECOVERED:
                self.causes[key(one)] = Cause(channels, before[key(one)].agreement, after[key(one)].agreement)
            else:
                rest.append(one)
        return rest

    def _agreements(
        self, crops: Sequence[LocalImage], ones: Sequence[Suspicious], hidden: Sequence[str]
    ) -> dict[Key, Seen]:
        """What is seen on the crops without ``hidden``."""
        found: dict[Key, list[Agreement]] = {key(one): [] for one in ones}
        for weights in dict.fromkeys(key(one)[0] for one in ones):
            group = [one for one in ones if key(one)[0] == weights]
            for crop in crops:
                sums = self._imputed(crop, group, hidden)
                if sums is not None:
                    for k, one in enumerate(group):
                        found[key(one)].append(sums.agreement(k, one.range.low_signal))
        return {key(one): _seen(one, found[key(one)]) for one in ones}

    def _imputed(self, crop: LocalImage, group: Sequence[Suspicious], hidden: Sequence[str]) -> BlockSums | None:
        """Sums of the group's markers, which are all of one model."""
        asked, markers = group[0].asked, [one.marker for one in group]
        if asked.model.any_marker:
            requests = asked.requests(markers, hidden)
        else:
            replaced = [c for c in hidden if c in asked.model.inputs]
            image = self._without(crop, asked.model, replaced)
            if image is None or (hidden and not replaced):
                return None
            crop, requests = image, [Request(tuple(markers))]
        stream = MaximStream(asked.model, crop, self.engine, requests, measured=markers, value_scale=self.value_scale)
        sums = BlockSums(len(markers), stream.shape)
        for tile in stream.tiles():
            sums.add(tile.tile.core, tile.unit[0], tile.measured)
        return sums

    def _without(self, crop: LocalImage, model: Maxim, channels: Sequence[str]) -> LocalImage | None:
        """The crop with channels replaced by what other models impute; None where none does at the image's own scale."""
        for channel in channels:
            asked = next(
                (a for a in (Asked.of(m, crop, (channel,)) for m in self.models) if a.markers and not a.why_not), None
            )
            if asked is None:
                return None
            stream = MaximStream(
                asked.model, crop, self.engine, asked.requests((channel,)), value_scale=self.value_scale
            )
            if stream.shape != crop.shape:
                return None
            plane = np.empty(crop.shape, np.float32)
            for tile in stream.tiles():
                box = tile.tile.core
                stored = map_stored(asked.model, channel, tile.unit[0, 0], stream.value_scale)
                plane[box.y0 : box.y1, box.x0 : box.x1] = stored
            crop = _replaced(crop, asked.channels[channel], plane)
        return crop


def choose_crops(image: LocalImage, blocks: NDArray[np.bool_], um: tuple[float, float]) -> Iterator[LocalImage]:
    """The parts of an image, read into memory, that hold most ``blocks`` ``(by, bx)``; at most CROPS of at most CROP a side.

    um: (y, x) size of a pixel at the model's scale. An image that is no larger than one crop is taken whole.
    """
    side = CROP // BLOCK
    rows, columns = (-(-n // side) for n in blocks.shape)
    padded = np.zeros((rows * side, columns * side), int)
    padded[: blocks.shape[0], : blocks.shape[1]] = blocks
    counts = padded.reshape(rows, side, columns, side).sum(axis=(1, 3)).ravel()
    full = image.require_pixel_size()
    scale = um[0] / full[0], um[1] / full[1]
    for number in np.argsort(-counts, kind="stable")[:CROPS]:
        if counts[number]:
            row, column = divmod(int(number), columns)
            y0, x0 = round(row * CROP * scale[0]), round(column * CROP * scale[1])
            y1, x1 = round((row + 1) * CROP * scale[0]), round((column + 1) * CROP * scale[1])
            yield crop_of(image, Box(y0, x0, y1, x1).clip(image.shape))


def crop_of(image: LocalImage, box: Box) -> LocalImage:
    """All channels of a box at full resolution, in memory."""
    pixels = computed(image.levels[0][:, box.y0 : box.y1, box.x0 : box.x1])
    name = f"{image.identity}, {tuple(box)}"
    return replace(image, levels=(_in_memory(pixels),), identity=name)


def _is_input(one: Suspicious, channel: str) -> bool:
    return channel in one.asked.model.inputs and channel in one.asked.channels


def _replaced(crop: LocalImage, channel: int, stored: NDArray[np.float32]) -> LocalImage:
    pixels = computed(crop.levels[0]).copy()
    if pixels.dtype.kind in "iu":
        limits = np.iinfo(pixels.dtype)
        stored = np.clip(np.round(stored.astype(np.float64)), limits.min, limits.max)
    pixels[channel] = stored.astype(pixels.dtype)
    return replace(crop, levels=(_in_memory(pixels),))


def _in_memory(pixels: NDArray) -> da.Array:
    array: da.Array = da.from_array(pixels, chunks=(1, *pixels.shape[1:]), name=False)  # type: ignore[no-untyped-call]
    return array


def _gain(one: Suspicious, before: dict[Key, Seen], after: dict[Key, Seen]) -> float:
    """Part of what was lost that came back: of agreement (0 below MARGIN), or of bad places. 0 where it cannot be told."""
    old, new = before[key(one)], after.get(key(one), Seen(np.nan, np.nan))
    if not np.isfinite([*old, *new]).all():
        return 0.0
    if one.patchy:
        return (old.bad - new.bad) / old.bad if old.bad > 0 else 0.0
    if new.agreement - old.agreement < MARGIN:
        return 0.0
    z_old, z_new = fisher(np.array([old.agreement, new.agreement]))
    lacking = one.range.windows.mean - z_old
    return float((z_new - z_old) / lacking) if lacking > 0 else 0.0


def _seen(one: Suspicious, parts: Sequence[Agreement]) -> Seen:
    used = sum(part.used for part in parts)
    bad = sum(int(one.range.bad_blocks(part).sum()) for part in parts)
    return Seen(_median([part.blocks for part in parts]), bad / used if used else np.nan)


def _median(parts: Sequence[NDArray[np.float64]]) -> float:
    blocks = np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
    blocks = blocks[np.isfinite(blocks)]
    return float(np.median(blocks)) if len(blocks) else np.nan
