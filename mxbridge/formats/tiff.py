"""TIFF in all its dialects as a LocalImage: OME-TIFF, ImageJ, SVS, QPTIFF and plain, pyramids and multi-file sets."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from mxbridge.errors import BrokenFile, InputError, Unsupported
from mxbridge.formats import ome_xml
from mxbridge.formats.pixels import Level, choose_plane, coarser_levels, file_identity, missing, reading
from mxbridge.formats.tiff_levels import ContiguousLevel, PageLevel
from mxbridge.formats.tiff_metadata import RGB_CHANNELS, TiffFacts, facts_of
from mxbridge.formats.tiff_structure import TIFF_STARTS, check_structure
from mxbridge.image import Box, Channel, LocalImage

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what matters becomes an error or a warning of ours

EXTRA_PICTURES = ("thumbnail", "label", "macro")


def open_tiff(
    path: Path, *, name: str | None = None, series: int | None = None, plane: tuple[int, int] | None = None
) -> LocalImage:
    """Open one series of a TIFF (the first unless told), or the set that an OME companion file describes.

    Pixels keep their type and come in native byte order. RGB pictures of 8 or 16 bits get ``rgb=True``; samples of other
    types are channels. A planar configuration, the photometric interpretation and the axes decide what is a channel,
    never the size of an axis. Raises SourceError, BrokenFile, Unsupported, InputError.
    """
    with reading(path):
        xml = _companion_xml(path)
        target = path if xml is None else _first_file(path, xml)
        with tifffile.TiffFile(target, omexml=xml) as tiff:
            return _open_series(tiff, path, xml or tiff.ome_metadata, name, series, plane)


def _companion_xml(path: Path) -> str | None:
    """OME-XML of the companion file, when ``path`` is one or points to one."""
    if path.name.lower().endswith((".companion.ome", ".ome.xml")):
        return _read_xml(path)
    check_structure(path)
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        xml = tiff.ome_metadata
        if not xml or "BinaryOnly" not in xml:
            return None
    companion = ome_xml.companion_of(ome_xml.parse(xml, path))
    if companion is None:
        return None
    beside = path.parent / Path(companion).name
    if not beside.is_file():
        raise missing(beside)
    return _read_xml(beside)


def _read_xml(path: Path) -> str:
    if path.stat().st_size > ome_xml.XML_LIMIT:
        raise BrokenFile(path, f"its OME-XML is larger than {ome_xml.XML_LIMIT >> 20} MB")
    return path.read_text(encoding="utf-8")


def _first_file(companion: Path, xml: str) -> Path:
    """A TIFF of the set, after checking that all of them are there."""
    names = ome_xml.referenced_files(ome_xml.parse(xml, companion))
    if not names:
        raise Unsupported(f"{companion}: it names no TIFF files", hint="Open the TIFF itself")
    files = [companion.parent / Path(n).name for n in names]
    for file in files:
        if not file.is_file():
            raise missing(file)
    return files[0]


def _open_series(
    tiff: tifffile.TiffFile,
    path: Path,
    xml: str | None,
    name: str | None,
    wanted: int | None,
    plane: tuple[int, int] | None,
) -> LocalImage:
    index, warnings = _choose_series(tiff, path, wanted)
    series = tiff.series[index]
    if xml and series.kind != "ome":
        warnings.append(
            f"{path.name}: its OME-XML does not fit the pixels, so names and pixel size were not taken from it"
        )
    files = _files_of(series, path)
    facts = facts_of(tiff, series, index, xml, path)
    identity = file_identity(files, "tiff", index, plane)
    levels: list[Level] = []
    for resolution in series.levels:
        level, left_out = _level(resolution, path, plane, identity)
        levels.append(level)
        warnings += [w for w in left_out if w not in warnings]
    keep, unfit = coarser_levels(path, [level.shape for level in levels])
    channels, rgb, renamed = _channels(series, facts, levels[0].shape[0], path)
    if rgb and levels[0].shape[0] == 4:
        levels = [_FirstThree(level) for level in levels]
    return LocalImage(
        name=name or (f"{image_stem(path)} - {facts.name}" if index and facts.name else image_stem(path)),
        levels=tuple(levels[k].array(f"tiff-{identity[:24]}-{k}") for k in keep),
        channels=tuple(channels),
        pixel_size_um=facts.pixel_size_um,
        identity=identity,
        files=tuple(files),
        rgb=rgb,
        warnings=(*warnings, *unfit, *facts.warnings, *renamed),
    )


def _choose_series(tiff: tifffile.TiffFile, path: Path, wanted: int | None) -> tuple[int, list[str]]:
    count = len(tiff.series)
    if not count:
        raise BrokenFile(path, "it holds no image")
    if wanted is not None:
        if not 0 <= wanted < count:
            raise InputError(f"{path}: there is no image {wanted}", hint=f"It has {count}, counted from 0")
        return wanted, []
    others = [s for s in tiff.series[1:] if not (s.name or "").lower().startswith(EXTRA_PICTURES)]
    largest = max(s.keyframe.imagelength * s.keyframe.imagewidth for s in tiff.series)
    first = tiff.series[0].keyframe
    if (others and first.imagelength * first.imagewidth < largest) or (others and tiff.series[0].kind == "ome"):
        return 0, [f"{path.name} holds {count} images; only the first was read"]
    return 0, []


def _files_of(series: tifffile.TiffPageSeries, path: Path) -> list[Path]:
    found = {path: None}
    for page in series.pages:
        if page is None:
            raise BrokenFile(
                path, "some of its planes are missing", hint="Is a file of the set missing, or was it cut short?"
            )
        found[Path(page.parent.filehandle.path)] = None
    return list(found)


def _level(
    series: tifffile.TiffPageSeries, path: Path, plane: tuple[int, int] | None, identity: str
) -> tuple[Level, list[str]]:
    """One resolution as a Level whose channels are the chosen planes, and what was left out."""
    page = series.keyframe
    if page.dtype is None:
        raise Unsupported(f"{path}: pixels of {page.bitspersample} bits (format {page.sampleformat}) are not supported")
    leading = _leading_axes(series, path)
    picks, warnings = _planes(leading, path, plane)
    separate, samples = (page.samplesperpixel, 1) if page.planarconfig == 2 else (1, page.samplesperpixel)
    if not series.is_multifile and series.dataoffset is not None and page.imagedepth == 1:
        layout = (len(series), separate, page.imagelength, page.imagewidth, samples)
        dtype = page.dtype.newbyteorder(page.parent.byteorder)
        return ContiguousLevel(path, series.dataoffset, layout, picks, dtype), warnings
    pages = [p.aspage() for p in (series.pages[i] for i in picks)]
    return PageLevel(pages, page.samplesperpixel, identity), warnings


def _leading_axes(series: tifffile.TiffPageSeries, path: Path) -> list[tuple[str, int]]:
    """Axes (letter, size) that run over the pages of a series, in storage order; axes of size 1 are dropped."""
    page = series.keyframe
    axes = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if a in "YX" or n > 1]
    if [a for a, _ in axes if a in "YX"] != ["Y", "X"]:
        raise Unsupported(f"{path}: the axes {series.axes} are not supported", hint="Save it with axes C, Y, X")
    leading = [(a, n) for a, n in axes if a not in "YXS"]
    if math.prod(n for _, n in leading) == len(series):
        return leading
    if len(series) == 1 and math.prod(n for _, n in leading) == page.samplesperpixel:
        return []  # an axis that tifffile calls unknown but that is stored as the samples of one page
    raise Unsupported(f"{path}: {len(series)} pages for axes {series.axes} {series.shape}")


def _planes(
    leading: Sequence[tuple[str, int]], path: Path, plane: tuple[int, int] | None
) -> tuple[list[int], list[str]]:
    """Page numbers of the channels at the chosen z and t, and warnings for what is left out."""
    sizes = dict(leading)
    channel = next((a for a in "CIQ" if a in sizes), None)
    (z, t), warnings = choose_plane(path, (sizes.get("Z", 1), sizes.get("T", 1)), plane)
    fixed = {"Z": z, "T": t}
    numbers = [0]
    for axis, size in leading:
        steps = range(size) if axis == channel else [fixed.get(axis, 0)]
        numbers = [n * size + step for n in numbers for step in steps]
        if axis not in (channel, "Z", "T"):
            warnings.append(f"{path.name} has a further axis {axis} of size {size}; only its first plane was read")
    return numbers, warnings


def _channels(
    series: tifffile.TiffPageSeries, facts: TiffFacts, count: int, path: Path
) -> tuple[list[Channel], bool, list[str]]:
    """Channels, whether they are one colour picture, and warnings."""
    page = series.keyframe
    colour = page.photometric in (2, 6) and page.dtype.kind == "u" and page.dtype.itemsize <= 2
    alpha = page.samplesperpixel == 4 and count == 4
    if colour and (alpha or count == page.samplesperpixel == 3):
        return list(RGB_CHANNELS), True, [f"{path.name}: its alpha channel was left out"] if alpha else []
    names = list(facts.channels)
    warnings = []
    if names and len(names) != count:
        warnings.append(f"{path.name}: {len(names)} channel names for {count} channels")
    names = (names + [Channel("")] * count)[:count]
    return [c if c.name else Channel(f"Channel {i}", c.color) for i, c in enumerate(names, 1)], False, warnings


class _FirstThree(Level):
    """A level without its alpha channel."""

    def __init__(self, level: Level) -> None:
        super().__init__(level.path, (3, *level.shape[1:]), level.dtype, (3, *level.chunks[1:]))
        self._level = level

    def read(self, channels: range, box: Box) -> np.ndarray:
        return self._level.read(channels, box)


def palette_of(path: Path) -> np.ndarray | None:
    """Colours uint8 ``(3, n)`` of the numbers in a TIFF with a palette; None of any other file, and where the palette is
    ImageJ's, which stores there how a channel was last shown."""
    if not path.is_file():
        return None
    with reading(path):
        with path.open("rb") as stream:
            if not stream.read(16).startswith(TIFF_STARTS):
                return None
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            page = tiff.pages.first
            if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None or tiff.is_imagej:
                return None
            return (np.asarray(page.colormap) >> 8).astype(np.uint8)


def image_stem(path: Path) -> str:
    """File name without its extensions: ``a.ome.tif`` is ``a``."""
    stem = path.name
    for suffix in (".companion.ome", ".ome.tiff", ".ome.tif", ".ome.tf8", ".ome.btf"):
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return path.stem
