"""An image under the channel names of a panel file, for models that know their markers by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mxbridge.errors import InputError
from mxbridge.image import LocalImage
from mxbridge.panel import PanelRow, panel_rows


def named(image: LocalImage, panel: Sequence[PanelRow]) -> LocalImage:
    """The channels that the panel keeps, or does not mention, under its names; without a panel the image as it is.

    Raises UnknownName for a row whose channel is not there, InputError where nothing is kept.
    """
    if not panel:
        return image
    rows = panel_rows(image.channel_names, panel, where=f"image {image.name}")
    kept = [k for k in range(len(image.channels)) if k not in rows or rows[k].keep]
    if not kept:
        raise InputError(f"image {image.name}: the panel keeps none of its channels")
    channels = tuple(replace(image.channels[k], name=rows[k].name) if k in rows else image.channels[k] for k in kept)
    if len(kept) == len(image.channels):
        return replace(image, channels=channels)
    return replace(image, channels=channels, levels=tuple(level[kept] for level in image.levels))
