"""Whether QuPath 0.4 to 0.7 opens a file as it is, with the same channels and levels that mxbridge reads."""

from __future__ import annotations

from pathlib import Path

import tifffile

from mxbridge.image import LocalImage

_COMPRESSIONS = {1, 5, 7, 8, 32773, 32946, 33003, 33005, 34712}
"""TIFF: none, LZW, JPEG, deflate (both numbers), PackBits, JPEG 2000 (three numbers). Zstd and LZMA are not opened."""

_PICTURES = (".png", ".jpg", ".jpeg")


def opens_in_qupath(path: Path, image: LocalImage) -> bool:
    """True only for layouts that leave no doubt: a project must tell the truth about an image, or QuPath refuses it.

    OME-Zarr (QuPath 0.6 and later only), folders, several series, stacks of plain pages and rare types are not among them.
    """
    if not path.is_file() or image.files != (path,):
        return False
    if path.suffix.lower() in _PICTURES:
        return image.dtype == "uint8" and len(image.channels) in (1, 3)
    try:
        with tifffile.TiffFile(path) as tiff:
            return _tiff_opens(tiff, image)
    except (OSError, ValueError, tifffile.TiffFileError):
        return False


def _tiff_opens(tiff: tifffile.TiffFile, image: LocalImage) -> bool:
    series = tiff.series[0]
    page = series.keyframe
    if int(page.compression) not in _COMPRESSIONS or len(series.levels) != len(image.levels):
        return False
    if image.dtype.name not in {"uint8", "uint16", "int16", "int32", "float32", "float64"}:
        return False
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if any(length > 1 for axis, length in sizes.items() if axis not in "CSYX"):
        return False
    if image.rgb or "S" in sizes:
        return image.rgb and image.dtype == "uint8" and sizes.get("S") == 3
    return len(tiff.series) == 1 if tiff.is_ome else len(image.channels) == 1 or bool(tiff.is_imagej)
