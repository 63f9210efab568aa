"""What a report can still see of a run: its folder, and the images it was made from as far as they can be reached.

Nothing here raises for one bad image: what cannot be had is None, and why is kept once in ``problems``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mxbridge.errors import BrokenFile, MxbridgeError, SourceError
from mxbridge.progress import SILENT, Progress
from mxbridge.results import RESULTS, ImageRef, Results
from mxbridge.runs import ImageRecord, Run

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.workspaces.base import CellKind, Pulled, Workspace

MOST_PICTURED = 100
"""Images that get pictures; of more there are tables only."""

WORDS = ("image", "image_id", "cell", "class")
"""Columns of a table of cells that hold text; all others hold numbers."""

T = TypeVar("T")


class RunContext:
    """run: as it is recorded. workspace: where its images are, or None, and ``why_not`` says why.

    problems: what could not be had, in the order in which it was asked for, each once; the report shows them.
    unreached: names of images whose pixels or cells were asked for in vain, and why.
    """

    def __init__(self, run: Run, workspace: Workspace | None, why_not: str = "", progress: Progress = SILENT) -> None:
        self.run = run
        self.workspace = workspace
        self.why_not = why_not
        self.progress = progress
        self.problems: list[str] = []
        self.unreached: dict[str, str] = {}
        self._at_hand: str | None = None
        self._kept: dict[tuple[str, object], object] = {}

    @cached_property
    def done(self) -> tuple[ImageRecord, ...]:
        """The images that have results, in the run's order."""
        return tuple(image for image in self.run.images if (self.run.folder_of(image) / RESULTS).is_file())

    @cached_property
    def _pictured(self) -> frozenset[str]:
        return frozenset(image.folder for image in self.done[:MOST_PICTURED])

    def pictured(self, image: ImageRecord) -> bool:
        """Whether this image is among those that get pictures, the first hundred."""
        return image.folder in self._pictured

    def results(self, image: ImageRecord) -> Results | None:
        """What the task made of an image. Those of the image at hand are remembered, no others."""
        folder = self.run.folder_of(image)
        return self._of(image, "results", lambda: Results.load(folder), "its results")

    def table(self, image: ImageRecord) -> pd.DataFrame | None:
        """``cells.parquet`` of an image; None, without a problem, for tasks that write none."""
        from mxbridge.formats.cell_tables import STEM

        file = self.run.folder_of(image) / f"{STEM}.parquet"
        return self._of(image, "table", lambda: _checked_table(file), "its table of cells") if file.is_file() else None

    def pulled(self, image: ImageRecord, kind: CellKind | None = "cells") -> Pulled | None:
        """The image, its pixels read when they are asked for, with its cells (kind None: without)."""
        if self.workspace is None:
            return None
        workspace, ref = self.workspace, ImageRef(image.id, image.name)
        before = len(self.problems)
        found = self._of(image, kind, lambda: workspace.pull(ref, kind), "the image itself")
        if found is None and len(self.problems) > before:
            self.unreached[str(ref)] = self.problems[-1]
        return found

    def attempt(self, image: ImageRecord, make: Callable[[], T], what: str) -> T | None:
        """What ``make`` gives; None where the image's pixels or files do not allow it, which becomes a problem."""
        try:
            return make()
        except (MxbridgeError, OSError) as error:
            self.problem(f"{image.name}: {what} cannot be shown ({error})")
            return None

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def _of(self, image: ImageRecord, what: object, load: Callable[[], T], words: str) -> T | None:
        if self._at_hand != image.folder:
            self._at_hand = image.folder
            self._kept.clear()
            self.progress.step("report", self.run.images.index(image), len(self.run.images))
        key = (image.folder, what)
        if key not in self._kept:
            self._kept[key] = self._loaded(image, load, words)
        return self._kept[key]  # type: ignore[return-value]  # what was put under this key

    def _loaded(self, image: ImageRecord, load: Callable[[], T], words: str) -> T | None:
        try:
            return load()
        except SourceError as error:
            if self.run.is_of_server:  # every further image would wait as long
                self.workspace, self.why_not = None, str(error)
            self.problem(f"{image.name}: {words} cannot be reached ({error})")
        except (MxbridgeError, OSError) as error:
            self.problem(f"{image.name}: {words} cannot be read ({error})")
        return None


def _checked_table(file: Path) -> pd.DataFrame:
    """``cells.parquet`` whose columns hold what they should. Raises SourceError, BrokenFile."""
    from pandas.api.types import infer_dtype, is_numeric_dtype

    from mxbridge.formats.cell_tables import read_cell_table

    table = read_cell_table(file)
    if not table.columns.is_unique:
        raise BrokenFile(file, "has two columns of the same name")
    for column in table.columns:
        if column in WORDS:
            if column == "class" and infer_dtype(table[column], skipna=True) not in ("string", "empty"):
                raise BrokenFile(file, "has classes that are no names")
        elif not is_numeric_dtype(table[column]):
            raise BrokenFile(file, f"holds no numbers in the column {column}")
    return table
