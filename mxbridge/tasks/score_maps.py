"""Probability maps of a scored image: one OME-Zarr per marker, at the model's scale, 0..255 for 0..1.

One image per marker, because a rerun of some markers must replace exactly their maps. They grow inside the image's work
folder, where a killed run finds them again, and take their place in one step when the image is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box, Channel, unique_names
from mxbridge.models.nimbus import RECORDS_NAME
from mxbridge.results import DerivedImage
from mxbridge.tasks.derived import FOLDER, put
from mxbridge.tasks.regions import ScaledRegion


@dataclass(frozen=True)
class MapPlace:
    """Where the map of one marker grows and where it goes. channel: its name, ``CD3 (Nimbus)``."""

    channel: str
    result_key: str
    growing: Path
    final: Path


def map_places(channels: Sequence[str], result_keys: Sequence[str], folder: Path) -> tuple[MapPlace, ...]:
    """Places of the maps of one image in its results' ``folder``, named after the channel as far as every system allows."""
    places = []
    for number, (channel, plain, key) in enumerate(zip(channels, plain_names(channels), result_keys, strict=True)):
        final = folder / FOLDER / f"{plain} {key[:6]}.ome.zarr"
        places.append(MapPlace(channel, key, folder / "work" / f"map-{number}.zarr", final))
    return tuple(places)


def plain_names(names: Sequence[str]) -> list[str]:
    """File names for channels, as far as every system allows, each once."""
    plain = ["".join(c if c.isalnum() or c in " -_()" else "_" for c in name)[:80].strip() for name in names]
    return list(unique_names(plain))


class ScoreMaps:
    """A :class:`~mxbridge.stream.writer.MapWriter` over the maps of all markers of one image."""

    def __init__(
        self,
        places: Sequence[MapPlace],
        shape: tuple[int, int],
        um_per_px: tuple[float, float],
        version: Literal["0.4", "0.5"],
        region: ScaledRegion | None = None,
    ) -> None:
        """shape: (y, x) at the model's scale, um_per_px: (y, x) there. version: 0.4 where QuPath is to read it. region: outside
        of which maps are 0."""
        from mxbridge.formats.ome_zarr_writer import OmeZarrWriter  # zarr is slow to import, and most runs keep no maps

        self.places, self._region = tuple(places), region
        self._writers = [
            OmeZarrWriter(
                p.growing, (1, *shape), np.uint8, [Channel(p.channel)], um_per_px, version=version, resume=True
            )
            for p in places
        ]

    def write(self, marker: int, box: Box, values: NDArray[np.float32]) -> None:
        """values: ``(y, x)`` float32 0..1; stored rounded to 1/255."""
        if self._region is not None:
            values = np.where(self._region.mask(box), values, np.float32(0))
        self._writers[marker].write(0, box, values * np.float32(255))

    def finish(self) -> tuple[DerivedImage, ...]:
        """Pyramids, metadata, then each map into its place. Raises OutputError.

        Once a map has left the work folder the records of finished tiles there must not be believed any more: a run that
        is killed now computes its tiles again, instead of leaving maps empty.
        """
        for writer in self._writers:
            writer.finish()
        for place in self.places:
            place.growing.with_name(RECORDS_NAME).unlink(missing_ok=True)
        for place in self.places:
            put(place.growing, place.final)
        return tuple(DerivedImage(p.final.name, (p.channel,), p.result_key) for p in self.places)
