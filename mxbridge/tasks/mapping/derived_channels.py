"""Inferred images as people look at them: derived images of the slide's own extent, made from maps block by block.

One of fluorescence, 8 bits, with named channels (brightness of each inferred stain; red, blue and green of a segmentation as the
probability of positive nuclei, negative nuclei and borders), and one in red, green and blue for each inferred brightfield stain.
Where maps have another scale than the slide, enlarging interpolates between pixel centres and shrinking averages areas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mxbridge.image import Box, Channel, LocalImage
from mxbridge.results import DerivedImage
from mxbridge.stream.resample import Scale, resample
from mxbridge.tasks.derived import FOLDER, put
from mxbridge.tasks.mapping.maps import Maps
from mxbridge.tasks.score_maps import plain_names

Tell = Callable[[int, int], None]
BLOCK = 1024
Shares = tuple[float, float, float]
GREY: Shares = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R 601-2)."""
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
OF_SEGMENTATION = (("positive", RED, 0xFF0000), ("negative", BLUE, 0x0000FF), ("border", GREEN, 0x00FF00))
PRIMARIES = (("Red", RED, 0xFF0000), ("Green", GREEN, 0x00FF00), ("Blue", BLUE, 0x0000FF))
STAIN_COLORS = (0x00FFFF, 0xFF00FF, 0xFFFF00, 0xFF8000, 0x80FF00, 0xFFFFFF)


@dataclass(frozen=True)
class ShownChannel:
    """A channel of a derived image. image: the map it is made of. shares: of its red, green and blue. color: 0xRRGGBB."""

    name: str
    image: str
    shares: Shares
    color: int


def shown_channels(
    maps: Maps, fluorescence: Sequence[str], segs: Sequence[str], marker_image: str | None, marker_name: str | None
) -> tuple[ShownChannel, ...]:
    """The channels of the fluorescence image: of those inferred stains and segmentations that the maps hold, in this order.

    marker_name: what people call the marker (``Ki67``), None for the image's own name.
    """
    renamed = {marker_image: marker_name} if marker_image is not None and marker_name else {}
    channels = [
        ShownChannel(
            f"{renamed.get(image, image)} ({maps.translator})", image, GREY, STAIN_COLORS[k % len(STAIN_COLORS)]
        )
        for k, image in enumerate(image for image in fluorescence if image in maps.images)
    ]
    for seg in (seg for seg in segs if seg in maps.images):
        of = f"{seg} " if len(segs) > 1 else ""
        channels += [
            ShownChannel(f"{of}{what} ({maps.translator})", seg, shares, color)
            for what, shares, color in OF_SEGMENTATION
        ]
    return tuple(channels)


def write_channels(
    maps: Maps,
    image: LocalImage,
    channels: Sequence[ShownChannel],
    key: str,
    folder: Path,
    version: Literal["0.4", "0.5"],
    tell: Tell,
) -> DerivedImage:
    """The fluorescence image. key: result key. folder: of the image's results. version: of OME-Zarr. Raises OutputError."""
    plain = plain_names([f"channels ({maps.translator})"])[0]
    file = f"{plain} {key[:6]}.ome.zarr"
    _write(maps, image, channels, folder, file, version, tell)
    return DerivedImage(file, tuple(c.name for c in channels), key, show="apart", title=maps.translator)


def write_brightfield(
    maps: Maps,
    image: LocalImage,
    name: str,
    key: str,
    folder: Path,
    version: Literal["0.4", "0.5"],
    tell: Tell,
) -> DerivedImage:
    """One inferred brightfield stain, such as ``Hematoxylin``, in red, green and blue. The rest as in :func:`write_channels`."""
    file = f"{plain_names([f'{name} ({maps.translator})'])[0]} {key[:6]}.ome.zarr"
    channels = [ShownChannel(colour, name, shares, color) for colour, shares, color in PRIMARIES]
    _write(maps, image, channels, folder, file, version, tell)
    return DerivedImage(
        file, tuple(c.name for c in channels), key, show="apart", rgb=True, title=f"{name}, {maps.translator}"
    )


def _write(
    maps: Maps,
    image: LocalImage,
    channels: Sequence[ShownChannel],
    folder: Path,
    file: str,
    version: Literal["0.4", "0.5"],
    tell: Tell,
) -> None:
    """Write an image block by block and put it into its place; one that a killed run has begun is begun anew."""
    from mxbridge.formats.ome_zarr_writer import OmeZarrWriter

    growing = folder / "work" / file
    writer = OmeZarrWriter(
        growing,
        (len(channels), *image.shape),
        np.uint8,
        [Channel(c.name, c.color) for c in channels],
        image.pixel_size_um,
        version=version,
    )
    height, width = image.shape
    blocks = [
        Box(y, x, min(y + BLOCK, height), min(x + BLOCK, width))
        for y in range(0, height, BLOCK)
        for x in range(0, width, BLOCK)
    ]
    tell(0, len(blocks))
    for done, box in enumerate(blocks, start=1):
        for number, plane in enumerate(_planes(maps, channels, box)):
            writer.write(number, box, plane)
        tell(done, len(blocks))
    writer.finish()
    put(growing, folder / FOLDER / file)


def _planes(maps: Maps, channels: Sequence[ShownChannel], box: Box) -> list[NDArray[np.float32]]:
    """``(y, x)`` of each channel in ``box``, pixels of the source, unrounded."""
    seen = maps.field
    rows, columns = (
        Scale(scale.size, 1 / scale.ratio).taps(first, last, scale.size)
        for scale, first, last in ((seen.y, box.y0, box.y1), (seen.x, box.x0, box.x1))
    )
    around = Box(rows.start, columns.start, rows.stop, columns.stop)
    pixels = {name: maps.read(name, around).astype(np.float32) for name in dict.fromkeys(c.image for c in channels)}
    found = []
    for channel in channels:
        mixed = np.tensordot(np.asarray(channel.shares, np.float32), pixels[channel.image], axes=1)
        found.append(resample(torch.from_numpy(mixed), rows, columns).numpy())
    return found
