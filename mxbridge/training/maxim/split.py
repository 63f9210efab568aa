"""What is learned from and what is held back to choose the weights by: whole cases, or a region of every image.

Nothing that is held back may decide a number of the training: patches, scaling and baselines are taken from the training
regions alone.
"""

from __future__ import annotations

import csv
import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mxbridge.errors import BrokenFile, InputError, SourceError, UnknownName, UsageError
from mxbridge.image import Box
from mxbridge.models.maxim_input import ScaledReader
from mxbridge.training.maxim.images import TrainingImage

VALIDATION_SHARE = 0.2
"""Of the cases, chosen by the seed where nothing else is said; at least one."""
SIDES = {"": "", "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid"}
TEST = "test"
"""Images of this side are neither learned from nor validated on."""
COMPARED = 64
"""Side of the part of an image that tells copies."""
LEAST_ROWS = 16
"""Of a region that is held back."""


class Region(NamedTuple):
    """A part of image number ``image``, in model pixels."""

    image: int
    box: Box

    @property
    def pixels(self) -> int:
        return math.prod(self.box.shape)


@dataclass(frozen=True)
class Split:
    """kind: ``cases`` or ``region``. line: for people and the model card. rows: of split.csv, one per image."""

    kind: Literal["cases", "region"]
    training: tuple[Region, ...]
    validation: tuple[Region, ...]
    line: str
    rows: tuple[Mapping[str, str], ...] = ()

    @property
    def training_pixels(self) -> int:
        return sum(r.pixels for r in self.training)


class CaseRow(NamedTuple):
    image: str
    case: str
    side: str


def read_cases(path: Path) -> tuple[CaseRow, ...]:
    """A CSV with the columns image, case and perhaps split (train, valid, test). Raises SourceError, BrokenFile.

    Cases that differ in case, blanks or the form of their letters alone are one case (see :func:`one_spelling`).
    """
    try:
        if not path.is_file():
            raise SourceError(f"no table of cases at {path}")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            table.fieldnames = [c.strip().casefold() for c in table.fieldnames or []]
            columns = table.fieldnames
            rows = [_case_row(path, number, row) for number, row in enumerate(table, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenFile(path, f"is not a CSV table in UTF-8 ({error})") from error
    except OSError as error:
        raise SourceError(f"{path}: the cases cannot be read ({error.strerror or error})") from error
    if not {"image", "case"} <= set(columns):
        raise BrokenFile(path, "has no columns 'image' and 'case'", hint="Columns: image, case, and perhaps split")
    return one_spelling(rows)


def one_spelling(rows: Sequence[CaseRow]) -> tuple[CaseRow, ...]:
    """Rows in which ``P 1``, ``p 1`` and ``P  1`` are called as the first of them is: a patient who is typed in two ways must not
    be on both sides of a split."""
    spelled: dict[str, str] = {}
    for row in rows:
        spelled.setdefault(_plain(row.case), row.case)
    return tuple(row._replace(case=spelled[_plain(row.case)]) for row in rows)


def _plain(case: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", case).casefold().split())


def _case_row(path: Path, number: int, row: Mapping[str, str | None]) -> CaseRow:
    image, case, side = ((row.get(key) or "").strip() for key in ("image", "case", "split"))
    if "image" in row and "case" in row and not (image and case):
        raise BrokenFile(path, f"line {number}: the image or its case is empty")
    if side.casefold() not in (*SIDES, TEST):
        raise BrokenFile(path, f"line {number}: split {side[:40]!r} is none of train, valid, test")
    return CaseRow(image, case, SIDES.get(side.casefold(), TEST))


def with_cases(images: Sequence[TrainingImage], table: Sequence[CaseRow] = ()) -> list[TrainingImage]:
    """Images with their case and side; without a table each is its own case.

    A row means the image with this id, path, name or file name. Raises UsageError for images without a row, and for rows
    that mean several images or the same one.
    """
    if not table:
        return [replace(i, case=i.case or _own_case(i, images)) for i in images]
    cases: dict[str, CaseRow] = {}
    for row in one_spelling(table):
        fitting = [i.id for i in images if row.image in (i.id, i.name)] or [
            i.id for i in images if row.image in (Path(i.id).name, Path(i.id).stem, str(Path(i.id)))
        ]
        if len(fitting) > 1:
            raise UsageError(
                f"the table of cases means {len(fitting)} images with {row.image}", hint="Use their paths or ids"
            )
        for found in fitting:
            if found in cases:
                raise UsageError(f"the table of cases has several rows for {row.image}", hint="One row per image")
            cases[found] = row
    missing = [i.name for i in images if i.id not in cases]
    if missing:
        raise UsageError(
            f"the table of cases has no row for {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}",
            hint="Add a row per image, or leave the images out",
        )
    return [replace(i, case=cases[i.id].case, side=cases[i.id].side) for i in images]


def _own_case(image: TrainingImage, images: Sequence[TrainingImage]) -> str:
    alone = sum(i.name == image.name for i in images) == 1
    return image.name if alone else image.id


def split_cases(
    images: Sequence[TrainingImage], shapes: Sequence[tuple[int, int]], held_back: Sequence[str], seed: int
) -> Split:
    """Whole cases on either side: those named, else those the table says, else a fifth of them by the seed.

    shapes: (y, x) at the model's scale. Raises UsageError when a case would be on both sides or a side would be empty.
    """
    sides = {k: image.side for k, image in enumerate(images)}
    cases = list(dict.fromkeys(image.case for k, image in enumerate(images) if sides[k] != TEST))
    if held_back:
        validation = [_known_case(name, cases) for name in held_back]
        contradicting = [
            i.case for i in images if i.side and i.side != TEST and (i.side == "valid") != (i.case in validation)
        ]
        if contradicting:
            raise UsageError(
                f"--validation and the table of cases disagree about {contradicting[0]}", hint="Use one of the two"
            )
    elif any(side == "valid" for side in sides.values()):
        validation = list(dict.fromkeys(i.case for i in images if i.side == "valid"))
        both = [c for c in validation if any(i.case == c and i.side not in ("valid", TEST) for i in images)]
        if both:
            raise UsageError(
                f"case {both[0]} is on both sides of the split",
                hint="Put all its images on one side, or hold back a region of every image with --validation-region 0.2",
            )
    else:
        _enough_cases(cases)
        drawn = np.random.default_rng([seed, 31]).permutation(len(cases))
        count = min(len(cases) - 1, max(1, round(VALIDATION_SHARE * len(cases))))
        validation = [cases[k] for k in sorted(drawn[:count])]
    training = [c for c in cases if c not in validation]
    _enough_cases(cases)
    tested = {i.case for i in images if i.side == TEST}
    both = [c for c in cases if c in tested]
    if both:
        raise UsageError(f"case {both[0]} is on both sides: some of its images are for testing", hint=_WHAT_TO_DO)
    if not training or not validation:
        raise UsageError(f"all cases would be {'held back' if validation else 'trained on'}", hint=_WHAT_TO_DO)
    whole = [Region(k, Box(0, 0, *shape)) for k, shape in enumerate(shapes)]
    alone = len({image.case for image in images}) == len(images)
    line = (
        f"by case{' (every image taken for one)' if alone else ''}: {_listed(validation)} held back to choose the weights, "
        f"{_listed(training)} trained on"
    )
    return Split(
        "cases",
        tuple(r for r in whole if images[r.image].case in training and sides[r.image] != TEST),
        tuple(r for r in whole if images[r.image].case in validation and sides[r.image] != TEST),
        line,
        tuple(
            _row(i, "left out" if i.side == TEST else "validation" if i.case in validation else "training")
            for i in images
        ),
    )


_WHAT_TO_DO = (
    "Give images of at least two cases (--cases says which image is of which), or hold back a region of every image with "
    "--validation-region 0.2"
)


def _enough_cases(cases: Sequence[str]) -> None:
    if len(cases) < 2:
        raise UsageError(f"{len(cases)} case is too few to train and to validate on different ones", hint=_WHAT_TO_DO)


def _known_case(name: str, cases: Sequence[str]) -> str:
    folded = [c for c in cases if c == name] or [c for c in cases if _plain(c) == _plain(name)]
    folded = folded or [c for c in cases if Path(c).name == name]
    if len(folded) != 1:
        raise UnknownName("case", name, cases)
    return folded[0]


def split_regions(
    images: Sequence[TrainingImage], shapes: Sequence[tuple[int, int]], share: float, guard: int
) -> Split:
    """The lower ``share`` of every image's rows is held back, and ``guard`` rows above it are used for nothing.

    Raises UsageError, and InputError for an image too small for that.
    """
    if not 0 < share < 1:
        raise UsageError(f"--validation-region {share:g} is not between 0 and 1", hint="Use 0.2 for a fifth")
    training, validation, rows = [], [], []
    for k, (image, (height, width)) in enumerate(zip(images, shapes, strict=True)):
        if image.side == TEST:
            rows.append(_row(image, "left out"))
            continue
        first = height - max(LEAST_ROWS, round(share * height))
        if first - guard < LEAST_ROWS:
            raise InputError(
                f"{image.name} has {height} rows: too few to hold back {share:g} of them and leave {guard} unused",
                hint="Hold back whole cases with --validation, or use fewer unused rows with --guard",
            )
        training.append(Region(k, Box(0, 0, first - guard, width)))
        validation.append(Region(k, Box(first, 0, height, width)))
        rows.append(_row(image, f"training rows 0 to {first - guard}, validation rows {first} to {height}"))
    if not training:
        raise UsageError("all images are of the test side", hint="See the column split of the table of cases")
    line = (
        f"by region: the lower {share:g} of the rows of every image held back to choose the weights, {guard} rows above it "
        "unused; both sides are of the same images, so this says less of new slides than a split by case"
    )
    return Split("region", tuple(training), tuple(validation), line, tuple(rows))


def check_no_copies(split: Split, images: Sequence[TrainingImage], readers: Sequence[ScaledReader]) -> None:
    """Raises UsageError where a held-back image shows what one that is trained on shows: a copy that is called otherwise.

    Told by the middle of images of one size; one without anything there is not told.
    """
    if split.kind == "region":
        return
    learned = {readers[r.image].shape for r in split.training}
    held_back = {readers[r.image].shape for r in split.validation}
    marks = {
        _middle(readers[r.image]): images[r.image].name for r in split.training if readers[r.image].shape in held_back
    }
    for region in split.validation:
        mark = _middle(readers[region.image]) if readers[region.image].shape in learned else b""
        if mark and mark in marks:
            raise UsageError(
                f"{images[region.image].name}, which is held back, shows the same pixels as {marks[mark]}",
                hint="Leave one of them out, or give both the same case with --cases",
            )


def _middle(reader: ScaledReader) -> bytes:
    """Hash of the middle of an image; empty for one without anything there."""
    (y, height), (x, width) = (((n - min(n, COMPARED)) // 2, min(n, COMPARED)) for n in reader.shape)
    pixels = reader.read(Box(y, x, y + height, x + width))
    return hashlib.sha256(pixels.tobytes()).digest() if np.ptp(pixels) > 0 else b""


def _row(image: TrainingImage, use: str) -> Mapping[str, str]:
    return {"image": image.name, "id": image.id, "case": image.case, "use": use}


def take_fraction(split: Split, fraction: float, seed: int) -> Split:
    """Fewer training data: a seeded choice of images, smaller fractions within larger ones; below two images a part of each
    image's columns. Validation stays as it is."""
    if fraction >= 1:
        return split
    count = round(fraction * len(split.training))
    drawn = np.random.default_rng([seed, 32])
    if count >= 2:
        chosen = set(drawn.permutation(len(split.training))[:count].tolist())
        kept = tuple(r for k, r in enumerate(split.training) if k in chosen)
        used = f"{count} of {len(split.training)} training images"
    else:
        kept = tuple(_part(region, fraction, drawn) for region in split.training)
        used = f"{fraction:g} of the area of the training images"
    images = {r.image for r in (*kept, *split.validation)}
    rows = tuple(
        row if k in images or row["use"] == "left out" else {**row, "use": "left out by --fraction"}
        for k, row in enumerate(split.rows)
    )
    return replace(split, training=kept, line=f"{split.line}; --fraction {fraction:g}: {used} used", rows=rows)


def _part(region: Region, fraction: float, drawn: np.random.Generator) -> Region:
    width = region.box.shape[1]
    kept = max(1, round(fraction * width))
    first = int(drawn.integers(2)) * (width - kept)
    return Region(region.image, Box(region.box.y0, first, region.box.y1, first + kept))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
