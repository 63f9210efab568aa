"""``mxbridge evaluate``: imputed against measured markers, beside simple baselines, per pixel and per cell."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from mxbridge.errors import InputError, NotApplicable, UnknownName, UsageError
from mxbridge.formats.ome_zarr import is_derived
from mxbridge.image import LocalImage
from mxbridge.metrics.baselines import NAMES, Baselines
from mxbridge.models.maxim import Maxim
from mxbridge.panel import PanelRow, panel_rows, read_panel
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ImageRef, Results
from mxbridge.runs import Run, digest, fingerprint, result_key
from mxbridge.stream.engine import Engine
from mxbridge.tasks.evaluating.one_image import VIEWS, Candidate, Compared, HowToCompare, compare_image, open_stream
from mxbridge.tasks.evaluating.peer_tables import peer_files, write_peer_tables
from mxbridge.tasks.evaluating.plots import draw_evaluation
from mxbridge.tasks.evaluating.tables import TABLES, Tables, make_tables, save_compared, saved_comparisons
from mxbridge.tasks.imputing.open_models import labels_of
from mxbridge.tasks.over_images import Finished, Outcome, Plan, run_over_images
from mxbridge.training.maxim.split import CaseRow, one_spelling, read_cases
from mxbridge.workspaces.base import CellKind, Pulled, Workspace

ALGORITHM = "evaluate 1"
"""Part of every fingerprint; raised when the numbers of an unchanged run would change."""

TASKS = ("imputation", "segmentation")

PLOTS = "plots"


@dataclass(frozen=True)
class EvaluateOptions:
    """What can be chosen. See ``mxbridge evaluate --help`` for each. thresholds: in stored numbers, by marker. views: ``one``, or
    ``six``, the mean of six flipped and turned views."""

    markers: tuple[str, ...] = ()
    cases: Path | None = None
    baselines: tuple[Path, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    panel: Path | None = None
    cells: CellKind = "cells"
    compat_pad: int | None = None
    compat_split: str = "test"
    value_scale: float | None = None
    views: str = "one"

    def __post_init__(self) -> None:
        """Raises UsageError for views that are none, or that the published program does not know."""
        if self.views not in VIEWS:
            raise UnknownName("--views", self.views, VIEWS)
        if self.compat_pad is not None and self.views != "one":
            raise UsageError("--compat reproduces a program that knows no --views six")

    @property
    def how(self) -> HowToCompare:
        return HowToCompare(self.compat_pad, self.value_scale, self.views)


def evaluate(
    workspace: Workspace,
    models: Sequence[tuple[Path, Maxim]],
    engine: Engine,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    images: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = True,
    progress: Progress = SILENT,
) -> tuple[Finished, Tables]:
    """Compare on the images of a workspace (all, or those named); nothing is published. Returns the run and its tables.

    Raises MxbridgeError for what stops everything; errors of single images are in the answer
    (:meth:`~mxbridge.tasks.over_images.Finished.raise_for_errors`).
    """
    refs = workspace.list(images)
    if not refs:
        raise InputError(f"{workspace.address} holds no images")
    task = EvaluateTask(find_candidates(models, options.baselines), engine, options, refs)
    finished = run_over_images(
        workspace, refs, task, all_named=bool(images), out=out, publish=False, resume=resume, progress=progress
    )
    for note in finished.run.details.get("pictures", ()):
        progress.note(note)
    return finished, task.tables(finished.run)


def find_candidates(models: Sequence[tuple[Path, Maxim]], given: Sequence[Path]) -> tuple[Candidate, ...]:
    """Models with their baselines: those given, else those that training left in ``<model stem>.training``.

    Raises UsageError for given baselines that fit no model.
    """
    loaded = {path: Baselines.load(path) for path in given}
    used: set[Path] = set()
    candidates = []
    for label, (path, model) in zip(labels_of(models), models, strict=True):
        fitting = [p for p, baselines in loaded.items() if not why_foreign(baselines, model)]
        used.update(fitting)
        beside = path.with_name(f"{path.stem}.training") / "baselines.npz"
        plain, why = Baselines.untrained(model.inputs, model.outputs), ""
        if fitting:
            plain = loaded[fitting[0]]
        elif given:
            why = "none of the baselines given fits it"
        elif not beside.is_file():
            why = f"{beside.parent.name}/{beside.name} is not there"
        else:
            found = Baselines.load(beside)
            why = f"{beside}: {reason}" if (reason := why_foreign(found, model)) else ""
            plain = plain if why else found
        candidates.append(Candidate(label, model, plain, why, uses_of(beside.with_name("split.csv"))))
    for path, baselines in loaded.items():
        if path not in used:
            why = "; ".join(why_foreign(baselines, model) for _, model in models)
            raise UsageError(f"--baselines {path} fits none of the models: {why}")
    return tuple(candidates)


def uses_of(table: Path) -> dict[tuple[str, str], str]:
    """What a training did with each image, by id and by name, from the table it left; nothing where there is none to read."""
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if all(row.get(key) for key in ("id", "image", "use"))]
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {(key, row[key]): row["use"] for row in rows for key in ("id", "image")}


def why_foreign(baselines: Baselines, model: Maxim) -> str:
    """Why baselines cannot stand beside a model: other markers, or another scaling; empty where they can."""
    if foreign := set(baselines.inputs) - set(model.inputs):
        return f"they predict from {', '.join(sorted(foreign))}, which {model.name} does not see"
    if missing := set(model.outputs) - set(baselines.targets):
        return f"they do not predict {', '.join(sorted(missing))}"
    for marker, scaling in baselines.scaling.items():
        if marker in model.scaling and dict(scaling) != model.scaling[marker].to_json():
            return f"{marker} was scaled in another way for them"
    return ""


@dataclass
class EvaluateTask:
    """The evaluation as a task of :mod:`mxbridge.tasks.over_images`."""

    candidates: tuple[Candidate, ...]
    engine: Engine
    options: EvaluateOptions
    refs: Sequence[ImageRef]
    name: str = "evaluate"
    inside: tuple[str, ...] = field(default=(), init=False)
    made: Tables | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.panel = read_panel(self.options.panel) if self.options.panel else ()
        self.cases = cases_of(self.refs, read_cases(self.options.cases) if self.options.cases else ())
        self.given = {marker.strip().casefold(): value for marker, value in self.options.thresholds.items()}
        outputs = {m.casefold() for c in self.candidates for m in c.model.outputs}
        for wanted in (*self.options.markers, *self.options.thresholds):
            if wanted.strip().casefold() not in outputs:
                raise UsageError(
                    f"no model here imputes {wanted}",
                    hint=f"They impute {', '.join(dict.fromkeys(m for c in self.candidates for m in c.model.outputs))}",
                )

    @property
    def cell_kind(self) -> CellKind:
        return self.options.cells

    def describe(self) -> dict[str, Any]:
        options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        options["baselines"] = [str(path) for path in self.options.baselines]
        models = {c.label: {**c.model.describe(), "methods": list(c.methods)} for c in self.candidates}
        return {"model": models, "options": {**options, **self.engine.describe()}}

    def plan(self, pulled: Pulled) -> Plan:
        image = truthful(pulled.image, self.panel)
        targets = {c.label: list(c.truths(image, self.options.markers)) for c in self.candidates}
        if not any(targets.values()):
            raise InputError(
                f"image {pulled.ref} has none of the markers to compare",
                hint=f"There is: {', '.join(image.channel_names[:40])}",
            )
        streams = {
            c.label: open_stream(c, image, None, self.engine, targets[c.label], self.options.how)
            for c in self.candidates
            if targets[c.label]
        }
        notes = [f"{c.label}: without {', '.join(_left_out(c))}: {c.why_few}" for c in self.candidates if c.why_few]
        notes += [note for stream in streams.values() for note in stream.notes]
        if pulled.cells is None:
            notes.append(f"{pulled.ref.name} has no {self.options.cells}: it is compared by pixels only")
        return Plan(
            ref=pulled.ref,
            basis={
                "pixels": image.identity,
                "channels": list(image.channel_names),
                "geometry": pulled.cells.geometry_hash() if pulled.cells is not None else "",
                "targets": targets,
                "streams": {label: stream.describe() for label, stream in streams.items()},
            },
            counts={"cells": len(pulled.cells) if pulled.cells is not None else 0},
            warnings=(*pulled.all_warnings, *filter(None, (c.why_too_good(pulled.ref) for c in self.candidates))),
            notes=tuple(notes),
        )

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        """Cases and thresholds are no part of it: they only enter the tables, which are made anew when they change."""
        targets: dict[str, list[str]] = plan.basis["targets"]
        return fingerprint(
            result_keys=[
                result_key(task=self.name, model=label, target=marker, source=plan.ref.id)
                for label, markers in targets.items()
                for marker in markers
            ],
            options=plan.basis["streams"],
            weights_sha256=digest([c.model.weights_sha256 for c in self.candidates]),
            pixels=plan.basis["pixels"],
            geometry=plan.basis["geometry"],
            channels={name: k for k, name in enumerate(plan.basis["channels"])},
            normalization=[_baselines_digest(c.baselines) for c in self.candidates],
            algorithm=ALGORITHM,
        )

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        """Nothing is needed of all images together."""

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        image, notes, compared = truthful(pulled.image, self.panel), [], []
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        for candidate in self.candidates:
            targets = plan.basis["targets"][candidate.label]
            if not targets:
                notes.append(f"{candidate.label} imputes none of its markers")
                compared.append(Compared([], {}, None, {}, ()))
                continue

            def tell(done: int, total: int, label: str = candidate.label) -> None:
                progress.step(f"{label}: tiles", done, total)

            found = compare_image(
                candidate, image, pulled.cells, self.engine, targets, work, self.options.how, progress=tell
            )
            compared.append(found)
            notes += [note for note in found.notes if note not in plan.notes]
        save_compared(folder, compared)
        counts = {"markers": {c.label: plan.basis["targets"][c.label] for c in self.candidates}}
        return Outcome(Results(pulled.ref, run.run_id), counts, notes=tuple(notes))

    def _settings(self) -> str:
        """Of the tables, beyond what the fingerprints say."""
        return digest([self.cases, self.given, self.options.compat_split])

    def is_finished(self, run: Run) -> bool:
        peer = peer_files(self.options.compat_split, self.options.compat_pad)
        return (
            run.details.get("tables") == self._settings()
            and all((run.path / name).is_file() for name in TABLES)
            and all(any(run.path.rglob(name)) for name in peer)
        )

    def finish(self, run: Run) -> None:
        """Tables and pictures over all images of the run."""
        saved = list(saved_comparisons(run))
        self.made = make_tables(saved, self.cases, self.given, self.options.views)
        self.made.write(run.path)
        if self.options.compat_pad is not None:
            write_peer_tables(self.made.images, run.path, self.options.compat_split, self.options.compat_pad)
        run.details["pictures"] = list(draw_evaluation(saved, self.made, run.path / PLOTS))
        run.details["tables"] = self._settings()

    def tables(self, run: Run) -> Tables:
        """Those that :meth:`finish` wrote, or would write."""
        return self.made or make_tables(list(saved_comparisons(run)), self.cases, self.given, self.options.views)


def cases_of(refs: Sequence[ImageRef], table: Sequence[CaseRow]) -> dict[str, str]:
    """Case by image id; without a table every image is its own case.

    A row means the image with this id, name or file name (with or without its ending). Raises UsageError for images without
    a row and images with several.
    """
    table = one_spelling(table)
    if not table:
        alone = {ref.id: sum(other.name == ref.name for other in refs) == 1 for ref in refs}
        return {ref.id: ref.name if alone[ref.id] else ref.id for ref in refs}
    cases = {}
    for ref in refs:
        names = (ref.id, ref.name, Path(ref.id).name, Path(ref.id).stem)
        rows = {row.case for row in table if row.image in names[:2]} or {r.case for r in table if r.image in names}
        if len(rows) != 1:
            what = "no row" if not rows else f"several cases ({', '.join(sorted(rows))})"
            raise UsageError(f"the table of cases has {what} for image {ref}", hint="Give one row: image, case")
        cases[ref.id] = rows.pop()
    return cases


def truthful(image: LocalImage, panel: Sequence[PanelRow] = ()) -> LocalImage:
    """The image under the panel's names, channels not to keep being nameless. Raises NotApplicable for images that are not
    measured: pixels made by mxbridge are never truth."""
    if image.rgb:
        raise NotApplicable(f"image {image.name} is a colour picture (RGB), not an image of markers")
    if any(_was_made(path) for path in image.files):
        raise NotApplicable(
            f"image {image.name} holds channels that mxbridge made; they are never truth",
            hint="Evaluate on the original image",
        )
    channels = list(image.channels)
    for k, row in panel_rows(image.channel_names, panel, where=f"image {image.name}").items():
        channels[k] = replace(channels[k], name=row.name if row.keep else "")
    return replace(image, channels=tuple(channels))


def _was_made(path: Path) -> bool:
    """Whether mxbridge wrote this file: its OME-Zarr say so, others lie where a project keeps derived images."""
    home = path.parts[:-1]
    return (path.is_dir() and is_derived(path)) or any(two == ("mxbridge", "derived") for two in pairwise(home))


def _left_out(candidate: Candidate) -> list[str]:
    return [name for name in NAMES if name not in candidate.methods]


def _baselines_digest(baselines: Baselines) -> str:
    return digest([baselines.inputs, baselines.targets, baselines.pixels, baselines.ridge_3x3.tolist()])


def parse_thresholds(text: str | None) -> dict[str, float]:
    """``KI67=30,CD8=12.5``. Raises UsageError."""
    found = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        marker, equals, value = part.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not marker.strip() or not math.isfinite(number):
            raise UsageError(
                f"--positive-threshold {part.strip()!r} is not MARKER=NUMBER", hint="For example KI67=30,CD8=12"
            )
        found[marker.strip()] = number
    if text is not None and not found:
        raise UsageError("--positive-threshold names no marker", hint="For example KI67=30")
    return found


def checked_split(name: str) -> str:
    """A word that can begin a file name. Raises UsageError."""
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise UsageError(f"--compat-split {name!r} cannot be part of a file name", hint="Use letters, digits, - and _")
    return name
