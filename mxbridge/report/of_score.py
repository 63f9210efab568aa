"""The report of a scoring run: which cells are called positive, how sure that is, and the cells nearest the threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mxbridge.report.blocks import Block, Card, Column, Gallery, Group, Note, Section, Table
from mxbridge.report.counts import CLASSLESS, class_counts
from mxbridge.report.distributions import Distribution, plot_distribution
from mxbridge.report.gallery import SHOWN, Candidate, chosen, nearest
from mxbridge.report.scored_image import AnnotationRow, ScoredImage, Sizes, factor_of, is_positive
from mxbridge.runs import ImageRecord

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.report.context import RunContext

CROPPED = 6
"""Images of which there are crops to zoom into; of more there would be too much to look at."""

WIDEST_TABLE = 12
"""Markers that get columns of a table of annotations."""


@dataclass
class MarkerTally:
    """What is counted of one marker, image by image. positive: by image (cells with a score, of them positive)."""

    marker: str
    column: str
    threshold: float
    distribution: Distribution
    candidates: list[list[Candidate]] = field(default_factory=list)
    positive: list[tuple[str, str, int, int]] = field(default_factory=list)
    cards: dict[tuple[int, str], Card] = field(default_factory=dict)

    @property
    def balance(self) -> float:
        """How well the marker tells cells apart: most where half of all are positive."""
        cells, positive = (sum(counts) for counts in zip(*((row[2], row[3]) for row in self.positive), strict=True))
        return positive / cells * (1 - positive / cells) if cells else 0.0


def sections(context: RunContext) -> Iterator[Section]:
    """Pictures of images, distributions, galleries, counts. Nothing is read before it is asked for; to be gone through in order."""
    report = _ScoreReport(context)
    report.count()
    if not report.tallies:
        if context.done:
            yield Section(
                "images", "Images", (Note("No table of cells of this run can be read; see Warnings.", "warning"),)
            )
        return
    yield Section(
        "images",
        "Images",
        report.image_groups(),
        "For every marker its stain with the cells that are called positive outlined, and all cells coloured by score.",
    )
    yield Section(
        "distributions",
        "Scores of each marker",
        report.distributions(),
        "How many cells have which score (the axis is stretched so that single cells can be seen), and scores against the mean "
        "intensity of cells in units of the normalisation factor; darker: more cells. The dashed line is the threshold.",
    )
    yield Section(
        "gallery",
        f"The {SHOWN} cells nearest each threshold",
        report.galleries(),
        "Where a threshold is right, these look undecided. Stain as in the pictures above; the outline is orange where the cell is "
        "called positive, blue where it is not. Mean: intensity of the stain over the cell, as stored.",
    )
    yield Section("counts", "Counts", report.counts(), "Positive cells, classes, and what lies in annotations.")


class _ScoreReport:
    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.tallies: dict[str, MarkerTally] = {}
        self.classes: list[tuple[str, dict[str, int]]] = []
        self.annotations: list[AnnotationRow] = []
        self.counted: set[str] = set()
        """Folders of the images whose tables could be read."""
        self.numbers = {image.folder: k for k, image in enumerate(context.done)}
        self.chosen: dict[tuple[int, str], list[Candidate]] = {}

    # --- counting: one image after another, nothing of it is kept ---

    def count(self) -> None:
        for number, image in enumerate(self.context.done):
            table = self.context.table(image)
            if table is not None:
                self._count_image(number, image, table)
        for tally in self.tallies.values():
            shown = chosen(tally.candidates)
            for cell in shown:
                self.chosen.setdefault((cell.image, tally.marker), []).append(cell)

    def _count_image(self, number: int, image: ImageRecord, table: pd.DataFrame) -> None:
        from mxbridge.errors import InputError
        from mxbridge.formats.cell_tables import score_columns

        try:
            columns = score_columns(list(table.columns))
            if not {"cell", "class"} <= set(table.columns):
                raise InputError("its table of cells lacks their ids or classes")
        except InputError as error:
            self.context.problem(f"{image.name}: {error}")
            return
        self.counted.add(image.folder)
        ids = table["cell"].astype(str).tolist()
        self.classes.append((image.name, class_counts(table["class"].tolist())))
        for column in columns:
            tally = self._tally(column.marker, column.score)
            scores = table[column.score].to_numpy(np.float32)
            means = table[column.mean].to_numpy(np.float32) if column.mean in table else np.full(len(table), np.nan)
            factor = factor_of(image, column.marker)
            tally.distribution.add(image.name, scores, None if factor is None else means / factor)
            known = np.isfinite(scores)
            positive = int(is_positive(scores, tally.threshold).sum())
            tally.positive.append((image.name, image.id, int(known.sum()), positive))
            if self.context.pictured(image):
                tally.candidates.append(nearest(number, ids, scores, means, tally.threshold))

    def _tally(self, marker: str, column: str) -> MarkerTally:
        if marker not in self.tallies:
            cut = threshold_of(self.context.run.options, marker)
            self.tallies[marker] = MarkerTally(marker, column, cut, Distribution(cut))
        return self.tallies[marker]

    # --- pictures ---

    def image_groups(self) -> Iterator[Block]:
        done = self.context.done
        pictured = [image for image in done if self.context.pictured(image)]
        if len(pictured) < len(done):
            yield Note(f"Pictures are those of the first {len(pictured)} of {len(done)} images; numbers are of all.")
        sizes = Sizes.for_pictures(len(pictured) * len(self.tallies))
        mixed = sorted(self.tallies, key=lambda marker: self.tallies[marker].balance, reverse=True)
        for image in (image for image in done if image.folder in self.counted):
            scored = ScoredImage(self.context, image, self.tallies, sizes, mixed)
            self.annotations += scored.annotation_rows()
            if image not in pictured:
                continue
            crops = self.numbers[image.folder] < CROPPED
            blocks = tuple(scored.blocks(crops=crops))
            if blocks:
                yield Group(image.name, blocks, open=self.numbers[image.folder] < CROPPED)
            for marker, tally in self.tallies.items():
                wanted = self.chosen.get((self.numbers[image.folder], marker), [])
                tally.cards |= {(c.image, c.cell): card for c, card in scored.cards(marker, wanted)}

    def galleries(self) -> Iterator[Block]:
        names = [image.name for image in self.context.done]
        for tally in self.tallies.values():
            shown = chosen(tally.candidates)
            cards = [tally.cards[c.image, c.cell] for c in shown if (c.image, c.cell) in tally.cards]
            title = f"{tally.marker}: threshold {tally.threshold:.3g}"
            if cards:
                yield Gallery(tuple(cards), title)
            lost = [c for c in shown if (c.image, c.cell) not in tally.cards]
            if lost:
                yield Table(
                    (Column("Image"), Column("Cell"), Column("Score", "number"), Column("Mean intensity", "number")),
                    tuple((names[c.image], c.cell, c.score, c.mean) for c in lost),
                    title,
                    "Cells whose pixels or outlines could not be reached.",
                )

    # --- numbers ---

    def distributions(self) -> Iterator[Block]:
        for tally in self.tallies.values():
            yield plot_distribution(tally.marker, tally.distribution)

    def counts(self) -> Iterator[Block]:
        rows = [
            (name, tally.marker, tally.threshold, cells, positive, positive / cells if cells else None)
            for tally in self.tallies.values()
            for name, _, cells, positive in tally.positive
        ]
        yield Table(
            (
                Column("Image"),
                Column("Marker"),
                Column("Threshold", "number"),
                Column("Cells with a score", "number"),
                Column("Positive", "number"),
                Column("Share", "bar"),
            ),
            tuple(rows),
            "Cells at or above the threshold",
        )
        yield from self._class_table()
        yield from self._annotation_table()

    def _class_table(self) -> Iterator[Block]:
        if all(set(counts) <= {CLASSLESS} for _, counts in self.classes):
            return
        rows = [
            (image, name, cells, cells / sum(counts.values()))
            for image, counts in self.classes
            for name, cells in counts.items()
        ]
        was_set = bool(self.context.run.options.get("set_class"))
        note = "As this run set them (--set-class)." if was_set else "As they were when the run read them."
        columns = (Column("Image"), Column("Class"), Column("Cells", "number"), Column("Share", "bar"))
        yield Table(columns, tuple(rows), "Cells by class", note)

    def _annotation_table(self) -> Iterator[Block]:
        if not self.annotations:
            return
        markers = list(self.tallies)[:WIDEST_TABLE]
        columns = (Column("Image"), Column("Annotation"), Column("Class"), Column("Cells", "number"))
        rows = tuple(
            (row.image, row.annotation, row.class_name, row.cells, *(row.positive.get(m) for m in markers))
            for row in self.annotations
        )
        more = len(self.tallies) - len(markers)
        note = "Share of positive cells; a cell counts in every annotation that holds its centroid."
        note += f" {more} more markers are in the tables of the run." if more else ""
        yield Table((*columns, *(Column(m, "percent") for m in markers)), rows, "Cells in annotations", note)


def threshold_of(options: dict[str, object], marker: str) -> float:
    """The threshold that a run used for a marker, as run.json tells it; 0.5 where it does not."""
    used = options.get("thresholds_used")
    told = used.get(marker) if isinstance(used, dict) else None
    told = options.get("threshold") if told is None else told
    return float(told) if isinstance(told, int | float) and 0 < told < 1 else 0.5
