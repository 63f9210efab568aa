"""What an OME-XML header says of each image: names, colours, pixel sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mxbridge.errors import BrokenFile
from mxbridge.image import Channel

XML_LIMIT = 64 << 20

UM_PER_UNIT = {
    "m": 1e6, "meter": 1e6, "metre": 1e6, "dm": 1e5, "cm": 1e4, "centimeter": 1e4, "mm": 1e3, "millimeter": 1e3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "\\u00b5m": 1.0, "nm": 1e-3, "nanometer": 1e-3, "pm": 1e-6, "picometer": 1e-6, "å": 1e-4, "angstrom": 1e-4,
    "in": 25400.0, "inch": 25400.0, "km": 1e9, "kilometer": 1e9,
}  # fmt: skip
"""µm in one unit, by lower-case name, for OME-XML, OME-Zarr and ImageJ alike. Pixels are no unit of length."""


@dataclass(frozen=True)
class OmeImage:
    """One Image element. size: (y, x). channels: one per plane; samples of an RGB channel are already spread out."""

    name: str
    size: tuple[int, int]
    channels: tuple[Channel, ...]
    pixel_size_um: tuple[float, float] | None


def um(value: object, unit: str) -> float | None:
    """A length in µm, or None where value or unit say nothing usable."""
    factor = UM_PER_UNIT.get(unit.strip().lower()) or (1e6 if unit == "Mm" else None)
    try:
        size = float(value) * factor if factor else 0.0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return size if math.isfinite(size) and 0 < size < 1e6 else None


def parse(xml: str | bytes, path: Path) -> ElementTree.Element:
    """The root element. Raises BrokenFile (entity bombs are stopped by expat itself)."""
    if len(xml) > XML_LIMIT:
        raise BrokenFile(path, f"its OME-XML is larger than {XML_LIMIT >> 20} MB")
    try:
        return ElementTree.fromstring(xml)  # noqa: S314
    except (ElementTree.ParseError, ValueError) as error:
        raise BrokenFile(path, f"its OME-XML cannot be parsed ({error})") from error


def images(root: ElementTree.Element) -> list[OmeImage]:
    """All images with pixels, in file order."""
    found = []
    for image in root:
        pixels = next((e for e in image if _tag(e) == "Pixels"), None)
        if _tag(image) != "Image" or pixels is None:
            continue
        sizes = [um(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "YX"]
        y, x = sizes[0] or sizes[1], sizes[1] or sizes[0]
        channels = [c for e in pixels if _tag(e) == "Channel" for c in _samples(e)]
        found.append(
            OmeImage(
                name=image.get("Name", ""),
                size=(_int(pixels.get("SizeY")), _int(pixels.get("SizeX"))),
                channels=tuple(channels),
                pixel_size_um=(y, x) if y and x else None,
            )
        )
    return found


def referenced_files(root: ElementTree.Element) -> list[str]:
    """File names of a multi-file set, each once, in order."""
    names = [e.get("FileName") for e in root.iter() if _tag(e) == "UUID" and e.get("FileName")]
    return list(dict.fromkeys(n for n in names if n))


def companion_of(root: ElementTree.Element) -> str | None:
    """Name of the file that holds the metadata, for a file that says it holds pixels only."""
    element = next((e for e in root if _tag(e) == "BinaryOnly"), None)
    return None if element is None else element.get("MetadataFile")


def _samples(channel: ElementTree.Element) -> list[Channel]:
    name = (channel.get("Name") or "").strip()
    color = channel.get("Color")
    rgb = (_int(color) >> 8) & 0xFFFFFF if color is not None else None
    count = min(max(1, _int(channel.get("SamplesPerPixel"))), 64)
    if count == 1:
        return [Channel(name, rgb)]
    return [Channel(f"{name} {i}" if name else "", None) for i in range(1, count + 1)]


def _int(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
