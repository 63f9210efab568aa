"""PNG and JPEG pictures. They have no tiles, so they are decoded whole, within a limit."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from mxbridge.errors import BrokenFile, Unsupported
from mxbridge.formats.pixels import FromArray, file_identity, reading
from mxbridge.formats.tiff_metadata import RGB_CHANNELS
from mxbridge.image import Channel, LocalImage

PIXEL_LIMIT = 512_000_000
"""Width times height of the largest picture that is decoded; larger ones belong into a tiled format."""


def open_picture(path: Path, *, name: str | None = None) -> LocalImage:
    """Open a PNG or JPEG: one grey channel, or red, green and blue with ``rgb=True``. Alpha is left out with a warning.

    Pictures know dots per inch of paper, not µm per pixel: ``pixel_size_um`` is None.
    """
    pixels, notes = read_picture(path, indices=False)
    rgb = pixels.shape[0] == 4 or pixels.shape[0] == 3
    if pixels.shape[0] in (2, 4):
        pixels, notes = pixels[:-1], [*notes, f"{path.name}: its alpha channel was left out"]
    identity = file_identity([path], "picture")
    return LocalImage(
        name=name or path.stem,
        levels=(FromArray(path, pixels).array(f"picture-{identity[:24]}"),),
        channels=RGB_CHANNELS if rgb else (Channel("Channel 1"),),
        pixel_size_um=None,
        identity=identity,
        files=(path,),
        rgb=rgb,
        warnings=tuple(notes),
    )


def read_picture(path: Path, *, indices: bool) -> tuple[np.ndarray, list[str]]:
    """Pixels ``(c, y, x)`` as stored, and warnings. indices: of a picture with a palette, the indices, not the colours."""
    from PIL import Image

    notes: list[str] = []
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about large pictures; the limit below is ours
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > PIXEL_LIMIT:
                    raise Unsupported(
                        f"{path}: {picture.width} x {picture.height} pixels are too many for a PNG or JPEG",
                        hint="Convert it to a tiled OME-TIFF",
                    )
                mode = picture.mode
                if mode in ("P", "PA") and not (indices and mode == "P"):
                    notes.append(f"{path.name}: the colours of its palette were filled in")
                    if mode == "PA" or "transparency" in picture.info:
                        notes.append(f"{path.name}: its alpha channel was left out")
                if mode in ("P", "PA", "CMYK", "YCbCr") and not (indices and mode == "P"):
                    picture = picture.convert("RGB")
                deep = mode in ("RGB", "RGBA") and not indices and _has_16_bits(path)
                pixels = _of_16_bits(path) if deep else np.asarray(picture)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0), notes


def _has_16_bits(path: Path) -> bool:
    """Whether a PNG has 16 bits per colour, of which Pillow would keep the upper 8."""
    with path.open("rb") as stream:
        start = stream.read(25)
    return start.startswith(b"\x89PNG") and start[24] == 16


def _of_16_bits(path: Path) -> np.ndarray:
    """``(y, x, samples)`` uint16."""
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except RuntimeError as error:  # imagecodecs raises its own kind of it
        raise BrokenFile(path, f"not a readable PNG ({error})") from error
