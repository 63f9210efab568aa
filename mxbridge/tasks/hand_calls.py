"""Scores of cells together with what people have said of them, gathered over the images of a project or of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError, UnknownName, UsageError
from mxbridge.formats.cell_tables import read_cell_table, score_columns
from mxbridge.formats.pixels import looking, missing, reading
from mxbridge.results import ImageRef
from mxbridge.runs import Run, all_runs
from mxbridge.tasks.positivity import HandCalls
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.qupath.hand_classes import HandClassed, published_columns, read_hand_classes
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

POSITIVE, NEGATIVE = 1, 2
_SAID = {True: POSITIVE, False: NEGATIVE, None: POSITIVE | NEGATIVE}
_SHORT = {"1": True, "+": True, "pos": True, "yes": True, "true": True, "0": False, "-": False, "neg": False, "no": False, "false": False}  # fmt: skip
"""What a table may say besides class names."""


@dataclass
class ClassedCells:
    """Cells that people called positive or negative for one marker.

    scores: float32; positive: bool; images: number of the image of each. conflicts: cells called both, left out.
    unscored: cells with a call but without a score, left out. cells: all cells with a score, for comparison.
    """

    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    positive: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    conflicts: int = 0
    unscored: int = 0
    cells: int = 0

    def add(self, said: NDArray[np.uint8], scores: NDArray[np.float32], image: int) -> None:
        """The cells of one image. said: ``(cells,)`` of POSITIVE, NEGATIVE, both, or neither."""
        called = (said == POSITIVE) | (said == NEGATIVE)
        scored = np.isfinite(scores)
        use = called & scored
        self.scores = np.r_[self.scores, scores[use]].astype(np.float32)
        self.positive = np.r_[self.positive, said[use] == POSITIVE]
        self.images = np.r_[self.images, np.full(int(use.sum()), image)]
        self.conflicts += int((said == POSITIVE | NEGATIVE).sum())
        self.unscored += int((called & ~scored).sum())
        self.cells += int(scored.sum())

    @property
    def counts(self) -> tuple[int, int]:
        """Positive and negative cells."""
        return int(self.positive.sum()), int((~self.positive).sum())


@dataclass(frozen=True)
class Scored:
    """Where the scores are. model: the name they are measured under. runs: by image id, then marker; folder: of a run whose
    tables are read instead of what is published."""

    model: str
    markers: tuple[str, ...]
    images: tuple[ImageRef, ...]
    runs: Mapping[str, Mapping[str, Run]]
    tables: Run | None = None

    @property
    def newest(self) -> Run:
        """The last run that scored any of this."""
        return max((run for by_marker in self.runs.values() for run in by_marker.values()), key=lambda run: run.started)

    def runs_of(self, marker: str) -> list[Run]:
        """Every run that scored a marker, each once, the newest first."""
        found = {run.run_id: run for by_marker in self.runs.values() for m, run in by_marker.items() if m == marker}
        return sorted(found.values(), key=lambda run: run.started, reverse=True)


def published_scores(workspace: QuPathWorkspace, refs: Sequence[ImageRef], model: str | None) -> Scored:
    """What is published in a project. Raises InputError (nothing is, or its run is gone), UsageError (several models)."""
    known = {run.run_id: run for run in all_runs(workspace.runs_home)}
    others = {run_id for run_id, run in known.items() if run.task != "score"}  # imputed stains are no scores
    columns = {ref: published_columns(workspace, ref) for ref in refs}
    measured = {ref: {n: run for n, run in names.items() if run not in others} for ref, names in columns.items()}
    models = dict.fromkeys(name.split(": ", 1)[0] for names in measured.values() for name in names if ": " in name)
    if model is None and len(models) > 1:
        raise UsageError(f"there are scores of several models: {', '.join(models)}", hint="Choose one with --model")
    if not models:
        raise InputError(
            f"no scores are published in {workspace.address}",
            hint="Score it first, or name an unpublished run with --run",
        )
    chosen = next(iter(models)) if model is None else model
    if chosen not in models:
        raise UnknownName("scores of a model", chosen, models, where=workspace.address)
    runs: dict[str, dict[str, Run]] = {}
    for ref, names in measured.items():
        for name, run_id in names.items():
            if not name.startswith(f"{chosen}: "):
                continue
            if run_id not in known:
                raise InputError(
                    f"{ref}: the run {run_id} that published {name} is not in {workspace.runs_home}",
                    hint="Name its folder with --run: it says which weights and normalisation the scores come from",
                )
            runs.setdefault(ref.id, {})[name.removeprefix(f"{chosen}: ")] = known[run_id]
    markers = dict.fromkeys(marker for by_marker in runs.values() for marker in by_marker)
    return Scored(chosen, tuple(markers), tuple(ref for ref in refs if ref.id in runs), runs)


def scores_of_run(run: Run, names: Sequence[str]) -> Scored:
    """The tables of a run. names: only these images, by name or id. Raises UsageError, UnknownName, BrokenFile."""
    if run.task != "score":
        raise UsageError(f"{run.path} is a run of {run.task}, which has no thresholds")
    done = [image for image in run.images if image.status in ("computed", "published")]
    chosen = [image for image in done if not names or {image.name, image.id} & set(names)]
    for name in names:
        if not any(name in (image.name, image.id) for image in done):
            raise UnknownName("finished image", name, [image.name for image in done], where=str(run.path))
    if not chosen:
        raise UsageError(f"{run.path} has no finished image", hint="Run the same command again to finish it")
    runs: dict[str, dict[str, Run]] = {}
    models: dict[str, None] = {}
    for image in chosen:
        columns = score_columns(list(read_cell_table(run.folder_of(image)).columns))
        runs[image.id] = {c.marker: run for c in columns}
        models |= {c.model: None for c in columns}
    if not models:
        raise BrokenFile(run.path, "has no scores in its tables", hint="Run the same command again with --restart")
    markers = dict.fromkeys(marker for by_marker in runs.values() for marker in by_marker)
    refs = tuple(ImageRef(image.id, image.name) for image in chosen)
    return Scored(next(iter(models)), tuple(markers), refs, runs, run)


def gather(
    scored: Scored, calls: HandCalls, *, workspace: QuPathWorkspace | None, kind: CellKind, table: Path | None
) -> dict[str, ClassedCells]:
    """Calls and scores by marker. table: a CSV of calls that stands in place of what the project's objects say.

    Raises BrokenFile, InputError, SourceError, UnknownName.
    """
    found = {marker: ClassedCells() for marker in calls.wanted}
    rows = _by_image(read_class_table(table), scored.images, table) if table is not None else {}
    for number, ref in enumerate(scored.images):
        objects = HandClassed(ref)
        markers = [m for m in calls.wanted if m in scored.runs[ref.id]]
        if workspace is not None and (table is None or scored.tables is None):
            names = [f"{scored.model}: {m}" for m in markers] if scored.tables is None else []
            objects = read_hand_classes(workspace, ref, kind, names, lambda name: bool(calls.read(name)))
        ids, columns = _scores(scored, ref, objects, markers)
        said = {marker: np.zeros(len(ids), np.uint8) for marker in calls.wanted}
        if table is None:
            _hear_objects(said, calls, objects, ids)
        else:
            _hear_table(said, calls, rows.get(ref.id, ()), ids, table)
        for marker in markers:
            found[marker].add(said[marker], columns[marker], number)
    return found


def _scores(
    scored: Scored, ref: ImageRef, objects: HandClassed, markers: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]]]:
    """Ids of the cells of one image, and their scores by marker."""
    if scored.tables is None:
        return objects.ids, {m: objects.columns[f"{scored.model}: {m}"] for m in markers}
    run = scored.tables
    image = next(image for image in run.images if image.id == ref.id)
    frame = read_cell_table(run.folder_of(image))
    try:
        ids = tuple(str(cell) for cell in frame["cell"])
        return ids, {m: frame[f"{scored.model}: {m}"].to_numpy(np.float32) for m in markers}
    except (KeyError, ValueError) as error:
        raise BrokenFile(run.folder_of(image), f"is not the table of a scoring run ({error})") from error


def _hear_objects(
    said: Mapping[str, NDArray[np.uint8]], calls: HandCalls, objects: HandClassed, ids: Sequence[str]
) -> None:
    """The classes of cells, and of the annotations around them. Cells that have no scores (any more) are passed over."""
    row = {cell: k for k, cell in enumerate(ids)}
    at = np.array([row.get(cell, -1) for cell in objects.ids], np.int64)
    for k, name in enumerate(objects.classes):
        for marker, value in calls.read(name).items():
            if at[k] >= 0:
                said[marker][at[k]] |= _SAID[value]
    for region in objects.regions:
        cells = at[region.cells]
        for marker, value in calls.read(region.class_name).items():
            said[marker][cells[cells >= 0]] |= _SAID[value]


def _hear_table(
    said: Mapping[str, NDArray[np.uint8]],
    calls: HandCalls,
    rows: Iterable[Mapping[str, str]],
    ids: Sequence[str],
    path: Path,
) -> None:
    row_of = {cell: k for k, cell in enumerate(ids)}
    for row in rows:
        if row["cell"] not in row_of:
            raise InputError(f"{path}: the image {row['image']} has no scored cell {row['cell']!r}")
        for marker, value in _calls_of(row, calls, path).items():
            said[marker][row_of[row["cell"]]] |= _SAID[value]


def _calls_of(row: Mapping[str, str], calls: HandCalls, path: Path) -> Mapping[str, bool | None]:
    """What one row of a table says; a row with a marker is read as if only that one were asked about."""
    named = row["marker"]
    if not named:
        return calls.read(row["class"])
    marker = find_marker(named, calls.known, str(path))
    if marker not in calls.wanted:
        return {}
    short = _SHORT.get(row["class"].casefold())
    if short is not None:
        return {marker: short}
    alone = replace(calls, wanted=(marker,))
    return alone.read(row["class"])


def find_marker(wanted: str, markers: Sequence[str], where: str) -> str:
    """A marker by its name, exactly or in any case. Raises UnknownName."""
    fitting = [m for m in markers if m == wanted] or [m for m in markers if m.casefold() == wanted.casefold()]
    if len(fitting) != 1:
        raise UnknownName("scored marker", wanted, markers, where=where)
    return fitting[0]


def read_class_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV with the columns image, cell (or cell_id), class, and marker where there is one; all text.

    Raises SourceError, BrokenFile.
    """
    with looking(path):
        if not path.is_file():
            raise missing(path)
    with reading(path):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    frame.columns = [str(c).strip().casefold().replace(" ", "_").replace("cell_id", "cell") for c in frame.columns]
    lacking = [c for c in ("image", "cell", "class") if c not in frame.columns]
    if lacking:
        raise BrokenFile(
            path, f"has no column {', '.join(lacking)}", hint="It needs image, cell, class, and best a marker"
        )
    if "marker" not in frame.columns:
        frame["marker"] = ""
    return [
        {column: str(row[column]).strip() for column in ("image", "cell", "marker", "class")}
        for row in frame.to_dict("records")
    ]


def _by_image(
    rows: Iterable[dict[str, str]], refs: Sequence[ImageRef], path: Path | None
) -> dict[str, list[dict[str, str]]]:
    """Rows by image id. Raises UnknownName for an image that is not there, UsageError where a name means several."""
    by_id: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        fitting = [r for r in refs if r.id == row["image"]] or [r for r in refs if r.name == row["image"]]
        if not fitting:
            raise UnknownName("image", row["image"], [str(r) for r in refs], where=str(path))
        if len(fitting) > 1:
            raise UsageError(f"{path}: several images are called {row['image']}", hint="Give their ids instead")
        by_id.setdefault(fitting[0].id, []).append(row)
    return by_id
