"""Segmentation pictures that were made elsewhere, for ``--from-seg``: as maps of which nuclei are found without networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError, UsageError
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box, LocalImage
from mxbridge.results import ImageRef
from mxbridge.runs import digest
from mxbridge.stream.resample import Field, Scale
from mxbridge.tasks.mapping.colours import ColourReader, colours_of
from mxbridge.tasks.mapping.maps import Maps
from mxbridge.tasks.regions import Annotations
from mxbridge.tasks.translating.finding import RESOLUTIONS
from mxbridge.tasks.translating.map_sources import FoundMaps, MapPlan, Tell
from mxbridge.tasks.translating.system import System
from mxbridge.workspaces.files import FilesWorkspace

SEG, MARKER = "Seg", "Marker"

NO_SCALE = "no pixel size is known: automatic sizes are limited as for 40x, and areas are in pixels (--resolution, --um-per-px)"

ROWS = 2048
"""Read at once."""


@dataclass
class PictureMaps:
    """Maps from pictures. markers: by image id, the picture of the marker beside. um_per_px: of their pixels, None where nobody
    said it: nuclei then have no size in µm, and the limits of automatic sizes are those for 40x."""

    markers: Mapping[str, Path]
    um_per_px: float | None = None
    warnings: tuple[str, ...] = ()
    _last: tuple[Path, LocalImage] | None = field(default=None, init=False)
    """The marker's picture that was opened last: pictures are decoded whole."""

    @classmethod
    def of(
        cls, segs: Sequence[str], markers: Sequence[str], um_per_px: float | None
    ) -> tuple[PictureMaps, FilesWorkspace]:
        """The source and the place where its pictures are. Raises UsageError, SourceError."""
        workspace = FilesWorkspace(list(segs))
        refs = workspace.list()
        there = [Path(found.id) for marker in markers for found in FilesWorkspace(marker).list()]
        if there and len(there) != len(refs):
            raise UsageError(
                f"{len(there)} --marker-image for {len(refs)} segmentation pictures",
                hint="Give one for each, in the same order",
            )
        beside = {ref.id: path for ref, path in zip(refs, there, strict=True)} if there else {}
        return cls(beside, um_per_px), workspace

    @property
    def model(self) -> dict[str, Any]:
        return {"name": self.system.name, "system": self.system.to_record(), "from": "segmentation pictures"}

    @property
    def machine(self) -> dict[str, Any]:
        return {}

    @property
    def system(self) -> System:
        """Such pictures have DeepLIIF's colours: red is positive, blue negative, green the border."""
        scale = self.um_per_px or RESOLUTIONS["40x"]
        return System("DeepLIIF", scale, segs=(SEG,), marker_image=MARKER if self.markers else None)

    def plan(self, image: LocalImage, ref: ImageRef, annotations: Annotations) -> MapPlan:
        colours = colours_of(image)
        marker = self._marker(ref, image)
        identity = [image.identity, None if marker is None else marker.identity]
        images = (SEG,) if marker is None else (SEG, MARKER)
        known = self.um_per_px is not None or image.pixel_size_um is not None
        return MapPlan(
            fingerprint=digest(["pictures", *identity, self.um_per_px]),
            images=images,
            system=self.system,
            warnings=colours.warnings,
            scaled=known,
            notes=() if known else (NO_SCALE,),
        )

    def maps(
        self, image: LocalImage, ref: ImageRef, plan: MapPlan, annotations: Annotations, folder: Path, tell: Tell
    ) -> FoundMaps:
        planes = {SEG: _read(image)}
        if (marker := self._marker(ref, image)) is not None:
            planes[MARKER] = _read(marker)
        um = image.pixel_size_um if self.um_per_px is None else (self.um_per_px, self.um_per_px)
        return FoundMaps(Maps.of_arrays(planes, um), replace(image, pixel_size_um=um))

    def _marker(self, ref: ImageRef, image: LocalImage) -> LocalImage | None:
        """The picture of the marker. Raises InputError where it is of another size."""
        path = self.markers.get(ref.id)
        if path is None:
            return None
        if self._last is None or self._last[0] != path:
            self._last = None
            self._last = path, open_image(path)
        marker = self._last[1]
        if marker.shape != image.shape:
            height, width = marker.shape
            raise InputError(
                f"{path}: {width} x {height} pixels, but the segmentation {ref.name} has {image.shape[1]} x {image.shape[0]}",
                hint="Both must be of the same place, pixel by pixel",
            )
        return marker


def _read(image: LocalImage) -> NDArray[np.uint8]:
    """``(3, y, x)`` colours; a grey picture thrice."""
    if len(image.channels) == 1:
        image = replace(
            image, channels=image.channels * 3, levels=tuple(_thrice(level) for level in image.levels), rgb=True
        )
    height, width = image.shape
    reader = ColourReader(colours_of(image), Field(Scale(height, 1.0), Scale(width, 1.0)))
    strips = [reader.read(Box(y, 0, min(y + ROWS, height), width)) for y in range(0, height, ROWS)]
    return np.concatenate(strips, axis=1)


def _thrice(level: Any) -> Any:
    import dask.array as da

    return da.concatenate([level, level, level])  # type: ignore[no-untyped-call]
