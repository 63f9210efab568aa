"""Derived images on their way to the server: made unseen (in no dataset), written tile by tile, read back and compared.

Channels keep their names and colours, pixels their type: float32 stays float. An image is made by IPixels.createImage and
RawPixelsStore.setTile; for other ways of images above the server's maximum plane size see ``import_client`` and ``register``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mxbridge.errors import OutputError
from mxbridge.image import Box, LocalImage, computed
from mxbridge.workspaces.omero.image_info import PIXEL_TYPES, RGB_COLORS
from mxbridge.workspaces.omero.pixels.tiles import PlaneWriter, StorePixels, bands, tiles_of
from mxbridge.workspaces.omero.publishing.marks import short_name

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

TILE = 1024
READ_BACK_BYTES = 64 << 20
"""Images up to this size are read back whole, of larger ones every so manieth tile."""

TYPES = {ours: theirs for theirs, ours in PIXEL_TYPES.items()}
"""OMERO's names of pixel types by NumPy's."""


def make_image(session: Session, image: LocalImage, *, name: str, description: str, group_id: int) -> tuple[int, int]:
    """An image without pixels, in no dataset. image: gives size, type, channels and pixel size. Returns ids of image and pixels.

    Raises OutputError for pixel types that OMERO has not.
    """
    dtype = image.dtype.newbyteorder("=")
    kind = TYPES.get(dtype.str[1:])
    if kind is None:
        raise OutputError(f"{name}: OMERO has no pixels of type {dtype}", hint="The results stay in the run folder")
    kinds = session.objects("select p from PixelsType p where p.value = :kind", kind=kind)
    height, width = image.shape
    made = session.conn.getPixelsService().createImage(
        width,
        height,
        1,
        1,
        list(range(len(image.channels))),
        kinds[0],
        short_name(name),
        description,
        session.context(group_id),
    )
    image_id = int(made.getValue())
    pixels = _pixels(session, image_id)
    _describe(pixels, image)
    session.save_all([pixels], group_id)
    return image_id, int(pixels.getId().getValue())


def write_pixels(session: Session, image: LocalImage, pixels_id: int, group_id: int) -> None:
    """Send every tile of the finest level, and tell the server the least and greatest value of each channel."""
    low, high = [np.inf] * len(image.channels), [-np.inf] * len(image.channels)
    with PlaneWriter(session, pixels_id, group_id) as writer:
        for channel, box in _tiles(image):
            values = _values(image, channel, box)
            finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            if finite.size:
                low[channel] = min(low[channel], float(finite.min()))
                high[channel] = max(high[channel], float(finite.max()))
            writer.write(0, channel, 0, box, values)
        writer.finish()
    service = session.conn.getPixelsService()
    for channel, (least, greatest) in enumerate(zip(low, high, strict=True)):
        if least <= greatest:
            service.setChannelGlobalMinMax(pixels_id, channel, least, greatest, session.context(group_id))


def check_pixels(session: Session, image: LocalImage, pixels_id: int, name: str, group_id: int) -> None:
    """Raise OutputError unless the server gives back what was sent: all of a small image, a tile in every few of a large one."""
    size = int(np.prod(image.levels[0].shape)) * image.dtype.itemsize
    every = max(1, size // READ_BACK_BYTES)
    with session.raw_pixels(pixels_id, group_id=group_id) as store:
        source = StorePixels(store, image.dtype.newbyteorder("="), name)
        for number, (channel, box) in enumerate(_tiles(image)):
            if number % every:
                continue
            for band in bands(box, box.shape[1] * image.dtype.itemsize):
                if _sha(source.read(0, channel, 0, band)) != _sha(_values(image, channel, band)):
                    raise OutputError(
                        f"{name}: the OMERO server gives back other pixels than it was sent (channel {channel}, {band})",
                        hint="Nothing was published; the results stay in the run folder",
                    )


def is_large(session: Session, shape: tuple[int, int]) -> bool:
    """Whether the server wants a pyramid of an image of this (y, x) shape."""
    width, height = session.conn.getMaxPlaneSize()
    return shape[0] * shape[1] > int(width) * int(height)


def _pixels(session: Session, image_id: int) -> Any:
    found = session.objects(
        "select p from Pixels p left outer join fetch p.channels c left outer join fetch c.logicalChannel "
        "where p.image.id = :id",
        id=image_id,
    )
    if not found:
        raise OutputError(f"image {image_id} that was just made is not there", hint="Run the same command again")
    return found[0]


def _describe(pixels: Any, image: LocalImage) -> None:
    """Names, colours and pixel size, on the loaded objects."""
    from omero.model import LengthI
    from omero.model.enums import UnitsLength
    from omero.rtypes import rint, rstring

    if image.pixel_size_um is not None:
        y, x = image.pixel_size_um
        pixels.setPhysicalSizeY(LengthI(y, UnitsLength.MICROMETER))
        pixels.setPhysicalSizeX(LengthI(x, UnitsLength.MICROMETER))
    for number, (channel, ours) in enumerate(zip(pixels.copyChannels(), image.channels, strict=True)):
        channel.getLogicalChannel().setName(rstring(short_name(ours.name)))
        color = RGB_COLORS[number] if image.rgb else ours.color
        if color is not None:
            channel.setRed(rint(color >> 16 & 0xFF))
            channel.setGreen(rint(color >> 8 & 0xFF))
            channel.setBlue(rint(color & 0xFF))
            channel.setAlpha(rint(255))


def _tiles(image: LocalImage) -> Iterator[tuple[int, Box]]:
    for channel in range(len(image.channels)):
        for box in tiles_of(image.shape, (TILE, TILE)):
            yield channel, box


def _values(image: LocalImage, channel: int, box: Box) -> np.ndarray:
    values = computed(image.levels[0][channel, box.y0 : box.y1, box.x0 : box.x1])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _sha(values: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
