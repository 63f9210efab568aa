"""Arrays of colours as pictures that are small enough for a report."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from mxbridge.report.blocks import Picture

QUALITIES = (82, 72, 60, 48, 35, 25)
"""Of WebP, tried in this order until a picture is small enough."""

THUMBNAIL_BYTES, ZOOMABLE_BYTES = 30_000, 150_000


def encode(rgb: NDArray[np.uint8], alt: str, caption: str = "", *, budget: int = THUMBNAIL_BYTES) -> Picture:
    """rgb: ``(y, x, 3)`` uint8. budget: bytes that the picture should not pass; the poorest quality is taken as it comes."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(rgb))
    data = b""
    for quality in QUALITIES:
        stream = BytesIO()
        picture.save(stream, format="WEBP", quality=quality, method=3)
        data = stream.getvalue()
        if len(data) <= budget:
            break
    return Picture(data, picture.width, picture.height, alt, caption, "webp")
