"""Classes of objects: ``Tumor: CD3: CD8`` is the class CD8 within CD3 within Tumor. One node per class in a file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from mxbridge.errors import UsageError
from mxbridge.workspaces.qupath.javastream import Item, JavaObject, StreamError
from mxbridge.workspaces.qupath.qpdata.descriptors import PATH_CLASS
from mxbridge.workspaces.qupath.qpdata.jdk import Maker, integer, text

SEPARATOR = ": "

_INTENSITIES = {"Positive": (200, 50, 50), "Negative": (90, 90, 180)}
"""Red, green and blue of the classes by which QuPath counts ``Positive %``: it asks for the last of a class's names."""
_MAX_LEVELS = 50
_MAX_NAME = 2000  # classes share names, so a small file could spell out very long ones


class PathClasses:
    """The classes of one file, by full name."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._names: dict[
            int, tuple[JavaObject, str | None, int]
        ] = {}  # by identity of the node, kept alive here; level
        self._nodes: dict[str, JavaObject] = {}

    def learn(self, node: JavaObject | None) -> str | None:
        """Full name of a class read from the file. Raises StreamError on one that is no class or its own parent."""
        if node is None:
            return None
        unknown, above = self._unknown_part(node)
        name, level = (None, 0) if above is None else self._names[id(above)][1:]
        for item in reversed(unknown):
            own, level = text(item.get("name")), level + 1
            name = own if name is None else name if own is None else f"{name}{SEPARATOR}{own}"
            if level > _MAX_LEVELS or len(name or "") > _MAX_NAME:
                raise StreamError("a class of objects that is derived far too often, or whose name is far too long")
            self._remember(item, name, level)
        return self._names[id(node)][1]

    def _unknown_part(self, node: JavaObject) -> tuple[list[JavaObject], JavaObject | None]:
        """The class and those above it up to the first known one, and that one."""
        unknown: list[JavaObject] = []
        above: Item = node
        while above is not None and id(above) not in self._names:
            if not isinstance(above, JavaObject) or above.name != PATH_CLASS:
                raise StreamError("something else where a class of objects must be")
            if len(unknown) >= _MAX_LEVELS:
                raise StreamError("a class of objects that is derived from itself, or far too often")
            class_color(above)
            unknown.append(above)
            above = above.get("parentClass")
        return unknown, above if isinstance(above, JavaObject) else None

    def ensure(self, full_name: str, colors: Mapping[str, int]) -> JavaObject:
        """The class of this name; made, with the classes above it, where the file has none.

        Every class gets a colour: QuPath cannot open a file with a derived class whose base has none (measured, 0.4.4 to
        0.7.0). Raises UsageError on a name QuPath would not accept.
        """
        if full_name not in self._nodes:
            if any(
                not level or level != level.strip() or set(level) & {":", "\n"} for level in full_name.split(SEPARATOR)
            ):
                raise UsageError(f"{full_name!r} is no class name", hint="Names are words joined by ': '")
            above, _, leaf = full_name.rpartition(SEPARATOR)
            base = self.ensure(above, colors) if above else None
            made = self._maker.object(
                PATH_CLASS, colorRGB=self._color(full_name, colors), name=self._maker.string(leaf), parentClass=base
            )
            self._remember(made, full_name, full_name.count(SEPARATOR) + 1)
        node: JavaObject | None = self._nodes[full_name]
        found, name = self._nodes[full_name], full_name
        while node is not None:
            if node.get("colorRGB") is None:
                node.put("colorRGB", self._color(name, colors))
            base_node = node.get("parentClass")
            node = base_node if isinstance(base_node, JavaObject) else None
            name = name.rpartition(SEPARATOR)[0]
        return found

    def _color(self, full_name: str, colors: Mapping[str, int]) -> JavaObject:
        chosen = colors.get(full_name)
        return self._maker.integer(default_class_color(full_name) if chosen is None else chosen)

    def _remember(self, node: JavaObject, name: str | None, level: int) -> None:
        self._names[id(node)] = node, name, level
        if name is not None:
            self._nodes.setdefault(name, node)


def class_color(node: JavaObject) -> int | None:
    """Signed 32-bit ARGB, or None where the class has no colour of its own."""
    return integer(node.get("colorRGB"))


def default_class_color(full_name: str) -> int:
    """The colour that QuPath gives ``Positive`` and ``Negative``, and classes derived with these names from another one
    (measured, 0.4.4 to 0.7.0: a quarter brighter); for other names :func:`default_color`."""
    above, _, leaf = full_name.rpartition(SEPARATOR)
    color = _INTENSITIES.get(leaf)
    if color is None:
        return default_color(full_name)
    red, green, blue = (min(255, part * 5 // 4) for part in color) if above else color
    return (0xFF << 24 | red << 16 | green << 8 | blue) - (1 << 32)


def default_color(full_name: str) -> int:
    """A colour (signed 32-bit ARGB, opaque, not too dark) that is the same for a name on every machine."""
    rgb = zlib.crc32(full_name.encode("utf-8", "surrogatepass")) & 0xFFFFFF | 0x202020
    (signed,) = struct.unpack(">i", struct.pack(">I", 0xFF000000 | rgb))
    return int(signed)
