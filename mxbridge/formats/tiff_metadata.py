"""Channel names and pixel size of the TIFF dialects: OME, ImageJ, QPTIFF, Aperio SVS and plain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from mxbridge.formats import ome_xml
from mxbridge.image import Channel

PLAUSIBLE_UM = (0.02, 20.0)
"""Resolution tags outside this range are a printer's or screen's (72 dpi is 353 µm), not a microscope's."""

RGB_CHANNELS = (Channel("Red", 0xFF0000), Channel("Green", 0x00FF00), Channel("Blue", 0x0000FF))

PageName = 285


@dataclass
class TiffFacts:
    """What the metadata say; channels are empty where they say nothing."""

    name: str = ""
    channels: Sequence[Channel] = ()
    pixel_size_um: tuple[float, float] | None = None
    warnings: list[str] = field(default_factory=list)


def facts_of(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, index: int, xml: str | None, path: Path
) -> TiffFacts:
    """Facts of one series of an open file. xml: OME-XML, from the file or its companion."""
    page = series.keyframe
    if xml is not None and series.kind == "ome":
        return _ome(xml, series, index, path)
    if series.kind == "qpi":
        return _qptiff(series, page)
    if series.kind == "imagej":
        return _imagej(tiff, page)
    if series.kind == "svs":
        return _svs(page, path)
    facts = TiffFacts(pixel_size_um=_resolution(page, path, warnings := []), warnings=warnings)
    facts.channels = _page_names(series)
    return facts


def _ome(xml: str, series: tifffile.TiffPageSeries, index: int, path: Path) -> TiffFacts:
    found = ome_xml.images(ome_xml.parse(xml, path))
    size = (series.keyframe.imagelength, series.keyframe.imagewidth)
    fitting = [i for i in found if i.size == size]
    image = found[index] if index < len(found) and found[index].size == size else next(iter(fitting), None)
    if image is None:
        return TiffFacts(warnings=[f"{path.name}: the OME-XML describes no image of {size[1]} x {size[0]} pixels"])
    return TiffFacts(image.name, image.channels, image.pixel_size_um)


def _imagej(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> TiffFacts:
    metadata = tiff.imagej_metadata or {}
    sizes = [_per_unit(page, tag, metadata.get("unit", "")) for tag in ("YResolution", "XResolution")]
    labels = metadata.get("Labels")
    names = [Channel(str(n).strip()) for n in labels] if isinstance(labels, (list, tuple)) else []
    y, x = sizes
    return TiffFacts(channels=names, pixel_size_um=(y, x) if y and x else None)


def _per_unit(page: tifffile.TiffPage, tag: str, unit: object) -> float | None:
    value = page.tags.valueof(tag)
    per_unit = value[0] / value[1] if isinstance(value, tuple) and len(value) == 2 and value[1] else 0.0
    return ome_xml.um(1 / per_unit, str(unit)) if per_unit > 0 else None


def _resolution(page: tifffile.TiffPage, path: Path, warnings: list[str]) -> tuple[float, float] | None:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", default=2)))
    sizes = [_per_unit(page, tag, unit) if unit else None for tag in ("YResolution", "XResolution")]
    y, x = sizes
    if not (y and x):
        return None
    if not all(PLAUSIBLE_UM[0] <= s <= PLAUSIBLE_UM[1] for s in (y, x)):
        if x not in _PRINTERS:
            warnings.append(f"{path.name}: its resolution tags say {x:.4g} µm per pixel, which was not believed")
        return None
    return y, x


_PRINTERS = {ome_xml.um(1 / dpi, "inch") for dpi in (1, 72, 96, 100, 150, 300, 600)} | {10000.0}
"""Sizes that only say that nobody set the tag; not worth a warning."""


def _page_names(series: tifffile.TiffPageSeries) -> list[Channel]:
    pages = [p for p in series.pages if p is not None]
    names = []
    for page in pages[:1000]:
        tags = getattr(page, "tags", None)
        name = tags.valueof(PageName) if tags is not None else None
        names.append(Channel(name.strip()) if isinstance(name, str) and len(name) < 200 else Channel(""))
    return names if any(c.name for c in names) else []


def _qptiff(series: tifffile.TiffPageSeries, page: tifffile.TiffPage) -> TiffFacts:
    channels, warnings = [], []
    for plane in series.pages:
        description = getattr(plane.aspage(), "description", "") if plane is not None else ""
        name, color = _qpi_channel(description)
        channels.append(Channel(name, color))
    size = _resolution(page, Path(series.name), warnings)
    return TiffFacts(channels=channels if any(c.name for c in channels) else (), pixel_size_um=size, warnings=warnings)


def _qpi_channel(description: str) -> tuple[str, int | None]:
    try:
        root = ElementTree.fromstring(description)  # noqa: S314
    except (ElementTree.ParseError, ValueError):
        return "", None
    name = (root.findtext("Name") or "").strip()
    parts = re.findall(r"\d+", root.findtext("Color") or "")
    if len(parts) != 3 or any(int(p) > 255 for p in parts):
        return name, None
    red, green, blue = (int(p) for p in parts)
    return name, red << 16 | green << 8 | blue


def _svs(page: tifffile.TiffPage, path: Path) -> TiffFacts:
    match = re.search(r"MPP\s*=\s*([0-9.]+)", page.description)
    size = ome_xml.um(match.group(1), "µm") if match else None
    if size is not None:
        return TiffFacts(pixel_size_um=(size, size))
    warnings: list[str] = []
    return TiffFacts(pixel_size_um=_resolution(page, path, warnings), warnings=warnings)
