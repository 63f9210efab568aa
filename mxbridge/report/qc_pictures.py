"""Pictures of stains that were flagged: measured, imputed, their difference, and the agreement of each block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.metrics.agreement import BLOCK

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from PIL.ImageDraw import ImageDraw

KEPT = "qc.npz"
PANEL = 384
"""Side of each of the four pictures, longer one."""
EDGE, TITLE = 12, 26
GREY, INK, PAPER = (150, 150, 150), (40, 40, 40), (255, 255, 255)
FLAG = (213, 94, 0)
DIFFERENCE = ((33, 102, 172), (247, 247, 247), (178, 90, 0))
"""Imputed brighter, equal, measured brighter; told apart by colour-blind people."""
AGREEMENT = ((0, 32, 76), (124, 123, 120), (255, 234, 70))
"""From no agreement (and below) to full agreement."""

PANELS = {
    "measured": "measured",
    "imputed": "imputed",
    "difference": "measured - imputed",
    "blocks": "agreement: dark 0, yellow 1; outlined: bad",
}
"""What is drawn of a stain, and how it is called on the sheet."""

_ARRAYS = ("measured", "imputed", "blocks", "bad")


@dataclass(frozen=True)
class MarkerPicture:
    """What pictures of one marker need. measured, imputed: ``(y, x)`` units, NaN where there is nothing. blocks: ``(by, bx)``
    agreement, NaN where left out; bad: those that were called bad. side: model pixels per pixel of the pictures.
    um: (y, x) side of a block."""

    model: str
    marker: str
    measured: NDArray[np.float32]
    imputed: NDArray[np.float32]
    blocks: NDArray[np.float64]
    bad: NDArray[np.bool_]
    side: int
    um: tuple[float, float]

    def um_per_px(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """µm (y, x) per pixel of a picture of ``shape`` (y, x) pixels that shows the whole field."""
        y, x = (um / BLOCK * self.side * n / of for um, n, of in zip(self.um, self.measured.shape, shape, strict=True))
        return y, x

    @staticmethod
    def save_all(pictures: Sequence[MarkerPicture], folder: Path) -> None:
        """Keep what pictures need, in half precision. Raises OutputError."""
        arrays = {
            "models": np.array([p.model for p in pictures], np.str_),
            "markers": np.array([p.marker for p in pictures], np.str_),
            "sides": np.array([p.side for p in pictures], np.int64),
            "um": np.array([p.um for p in pictures], np.float64),
        }
        for k, picture in enumerate(pictures):
            for name in _ARRAYS:
                values = getattr(picture, name)
                arrays[f"{name} {k}"] = values if values.dtype == bool else values.astype(np.float16)
        with write_atomically(folder / KEPT) as part, part.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    @staticmethod
    def names(folder: Path) -> list[tuple[str, str]]:
        """Model and marker of all that :meth:`save_all` kept. Raises BrokenFile."""
        with _opened(folder) as stored:
            return [(str(a), str(b)) for a, b in zip(stored["models"], stored["markers"], strict=True)]

    @classmethod
    def load(cls, folder: Path, model: str, marker: str) -> MarkerPicture:
        """Raises BrokenFile."""
        k = cls.names(folder).index((model, marker))
        with _opened(folder) as stored:
            measured, imputed, blocks, bad = (stored[f"{name} {k}"] for name in _ARRAYS)
            return cls(
                model=model,
                marker=marker,
                measured=measured.astype(np.float32),
                imputed=imputed.astype(np.float32),
                blocks=blocks.astype(np.float64),
                bad=bad.astype(bool),
                side=int(stored["sides"][k]),
                um=(float(stored["um"][k][0]), float(stored["um"][k][1])),
            )


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    path = folder / KEPT
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            yield stored
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise BrokenFile(path, f"holds no pictures of qc ({error})", hint="Run again with --restart") from error


def draw_marker(picture: MarkerPicture, path: Path, title: str) -> None:
    """Write one PNG: measured, imputed, difference, blocks. Raises OutputError."""
    from PIL import Image, ImageDraw, ImageFont

    panels = [(PANELS[what], panel(picture, what, outlined=what == "blocks")) for what in PANELS]
    wide, high = panels[0][1].size
    step = max(wide, 270) + EDGE
    sheet = Image.new("RGB", (len(panels) * step + EDGE, high + 2 * TITLE + 2 * EDGE), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pen.text((EDGE, 6), _printable(title), fill=INK, font=font)
    for k, (name, drawn) in enumerate(panels):
        left, top = EDGE + k * step, 2 * TITLE
        pen.text((left, TITLE + 4), name, fill=INK, font=font)
        sheet.paste(drawn, (left, top))
    make_folder(path.parent)
    with write_atomically(path) as part:
        sheet.save(part, format="PNG")


def panel(picture: MarkerPicture, what: str, *, outlined: bool) -> PillowImage:
    """One of :data:`PANELS` as a picture in colours, small images enlarged; outlined: with a frame around every bad block."""
    from PIL import Image, ImageDraw

    colours = {
        "measured": lambda: _grey(picture.measured),
        "imputed": lambda: _grey(picture.imputed),
        "difference": lambda: _between(picture.measured - picture.imputed, -0.5, 0.5, DIFFERENCE),
        "blocks": lambda: _blocks(picture),
    }[what]()
    zoom = max(1, PANEL // max(picture.measured.shape))
    drawn = Image.fromarray(np.repeat(np.repeat(colours, zoom, axis=0), zoom, axis=1))
    if outlined:
        _outline_bad(ImageDraw.Draw(drawn), picture, zoom)
    return drawn


def _grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``(y, x, 3)``: 0 black, the brightest half percent white; the same rule for measured and imputed."""
    finite = values[np.isfinite(values)]
    top = float(np.quantile(finite, 0.995)) if finite.size else 1.0
    return _between(values, 0.0, max(top, 1e-3), ((0, 0, 0), (128, 128, 128), (255, 255, 255)))


def _between(
    values: NDArray[np.floating], low: float, high: float, colours: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Colours ``(y, x, 3)`` of numbers, interpolated between those given; grey where there is no number."""
    at = np.clip((np.nan_to_num(values.astype(np.float64)) - low) / (high - low), 0, 1)
    stops = np.linspace(0, 1, len(colours))
    table = np.array(colours, float)
    out = np.stack([np.interp(at, stops, table[:, c]) for c in range(3)], axis=-1)
    out[~np.isfinite(values)] = GREY
    return out.round().astype(np.uint8)


def _blocks(picture: MarkerPicture) -> NDArray[np.uint8]:
    """The agreement of the block that each pixel of the picture lies in."""
    rows, columns = ((np.arange(n) * picture.side) // BLOCK for n in picture.measured.shape)
    by, bx = picture.blocks.shape
    spread = picture.blocks[np.minimum(rows, by - 1)][:, np.minimum(columns, bx - 1)]
    return _between(spread, 0.0, 1.0, AGREEMENT)


def _outline_bad(pen: ImageDraw, picture: MarkerPicture, zoom: int) -> None:
    unit = BLOCK / picture.side * zoom
    high, wide = (n * zoom - 1 for n in picture.measured.shape)
    for y, x in np.argwhere(picture.bad):
        x0, y0 = min(int(x * unit), wide), min(int(y * unit), high)  # of a slide, blocks are smaller than a pixel
        x1, y1 = max(x0, min(int((x + 1) * unit) - 1, wide)), max(y0, min(int((y + 1) * unit) - 1, high))
        pen.rectangle([x0, y0, x1, y1], outline=FLAG, width=2 if unit > 6 else 1)


def _printable(text: str) -> str:
    """What the built-in font may lack becomes a question mark."""
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)[:160]
