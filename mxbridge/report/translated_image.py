"""One image of a translating run as pictures: the slide, its inferred images, nuclei by class, crops and gallery cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import OutlineCells, Rings
from mxbridge.image import Box
from mxbridge.report.blocks import Block, Card, Note, Picture, Pictures
from mxbridge.report.cell_pictures import Drawable, discs, draw_lines
from mxbridge.report.counts import CLASSLESS, class_colours, class_counts, colours_of, gathered, swatches
from mxbridge.report.crops import card_side, centred, crop_side, densest, enlarged
from mxbridge.report.encoding import ZOOMABLE_BYTES, encode
from mxbridge.report.gallery import Candidate
from mxbridge.report.legends import Colour, Legend, Swatch, with_legend
from mxbridge.report.pixels import TooLarge, picture_shape
from mxbridge.report.slide_pixels import SlidePixels, map_picture
from mxbridge.report.texts import number
from mxbridge.runs import ImageRecord

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.report.context import RunContext
    from mxbridge.tasks.mapping.maps import Maps

LONGEST, CROP, CARD = 440, 440, 112
"""Pixels along the longer side of a picture, of a crop, of a gallery picture."""

HALF = 0.5
"""A nucleus of this probability is as much positive as negative."""
NEAR = 0.3
"""Nuclei so near to that make a spot worth looking at."""

WHOLE, PART = "whole slide", "part"
NUMBERS = ("x_px", "y_px", "area_px", "positive_probability")
"""Columns of a table of nuclei that are drawn."""
PAPER: Colour = (244, 244, 244)
CLASSES_OF_SEG = "Red: positive; blue: negative; green: borders of nuclei"
"""What the colours of a segmentation image mean."""


@dataclass(frozen=True)
class NucleiOf:
    """The nuclei of one segmentation image. table: its rows of the run's table. drawn: outlines in full-resolution pixels, one
    for each row; circles: they stand for outlines that are out of reach."""

    prefix: str
    table: pd.DataFrame
    drawn: Drawable
    circles: bool

    @property
    def probability(self) -> NDArray[np.float64]:
        return self.table["positive_probability"].to_numpy(float)

    @property
    def means(self) -> NDArray[np.float64]:
        """Of the inferred marker, 0..255; NaN where the run has none."""
        column = next((c for c in self.table.columns if str(c).endswith(" mean")), None)
        return np.full(len(self.table), np.nan) if column is None else self.table[column].to_numpy(float)

    @property
    def classes(self) -> list[str | None]:
        named = self.table["class"]
        return [*named.where(named.notna(), None)]

    @property
    def centroids(self) -> NDArray[np.float64]:
        """``(n, 2)`` y, x in full-resolution pixels."""
        return self.table[["y_px", "x_px"]].to_numpy(float)


class TranslatedImage:
    """What can be drawn of one image."""

    def __init__(self, context: RunContext, record: ImageRecord) -> None:
        self.context, self.record = context, record

    # --- what there is ---

    @cached_property
    def nuclei(self) -> list[NucleiOf]:
        """Of every segmentation image."""
        from pandas.api.types import is_numeric_dtype

        from mxbridge.tasks.translating.tables import NUCLEI, read_nuclei

        folder = self.context.run.folder_of(self.record)
        if not (folder / f"{NUCLEI}.parquet").is_file():
            return []
        table = self.context.attempt(self.record, lambda: read_nuclei(folder), "its table of nuclei")
        if table is None or not {"model", "nucleus", "class", *NUMBERS} <= set(table.columns):
            return []
        if not all(is_numeric_dtype(table[name]) for name in NUMBERS):
            self.context.problem(f"{self.record.name}: its table of nuclei holds words for numbers")
            return []
        results = self.context.results(self.record)
        outlines: list[Rings] = [] if results is None else [made.nuclei or made.outlines for made in results.objects]
        found = []
        for k, prefix in enumerate(dict.fromkeys(table["model"].astype(str))):
            rows = table[table["model"] == prefix].reset_index(drop=True)
            fits = k < len(outlines) and len(outlines[k]) == len(rows)
            rings = outlines[k] if fits else _circles(rows)
            found.append(NucleiOf(prefix, rows, Drawable.of(rings), circles=not fits))
        return found

    @cached_property
    def slide(self) -> SlidePixels | None:
        pulled = self.context.pulled(self.record, "annotations")
        if pulled is None:
            return None
        return self.context.attempt(self.record, lambda: SlidePixels(pulled.image), "the slide")

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """(y, x) of the slide in full-resolution pixels, at least as far as nuclei reach."""
        if self.slide is not None:
            return self.slide.image.shape
        ends = [one.centroids.max(axis=0) for one in self.nuclei if len(one.table)]
        return None if not ends else (int(max(e[0] for e in ends)) + 20, int(max(e[1] for e in ends)) + 20)

    @cached_property
    def maps(self) -> Maps | None:
        from mxbridge.errors import SourceError
        from mxbridge.tasks.mapping.maps import Maps
        from mxbridge.tasks.translating.kept_maps import KeptMaps

        def opened() -> Maps:
            kept = KeptMaps.load(self.context.run.folder_of(self.record))
            if kept is None:
                raise SourceError("the run has kept none")
            return Maps.open(kept.maps)

        return self.context.attempt(self.record, opened, "inferred images")

    @cached_property
    def annotations(self) -> OutlineCells | None:
        pulled = self.context.pulled(self.record, "annotations")
        return pulled.cells if pulled is not None and isinstance(pulled.cells, OutlineCells) else None

    @cached_property
    def colours(self) -> dict[str, Colour]:
        names = dict.fromkeys(name or CLASSLESS for one in self.nuclei for name in one.classes)
        drawn = () if self.annotations is None else self.annotations.classes
        names |= dict.fromkeys(name or CLASSLESS for name in drawn)
        return class_colours(list(names), colours_of(self.context.workspace))

    # --- pictures ---

    def blocks(self) -> Iterator[Block]:
        shape = self.shape
        if shape is None:
            return
        if any(one.circles and len(one.table) for one in self.nuclei):
            yield Note("The outlines of nuclei are not there: they are drawn as circles, by the table of the run.")
        box = Box(0, 0, *shape)
        whole = self._row(box, LONGEST, WHOLE, budget=60_000)
        if whole:
            yield Pictures("Whole slide", ((WHOLE, whole),))
        if max(shape) <= CROP:
            return
        part = self._row(self._undecided(shape), CROP, PART, budget=ZOOMABLE_BYTES // 2)
        if part:
            at = self._undecided(shape)
            yield Pictures(f"Where most nuclei are undecided (from pixel x {at.x0}, y {at.y0})", ((PART, part),))

    def _row(self, box: Box, longest: int, what: str, *, budget: int) -> tuple[Picture, ...]:
        """The slide, its nuclei, and the inferred images of the same place."""
        name, size = self.record.name, _picture_size(box, longest)
        slide = self._slide_picture(box, size)
        pictures = []
        if slide is not None:
            legend = Legend(um_per_px=self._um(box, size))
            drawn = with_legend(slide, legend) if legend.um_per_px else slide
            pictures.append(encode(drawn, f"{name}: the slide ({what})", "Slide", budget=budget))
        for one in self.nuclei:
            pictures.append(self._nuclei_picture(one, box, size, slide, what, budget))
        if self.maps is not None:
            pictures += self._inferred(self.maps, box, longest, what, budget)
        return tuple(pictures)

    def _inferred(self, maps: Maps, box: Box, longest: int, what: str, budget: int) -> Iterator[Picture]:
        for image in maps.images:
            read = self.context.attempt(
                self.record, partial(map_picture, maps, image, longest, box), f"{image} ({what})"
            )
            if read is not None:
                fitted = enlarged(read, longest) if max(read.shape[:2]) < longest else read
                alt = f"{self.record.name}: inferred {image} ({what})"
                told = f". {CLASSES_OF_SEG}" if image.lower().startswith("seg") else ""
                yield encode(fitted, alt, f"Inferred: {image}{told}", budget=budget)

    def _slide_picture(self, box: Box, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        slide = self.slide
        if slide is None:
            return None
        try:
            read = self.context.attempt(self.record, lambda: slide.picture(max(size), box), "the slide")
        except TooLarge as error:
            self.context.problem(str(error))
            return None
        return read if read is None or read.shape[:2] == size else enlarged(read, max(size))

    def _nuclei_picture(
        self, one: NucleiOf, box: Box, size: tuple[int, int], slide: NDArray[np.uint8] | None, what: str, budget: int
    ) -> Picture:
        below = slide if slide is not None else np.full((*size, 3), PAPER, np.uint8)
        below = self._with_annotations(below, box)
        painting = one.drawn.painting(box, below.shape[:2])
        classes = np.array([name or CLASSLESS for name in one.classes], object)
        counts = gathered(class_counts(one.classes))
        for name in sorted(set(classes.tolist()), key=lambda c: str(c).endswith("Positive")):  # positive ones above
            below = painting.outlined(below, classes == name, self.colours[name], thick=2 if what == WHOLE else 3)
        drawn_here = () if self.annotations is None else dict.fromkeys(c for c in self.annotations.classes if c)
        lines = tuple(Swatch(f"annotation: {name}", self.colours[name]) for name in drawn_here)
        colours = self.colours | {"others": self.colours.get("others", (150, 150, 150))}
        named = swatches(counts, colours) if what == WHOLE else tuple(Swatch(name, colours[name]) for name in counts)
        legend = Legend(swatches=(*named, *lines), um_per_px=self._um(box, below.shape[:2]))
        title = "Nuclei by class" if len(self.nuclei) == 1 else f"{one.prefix}: nuclei by class"
        alt = f"{self.record.name}: nuclei outlined by class ({what})"
        return encode(with_legend(below, legend), alt, title, budget=budget)

    def _with_annotations(self, picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        if self.annotations is None:
            return picture
        colours = [self.colours[name or CLASSLESS] for name in self.annotations.classes]
        return draw_lines(picture, self.annotations.outlines, colours, box)

    def _undecided(self, shape: tuple[int, int]) -> Box:
        """Where most nuclei are neither surely positive nor surely negative."""
        known = [one for one in self.nuclei if len(one.table)]
        if not known:
            return centred((shape[0] / 2, shape[1] / 2), min(512, *shape), shape)
        near = np.concatenate([np.abs(one.probability - HALF) <= NEAR for one in known])
        middles = np.concatenate([one.centroids for one in known])
        return densest(middles, near, crop_side(known[0].drawn.boxes), shape)

    def _um(self, box: Box, size: tuple[int, int]) -> tuple[float, float] | None:
        um = None if self.slide is None else self.slide.image.pixel_size_um
        return None if um is None else (um[0] * box.shape[0] / size[0], um[1] * box.shape[1] / size[1])

    def cards(self, prefix: str, wanted: Sequence[Candidate]) -> Iterator[tuple[Candidate, Card]]:
        """Gallery pictures of nuclei of this image, as far as the slide can be read."""
        slide, shape = self.slide, self.shape
        one = next((one for one in self.nuclei if one.prefix == prefix), None)
        if slide is None or shape is None or one is None:
            return
        classes = one.classes
        for cell in wanted:
            bounds = one.drawn.boxes[cell.row]
            if not np.isfinite(bounds).all():
                continue
            middle = (float(bounds[[0, 2]].mean()), float(bounds[[1, 3]].mean()))
            box = centred(middle, card_side(one.drawn.boxes, cell.row), shape)
            read = self.context.attempt(self.record, partial(slide.picture, max(box.shape), box), "a nucleus")
            if read is None:
                continue
            picture = enlarged(read, CARD)
            own = np.zeros(len(classes), bool)
            own[cell.row] = True
            name = classes[cell.row] or CLASSLESS
            drawn = one.drawn.painting(box, picture.shape[:2]).outlined(picture, own, self.colours[name], thick=3)
            alt = f"{prefix}: around nucleus {cell.cell}, {name}"
            lines = (name, f"Probability {cell.score:.3f}", f"Marker {number(cell.mean, 4)}", self.record.name)
            yield cell, Card(encode(drawn, alt), lines, cell.cell)


def _picture_size(box: Box, longest: int) -> tuple[int, int]:
    """(y, x) of a picture of ``box``, whose longer side has ``longest`` pixels."""
    small = picture_shape(box.shape, longest)
    scale = longest / max(small)
    return max(1, round(small[0] * scale)), max(1, round(small[1] * scale))


def _circles(table: pd.DataFrame) -> Rings:
    at = np.nan_to_num(table[["y_px", "x_px"]].to_numpy(float))
    return discs(at, np.nan_to_num(table["area_px"].to_numpy(float)))
