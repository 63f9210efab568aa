"""Inferred channels against measured ones: grey levels of pictures of one name, scaled 0..1, which is the range of the metrics.

(Metrics on such values with a range of 255, as one published program computes them, find any two pictures alike.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box
from mxbridge.metrics.pixel import METRICS as PIXEL
from mxbridge.metrics.pixel import PixelSums
from mxbridge.metrics.ssim import RADIUS, SsimSums
from mxbridge.runs import RECORD, Run
from mxbridge.tasks.evaluating.class_images import LARGEST, PICTURES, by_stem, file_digest, picture_files
from mxbridge.tasks.mapping.maps import Maps
from mxbridge.tasks.translating.kept_maps import MAPS

METRICS = (*PIXEL, *RADIUS)

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Parts of red, green and blue in a grey level (ITU-R 601)."""

Grey = NDArray[np.float32]


@dataclass(frozen=True)
class ChannelPair:
    """A measured channel and a prediction of it. name: of the truth's file, without ending. read: the prediction, 0..1."""

    name: str
    method: str
    truth: Path
    identity: str
    read: Callable[[], Grey]


def find_channels(given: Sequence[str], truth: Sequence[str]) -> list[ChannelPair]:
    """Pairs of equal names: pictures, and the inferred images of runs of translate, which are called ``<image>_<channel>``.

    Raises SourceError, BrokenFile, UsageError.
    """
    truths = by_stem(picture_files(truth, "truth of channels", PICTURES), "truth of channels")
    pairs: list[ChannelPair] = []
    for text in given:
        folder = Path(text).expanduser()
        if (folder / RECORD).is_file():
            pairs += _of_run(folder, truths)
            continue
        for path in picture_files([text], "prediction", PICTURES):
            if path.stem in truths and path.resolve() != truths[path.stem].resolve():
                pairs.append(_pair(path.stem, path.absolute().parent.name, truths[path.stem], path))
    return pairs


def _pair(name: str, method: str, truth: Path, path: Path) -> ChannelPair:
    return ChannelPair(name, method, truth, file_digest(path), lambda: read_grey(path))


def _of_run(folder: Path, truths: Mapping[str, Path]) -> list[ChannelPair]:
    run = Run.load(folder)
    method = str(run.model.get("name") or "translate")
    pairs = []
    for image in run.images:
        home = run.folder_of(image) / MAPS
        if image.status not in ("computed", "published") or not home.exists():
            continue
        maps = Maps.open(home)
        for channel in maps.images:
            name = f"{Path(image.name).stem}_{channel}"
            if name in truths:
                read = _reader(maps, channel)
                pairs.append(ChannelPair(name, method, truths[name], f"{run.run_id} {image.fingerprint}", read))
    return pairs


def _reader(maps: Maps, channel: str) -> Callable[[], Grey]:
    return lambda: grey(maps.read(channel, Box(0, 0, *maps.shape)))


def read_grey(path: Path) -> Grey:
    """``(y, x)``, 0..1: a grey picture, or the brightness of a colour picture, 8 or 16 bits. Raises InputError."""
    image = open_image(path)
    if image.dtype not in (np.uint8, np.uint16) or len(image.channels) not in (1, 3):
        raise InputError(f"{path} is no picture of 8 or 16 bits with one channel or three")
    if image.shape[0] * image.shape[1] > LARGEST:
        raise InputError(f"{path} is too large to be compared whole", hint="Evaluate regions of at most 10000 x 10000")
    return grey(np.asarray(image.levels[0]))


def grey(planes: NDArray[Any]) -> Grey:
    """``(c, y, x)`` of one channel or three, in unsigned integers, as values 0..1."""
    unit = planes.astype(np.float32) / np.iinfo(planes.dtype).max
    return np.asarray(unit[0] if len(unit) == 1 else np.einsum("c,cyx->yx", LUMA, unit))


def compare_channel(pair: ChannelPair) -> dict[str, Any]:
    """One row of the table of channels. Raises InputError where the sizes differ."""
    measured, predicted = read_grey(pair.truth), pair.read()
    if measured.shape != predicted.shape:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (predicted.shape, measured.shape)]
        raise InputError(f"{pair.name}: the prediction has {sizes[0]} pixels, its truth {sizes[1]}")
    sums, similar = PixelSums(), SsimSums(measured.shape[1], 1)
    sums.add(measured, predicted)
    similar.add(Box(0, 0, *measured.shape), measured, [predicted])
    ssim = {kind: float(values[0]) for kind, values in similar.values().items()}
    return {"channel": pair.name, "method": pair.method, **sums.values(), **ssim}
