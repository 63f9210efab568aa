"""The one door to images: where they live, and where results return.

A workspace knows no model; a model never sees a workspace. Four verbs: list, pull, publish, retract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mxbridge.cells import Cells, OutlineCells
from mxbridge.image import LocalImage
from mxbridge.results import ImageRef, Results
from mxbridge.stains import StainVectors

CellKind = Literal["cells", "detections", "annotations"]
"""Which objects count as cells. ``cells``: cell objects (or plain detections where there are none)."""

MADE = ("channels", "values", "objects")
"""Kinds of results: derived images, values of cells that are there, new outlines with values."""


@dataclass(frozen=True)
class Pulled:
    """What a task gets of one image. ``cells`` is None where the image has none of the kind asked for.

    annotations: with an area, where the task is limited to some of them (``tasks.regions``); None where there are none.
    """

    ref: ImageRef
    image: LocalImage
    cells: Cells | None
    warnings: tuple[str, ...] = ()
    annotations: OutlineCells | None = None

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Those of the image and those of the workspace, each once."""
        return tuple(dict.fromkeys((*self.image.warnings, *self.warnings)))


@dataclass(frozen=True)
class Published:
    """What a workspace did with one Results. ``changed`` is False when everything was there already.

    keys: the result keys that were taken out; None for all that were asked for.
    """

    ref: ImageRef
    changed: bool
    where: str
    notes: tuple[str, ...] = field(default=())
    keys: tuple[str, ...] | None = None


class Workspace(ABC):
    """A place with images. Address and identity are stable between runs."""

    address: str

    @property
    def default_model(self) -> str | None:
        """Model that this place asks for when none is named (projects made by ``mxbridge demo``), else None."""
        return None

    @property
    def class_colors(self) -> Mapping[str, int | None]:
        """Full class name -> signed ARGB, None for one without colour, of the classes this place lists. Raises BrokenFile."""
        return {}

    @property
    def opened(self) -> dict[str, Any]:
        """What ``open_workspace`` needs besides the address to open this place again, as JSON can say it."""
        return {}

    @property
    @abstractmethod
    def runs_home(self) -> Path:
        """Folder in which run folders go when --out is not given (``.../mxbridge-runs``)."""

    def derived_folder(self, ref: ImageRef) -> Path | None:
        """Where images derived from ``ref`` can stay, or None where that is the run folder."""
        return None

    @abstractmethod
    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        """All images, or those named by name or id, in a stable order.

        Images that mxbridge made are left out unless named one by one. Raises UnknownName.
        """

    @abstractmethod
    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        """Open one image lazily and read its cells (None: pixels only). Raises SourceError, InputError."""

    def object_ids(self, ref: ImageRef, result_key: str, keys: Sequence[str]) -> Sequence[str]:
        """The ids that new objects with these keys have, or would have, once they are published here."""
        return keys

    def stain_vectors(self, ref: ImageRef) -> StainVectors | None:
        """The colours of the stains that people set for an image; None where this place keeps none. Raises InputError."""
        return None

    @abstractmethod
    def publish(self, results: Results) -> Published:
        """Put results where people look at them, replacing what the same result keys left earlier and nothing else.

        Raises OutputError (Locked, ChangedMeanwhile), never leaves a half-written state.
        """

    @abstractmethod
    def holds(self, results: Results) -> bool:
        """Whether exactly these results are in the workspace now (False after they were lost or edited away)."""

    @abstractmethod
    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        """Take results out again (``mxbridge undo``): remove what we made, restore what we changed, keep users' edits.

        run_id: only what this run published; a later run's results under the same keys stay.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Raise OutputError early, before hours of work, when publish cannot succeed."""

    def intentions(self, ref: ImageRef, makes: Collection[str] = MADE) -> tuple[str, ...]:
        """What publishing results of ``ref`` would do here, for ``--dry-run``: one line per thing that people may want to know
        before (where it goes, what it replaces, what they may not do). Nothing is written. Raises SourceError.

        makes: the kinds of results (of ``MADE``) that the task makes; of others nothing is said.
        """
        return ()

    def rest(self) -> None:  # noqa: B027 - most places hold nothing
        """Nothing will be asked of this place for a while: let go of sessions and locks. It can be used again at any time."""
