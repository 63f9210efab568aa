"""From a project's server builder to pixels: which files, which series, which channels.

Understood are plain files (``uri``), files joined channel by channel (``channels``) and crops (``cropped``). Every other
builder changes coordinates or colours, so it is refused by name rather than read wrongly. Channel names, colours and the
pixel size of the entry win over those of the file, because users correct them in QuPath.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mxbridge.errors import InputError, MxbridgeError, SourceError, Unsupported
from mxbridge.image import Channel, LocalImage
from mxbridge.workspaces.qupath import qupath_process

if TYPE_CHECKING:
    import dask.array as da

NESTING_LIMIT = 16
"""Builders inside builders; QuPath itself nests two or three."""

_REFUSED = {
    "rotated": "rotated by QuPath",
    "affine": "transformed by QuPath",
    "sparse": "put together from separate regions",
    "color": "a colour transform computed by QuPath",
    "color_deconvolved": "a colour deconvolution computed by QuPath",
    "color_deconvolution": "a colour deconvolution computed by QuPath",
    "swapRedBlue": "a channel swap computed by QuPath",
    "pyramidize": "a pyramid computed by QuPath",
}
_IGNORED_ARGUMENTS = {"--classname"}
"""Arguments of a builder that take a value and say nothing about pixels."""

Locate = Callable[[str], Path]
Open = Callable[..., LocalImage]


def open_pixels(builder: Mapping[str, Any], *, name: str, locate: Locate) -> LocalImage:
    """The image a builder describes, lazily; ``name`` is the entry's.

    locate: from a stored URI to an existing path (raises SourceError). What no reader here opens is read through QuPath
    itself where one is installed.
    Raises SourceError, Unsupported (naming the kind of server), InputError (the file is not what the project recorded).
    """
    try:
        return open_stored(builder, name=name, locate=locate)
    except (Unsupported, SourceError) as error:
        if isinstance(error, SourceError) and not isinstance(error.__cause__, ImportError):
            raise  # a file that is not there; but a reader that is not installed is no obstacle
        return _through_qupath(builder, name, locate, error)


def _through_qupath(builder: Mapping[str, Any], name: str, locate: Locate, error: MxbridgeError) -> LocalImage:
    if reason := qupath_process.why_not():
        error.hint = f"{error.hint}. Or let QuPath read it ({reason} here). {qupath_process.HOW_TO_GET}".removeprefix(
            ". "
        )
        raise error
    from mxbridge.workspaces.qupath.qupath_pixels import open_through_qupath

    try:
        image = open_through_qupath(builder, name=name, locate=locate)
    except InputError as refusal:
        raise Unsupported(error.message, hint=f"{error.hint}. {refusal.message}".removeprefix(". ")) from refusal
    return replace(_as_entry(image, builder.get("metadata"), name), name=name)


def open_stored(builder: Mapping[str, Any], *, name: str, locate: Locate) -> LocalImage:
    """As :func:`open_pixels`, with the readers of mxbridge alone."""
    image = _build(builder, name, locate, 0)
    return replace(_as_entry(image, builder.get("metadata"), name), name=name)


def _build(builder: Mapping[str, Any], name: str, locate: Locate, depth: int) -> LocalImage:
    if not isinstance(builder, Mapping) or depth > NESTING_LIMIT:
        raise InputError(f"{name}: the project does not say how to open this image")
    kind = builder.get("builderType")
    match kind:
        case "uri":
            return _file(builder, name, locate)
        case "channels":
            return _joined(builder, name, locate, depth)
        case "cropped":
            return _cropped(builder, name, locate, depth)
    what = _REFUSED.get(str(kind), "of a kind mxbridge does not know")
    raise Unsupported(
        f"{name}: its image server ({str(kind)[:60]!r}) is {what}, and mxbridge reads stored pixels only",
        hint="In QuPath export the image as OME-TIFF and add that file to the project",
    )


def _file(builder: Mapping[str, Any], name: str, locate: Locate) -> LocalImage:
    from mxbridge.formats.open_image import open_image

    uri = builder.get("uri")
    if not isinstance(uri, str):
        raise InputError(f"{name}: the project has no address for this image")
    arguments = builder.get("args")
    series, warnings = _arguments(arguments if isinstance(arguments, list) else [])
    # OpenSlide and ImageJ have no series; Bio-Formats counts them as tifffile does.
    bioformats = "bioformats" in str(builder.get("providerClassName", "")).lower()
    image = open_image(locate(uri), name=name, series=series if bioformats else None)
    image = _first_three(image, builder.get("metadata"))
    _check_size(image, builder.get("metadata"), name)
    image = _as_entry(image, builder.get("metadata"), name)
    return replace(image, warnings=(*image.warnings, *warnings))


def _arguments(arguments: Sequence[Any]) -> tuple[int | None, list[str]]:
    """The series number, and a warning for every argument that is not understood."""
    series, warnings = None, []
    words = iter([str(a) for a in arguments])
    for word in words:
        flag, separator, value = word.partition("=")
        if flag in {"--series", *_IGNORED_ARGUMENTS}:
            value = value if separator else next(words, "")
            if flag == "--series":
                if not value.isdecimal():
                    raise InputError(f"the project asks for series {value[:40]!r}, which is not a number")
                series = int(value)
        elif flag.startswith("-"):
            warnings.append(f"the project opens the image with {word[:60]!r}, which mxbridge does not know")
    return series, warnings


def _joined(builder: Mapping[str, Any], name: str, locate: Locate, depth: int) -> LocalImage:
    """Channels of several files, one after the other; ``builder`` inside gives size and calibration only."""
    import dask.array as da

    parts_of = builder.get("channels")
    if not isinstance(parts_of, list) or not parts_of:
        raise InputError(f"{name}: the project joins channels of several files, but names no file")
    base = _build(builder.get("builder") or {}, name, locate, depth + 1)
    parts = [_build(part, name, locate, depth + 1) for part in parts_of]
    for part in parts:
        if part.shape != base.shape:
            raise InputError(
                f"{name}: {part.files[0].name if part.files else 'a joined file'} is {part.shape[1]} x {part.shape[0]} "
                f"pixels, but the image it is joined to is {base.shape[1]} x {base.shape[0]}",
                hint="QuPath would show it in a corner; write it again in the size of the image",
            )
    dtype = np.result_type(*[part.dtype for part in parts])
    levels: list[da.Array] = []
    for level in base.levels:
        same = [next((own for own in part.levels if own.shape[1:] == level.shape[1:]), None) for part in parts]
        planes = [own.astype(dtype) for own in same if own is not None]
        if len(planes) == len(parts):
            levels.append(da.concatenate(planes, axis=0))
    digest = hashlib.sha256("\n".join(part.identity for part in parts).encode())
    warnings = {w: None for part in parts for w in part.warnings}
    return replace(
        base,
        levels=tuple(levels),
        channels=tuple(c for part in parts for c in part.channels),
        identity=digest.hexdigest(),
        files=tuple(dict.fromkeys(f for part in parts for f in part.files)),
        rgb=False,
        warnings=tuple(warnings),
    )


def _cropped(builder: Mapping[str, Any], name: str, locate: Locate, depth: int) -> LocalImage:
    """A rectangle of another image. The layout ``region {x, y, width, height, z, t}`` is not verified on a real project."""
    inner = _build(builder.get("builder") or {}, name, locate, depth + 1)
    region = builder.get("region") or {}
    try:
        x, y, width, height = (int(region[key]) for key in ("x", "y", "width", "height"))
        plane = int(region.get("z", 0)), int(region.get("t", 0))
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{name}: the project does not say which region the image is cropped to") from None
    if plane != (0, 0):
        raise Unsupported(f"{name}: cropped from plane z={plane[0]}, t={plane[1]}; mxbridge reads the first plane")
    if not (
        x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= inner.shape[1] and y + height <= inner.shape[0]
    ):
        raise InputError(f"{name}: cropped to x={x} y={y} {width} x {height}, which is not inside the image")
    levels = []
    for number, level in enumerate(inner.levels):
        factors = [max(1, round(f)) for f in inner.downsample(number)]
        exact = all(math.isclose(f, g, rel_tol=1e-6) for f, g in zip(factors, inner.downsample(number), strict=True))
        dy, dx = factors
        # A coarser level is kept only where the crop falls on whole pixels of it.
        if number == 0 or (exact and not (x % dx or width % dx or y % dy or height % dy)):
            levels.append(level[:, y // dy : (y + height) // dy, x // dx : (x + width) // dx])
    digest = hashlib.sha256(f"{inner.identity} {x} {y} {width} {height}".encode())
    return replace(inner, levels=tuple(levels), identity=digest.hexdigest())


def _first_three(image: LocalImage, metadata: Any) -> LocalImage:
    """QuPath shows a picture with transparency as three channels."""
    if isinstance(metadata, Mapping) and metadata.get("isRGB") is True and len(image.channels) == 4:
        return replace(image, levels=tuple(level[:3] for level in image.levels), channels=image.channels[:3], rgb=True)
    return image


def _check_size(image: LocalImage, metadata: Any, name: str) -> None:
    if not isinstance(metadata, Mapping):
        return
    width, height, channels = metadata.get("width"), metadata.get("height"), metadata.get("channels")
    here = f"{image.files[0]}" if image.files else name
    if isinstance(width, int) and isinstance(height, int) and (height, width) != image.shape:
        raise InputError(
            f"{name}: {here} has {image.shape[1]} x {image.shape[0]} pixels, but the project recorded {width} x {height}",
            hint="Is it another file of the same name? Check where the project's images are, or give --path-map OLD=NEW",
        )
    if isinstance(channels, list) and channels and len(channels) != len(image.channels):
        raise InputError(
            f"{name}: {here} has {len(image.channels)} channels, but the project recorded {len(channels)}",
            hint="Is it another file of the same name? Check where the project's images are, or give --path-map OLD=NEW",
        )


def _as_entry(image: LocalImage, metadata: Any, name: str) -> LocalImage:
    """The image under the names, colours and pixel size that the project gives it."""
    if not isinstance(metadata, Mapping):
        return image
    _check_size(image, metadata, name)
    own = metadata.get("channels")
    if isinstance(own, list) and own and all(isinstance(c, Mapping) for c in own):
        pairs = zip(own, image.channels, strict=True)
        channels = tuple(Channel(_text(c.get("name"), old.name), _rgb(c.get("color"), old.color)) for c, old in pairs)
        image = replace(image, channels=channels)
    if isinstance(metadata.get("isRGB"), bool):
        image = replace(image, rgb=metadata["isRGB"] and len(image.channels) == 3)
    size = pixel_size(metadata)
    return replace(image, pixel_size_um=size) if size is not None else image


def pixel_size(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """(y, x) µm per pixel as the project has it, None where it is not calibrated."""
    calibration = metadata.get("pixelCalibration")
    if not isinstance(calibration, Mapping):
        return None
    sizes = []
    for key in ("pixelHeight", "pixelWidth"):
        side = calibration.get(key)
        if not isinstance(side, Mapping) or side.get("unit") not in ("µm", "μm", "um"):
            return None
        value = side.get("value")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
            return None
        sizes.append(float(value))
    return sizes[0], sizes[1]


def _text(value: Any, otherwise: str) -> str:
    return value if isinstance(value, str) else otherwise


def _rgb(value: Any, otherwise: int | None) -> int | None:
    """Signed ARGB of QuPath to 0xRRGGBB."""
    return value & 0xFFFFFF if isinstance(value, int) and not isinstance(value, bool) else otherwise
