"""``mxbridge score``: a marker positivity score (0..1) on every cell for every marker asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mxbridge.errors import ChangedMeanwhile, InputError, NoCells, NotApplicable, UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.formats.cell_tables import read_cell_table, score_columns, write_cell_tables
from mxbridge.image import LocalImage
from mxbridge.models.normalization import Normalization, fit
from mxbridge.panel import Selection, read_panel, select_markers, sort_channels
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ClassChanges, DerivedImage, ImageRef, Measurement, Results
from mxbridge.runs import Run, digest, fingerprint, result_key
from mxbridge.tasks.classifiers import HOW_TO, describe_classifiers, put_classifiers, remember_classifiers
from mxbridge.tasks.over_images import Finished, Outcome, Plan, run_over_images
from mxbridge.tasks.positivity import base_classes, derived_classes
from mxbridge.tasks.regions import Region, planned_region, region_of
from mxbridge.tasks.score_maps import ScoreMaps, map_places, plain_names
from mxbridge.tasks.score_notes import notes_of, warnings_of
from mxbridge.tasks.thresholds import DEFAULT, ScoringRule, ThresholdsFile, stored_thresholds
from mxbridge.workspaces.base import CellKind, Pulled, Workspace
from mxbridge.workspaces.qupath.object_classifiers import object_classifiers

if TYPE_CHECKING:
    from mxbridge.models.nimbus import CellScores, Nimbus
    from mxbridge.stream.engine import Engine

ALGORITHM = "score 1"
"""Part of every fingerprint; raised when the numbers of an unchanged run would change."""

COMPAT = ("nimbus-0.0.5",)

PEER_TABLE = "nimbus_cell_table.csv"

FINEST, COARSEST = 0.01, 10.0
"""Pixel sizes taken, in units of the model's: beyond, something is wrong (and a small file would become a huge field)."""


@dataclass(frozen=True)
class ScoreOptions:
    """What can be chosen. See ``mxbridge score --help`` for each."""

    markers: tuple[str, ...] = ()
    panel: Path | None = None
    tta: bool = True
    compat: str | None = None
    normalization: Path | None = None
    normalize: Literal["pooled", "per-image"] = "pooled"
    quantile: float = 0.999
    cells: CellKind = "cells"
    threshold: float | None = None
    thresholds: Path | None = None
    set_class: bool = False
    classifiers: bool = False
    maps: bool = False
    h5ad: bool = False
    inside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.compat is not None and self.compat not in COMPAT:
            raise UsageError(f"--compat {self.compat} is not known", hint=f"There is: {', '.join(COMPAT)}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(f"--threshold {self.threshold} is not between 0 and 1")
        if not 0.5 <= self.quantile <= 1:
            raise UsageError(f"--quantile {self.quantile} is not between 0.5 and 1")

    def that_change_numbers(self) -> dict[str, Any]:
        """The options that belong in a fingerprint (markers, normalisation and thresholds enter it by what they resolve to)."""
        return {key: getattr(self, key) for key in ("tta", "compat", "quantile", "set_class", "maps")}


@dataclass(frozen=True)
class PositiveCount:
    """How many cells of an image reach the threshold for one measurement."""

    image: str
    measurement: str
    threshold: float
    cells: int
    positive: int


def score(
    workspace: Workspace,
    model: Nimbus,
    engine: Engine,
    options: ScoreOptions = ScoreOptions(),
    *,
    images: Sequence[str] = (),
    out: Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
) -> Finished:
    """Score the images of a workspace (all, or those named) and publish the scores there.

    Raises MxbridgeError for what stops everything; errors of single images are in the answer
    (:meth:`~mxbridge.tasks.over_images.Finished.raise_for_errors`).
    """
    refs = workspace.list(images)
    if not refs:
        raise InputError(f"{workspace.address} holds no images")
    task = ScoreTask.for_workspace(workspace, model, engine, options)
    finished = run_over_images(
        workspace, refs, task, all_named=bool(images), out=out, publish=publish, resume=resume, progress=progress
    )
    for note in task.put_classifiers(workspace, finished.run, publish=publish):
        progress.note(note)
    return finished


@dataclass
class ScoreTask:
    """Scores as a task of :mod:`mxbridge.tasks.over_images`. stored: calibrated thresholds, used where they fit."""

    model: Nimbus
    engine: Engine
    options: ScoreOptions
    stored: ThresholdsFile | None = None
    name: str = "score"
    normalization: Normalization | None = field(default=None, init=False)
    workspace: Workspace | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.options.compat and self.engine.describe()["precision"] != "float32":
            raise UsageError("--compat reproduces float32 numbers", hint="Leave --precision out")
        self.panel = read_panel(self.options.panel) if self.options.panel else ()
        self.given = Normalization.load(self.options.normalization) if self.options.normalization else None
        self.calibrated = self.stored.of(self.model.name, self.rule) if self.stored else {}
        self.class_order: dict[str, None] = {}
        """Scored markers of all images planned so far, in the order in which they stand in classes."""

    @classmethod
    def for_workspace(cls, workspace: Workspace, model: Nimbus, engine: Engine, options: ScoreOptions) -> ScoreTask:
        """With the thresholds that the options or the project give. Raises UsageError before any work."""
        if options.classifiers:
            object_classifiers(workspace)
        return cls(model, engine, options, stored_thresholds(workspace, options.thresholds, options.threshold))

    @property
    def rule(self) -> ScoringRule:
        """How this task's scores come about, to find the thresholds that were made for such."""
        mode, quantile = self.options.normalize, self.options.quantile
        factors = (ScoringRule.kind_of(self.given), self.given.quantile) if self.given else (mode, quantile)
        return ScoringRule(self.model.weights_sha256, self.options.tta, self.options.compat, *factors)

    def threshold_of(self, marker: str) -> float:
        """The score from which a cell counts as positive, as a float32 number like the scores."""
        known = self.calibrated.get(marker)
        plain = DEFAULT if self.options.threshold is None else self.options.threshold
        return float(np.float32(plain if known is None else known.threshold))

    @property
    def cell_kind(self) -> CellKind:
        return self.options.cells

    @property
    def inside(self) -> tuple[str, ...]:
        return self.options.inside

    def describe(self) -> dict[str, Any]:
        options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        used = {"thresholds_used": {marker: self.threshold_of(marker) for marker in self.class_order}}
        return {"model": self.model.describe(), "options": {**options, **used, **self.engine.describe()}}

    def select(self, image: LocalImage) -> Selection:
        return select_markers(
            image.channel_names, wanted=self.options.markers, panel=self.panel, where=f"image {image.name}"
        )

    def plan(self, pulled: Pulled) -> Plan:
        image, cells = pulled.image, pulled.cells
        if image.rgb:
            raise NotApplicable(
                f"image {pulled.ref} is a colour picture (RGB), not an image of markers",
                hint="Nimbus scores fluorescence and mass-spectrometry channels",
            )
        if cells is None or not len(cells):
            why = f" ({'; '.join(pulled.warnings)})" if pulled.warnings else ""
            raise NoCells(
                f"image {pulled.ref} has no {self.options.cells}{why}",
                hint="Detect cells in QuPath first, give label images with --labels, or choose with --cells",
            )
        pixel_size = image.require_pixel_size()
        if not all(FINEST <= side / self.model.um_per_px <= COARSEST for side in pixel_size):
            raise InputError(
                f"image {pulled.ref}: {pixel_size[1]:g} x {pixel_size[0]:g} µm per pixel is no scale at which cells are seen",
                hint=f"{self.model.name} works at {self.model.um_per_px:g} µm per pixel; check --um-per-px",
            )
        selection = self.select(image)
        if self.given:
            self.given.for_image(pulled.ref.id, selection.names)  # raises now what would be missing later
        region = region_of(pulled, self.options.inside)
        near = len(cells) if region is None else int(region.may_meet(cells.bounds()).sum())
        if region is not None and not near:
            raise region.empty(pulled.ref)
        bases = base_classes(cells.classes, selection.names) if self.options.set_class else []
        left = "; ".join(f"{channel} ({why})" for channel, why in selection.left_out.items())
        self.class_order.update(dict.fromkeys(m for m in self._class_order(image, selection) if m in selection.names))
        return Plan(
            ref=pulled.ref,
            basis={
                "result_keys": [self.key(m, pulled.ref) for m in selection.names],
                "pixels": image.identity,
                "geometry": cells.geometry_hash(),
                "classes": digest(bases),
                "channels": {m.name: m.index for m in selection.markers},
                "um_per_px": pixel_size,
                **({} if region is None else {"inside": region.digest}),
            },
            counts={"cells": near, "markers": len(selection.markers)},
            warnings=(*pulled.all_warnings, *(region.warnings if region else ())),
            notes=((f"left out: {left}",) if left else ())
            + tuple(self._about_thresholds(selection.names))
            + (() if region is None else (f"only cells inside {region.words}, at most {near} of {len(cells)}",)),
        )

    def _about_thresholds(self, markers: Sequence[str]) -> list[str]:
        """What people should know of calibrated thresholds: which are used, and which do not fit."""
        used = ", ".join(f"{m} {self.calibrated[m].words}" for m in markers if m in self.calibrated)
        stale = self.stored.stale(self.model.name, self.rule, markers) if self.stored else []
        return ([f"calibrated thresholds: {used}"] if used else []) + stale

    def _class_order(self, image: LocalImage, selection: Selection) -> list[str]:
        """All markers of an image as they are joined in a class: in channel order, then what was named besides."""
        markers = sort_channels(image.channel_names, panel=self.panel).markers
        return list(dict.fromkeys([*(m.name for m in markers), *selection.names]))

    def key(self, target: str, ref: ImageRef) -> str:
        return result_key(task=self.name, model=self.model.name, target=target, source=ref.id)

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        """Pooled factors come from all images of the run, so all their pixels are part of each fingerprint."""
        if self.given:
            normalization: Any = self.given.for_image(plan.ref.id, list(plan.basis["channels"]))
        else:
            pool = [plan] if self.options.normalize == "per-image" else plans
            normalization = [self.options.normalize, *([p.basis["pixels"], p.basis["channels"]] for p in pool)]
        cuts = {marker: self.threshold_of(marker) for marker in plan.basis["channels"]}
        return fingerprint(
            result_keys=plan.basis["result_keys"],
            options={
                **self.options.that_change_numbers(),
                **({"thresholds": cuts} if self.options.set_class else {}),
                "um_per_px": plan.basis["um_per_px"],
                **{key: plan.basis[key] for key in ("inside",) if key in plan.basis},
                "precision": self.engine.describe()["precision"],
            },
            weights_sha256=self.model.weights_sha256,
            pixels=plan.basis["pixels"],
            geometry=digest([plan.basis["geometry"], plan.basis["classes"]]),
            channels=plan.basis["channels"],
            normalization=normalization,
            algorithm=f"{ALGORITHM}, {self.model.describe()['algorithm']}",
        )

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        self.workspace = workspace
        stored = run.path / "normalization.json"
        if self.given:
            self.normalization = self.given
        elif run.details.get("normalized_for") == run.request and stored.exists():  # a resumed run: the same factors
            self.normalization = Normalization.load(stored)
        else:
            self.normalization = fit(
                [(p.ref.id, workspace.pull(p.ref, None).image, p.basis["channels"]) for p in plans],
                quantile=self.options.quantile,
                mode=self.options.normalize,
                readers=self.engine.readers,
                progress=lambda done, total: progress.step("normalising", done, total),
            )
        self.normalization.save(stored)
        run.details["normalized_for"] = run.request
        run.warnings = [f"{marker}: {flag}" for marker, flag in self.normalization.flags.items()]
        run.save()
        for marker, flag in self.normalization.flags.items():
            progress.warning(f"{marker}: {flag} in all images of this run; its scores mean little")

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        image, cells = pulled.image, pulled.cells
        if cells is None or cells.geometry_hash() != plan.basis["geometry"] or image.identity != plan.basis["pixels"]:
            raise ChangedMeanwhile(f"image {plan.ref} was changed while the run was under way", hint="Run again")
        region = planned_region(pulled, self.options.inside, plan.basis)
        selection, normalization = self.select(image), self.normalization
        assert normalization is not None  # noqa: S101 - prepare() runs before compute()
        factors = normalization.for_image(pulled.ref.id, selection.names)
        scores, derived = self._scores(pulled, region, selection, factors, folder, progress)
        if region is not None:
            pulled, which = region.inside(pulled, scores.centroid)
            scores, cells = scores.only(which), pulled.cells
            assert cells is not None  # noqa: S101 - some are inside
        results = self._results(run, pulled, selection, scores, derived)
        classes = results.class_changes.names if results.class_changes else cells.classes
        write_cell_tables(self._table(pulled, selection, scores, classes), folder)
        counts = {
            "cells": len(cells),
            "tiles": scores.tiles_done,
            "tiles_skipped": scores.tiles_skipped,
            "steps_back": list(self.engine.steps_back),
            "cells_without_area": scores.cells_without_area,
            "cells_without_core": scores.cells_without_core,
            "pyramid_level": scores.level,
            "factors": dict(zip(selection.names, factors, strict=True)),
        }
        return Outcome(results, counts, warnings_of(scores, selection), notes_of(scores, region))

    def _scores(
        self,
        pulled: Pulled,
        region: Region | None,
        selection: Selection,
        factors: list[float],
        folder: Path,
        progress: Progress,
    ) -> tuple[CellScores, tuple[DerivedImage, ...]]:
        """Scores of one image, streamed or as the published program computes them, and the maps if asked for."""
        from mxbridge.models import nimbus, nimbus_compat

        image, cells = pulled.image, pulled.cells
        assert cells is not None  # noqa: S101 - plan() refused images without cells
        channels = [m.index for m in selection.markers]

        def tell(done: int, total: int) -> None:
            progress.step("tiles", done, total)

        if self.options.compat:
            names = plain_names(selection.names)

            def keep(k: int, prediction: NDArray[np.float64]) -> None:
                nimbus_compat.write_prediction(folder / "prediction" / f"{names[k]}.tiff", prediction)

            peer = nimbus_compat.CompatOptions(tta=self.options.tta)
            scores = nimbus_compat.score(
                self.model,
                image,
                cells,
                channels,
                factors,
                self.engine,
                options=peer,
                predicted=keep if self.options.maps else None,
                progress=tell,
            )
            return scores, ()
        views = nimbus.VIEWS["six" if self.options.tta else "none"]
        maps = self._maps(pulled, region, selection, folder) if self.options.maps else None
        scores = self.model.score(
            image,
            cells,
            channels,
            factors,
            self.engine,
            views=views,
            work=folder / "work",
            maps=maps,
            near=region.wants(cells, pixels=self.options.maps) if region else None,
            progress=tell,
        )
        return scores, maps.finish() if maps else ()

    def _maps(self, pulled: Pulled, region: Region | None, selection: Selection, folder: Path) -> ScoreMaps:
        seen = self.model.field(pulled.image)
        channels = [f"{name} ({self.model.name})" for name in selection.names]
        keys = [self.key(name, pulled.ref) for name in selection.names]
        um = self.model.um_per_px
        in_project = self.workspace is not None and self.workspace.derived_folder(pulled.ref) is not None
        version: Literal["0.4", "0.5"] = "0.4" if in_project else "0.5"  # QuPath reads no later one
        places, within = map_places(channels, keys, folder), region.at_scale(seen) if region else None
        return ScoreMaps(places, seen.shape, (um, um), version, within)

    def _table(
        self, pulled: Pulled, selection: Selection, scores: CellScores, classes: Sequence[str | None]
    ) -> pd.DataFrame:
        """One row per cell: identity, geometry, then score, spread over views and mean intensity of each marker."""
        cells = pulled.cells
        assert cells is not None  # noqa: S101 - plan() refused images without cells
        um_y, um_x = pulled.image.require_pixel_size()
        columns: dict[str, Any] = {
            "image": pulled.ref.name,
            "image_id": pulled.ref.id,
            "cell": list(cells.ids),
            "class": list(classes),
            "x_um": (scores.centroid[:, 1] * um_x).astype(np.float32),
            "y_um": (scores.centroid[:, 0] * um_y).astype(np.float32),
            "area_um2": (scores.area_px * um_y * um_x).astype(np.float32),
            "eroded_px": scores.eroded_px,
            "touches_edge": scores.touches_edge,
        }
        for k, name in enumerate(selection.names):
            columns[self.measurement(name)] = scores.score[k]
            columns[f"{self.measurement(name)} view sd"] = scores.view_sd[k]
            columns[f"{name} mean"] = scores.intensity[k]
        return pd.DataFrame(columns)

    def measurement(self, marker: str) -> str:
        return f"{self.model.name}: {marker}"

    def _results(
        self,
        run: Run,
        pulled: Pulled,
        selection: Selection,
        scores: CellScores,
        derived: tuple[DerivedImage, ...],
    ) -> Results:
        cells = pulled.cells
        assert cells is not None  # noqa: S101 - plan() refused images without cells
        names, changes = selection.names, None
        if self.options.set_class:
            cuts = np.array([self.threshold_of(name) for name in names], np.float32)
            with np.errstate(invalid="ignore"):
                positive = scores.score >= cuts[:, None]
            order = self._class_order(pulled.image, selection)
            changes = ClassChanges(
                names=tuple(derived_classes(cells.classes, positive, names, order)),
                base_names=tuple(cells.classes),
                result_key=self.key("classes", pulled.ref),
            )
        return Results(
            image=pulled.ref,
            run_id=run.run_id,
            cell_ids=cells.ids,
            measurements=tuple(
                Measurement(self.measurement(n), scores.score[k], self.key(n, pulled.ref)) for k, n in enumerate(names)
            ),
            class_changes=changes,
            derived=derived,
            provenance={"task": self.name, "run": run.run_id, **self.describe()["model"]},
        )

    def positives(self, run: Run) -> list[PositiveCount]:
        """Cells at or above this task's threshold, per finished image and marker, from the run's table."""
        counts = []
        for image in run.images:
            if image.status not in ("computed", "published"):
                continue
            table = read_cell_table(run.folder_of(image))
            for score in score_columns(table.columns):
                cut = self.threshold_of(score.marker)
                positive = int((table[score.score] >= np.float32(cut)).sum())
                counts.append(PositiveCount(image.name, score.score, cut, len(table), positive))
        return counts

    def put_classifiers(self, workspace: Workspace, run: Run, *, publish: bool) -> tuple[str, ...]:
        """Write object classifiers for the markers of a run, if asked for; what people should know of it.

        Without ``publish`` run.json remembers them for ``mxbridge publish``. Raises OutputError, BrokenFile.
        """
        scored = {c.measurement for c in self.positives(run)} if self.options.classifiers else set()
        cuts = {m: self.threshold_of(m) for m in self.class_order if self.measurement(m) in scored}
        if not cuts:
            return ()
        with run.locked():
            remember_classifiers(run, describe_classifiers(self.model.name, cuts, self.cell_kind))
            if not publish:
                return ("the object classifiers are written when the run is published",)
            written = put_classifiers(workspace, run)
        made = [f"object classifiers: {', '.join(written.files)}", HOW_TO] if written.files else []
        return (*made, *written.notes)

    def is_finished(self, run: Run) -> bool:
        wanted = ["cells.parquet", "cells.csv"] + (["cells.h5ad"] if self.options.h5ad else [])
        wanted += [PEER_TABLE] if self.options.compat else []
        return all((run.path / name).is_file() for name in wanted)

    def finish(self, run: Run) -> None:
        """``cells.parquet`` and ``cells.csv`` over all images of the run, in the order of the images."""
        frames = [read_cell_table(run.folder_of(i)) for i in run.images if i.status in ("computed", "published")]
        if frames:
            table = pd.concat(frames, ignore_index=True)
            write_cell_tables(table, run.path, h5ad=self.options.h5ad)
            if self.options.compat:
                _write_peer_table(table, run.path / PEER_TABLE)


def _write_peer_table(table: pd.DataFrame, path: Path) -> None:
    """The table in the layout of Nimbus-Inference: label, fov, then one column per marker under its own name."""
    scores = {s.marker: table[s.score] for s in score_columns(table.columns)}
    with write_atomically(path) as part:
        pd.DataFrame({"label": table["cell"], "fov": table["image"], **scores}).to_csv(part, index=False)
