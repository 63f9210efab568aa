"""A data.qpdata from nothing, for an image that has none. The layout is that of QuPath 0.4 to 0.7 (measured)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mxbridge.errors import UsageError
from mxbridge.workspaces.qupath.javastream import Block, Item, write_stream
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.descriptors import ClassTable
from mxbridge.workspaces.qupath.qpdata.image_data import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.jdk import Maker
from mxbridge.workspaces.qupath.qpdata.new_objects import NewPathObject, metadata_node
from mxbridge.workspaces.qupath.qpdata.path_objects import OBJECT_ID

_HEMATOXYLIN = {"Stain 1": "Hematoxylin", "Values 1": "0.65111 0.70119 0.29049"}

_STAINS = {
    "BRIGHTFIELD_H_E": {"Name": "H&E default", **_HEMATOXYLIN, "Stain 2": "Eosin", "Values 2": "0.2159 0.8012 0.5581"},
    "BRIGHTFIELD_H_DAB": {
        "Name": "H-DAB default",
        **_HEMATOXYLIN,
        "Stain 2": "DAB",
        "Values 2": "0.26917 0.56824 0.77759",
    },
}
"""QuPath's default stain vectors."""

IMAGE_TYPES = (*_STAINS, "BRIGHTFIELD_OTHER", "FLUORESCENCE", "OTHER", "UNSET")


def new_image_data(
    server: Mapping[str, Any],
    qupath_version: str,
    image_type: str,
    objects: Sequence[NewPathObject] = (),
    properties: Mapping[str, str | float] | None = None,
    *,
    root_id: str = "00000000-0000-4000-8000-000000000000",
) -> ImageDataFile:
    """A whole file for one image.

    server: the serverBuilder of the image's entry in project.qpproj. qupath_version: the release to pose as, e.g.
    ``0.6.0``. root_id: UUID of the root object. Raises UsageError on an unknown image type.
    """
    if image_type not in IMAGE_TYPES:
        raise UsageError(f"no image type {image_type!r}", hint=f"There is: {', '.join(IMAGE_TYPES)}")
    maker = Maker(ClassTable({}))
    description = {"dataVersion": 3, "qupathVersion": qupath_version, "server": server}
    header = b"Data file version 3"
    items: list[Item] = [
        Block(struct.pack(">H", len(header)) + header),
        maker.string(json.dumps(description, ensure_ascii=False)),
        _locale(maker),
        maker.enum(d.IMAGE_TYPE, image_type),
        _stains(maker, image_type),
        _workflow(maker),
        maker.object(d.HIERARCHY, rootObject=_root(maker, root_id), tmaGrid=None),
        maker.hash_map(
            {k: maker.string(v) if isinstance(v, str) else maker.double(v) for k, v in (properties or {}).items()}
        ),
        maker.string("EOF"),
    ]
    made = ImageDataFile(write_stream(items), Path("new data.qpdata"))
    for item in objects:
        made.add_object(item)
    return made


def _locale(maker: Maker) -> Item:
    texts = {"country": "US", "extensions": "", "language": "en", "script": "", "variant": ""}
    return maker.object(
        "java.util.Locale", [], hashcode=struct.pack(">i", -1), **{k: maker.string(v) for k, v in texts.items()}
    )


def _stains(maker: Maker, image_type: str) -> Item:
    """Pure JSON: with a title before it, QuPath 0.6 and 0.7 show an empty image (measured)."""
    if image_type not in _STAINS:
        return None
    text = json.dumps({**_STAINS[image_type], "Background": " 255 255 255"}, separators=(", ", " : "))
    return maker.external(d.STAINS, [Block(struct.pack(">i", 1)), maker.string(text)])


def _workflow(maker: Maker) -> Item:
    step = maker.object(
        d.WORKFLOW_STEP,
        map=maker.hash_map({}, linked=True),
        name=maker.string("mxbridge"),
        script=maker.string("// made by mxbridge"),
    )
    return maker.external(d.WORKFLOW, [Block(struct.pack(">ii", 1, 1)), step])


def _root(maker: Maker, root_id: str) -> Item:
    metadata = metadata_node(maker, {OBJECT_ID: root_id})
    return maker.external(d.ROOT, [None, None, metadata, None, Block(struct.pack(">i", 0))])
