"""Objects that mxbridge makes, and their nodes."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mxbridge.errors import UsageError
from mxbridge.workspaces.qupath.javastream import Block, Item, JavaObject
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.classes import PathClasses
from mxbridge.workspaces.qupath.qpdata.jdk import Maker
from mxbridge.workspaces.qupath.qpdata.measurements import MeasurementLists
from mxbridge.workspaces.qupath.qpdata.path_objects import OBJECT_ID, is_uuid
from mxbridge.workspaces.qupath.qpdata.rois import NewROI

_CLASSES = {"annotation": d.ANNOTATION, "detection": d.DETECTION, "cell": d.CELL, "tile": d.TILE}


@dataclass(frozen=True)
class NewPathObject:
    """An object to put into the tree.

    id: UUID, chosen by the caller so that a rerun makes the same object again. color: the object's own, signed 32-bit
    ARGB. class_name: full name; class_colors: colours for classes the file does not have yet. Metadata keys that begin
    with ``_`` stay out of QuPath's measurement tables.
    """

    kind: Literal["annotation", "detection", "cell", "tile"]
    id: str
    roi: NewROI
    nucleus: NewROI | None = None
    class_name: str | None = None
    class_colors: Mapping[str, int] = field(default_factory=dict)
    name: str | None = None
    color: int | None = None
    locked: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, float] = field(default_factory=dict)
    children: tuple[NewPathObject, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _CLASSES:
            raise UsageError(f"objects of kind {self.kind!r} cannot be made", hint=f"There is: {', '.join(_CLASSES)}")
        if not is_uuid(self.id):
            raise UsageError(f"{self.id!r} is no UUID", hint="QuPath gives such an object another id at each opening")
        if self.nucleus is not None and self.kind != "cell":
            raise UsageError(f"only a cell has a nucleus, not a {self.kind}")
        if OBJECT_ID in self.metadata:
            raise UsageError(f"the metadata key {OBJECT_ID!r} is QuPath's own", hint="Give the id as id=")

    def node(self, maker: Maker, lists: MeasurementLists, classes: PathClasses) -> JavaObject:
        """Its node, without children."""
        metadata = {**self.metadata, OBJECT_ID: self.id}
        values = np.fromiter(self.measurements.values(), ">f4", len(self.measurements)).tobytes()
        measured = lists.new_float_list(tuple(self.measurements), values) if self.measurements else None
        items: list[Item] = [
            maker.optional_string(self.name),
            None if self.color is None else maker.integer(self.color),
            metadata_node(maker, metadata),
            measured,
            Block(struct.pack(">i", 0)),
            maker.boolean(self.locked),
            None if self.class_name is None else classes.ensure(self.class_name, self.class_colors),
            self.roi.node(maker),
            Block(struct.pack(">d", math.nan)),
        ]
        if self.kind == "cell":
            items.append(None if self.nucleus is None else self.nucleus.node(maker))
        return maker.external(_CLASSES[self.kind], items)


def metadata_node(maker: Maker, metadata: Mapping[str, str]) -> JavaObject:
    keys: list[Item] = [maker.string(key) for key in metadata]
    values: list[Item] = [maker.string(value) for value in metadata.values()]
    return maker.external(d.METADATA, [maker.integer(1), maker.objects(keys), maker.objects(values)])
