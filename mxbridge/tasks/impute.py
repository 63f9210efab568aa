"""``mxbridge impute``: a missing or failed stain as a channel of the image and as a mean on every cell."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mxbridge.cells import Cells
from mxbridge.errors import ChangedMeanwhile, InputError, NotApplicable, UnknownName, UsageError
from mxbridge.image import Channel, LocalImage
from mxbridge.metrics.spread import SpreadRecord
from mxbridge.models.maxim import Maxim
from mxbridge.models.maxim_input import find_markers
from mxbridge.panel import read_panel
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ImageRef, Measurement, Results
from mxbridge.runs import Run, digest, fingerprint, result_key
from mxbridge.tasks.imputing.chain import Step, resolve, same_marker, targets_wanted
from mxbridge.tasks.imputing.channels import ChannelPlace, with_channels
from mxbridge.tasks.imputing.input_warnings import judge_inputs
from mxbridge.tasks.imputing.named_channels import named
from mxbridge.tasks.imputing.one_image import Settings, StepFound, Tell, impute_image, streams_of
from mxbridge.tasks.imputing.open_models import COMPAT
from mxbridge.tasks.imputing.spread_report import SPREAD_FILES, write_spread_report
from mxbridge.tasks.over_images import Finished, Outcome, Plan, run_over_images
from mxbridge.tasks.regions import Region, planned_region, region_of
from mxbridge.workspaces.base import CellKind, Pulled, Workspace

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.stream.engine import Engine

ALGORITHM = "impute 1"
"""Part of every fingerprint; raised when the numbers of an unchanged run would change."""

FOLLOWS = 0.2
"""Rank correlation of spread and error below which people are told not to rely on the spread."""


@dataclass(frozen=True)
class ImputeOptions:
    """What can be chosen. See ``mxbridge impute --help`` for each.

    markers: to impute. without: channels that are not to be believed, as if they were missing.
    """

    markers: tuple[str, ...]
    without: tuple[str, ...] = ()
    chain: bool = False
    uncertainty: bool = False
    panel: Path | None = None
    value_scale: float | None = None
    compat: str | None = None
    compat_pad: int = 2048
    cells: CellKind = "cells"
    inside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.markers:
            raise UsageError("no marker is named", hint="Say what to impute: --marker KI67")
        if self.compat is not None and self.compat not in COMPAT:
            raise UsageError(f"--compat {self.compat} is not known", hint=f"There is: {', '.join(COMPAT)}")
        if self.compat and self.uncertainty:
            raise UsageError("--compat reproduces a program that knows no --uncertainty")

    @property
    def settings(self) -> Settings:
        return Settings(self.uncertainty, self.compat_pad if self.compat else None, self.value_scale)


def impute(
    workspace: Workspace,
    models: Sequence[Maxim],
    engine: Engine,
    options: ImputeOptions,
    *,
    images: Sequence[str] = (),
    out: Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
) -> Finished:
    """Impute markers of the images of a workspace (all, or those named) and publish them there.

    models: of several that impute the same marker the mean is taken. Raises MxbridgeError for what stops everything; errors of
    single images are in the answer (:meth:`~mxbridge.tasks.over_images.Finished.raise_for_errors`).
    """
    refs = workspace.list(images)
    if not refs:
        raise InputError(f"{workspace.address} holds no images")
    task = ImputeTask(tuple(models), engine, options)
    return run_over_images(
        workspace, refs, task, all_named=bool(images), out=out, publish=publish, resume=resume, progress=progress
    )


@dataclass
class ImputeTask:
    """Imputed markers as a task of :mod:`mxbridge.tasks.over_images`."""

    models: tuple[Maxim, ...]
    engine: Engine
    options: ImputeOptions
    name: str = "impute"
    workspace: Workspace | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.options.compat and self.engine.describe()["precision"] != "float32":
            raise UsageError("--compat reproduces float32 numbers", hint="Leave --precision out")
        self.targets = targets_wanted(self.options.markers, self.models)
        self.panel = read_panel(self.options.panel) if self.options.panel else ()

    @property
    def cell_kind(self) -> CellKind:
        return self.options.cells

    @property
    def inside(self) -> tuple[str, ...]:
        return self.options.inside

    def describe(self) -> dict[str, Any]:
        options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        names = list(dict.fromkeys(model.name for model in self.models))
        model = {"name": ", ".join(names), "models": [m.describe() for m in self.models]}
        return {"model": model, "options": {**options, **self.engine.describe()}}

    def key(self, step: Step, target: str, ref: ImageRef) -> str:
        return result_key(task=self.name, model=step.name, target=target, source=ref.id)

    # --- what will be done ---

    def seen(self, image: LocalImage) -> LocalImage:
        """The image with the panel's names and without what is not to be believed. Raises UnknownName, InputError."""
        image = named(image, self.panel)
        names = [channel.name for channel in image.channels]
        self._check_without(names)
        dropped = {same_marker(name, names) for name in self.options.without}
        kept = [k for k, name in enumerate(names) if name not in dropped]
        if len(kept) == len(names):
            return image
        if not kept:
            raise InputError(f"image {image.name}: no channel is left to impute from")
        channels = tuple(image.channels[k] for k in kept)
        return replace(image, channels=channels, levels=tuple(level[kept] for level in image.levels))

    def _check_without(self, names: Sequence[str]) -> None:
        known = [*names, *(marker for model in self.models for marker in model.inputs)]
        for name in self.options.without:
            if same_marker(name, dict.fromkeys(known)) is None:
                raise UnknownName("channel", name, dict.fromkeys(known), where="--without")

    def steps(self, seen: LocalImage) -> tuple[Step, ...]:
        needed = dict.fromkeys(m for model in self.models for m in model.inputs if m not in self.targets)
        asked = [m for model in self.models if not model.any_marker for m in model.inputs if m in self.targets]
        present = [*find_markers(seen, needed), *find_markers(seen, asked)]
        return resolve(
            self.targets,
            self.models,
            present,
            chain=self.options.chain,
            where=f"image {seen.name}",
            channels=seen.channel_names,
        )

    @property
    def _given_up(self) -> frozenset[str]:
        """Inputs of the models that nobody expects in an image: asked for, or left out by the user."""
        inputs = dict.fromkeys(m for model in self.models for m in model.inputs)
        return frozenset((*self.targets, *(same_marker(name, inputs) or "" for name in self.options.without)))

    def plan(self, pulled: Pulled) -> Plan:
        image, cells = pulled.image, pulled.cells
        if image.rgb:
            raise NotApplicable(
                f"image {pulled.ref} is a colour picture (RGB), not an image of markers",
                hint="Imputation needs fluorescence or mass-spectrometry channels",
            )
        seen = self.seen(image)
        steps = self.steps(seen)
        region = region_of(pulled, self.options.inside)
        told: dict[str, None] = {}
        channels: dict[str, int] = {}
        for step in steps:
            for stream in streams_of(step, _as_if_imputed(seen, step), None, self.engine, self.options.settings):
                told.update(dict.fromkeys(note.removeprefix(f"{image.name}: ") for note in stream.notes))
                channels |= find_markers(seen, stream.measured)
        return Plan(
            ref=pulled.ref,
            basis={
                "result_keys": [self.key(step, target, pulled.ref) for step in steps for target in step.targets],
                "pixels": image.identity,
                "geometry": cells.geometry_hash() if cells is not None else "",
                "channels": channels,
                "um_per_px": image.pixel_size_um,
                "steps": [step.describe() for step in steps],
                **({} if region is None else {"inside": region.digest}),
            },
            counts={"cells": _near(cells, region), "markers": sum(len(s.targets) for s in steps)},
            warnings=(
                *pulled.all_warnings,
                *(region.warnings if region else ()),
                *told,
                *_missing(steps, self._given_up),
                *self._about_spread(),
            ),
            notes=tuple(_about(steps, self.targets, self._given_up))
            + (() if region is None else tuple(_about_region(steps, region)))
            + (() if cells is not None else ("no cells: only channels are made",)),
        )

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        return fingerprint(
            result_keys=plan.basis["result_keys"],
            options={
                **vars(self.options.settings),
                "steps": plan.basis["steps"],
                "panel": [vars(row) for row in self.panel],
                "without": sorted(self.options.without),
                "um_per_px": plan.basis["um_per_px"],
                **{key: plan.basis[key] for key in ("inside",) if key in plan.basis},
                "precision": self.engine.describe()["precision"],
            },
            weights_sha256=digest([model.weights_sha256 for model in self.models]),
            pixels=plan.basis["pixels"],
            geometry=plan.basis["geometry"],
            channels=plan.basis["channels"],
            normalization=[digest(model.card.to_json()) for model in self.models],
            algorithm=f"{ALGORITHM}, {[model.describe()['algorithm'] for model in self.models]}",
        )

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        self.workspace = workspace

    # --- doing it ---

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        image, cells = pulled.image, pulled.cells
        geometry = cells.geometry_hash() if cells is not None else ""
        if geometry != plan.basis["geometry"] or image.identity != plan.basis["pixels"]:
            raise ChangedMeanwhile(f"image {plan.ref} was changed while the run was under way", hint="Run again")
        region = planned_region(pulled, self.options.inside, plan.basis)
        seen = self.seen(image)
        steps = self.steps(seen)
        in_project = self.workspace is not None and self.workspace.derived_folder(pulled.ref) is not None
        version: Literal["0.4", "0.5"] = "0.4" if in_project else "0.5"  # QuPath reads no later one

        def tell(what: str) -> Tell:
            return lambda done, total: progress.step(what, done, total)

        found, derived = impute_image(
            steps,
            seen,
            cells,
            self.engine,
            folder / "work",
            self._places(steps, pulled.ref, folder),
            self.options.settings,
            version,
            tell,
            region,
        )
        if region is not None and cells is not None:
            which = np.flatnonzero(region.holds(found[0].centroid))
            cells = cells.take(which) if len(which) else None
            pulled, found = replace(pulled, cells=cells), [step.only(which) for step in found]
        results = Results(
            image=pulled.ref,
            run_id=run.run_id,
            cell_ids=() if cells is None else cells.ids,
            measurements=() if cells is None else tuple(self._measurements(steps, found, pulled.ref)),
            derived=derived,
            provenance={
                "task": self.name,
                "run": run.run_id,
                **self.describe()["model"],
                **({} if region is None else {"inside": region.words, "outside": "0 in derived images"}),
            },
        )
        if cells is not None:
            from mxbridge.formats.cell_tables import write_cell_tables

            write_cell_tables(self._table(pulled, found[0], results), folder)
        judged = judge_inputs(steps, found)
        counts = {
            "cells": 0 if cells is None else len(cells),
            "tiles": sum(step.tiles for step in found),
            "steps_back": list(self.engine.steps_back),
            "cells_without_area": int(np.count_nonzero(found[0].area_px == 0)),
            "familiarity": judged.familiarity,
            "unfamiliar": judged.unfamiliar,
            "steps": [step.describe() for step in steps],
        }
        without = counts["cells_without_area"]
        warnings = [f"{without} cells cover no pixel centre; their values are NaN"] if without else []
        return Outcome(results, counts, (*warnings, *judged.warnings))

    def _places(self, steps: Iterable[Step], ref: ImageRef, folder: Path) -> dict[str, ChannelPlace]:
        places: dict[str, ChannelPlace] = {}
        for step in steps:
            for target in step.targets:
                channels = [f"{target} ({step.name})"]
                if self.options.uncertainty:
                    channels.append(f"{target} {self.spread_word(step, target)} ({step.name})")
                places[target] = ChannelPlace.of(channels, self.key(step, target, ref), folder, len(places))
        return places

    def spread_word(self, step: Step, target: str) -> str:
        """``uncertainty`` where the model's card shows such a spread against the error, else ``spread``."""
        return "spread" if spread_record(step, target, self.options.settings) is None else "uncertainty"

    def _measurements(self, steps: Sequence[Step], found: Sequence[StepFound], ref: ImageRef) -> Iterable[Measurement]:
        for step, values in zip(steps, found, strict=True):
            for k, target in enumerate(step.targets):
                key = self.key(step, target, ref)
                yield Measurement(f"{step.name}: {target} mean", values.mean[k], key)
                if self.options.uncertainty:
                    word = self.spread_word(step, target)
                    yield Measurement(f"{step.name}: {target} {word}", values.spread[k], key)

    def _table(self, pulled: Pulled, found: StepFound, results: Results) -> pd.DataFrame:
        """One row per cell: identity and geometry, then what was measured; µm are NaN where the image has none."""
        import pandas as pd

        cells = pulled.cells
        assert cells is not None  # noqa: S101 - compute() makes no table without cells
        um_y, um_x = pulled.image.pixel_size_um or (np.nan, np.nan)
        columns: dict[str, Any] = {
            "image": pulled.ref.name,
            "image_id": pulled.ref.id,
            "cell": list(cells.ids),
            "class": list(cells.classes),
            "x_um": (found.centroid[:, 1] * um_x).astype(np.float32),
            "y_um": (found.centroid[:, 0] * um_y).astype(np.float32),
            "area_um2": (found.area_px * um_y * um_x).astype(np.float32),
            "touches_edge": found.touches_edge,
        }
        return pd.DataFrame(columns | {m.name: m.values for m in results.measurements})

    # --- over all images ---

    def is_finished(self, run: Run) -> bool:
        wanted = ["cells.parquet", "cells.csv"] if any(i.counts.get("cells") for i in _done(run)) else []
        wanted += SPREAD_FILES if self._spread_records() else ()
        return all((run.path / name).is_file() for name in wanted)

    def finish(self, run: Run) -> None:
        """``cells.parquet`` and ``cells.csv`` over all images, and how spread and error went together in validation."""
        if with_cells := [i for i in _done(run) if i.counts.get("cells")]:
            import pandas as pd

            from mxbridge.formats.cell_tables import read_cell_table, write_cell_tables

            frames = [read_cell_table(run.folder_of(i)) for i in with_cells]
            write_cell_tables(pd.concat(frames, ignore_index=True), run.path)
        if records := self._spread_records():
            write_spread_report(records, run.path)

    def _about_spread(self) -> Iterable[str]:
        for target, record in self._spread_records().items():
            if not record.spearman >= FOLLOWS:
                yield f"{target}: the spread hardly follows the error (Spearman {record.spearman:.2f} on the validation images)"

    def _spread_records(self) -> dict[str, SpreadRecord]:
        """By marker, of those that this run shows as uncertainty."""
        if not self.options.uncertainty:
            return {}
        found = {}
        for target in self.targets:
            models = [model for model in self.models if target in model.outputs]
            record = spread_record(Step((target,), tuple(models), ()), target, self.options.settings)
            if record is not None:
                found[target] = record
        return found


def spread_record(step: Step, target: str, settings: Settings) -> SpreadRecord | None:
    """What a model's card knows of such a spread and the error on its validation images."""
    known = step.models[0].card.validation.get("spread")
    record = SpreadRecord.from_record(known.get(target)) if isinstance(known, dict) else None
    if record is None or record.source != settings.source(step) or not math.isfinite(record.spearman):
        return None  # where the spread never differed, it says nothing of the error
    return record


def summary(run: Run) -> list[dict[str, Any]]:
    """One row per finished image and measurement: cells, their mean, and whether the image is like those of the training."""
    rows = []
    for image in _done(run):
        known = image.counts.get("familiarity") or []
        like = "not known" if not known else "no" if image.counts.get("unfamiliar") else "yes"
        results = Results.load(run.folder_of(image))
        names = [m.name for m in results.measurements] or [c for d in results.derived for c in d.channels]
        means = {m.name: m.values[np.isfinite(m.values)] for m in results.measurements}
        for name in names:
            values = means.get(name, np.zeros(0))
            mean = float(values.mean()) if values.size else float("nan")
            rows.append(
                {
                    "image": image.name,
                    "imputed": name,
                    "cells": int(values.size),
                    "mean": mean,
                    "like the training": like,
                }
            )
    return rows


def _done(run: Run) -> list[Any]:
    return [image for image in run.images if image.status in ("computed", "published")]


def _near(cells: Cells | None, region: Region | None) -> int:
    """Cells that get values; with a region at most so many."""
    if cells is None:
        return 0
    return len(cells) if region is None else int(region.may_meet(cells.bounds()).sum())


def _about_region(steps: Sequence[Step], region: Region) -> Iterable[str]:
    yield f"only inside {region.words}: elsewhere the imputed channels are 0, and cells have no values"
    if first := ", ".join(dict.fromkeys(marker for step in steps for marker in step.uses)):
        yield f"{first} is imputed everywhere: the other is imputed from it"


def _as_if_imputed(image: LocalImage, step: Step) -> LocalImage:
    """The image with empty channels in the place of those that earlier steps will have imputed."""
    import dask.array as da

    if not step.uses:
        return image
    levels = tuple(da.zeros((1, *level.shape[1:]), dtype=level.dtype, chunks=(1, 512, 512)) for level in image.levels)
    derived = [(marker, replace(image, levels=levels, channels=(Channel(marker),))) for marker in step.uses]
    return with_channels(image, derived, image.identity)


def _missing(steps: Sequence[Step], given_up: Collection[str]) -> Iterable[str]:
    """Inputs that any-marker models do without although nobody said so: perhaps they are called otherwise in the image."""
    for step in steps:
        for model, request in zip(step.models, step.requests, strict=True):
            if missing := ", ".join(m for m in model.inputs if m in request.hidden and m not in given_up):
                yield f"{', '.join(step.targets)}: imputed without {missing}: no such channel (map names with --panel)"


def _about(steps: Sequence[Step], asked: Sequence[str], given_up: Collection[str]) -> Iterable[str]:
    """What people should know of the way in which markers are imputed. asked: all that were asked for. given_up: inputs that
    are not looked for."""
    for step in steps:
        targets = ", ".join(step.targets)
        if step.uses:
            yield f"{targets}: {', '.join(step.uses)} is imputed first"
        if len(step.models) > 1:
            yield f"{targets}: mean of {len(step.models)} models"
        for model, request in zip(step.models, step.requests, strict=True):
            if hidden := ", ".join(m for m in model.inputs if m in request.hidden and m in given_up):
                yield f"{targets}: imputed without {hidden} (left out, or asked for as well)"
            believed = [m for m in model.inputs if m in asked and m not in step.uses]
            if believed and not model.any_marker:
                names = ", ".join(believed)
                yield f"{targets}: imputed from the measured {names}; if that has failed too, add --without {names} --chain"
        if len(step.targets) > 1 and any(model.any_marker for model in step.models):
            yield f"{targets} are imputed together: none of them is an input of the others"
