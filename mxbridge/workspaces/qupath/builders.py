"""Server builders and entry metadata as QuPath writes them, for images that mxbridge adds to a project.

What they say must be true: QuPath refuses an image whose size, type or channel count differs from its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.errors import Unsupported
from mxbridge.image import Channel, LocalImage
from mxbridge.workspaces.qupath import uris
from mxbridge.workspaces.qupath.qpdata import default_color

BIOFORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"

_PIXEL_TYPES = {
    "uint8": "UINT8",
    "int8": "INT8",
    "uint16": "UINT16",
    "int16": "INT16",
    "uint32": "UINT32",
    "int32": "INT32",
    "float32": "FLOAT32",
    "float64": "FLOAT64",
}
_DEFAULT_COLORS = (0xFF0000, 0x00FF00, 0x0000FF, 0xFFE000, 0x00E0E0, 0xFF00E0, 0xFFCC00, 0x00FF6E, 0xFF00EE, 0xCCFF00)
"""The order in which QuPath colours channels that have no colour of their own."""

_RGB_NAMES = ("Red", "Green", "Blue")


def uri_builder(path: Path, image: LocalImage, *, series: int = 0, tile: int = 512) -> dict[str, Any]:
    """The builder of one file. image: what the file holds, with the names, colours and pixel size to show.

    Raises NoPixelSize, Unsupported (a pixel type QuPath does not have).
    """
    image.require_pixel_size()
    return file_builder(uris.uri_of(path), path.name, image, series=series, tile=tile)


def file_builder(uri: str, name: str, image: LocalImage, *, series: int = 0, tile: int = 512) -> dict[str, Any]:
    """As :func:`uri_builder`, for a stored URI; an image without a pixel size is not calibrated."""
    return {
        "builderType": "uri",
        "providerClassName": BIOFORMATS,
        "uri": uri,
        "args": ["--series", str(series)],
        "metadata": server_metadata(name, image, tile),
    }


def files_of(builder: Mapping[str, Any]) -> list[str]:
    """Every URI in a builder and those inside it, each once."""
    found: dict[str, None] = {}
    waiting: list[Any] = [builder]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            uri = item.get("uri")
            if isinstance(uri, str):
                found[uri] = None
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return list(found)


def with_files(builder: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A builder with other URIs. places: new ones by the old; those not named stay."""
    changed: dict[str, Any] = json.loads(json.dumps(builder), object_hook=lambda item: _moved(item, places))
    return changed


def _moved(item: dict[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    uri = item.get("uri")
    return {**item, "uri": places.get(uri, uri)} if isinstance(uri, str) else item


def shown_channels(image: LocalImage) -> list[Channel]:
    """The channels with a colour each, as QuPath shows them."""
    if image.rgb:
        return [Channel(n, c) for n, c in zip(_RGB_NAMES, _DEFAULT_COLORS, strict=False)]
    return [
        Channel(name, channel.color if channel.color is not None else _default(number, name))
        for number, (name, channel) in enumerate(zip(image.channel_names, image.channels, strict=True))
    ]


def server_metadata(name: str, image: LocalImage, tile: int = 512) -> dict[str, Any]:
    """What QuPath records of an image. Raises Unsupported."""
    (size_y, size_x), unit = (image.pixel_size_um, "µm") if image.pixel_size_um else ((1.0, 1.0), "px")
    height, width = image.shape
    pixel_type = _PIXEL_TYPES.get(np.dtype(image.dtype).name)
    if pixel_type is None:
        raise Unsupported(f"{image.name}: QuPath has no pixels of type {image.dtype}")
    return {
        "name": name,
        "width": width,
        "height": height,
        "sizeZ": 1,
        "sizeT": 1,
        "channelType": "DEFAULT",
        "isRGB": image.rgb,
        "pixelType": pixel_type,
        "levels": [
            {
                "downsample": _downsample(image, number),
                "width": int(level.shape[2]),
                "height": int(level.shape[1]),
            }
            for number, level in enumerate(image.levels)
        ],
        "channels": [{"name": c.name, "color": argb(c.color or 0)} for c in shown_channels(image)],
        "pixelCalibration": {
            "pixelWidth": {"value": size_x, "unit": unit},
            "pixelHeight": {"value": size_y, "unit": unit},
            "zSpacing": {"value": 1.0, "unit": "z-slice"},
            "timeUnit": "SECONDS",
            "timepoints": [],
        },
        "preferredTileWidth": min(tile, width),
        "preferredTileHeight": min(tile, height),
    }


def _downsample(image: LocalImage, level: int) -> float:
    """Mean of both axes, a whole number where rounding of an odd size is all that is between them."""
    factors = image.downsample(level)
    mean = sum(factors) / 2
    near = round(mean)
    return float(near) if abs(mean - near) < 0.01 * near else mean


def _default(number: int, name: str) -> int:
    return _DEFAULT_COLORS[number] if number < len(_DEFAULT_COLORS) else default_color(name) & 0xFFFFFF


def argb(rgb: int) -> int:
    """0xRRGGBB as the signed number Java stores, opaque."""
    return (0xFF000000 | rgb) - (1 << 32)
