"""What a report is made of: sections of blocks, plain data without any HTML.

The kinds of runs (``of_score``, ``of_impute`` ...) yield these; ``page`` alone knows how they look. Texts are shown as they are:
the page escapes them, so names from files need no care here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

PictureKind = Literal["webp", "png", "jpeg"]
ColumnKind = Literal["text", "number", "percent", "bar", "badge"]
NoteKind = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Picture:
    """An encoded picture. data: the file's bytes; width, height: its pixels; alt: what is to be seen, for those who cannot."""

    data: bytes
    width: int
    height: int
    alt: str
    caption: str = ""
    kind: PictureKind = "webp"

    def __post_init__(self) -> None:
        _one_of("picture", self.kind, get_args(PictureKind))


@dataclass(frozen=True)
class Plot:
    """A drawing as SVG text, made by :func:`mxbridge.report.plotting.to_svg` and by nothing else: it is put into the page as it
    is."""

    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    kind: ``number`` with ``digits`` significant digits (whole numbers in full); ``percent``, of a fraction (0.25 is 25 %),
    and ``bar``, the same with a bar, with one decimal; ``badge``, a word such as ``ok`` or ``failed``, coloured by what it says.
    """

    name: str
    kind: ColumnKind = "text"
    digits: int = 3

    def __post_init__(self) -> None:
        _one_of("column", self.kind, get_args(ColumnKind))


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are columns. None and NaN are shown as a dash and sorted last.

    file: of the run folder, with the same and all rows; a table that is too wide for paper names it there.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""
    note: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.caption or 'a table'}: {len(row)} cells in a row of {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Facts:
    """Names and what they are, in order."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Numbers:
    """A few numbers to be seen first: ``(number, what it counts)``, as text."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Note:
    """A sentence or two that should not be overlooked."""

    text: str
    kind: NoteKind = "note"

    def __post_init__(self) -> None:
        _one_of("note", self.kind, get_args(NoteKind))


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is: a command, a file."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Card:
    """A small picture and a few lines below it; the first line is its name. id: of what it shows, whole, to be copied."""

    picture: Picture
    lines: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards side by side, as many in a row as there is room for."""

    items: tuple[Card, ...]
    title: str = ""


@dataclass(frozen=True)
class Pictures:
    """One of several choices at a time, e.g. one per marker: ``(name, pictures)``. On paper the first, or all where there are
    at most three."""

    title: str
    choices: tuple[tuple[str, tuple[Picture, ...]], ...]


@dataclass(frozen=True)
class Group:
    """Blocks that can be folded away, e.g. those of one image. open: whether they are seen at first. on_paper: whether they are
    printed even when they are folded.

    blocks may be a generator, as in :class:`Section`.
    """

    title: str
    blocks: Iterable[Block]
    open: bool = True
    on_paper: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and a line in its table of contents. id: lower-case ASCII letters, digits, hyphens;
    unique on the page. lead: what this part tells, in a sentence.

    blocks may be a generator: it is gone through once, and each picture is put away before the next one is asked for, so that
    those of 100 slides are never in memory together.
    """

    id: str
    title: str
    blocks: Iterable[Block]
    lead: str = ""

    def __post_init__(self) -> None:
        if not self.id or not all(c.isascii() and (c.islower() or c.isdigit() or c == "-") for c in self.id):
            raise ValueError(f"{self.id!r} cannot be the id of a section")


Block = Picture | Plot | Table | Facts | Numbers | Note | Code | Gallery | Pictures | Group


def is_missing(value: Any) -> bool:
    """None, NaN and pandas' NA: shown as a dash."""
    if value is None:
        return True
    try:
        return math.isnan(value)
    except (TypeError, ValueError):
        return type(value).__name__ in ("NAType", "NaTType")


def _one_of(what: str, kind: str, kinds: tuple[str, ...]) -> None:
    if kind not in kinds:
        raise ValueError(f"a {what} of the kind {kind!r}; there is: {', '.join(kinds)}")
