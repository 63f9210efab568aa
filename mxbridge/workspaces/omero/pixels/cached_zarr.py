"""What makes an entry of the pixel cache an OME-Zarr 0.5 that other programs open: metadata only, pixels come later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mxbridge.formats.atomic import PART_SUFFIX
from mxbridge.workspaces.omero.image_info import ImageInfo
from mxbridge.workspaces.omero.pixels.cache_room import cache_error
from mxbridge.workspaces.omero.pixels.tiles import Layout


def write_metadata(path: Path, info: ImageInfo, layout: Layout) -> None:
    """Write the metadata of an entry, once. Its chunks are those of the layout's tiles. Raises OutputError."""
    group = path / "zarr.json"
    if group.is_file():
        return
    try:
        for number, shape in enumerate(layout.shapes):
            _write(path / str(number) / "zarr.json", _array(info, shape, layout.tile))
        _write(group, _group(info, layout))
    except OSError as error:
        raise cache_error(group, error) from error


def _array(info: ImageInfo, shape: tuple[int, int], tile: tuple[int, int]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [info.sizes[1], *shape],
        "data_type": info.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *tile]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}],
        "attributes": {},
        "dimension_names": ["c", "y", "x"],
    }


def _group(info: ImageInfo, layout: Layout) -> dict[str, Any]:
    unit = {} if info.pixel_size_um is None else {"unit": "micrometer"}
    y, x = info.pixel_size_um or (1.0, 1.0)
    full = layout.shapes[0]
    datasets = []
    for number, shape in enumerate(layout.shapes):
        scale = [1.0, y * full[0] / shape[0], x * full[1] / shape[1]]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    channels = [
        {"label": c.name, "color": f"{0xFFFFFF if c.color is None else c.color:06X}", "active": True}
        for c in info.channels
    ]
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", **unit} for a in "yx")]
    multiscale = {"name": info.name, "axes": axes, "datasets": datasets}
    ome = {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": channels}}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}{PART_SUFFIX}")
    part.write_text(json.dumps(document, ensure_ascii=True), encoding="ascii")
    part.replace(path)
