"""What a translate run leaves beside its results: tables, GeoJSON and pictures of each image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.formats.atomic import write_atomically
from mxbridge.image import Box
from mxbridge.results import Results
from mxbridge.tasks.score_maps import plain_names
from mxbridge.tasks.translating.finding import Found
from mxbridge.tasks.translating.map_sources import FoundMaps, MapPlan
from mxbridge.tasks.translating.overlay import OVERLAY, write_overlay, write_png

GEOJSON = "nuclei.geojson"
PEER_NAMES = {
    "Hematoxylin": "mod1-Hema",
    "DAPI": "mod2-DAPI",
    "Lap2": "mod3-Lap2",
    "Marker": "mod4-Marker",
}
"""What the published program calls the pictures of its four inferred stains; others keep their names."""


def write_overlays(got: FoundMaps, found: Sequence[Found], folder: Path) -> None:
    """An overlay for each segmentation image, small enough to look at. Raises OutputError."""
    for one in found:
        name = OVERLAY if len(found) == 1 else f"{_plain(one.seg)} {OVERLAY}"
        if one.outlines is not None:
            write_overlay(folder / name, got.image, one.outlines, one.positive)


def write_geojson(found: Sequence[Found], results: Results, ids: Mapping[str, Sequence[str]], folder: Path) -> None:
    """``nuclei.geojson``, or one for each segmentation image. ids: of its nuclei in the workspace. Raises OutputError."""
    from mxbridge.workspaces.geojson import write_objects

    for one, objects in zip(found, results.objects, strict=True):
        name = GEOJSON if len(found) == 1 else f"{_plain(one.seg)} {GEOJSON}"
        known = ids[one.seg]  # a place without ids of its own has the keys
        write_objects(folder / name, objects, ids=() if tuple(known) == objects.keys else known)


def write_peer_files(got: FoundMaps, plan: MapPlan, found: Sequence[Found], image: str, folder: Path) -> None:
    """The pictures and the JSON that the published program writes, under its names and in full size. Raises OutputError."""
    stem = _plain(Path(image).stem)
    whole = Box(0, 0, *got.maps.shape)
    for name in plan.images:
        write_png(folder / f"{stem}_{PEER_NAMES.get(name, _plain(name))}.png", _as_picture(got.maps.read(name, whole)))
    for one in found:
        between = "" if len(found) == 1 else "_"
        overlaid, refined = (_as_picture(planes) for planes in one.pictures())
        write_png(folder / f"{stem}_{_plain(one.seg)}{between}Overlaid.png", overlaid)
        write_png(folder / f"{stem}_{_plain(one.seg)}{between}Refined.png", refined)
    if found:
        with write_atomically(folder / f"{stem}.json") as part:
            part.write_text(json.dumps(peer_document(found), indent=2), encoding="utf-8")


def peer_document(found: Sequence[Found]) -> dict[str, Any]:
    """Scores with the published program's keys; of several segmentation images one by one under their names."""
    return found[0].peer_score if len(found) == 1 else {one.seg: one.peer_score for one in found}


def _plain(name: str) -> str:
    """What may be part of a file name on every system."""
    return plain_names([name])[0]


def _as_picture(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.moveaxis(planes, 0, -1)
