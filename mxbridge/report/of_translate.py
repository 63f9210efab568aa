"""The report of a translating run: slides beside their inferred images, nuclei by class, counts and thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from mxbridge.report.blocks import Block, Card, Column, Gallery, Group, Note, Section, Table
from mxbridge.report.counts import class_counts
from mxbridge.report.distributions import Distribution, plot_distribution
from mxbridge.report.gallery import SHOWN, Candidate, chosen, nearest
from mxbridge.report.translated_image import HALF, NucleiOf, TranslatedImage
from mxbridge.runs import ImageRecord

if TYPE_CHECKING:
    from mxbridge.report.context import RunContext

OPENED = 6
"""Images whose pictures are seen at once; those of others are folded away."""

BRIGHTEST = 255.0
"""What inferred images hold at most: the unit of intensities in plots."""

CUTS = {
    "seg_threshold": "segmentation",
    "noise": "noise, pixels",
    "large_noise": "large noise, pixels",
    "marker_threshold": "marker",
    "od_lower": "optical density from",
    "od_upper": "optical density to",
}
"""Options that decide which nuclei count, by name in run.json."""


NUMBERS = ("num_total", "num_pos", "num_neg", "percent_pos", "size_thresh")
"""What run.json must tell of the nuclei of an image; runs of early versions tell less of other things."""


@dataclass
class SystemTally:
    """What is counted of the nuclei of one segmentation image, over all images."""

    prefix: str
    distribution: Distribution = field(default_factory=lambda: Distribution(HALF))
    candidates: list[list[Candidate]] = field(default_factory=list)
    cards: dict[tuple[int, str], Card] = field(default_factory=dict)


def sections(context: RunContext) -> Iterator[Section]:
    """Counts, pictures of images, distributions, galleries. To be gone through in order: pictures come as they are asked for."""
    report = _TranslateReport(context)
    scores = report.score_tables()
    if scores:
        yield Section("nuclei", "Nuclei", tuple(scores), "How many there are and how many of them are positive.")
    report.count()
    yield Section(
        "images",
        "Images",
        report.image_groups(),
        "The slide, its nuclei outlined by class, and the images that were inferred from it.",
    )
    if report.tallies:
        yield Section(
            "distributions",
            "How sure the calls are",
            report.distributions(),
            "The probability that a nucleus is positive is its share of positive colour in the segmentation image; a threshold of "
            "the marker can make it positive besides. Intensities are those of the inferred marker, of 255.",
        )
        yield Section(
            "gallery",
            f"The {SHOWN} most undecided nuclei",
            report.galleries(),
            "Those whose probability is nearest one half, in the slide's own colours, outlined in the colour of their class.",
        )


class _TranslateReport:
    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.tallies: dict[str, SystemTally] = {}
        self.chosen: dict[tuple[int, str], list[Candidate]] = {}
        self.classes: list[tuple[str, str, str, int, float]] = []
        self.numbers = {image.folder: k for k, image in enumerate(context.done)}

    # --- numbers ---

    def score_tables(self) -> list[Block]:
        from mxbridge.tasks.translating.tables import score_rows

        rows = self._told(score_rows)
        if not rows:
            return []
        counts = Table(
            (
                Column("Image"),
                Column("Model"),
                Column("Annotation"),
                Column("Class"),
                Column("Nuclei", "number"),
                Column("Positive", "number"),
                Column("Negative", "number"),
                Column("Positive share", "bar"),
            ),
            tuple(
                (
                    row["image"],
                    row["model"],
                    row["annotation"] or "whole image",
                    row["class"],
                    row["num_total"],
                    row["num_pos"],
                    row["num_neg"],
                    None if row["percent_pos"] is None else row["percent_pos"] / 100,
                )
                for row in rows
            ),
            "Nuclei of images and of their annotations",
            "A nucleus counts in every annotation that holds its centroid.",
        )
        return [counts, self._threshold_table(rows)]

    def _told(self, score_rows: Any) -> list[dict[str, Any]]:
        """What run.json tells of scores; nothing where it is not as this version writes it."""
        rows: list[dict[str, Any]] = []
        for image in self.context.done:
            try:
                found = score_rows([image])
                for row, key in product(found, NUMBERS):
                    if not isinstance(row[key], int | float | None):
                        raise TypeError(f"{key} is no number")
                rows += [{**dict.fromkeys(("model", "annotation", "class")), **row} for row in found]
            except (KeyError, TypeError, AttributeError) as error:
                self.context.problem(f"{image.name}: its scores cannot be shown ({error!r})")
                return []
        return rows

    def _threshold_table(self, rows: list[dict[str, Any]]) -> Table:
        options = self.context.run.options
        given = [(name, key, options.get(key)) for key, name in CUTS.items()]
        note = "; ".join(f"{name} {value}" for name, _, value in given if value not in (None, "none"))
        whole = [row for row in rows if row.get("annotation_id", row["annotation"]) is None]
        return Table(
            (
                Column("Image"),
                Column("Model"),
                Column("Smallest, pixels", "number"),
                Column("Largest, pixels", "number"),
                Column("Marker threshold", "number"),
            ),
            tuple(
                (r["image"], r["model"], r["size_thresh"], r.get("size_thresh_upper"), r.get("marker_thresh"))
                for r in whole
            ),
            "Thresholds that applied",
            f"In pixels of the inferred images. Options of the run: {note}."
            if note
            else "In pixels of the inferred images.",
        )

    def count(self) -> None:
        """Go through the tables of nuclei of all images once, keeping none."""
        for number, image in enumerate(self.context.done):
            for one in TranslatedImage(self.context, image).nuclei:
                self._count_nuclei(number, image, one)
        for tally in self.tallies.values():
            for cell in chosen(tally.candidates):
                self.chosen.setdefault((cell.image, tally.prefix), []).append(cell)

    def _count_nuclei(self, number: int, image: ImageRecord, one: NucleiOf) -> None:
        counts = class_counts(one.classes)
        self.classes += [(image.name, one.prefix, name, n, n / len(one.table)) for name, n in counts.items()]
        tally = self.tallies.setdefault(one.prefix, SystemTally(one.prefix))
        means = one.means
        tally.distribution.add(image.name, one.probability, means / BRIGHTEST if np.isfinite(means).any() else None)
        if self.context.pictured(image):
            ids = one.table["nucleus"].astype(str).tolist()
            tally.candidates.append(nearest(number, ids, one.probability, means, HALF))

    # --- pictures ---

    def image_groups(self) -> Iterator[Block]:
        done = self.context.done
        pictured = [image for image in done if self.context.pictured(image)]
        if len(pictured) < len(done):
            yield Note(f"Pictures are those of the first {len(pictured)} of {len(done)} images; numbers are of all.")
        for image in pictured:
            number = self.numbers[image.folder]
            translated = TranslatedImage(self.context, image)
            blocks = tuple(translated.blocks())
            if blocks:
                yield Group(image.name, blocks, open=number < OPENED)
            for prefix, tally in self.tallies.items():
                wanted = self.chosen.get((number, prefix), [])
                tally.cards |= {(c.image, c.cell): card for c, card in translated.cards(prefix, wanted)}

    def distributions(self) -> Iterator[Block]:
        for tally in self.tallies.values():
            yield plot_distribution(tally.prefix, tally.distribution, "positive probability", "255", "nuclei")
        columns = (
            Column("Image"),
            Column("Model"),
            Column("Class"),
            Column("Nuclei", "number"),
            Column("Share", "bar"),
        )
        yield Table(columns, tuple(self.classes), "Nuclei by class")

    def galleries(self) -> Iterator[Block]:
        names = [image.name for image in self.context.done]
        for tally in self.tallies.values():
            shown = chosen(tally.candidates)
            cards = [tally.cards[c.image, c.cell] for c in shown if (c.image, c.cell) in tally.cards]
            if cards:
                yield Gallery(tuple(cards), tally.prefix)
            lost = [c for c in shown if (c.image, c.cell) not in tally.cards]
            if lost:
                columns = (
                    Column("Image"),
                    Column("Nucleus"),
                    Column("Probability", "number"),
                    Column("Marker", "number"),
                )
                rows = tuple((names[c.image], c.cell, c.score, c.mean) for c in lost)
                yield Table(columns, rows, tally.prefix, "Nuclei whose slide could not be read.")
