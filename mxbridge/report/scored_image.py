"""One image of a scoring run as pictures: stains, scores, classes, crops and the cells of galleries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import OutlineCells
from mxbridge.errors import MxbridgeError, UnknownName
from mxbridge.image import Box, LocalImage
from mxbridge.panel import read_panel, sort_channels
from mxbridge.report.blocks import Block, Card, Note, Picture, Pictures
from mxbridge.report.cell_pictures import (
    MIXED,
    NEGATIVE,
    NO_VALUE,
    POSITIVE,
    Drawable,
    Painting,
    composite,
    discs,
    grey_picture,
    score_colours,
    viridis,
)
from mxbridge.report.counts import (
    CLASSLESS,
    annotation_names,
    class_colours,
    class_counts,
    colours_of,
    colours_of_cells,
    gathered,
    held_by,
    swatches,
)
from mxbridge.report.crops import card_side, centred, crop_side, densest, enlarged, with_calls
from mxbridge.report.encoding import ZOOMABLE_BYTES, encode
from mxbridge.report.gallery import Candidate
from mxbridge.report.legends import Colour, ColourBar, Legend, Swatch, with_legend
from mxbridge.report.pixels import ChannelPixels, TooLarge, picture_shape, read_reduced
from mxbridge.report.texts import number
from mxbridge.runs import ImageRecord
from mxbridge.workspaces.base import CellKind, Pulled

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.report.context import RunContext

CARD = 112
"""Pixels along the side of a gallery picture."""
CROP = 440
"""Of a crop for zooming."""
FEW_PICTURES, MANY_PICTURES = 80, 350
NEAR = 0.15
"""Scores so near the threshold make a spot worth looking at."""


class Tally(Protocol):
    """What is known of a marker before the first picture."""

    marker: str
    column: str
    threshold: float


@dataclass(frozen=True)
class Sizes:
    """How large pictures are, so that a report of many images stays small. longest: pixels of the longer side. budget: bytes."""

    longest: int
    budget: int

    @classmethod
    def for_pictures(cls, pictures: int) -> Sizes:
        """pictures: images times markers."""
        if pictures <= FEW_PICTURES:
            return cls(440, 45_000)
        return cls(400, 20_000) if pictures <= MANY_PICTURES else cls(240, 9_000)


@dataclass(frozen=True)
class AnnotationRow:
    """Cells in one annotation. positive: share by marker."""

    image: str
    annotation: str
    class_name: str | None
    cells: int
    positive: dict[str, float | None]


@dataclass(frozen=True)
class Shown:
    """Cells as they are drawn. rows: of the table, by drawn cell, -1 for one that it lacks. shape: (y, x) of their field. um: (y, x)
    per unit of that, None where it is not known. circles: stand for outlines that are out of reach."""

    cells: Drawable
    rows: NDArray[np.int64]
    shape: tuple[int, int]
    um: tuple[float, float] | None
    circles: bool = False


class ScoredImage:
    """What can be drawn of one image; where its pixels or outlines are out of reach, cells are circles."""

    def __init__(
        self, context: RunContext, record: ImageRecord, tallies: Mapping[str, Tally], sizes: Sizes, mixed: Sequence[str]
    ) -> None:
        """mixed: the markers of one picture together, at most as many as there are colours."""
        self.context, self.record, self.sizes, self.mixed = context, record, sizes, tuple(mixed)[: len(MIXED)]
        self.table = context.table(record)
        self.tallies = {m: t for m, t in tallies.items() if self.table is not None and t.column in self.table}

    # --- what there is ---

    @cached_property
    def _pulled(self) -> Pulled | None:
        kind = self.context.run.options.get("cells")
        return self.context.pulled(self.record, kind if kind in get_args(CellKind) else "cells")

    @property
    def image(self) -> LocalImage | None:
        return None if self._pulled is None else self._pulled.image

    @cached_property
    def pixels(self) -> ChannelPixels | None:
        return None if self.image is None else ChannelPixels(self.image)

    @cached_property
    def shown(self) -> Shown | None:
        """None where there is nothing to draw."""
        if self.table is None or not len(self.table):
            return None
        cells = None if self._pulled is None else self._pulled.cells
        if cells is not None:
            known = {name: row for row, name in enumerate(self.table["cell"].astype(str))}
            rows = np.array([known.get(own, -1) for own in cells.ids], np.int64)
            if (rows >= 0).any():
                return Shown(Drawable.of(cells), rows, cells.shape, self.image.pixel_size_um if self.image else None)
        return self._circles(self.table)

    def _circles(self, table: pd.DataFrame) -> Shown | None:
        if not {"x_um", "y_um", "area_um2"} <= set(table.columns):
            return None
        at = np.nan_to_num(table[["y_um", "x_um"]].to_numpy(float))
        area = np.nan_to_num(table["area_um2"].to_numpy(float))
        um = self.image.pixel_size_um if self.image is not None else None
        if self.image is not None and um is not None:
            at, area, shape = at / um, area / (um[0] * um[1]), self.image.shape
        else:
            um, shape = (1.0, 1.0), (int(at[:, 0].max()) + 10, int(at[:, 1].max()) + 10)
        return Shown(Drawable.of(discs(at, area)), np.arange(len(table)), shape, um, circles=True)

    @cached_property
    def channels(self) -> dict[str, int]:
        """Index of the channel of each marker that can be found."""
        if self.image is None:
            return {}
        panel = self.context.run.options.get("panel")
        found = {}
        with suppress(MxbridgeError):
            given = read_panel(Path(panel)) if isinstance(panel, str) else ()
            found = {m.name: m.index for m in sort_channels(self.image.channel_names, panel=given).markers}
        for marker in self.tallies:
            if marker not in found:
                with suppress(UnknownName):
                    found[marker] = self.image.find_channel(marker)
        return {marker: found[marker] for marker in self.tallies if marker in found}

    def _scores(self, tally: Tally) -> NDArray[np.float32]:
        """Of the cells that are drawn, NaN for one that the table lacks."""
        assert self.shown is not None and self.table is not None  # noqa: S101 - asked only where something is drawn
        return np.append(self.table[tally.column].to_numpy(np.float32), np.float32("nan"))[self.shown.rows]

    def _painting(self, box: Box, size: tuple[int, int]) -> Painting | None:
        """None where the labels of the cells cannot be read."""
        assert self.shown is not None  # noqa: S101 - asked only where something is drawn
        return self.context.attempt(self.record, partial(self.shown.cells.painting, box, size), "its cells")

    def _um(self, box: tuple[int, int], picture: tuple[int, int]) -> tuple[float, float] | None:
        """µm per pixel of a picture that shows ``box`` pixels."""
        um = None if self.shown is None else self.shown.um
        return None if um is None else (um[0] * box[0] / picture[0], um[1] * box[1] / picture[1])

    # --- the pictures of an image ---

    def blocks(self, *, crops: bool) -> Iterator[Block]:
        """crops: with parts at full resolution."""
        if self.shown is None or not self.tallies:
            return
        missing = int((self.shown.rows < 0).sum())
        if self.shown.circles:
            yield Note(
                "The outlines of the cells cannot be reached: they are drawn as circles, by the table of the run."
            )
        elif missing:
            yield Note(
                f"{missing} of {len(self.shown.rows)} cells are not in the table of the run; they are drawn grey."
            )
        size = picture_shape(self.shown.shape, self.sizes.longest)
        painting = self._painting(Box(0, 0, *self.shown.shape), size)
        if painting is None:
            return
        whole = [p for p in (self._composite(size), self._by_class(painting)) if p is not None]
        if whole:
            yield Pictures("All markers", (("all markers", tuple(whole)),))
        yield Pictures(
            "Marker by marker",
            tuple((marker, self._of_marker(tally, painting, crops=crops)) for marker, tally in self.tallies.items()),
        )

    def _composite(self, size: tuple[int, int]) -> Picture | None:
        mixed = [marker for marker in self.channels if marker in self.mixed]
        image = self.image
        if image is None or not mixed:
            return None
        planes = self._reduced([self.channels[m] for m in mixed], size)
        if planes is None:
            return None
        own = [image.channels[self.channels[m]].color for m in mixed]
        colours: list[Colour] = [rgb_of(c) if c else MIXED[k] for k, c in enumerate(own)]
        if len(set(colours)) < len(colours):  # several channels in white, say
            colours = list(MIXED[: len(mixed)])
        whites = np.array([self._white(m, plane) for m, plane in zip(mixed, planes, strict=True)])
        legend = Legend(
            swatches=tuple(Swatch(m, c) for m, c in zip(mixed, colours, strict=True)),
            um_per_px=self._um(image.shape, size),
        )
        more = f" of {len(self.channels)}" if len(self.channels) > len(mixed) else ""
        alt = f"{self.record.name}: {', '.join(mixed)} mixed in colours"
        drawn = with_legend(composite(planes, whites, colours), legend)
        return encode(
            drawn,
            alt,
            f"{len(mixed)} stains together{more}, each in its colour; what is below a stain's median is black",
            budget=2 * self.sizes.budget,
        )

    def _by_class(self, painting: Painting) -> Picture | None:
        assert self.table is not None and self.shown is not None  # noqa: S101 - asked only where something is drawn
        classes = [*self.table["class"].where(self.table["class"].notna(), None), None]
        counts = gathered(class_counts(classes[:-1]))
        if set(counts) <= {CLASSLESS}:
            return None
        colours = class_colours(list(counts), colours_of(self.context.workspace))
        of_cells = colours_of_cells([classes[row] for row in self.shown.rows], colours)
        legend = Legend(swatches=swatches(counts, colours), um_per_px=self._um(self.shown.shape, painting.shape))
        drawn = with_legend(painting.filled(of_cells), legend)
        return encode(drawn, f"{self.record.name}: cells coloured by class", "Cells by class", budget=self.sizes.budget)

    def _of_marker(self, tally: Tally, painting: Painting, *, crops: bool) -> tuple[Picture, ...]:
        assert self.shown is not None  # noqa: S101 - asked only where something is drawn
        scores = self._scores(tally)
        pictures = [self._stain(tally, painting, scores), self._by_score(tally, painting, scores)]
        if crops:
            pictures.append(self._crop(tally, scores))
        return tuple(p for p in pictures if p is not None)

    def _by_score(self, tally: Tally, painting: Painting, scores: NDArray[np.float32]) -> Picture:
        assert self.shown is not None  # noqa: S101 - asked only where something is drawn
        bar = ColourBar("score", viridis(), mark=tally.threshold)
        lost = (Swatch("no score", NO_VALUE),) if not np.isfinite(scores).all() else ()
        legend = Legend(bar, lost, self._um(self.shown.shape, painting.shape))
        drawn = with_legend(painting.filled(score_colours(scores)), legend)
        alt = f"{self.record.name}: cells coloured by their score of {tally.marker}"
        return encode(drawn, alt, f"{tally.marker}: cells by score", budget=self.sizes.budget)

    def _stain(self, tally: Tally, painting: Painting, scores: NDArray[np.float32]) -> Picture | None:
        assert self.shown is not None  # noqa: S101 - asked only where something is drawn
        planes = self._reduced([self.channels[tally.marker]], painting.shape) if tally.marker in self.channels else None
        if planes is None:
            return None
        positive = is_positive(scores, tally.threshold)
        white = self._white(tally.marker, planes[0])
        drawn = painting.outlined(grey_picture(planes[0], white), positive, POSITIVE)
        legend = Legend(
            swatches=(
                Swatch(f"positive: {int(positive.sum())} of {int(np.isfinite(scores).sum())}", POSITIVE, line=True),
            ),
            um_per_px=self._um(self.shown.shape, painting.shape),
        )
        alt = f"{self.record.name}: the stain {tally.marker}, positive cells outlined"
        caption = f"{tally.marker}: stain (white: {white:.4g} and more) and cells called positive"
        return encode(with_legend(drawn, legend), alt, caption, budget=self.sizes.budget)

    def _crop(self, tally: Tally, scores: NDArray[np.float32]) -> Picture | None:
        """Where most cells are near the threshold, at full resolution."""
        if self.pixels is None or self.shown is None or tally.marker not in self.channels:
            return None
        boxes = self.shown.cells.boxes
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        with np.errstate(invalid="ignore"):
            near = np.abs(scores - np.float32(tally.threshold)) <= NEAR
        box = densest(middles, near, crop_side(boxes), self.shown.shape)
        pixels, channel = self.pixels, self.channels[tally.marker]
        plane = self.context.attempt(self.record, lambda: pixels.box(channel, box), f"a part of {tally.marker}")
        if plane is None:
            return None
        positive = is_positive(scores, tally.threshold)
        picture = enlarged(grey_picture(plane, self._white(tally.marker, plane)), CROP)
        painting = self._painting(box, picture.shape[:2])
        if painting is None:
            return None
        legend = Legend(
            swatches=(Swatch("positive", POSITIVE, line=True), Swatch("negative", NEGATIVE, line=True)),
            um_per_px=self._um(box.shape, picture.shape[:2]),
        )
        drawn = with_legend(with_calls(picture, painting, positive), legend)
        alt = f"{self.record.name}: part of the stain {tally.marker} at full resolution, cells outlined by their calls"
        which = "cells are near the threshold" if near.any() else "cells are; none is near the threshold"
        caption = f"{tally.marker}: where most {which} (from pixel x {box.x0}, y {box.y0})"
        return encode(drawn, alt, caption, budget=min(2 * self.sizes.budget, ZOOMABLE_BYTES))

    # --- galleries and annotations ---

    def cards(self, marker: str, wanted: Sequence[Candidate]) -> Iterator[tuple[Candidate, Card]]:
        """Gallery pictures of cells of this image, as far as their pixels can be read."""
        tally = self.tallies.get(marker)
        if tally is None or self.shown is None or self.pixels is None or marker not in self.channels:
            return
        drawn_at = {row: k for k, row in enumerate(self.shown.rows.tolist())}
        for cell in wanted:
            index = drawn_at.get(cell.row)
            if index is None:
                continue
            picture = self._card(tally, cell, index)
            if picture is not None:
                lines = (f"Score {cell.score:.3f}", f"Mean {number(cell.mean, 4)}", self.record.name)
                yield cell, Card(picture, lines, cell.cell)

    def _card(self, tally: Tally, cell: Candidate, index: int) -> Picture | None:
        assert self.shown is not None and self.pixels is not None  # noqa: S101 - see cards
        boxes = self.shown.cells.boxes
        if not np.isfinite(boxes[index]).all():
            return None
        middle = (float(boxes[index, [0, 2]].mean()), float(boxes[index, [1, 3]].mean()))
        box = centred(middle, card_side(boxes, index), self.shown.shape)
        pixels, channel = self.pixels, self.channels[tally.marker]
        plane = self.context.attempt(self.record, lambda: pixels.box(channel, box), f"a cell of {tally.marker}")
        if plane is None:
            return None
        picture = enlarged(grey_picture(plane, self._white(tally.marker, plane)), CARD)
        painting = self._painting(box, picture.shape[:2])
        if painting is None:
            return None
        own = np.zeros(len(self.shown.rows), bool)
        own[index] = True
        called = cell.score >= tally.threshold
        drawn = painting.outlined(picture, own, POSITIVE if called else NEGATIVE, thick=2)
        return encode(drawn, f"{tally.marker} around cell {cell.cell}, {'positive' if called else 'negative'}")

    def annotation_rows(self) -> Iterator[AnnotationRow]:
        """Cells in the annotations of the image, where these and the image's pixel size can be had."""
        um = None if self.image is None else self.image.pixel_size_um
        if self.table is None or um is None or self.context.run.options.get("cells") == "annotations":
            return
        pulled = self.context.pulled(self.record, "annotations")
        drawn = None if pulled is None else pulled.cells
        if not isinstance(drawn, OutlineCells) or not {"x_um", "y_um"} <= set(self.table.columns):
            return
        centroids = self.table[["y_um", "x_um"]].to_numpy(float) / um
        scores = {m: self.table[t.column].to_numpy(np.float32) for m, t in self.tallies.items()}
        for name, class_name, held in zip(
            annotation_names(drawn), drawn.classes, held_by(drawn, centroids), strict=True
        ):
            shares = {m: share_positive(values[held], self.tallies[m].threshold) for m, values in scores.items()}
            yield AnnotationRow(self.record.name, name, class_name, len(held), shares)

    # --- pixels ---

    def _reduced(self, channels: Sequence[int], size: tuple[int, int]) -> NDArray[np.float32] | None:
        image = self.image
        if image is None:
            return None
        try:
            return self.context.attempt(
                self.record, lambda: read_reduced(image, channels, max(size)), "the whole image"
            )
        except TooLarge as error:
            self.context.problem(str(error))
            return None

    def _white(self, marker: str, plane: NDArray[np.float32]) -> float:
        """The stored number that is shown white: the factor; where none is told the brightest half percent."""
        told = factor_of(self.record, marker)
        return told if told is not None else float(np.quantile(plane, 0.995))


def factor_of(image: ImageRecord, marker: str) -> float | None:
    """The normalisation factor of a marker in an image, as run.json tells it."""
    factors = image.counts.get("factors")
    told = factors.get(marker) if isinstance(factors, dict) else None
    usable = isinstance(told, int | float) and float(np.finfo(np.float32).tiny) <= told < float("inf")
    return float(told) if usable else None


def is_positive(scores: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Compared as float32, as the run did; NaN is not positive."""
    with np.errstate(invalid="ignore"):
        return np.asarray(scores >= np.float32(threshold), bool)


def share_positive(scores: NDArray[np.floating], threshold: float) -> float | None:
    """Of the cells that have a score; None where there are none."""
    known = int(np.isfinite(scores).sum())
    return float(is_positive(scores, threshold).sum()) / known if known else None


def rgb_of(color: int) -> Colour:
    """0xRRGGBB as three numbers."""
    return color >> 16 & 255, color >> 8 & 255, color & 255
