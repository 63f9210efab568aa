"""Legends below pictures: what their colours mean, where the threshold is, and how large a micrometre is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mxbridge.report.texts import short

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Colour = tuple[int, int, int]

PAPER, INK, FAINT = (255, 255, 255), (26, 26, 26), (150, 150, 150)
TEXT_SIZE, LINE, EDGE = 15, 22, 6
BAR_SHARE = 0.25
"""A scale bar is at most this part of a picture's width."""
LENGTHS = [step * 10.0**power for power in range(-2, 6) for step in (1, 2, 5)]
"""µm that scale bars have."""
LONGEST_NAME = 34
NARROWEST = 240
"""Pixels that a legend needs from left to right."""
BOX = 14
"""Side of a swatch."""


@dataclass(frozen=True)
class ColourBar:
    """Numbers as colours. table: uint8 ``(n, 3)``, from ``low`` to ``high``. mark: a number to point out, called ``mark_name``."""

    title: str
    table: NDArray[np.uint8]
    low: float = 0.0
    high: float = 1.0
    mark: float | None = None
    mark_name: str = "threshold"


@dataclass(frozen=True)
class Swatch:
    """A colour and its meaning. line: it is that of an outline, not of an area."""

    name: str
    colour: Colour
    line: bool = False


@dataclass(frozen=True)
class Legend:
    """What stands below a picture. um_per_px: (y, x) of the picture's pixels, for a scale bar; None for none."""

    bar: ColourBar | None = None
    swatches: tuple[Swatch, ...] = ()
    um_per_px: tuple[float, float] | None = None


def with_legend(rgb: NDArray[np.uint8], legend: Legend) -> NDArray[np.uint8]:
    """``(y, x, 3)`` with a strip of paper below on which the legend stands; narrow pictures get margins."""
    from PIL import Image, ImageDraw

    width = max(rgb.shape[1], NARROWEST)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    rows = _rows(probe, legend.swatches, width)
    height = len(rows) * LINE + (2 * LINE if legend.bar else 0) + (LINE if legend.um_per_px else 0) + EDGE
    strip = Image.new("RGB", (width, height), PAPER)
    pen, y = ImageDraw.Draw(strip), EDGE // 2
    if legend.bar is not None:
        _draw_bar(pen, strip, legend.bar, width, y)
        y += 2 * LINE
    for row in rows:
        _draw_row(pen, row, y)
        y += LINE
    if legend.um_per_px is not None:
        _draw_scale(pen, legend.um_per_px[1], rgb.shape[1], y)
    field = np.full((rgb.shape[0], width, 3), PAPER, np.uint8)
    left = (width - rgb.shape[1]) // 2
    field[:, left : left + rgb.shape[1]] = rgb
    return np.concatenate([field, np.asarray(strip)])


@cache
def _font(size: int = TEXT_SIZE) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most names of channels."""
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _rows(pen: ImageDraw, swatches: tuple[Swatch, ...], width: int) -> list[list[tuple[int, Swatch]]]:
    """Swatches line by line, each with where it begins."""
    rows: list[list[tuple[int, Swatch]]] = []
    x = width
    for swatch in swatches:
        long = BOX + 6 + int(pen.textlength(short(swatch.name, LONGEST_NAME), font=_font())) + 12
        if x + long > width or not rows:
            rows.append([])
            x = EDGE
        rows[-1].append((x, swatch))
        x += long
    return rows


def _draw_row(pen: ImageDraw, row: list[tuple[int, Swatch]], y: int) -> None:
    for x, swatch in row:
        box = (x, y + 4, x + BOX, y + 4 + BOX)
        if swatch.line:
            pen.rectangle(box, outline=swatch.colour, width=3)
        else:
            pen.rectangle(box, fill=swatch.colour, outline=FAINT)
        pen.text((x + BOX + 6, y + 1), short(swatch.name, LONGEST_NAME), fill=INK, font=_font())


def _draw_bar(pen: ImageDraw, strip: object, bar: ColourBar, width: int, y: int) -> None:
    """The title and the ends above, the colours below; the mark is a line through both."""
    from PIL import Image

    left, right = EDGE, width - EDGE - 1
    table = bar.table[np.linspace(0, len(bar.table) - 1, right - left + 1).round().astype(int)]
    strip.paste(Image.fromarray(np.repeat(table[None], LINE - 6, axis=0)), (left, y + LINE))  # type: ignore[attr-defined]
    font = _font()
    pen.text((left, y), f"{bar.low:g}", fill=INK, font=font)
    end = f"{bar.high:g}"
    pen.text((right - pen.textlength(end, font=font), y), end, fill=INK, font=font)
    title, anchor = short(bar.title, LONGEST_NAME), (left + right) / 2
    if bar.mark is None:
        pen.text((anchor - pen.textlength(title, font=font) / 2, y), title, fill=INK, font=font)
        return
    at = left + (right - left) * min(1.0, max(0.0, (bar.mark - bar.low) / (bar.high - bar.low)))
    text = f"{bar.mark_name} {bar.mark:.3g}"
    long = pen.textlength(text, font=font)
    pen.text((min(max(left + 20, at - long / 2), right - 20 - long), y), text, fill=INK, font=font)
    pen.line((at, y + LINE - 3, at, y + 2 * LINE - 4), fill=PAPER, width=5)
    pen.line((at, y + LINE - 3, at, y + 2 * LINE - 4), fill=INK, width=2)


def _draw_scale(pen: ImageDraw, um_per_px: float, width: int, y: int) -> None:
    fitting = [length for length in LENGTHS if length <= width * um_per_px * BAR_SHARE]
    if not fitting:
        return
    um = fitting[-1]
    long = um / um_per_px
    pen.rectangle((EDGE, y + 9, EDGE + long, y + 12), fill=INK)
    pen.text((EDGE + long + 6, y + 1), f"{um:g} µm" if um < 1000 else f"{um / 1000:g} mm", fill=INK, font=_font())
