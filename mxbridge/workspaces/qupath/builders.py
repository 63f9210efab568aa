"""Server builders and entry metadata as QuPath writes them, for images that mxbridge adds to a project.

What they say must be true: QuPath refuses an image whose size, type or channel count differs from its record.
"""

from __future__ import annotations

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
    return {
        "builderType": "uri",
        "providerClassName": BIOFORMATS,
        "uri": uris.uri_of(path),
        "args": ["--series", str(series)],
        "metadata": _metadata(path.name, image, tile),
    }


def shown_channels(image: LocalImage) -> list[Channel]:
    """The channels with a colour each, as QuPath shows them."""
    if image.rgb:
        return [Channel(n, c) for n, c in zip(_RGB_NAMES, _DEFAULT_COLORS, strict=False)]
    return [
        Channel(name, channel.color if channel.color is not None else _default(number, name))
        for number, (name, channel) in enumerate(zip(image.channel_names, image.channels, strict=True))
    ]


def _metadata(name: str, image: LocalImage, tile: int) -> dict[str, Any]:
    size_y, size_x = image.require_pixel_size()
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
        "channels": [{"name": c.name, "color": _argb(c.color or 0)} for c in shown_channels(image)],
        "pixelCalibration": {
            "pixelWidth": {"value": size_x, "unit": "µm"},
            "pixelHeight": {"value": size_y, "unit": "µm"},
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


def _argb(rgb: int) -> int:
    """0xRRGGBB as the signed number Java stores, opaque."""
    return (0xFF000000 | rgb) - (1 << 32)
