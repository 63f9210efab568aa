"""``mxbridge score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options, told
from mxbridge.cli.places import Places, takes_places
from mxbridge.errors import ModelError, UsageError

if TYPE_CHECKING:
    from mxbridge.progress import Progress
    from mxbridge.tasks.over_images import Finished
    from mxbridge.tasks.score import ScoreTask
    from mxbridge.workspaces.base import Workspace

SCORING = "Scoring"
OTHER_SYSTEM = "Imputation models are for mxbridge impute; `mxbridge models list` says what each is for"


@takes_places(labels=True, stretched=True, publishes=True)
def score(
    places: Places,
    panel: options.Panel = None,
    inside: options.Inside = None,
    markers: Annotated[
        str | None, typer.Option("--markers", help="Names, comma-separated (else all markers)", rich_help_panel=SCORING)
    ] = None,
    cells: Annotated[
        options.CellChoice, typer.Option("--cells", help="Which objects are the cells", rich_help_panel=SCORING)
    ] = options.CellChoice.cells,
    tta: Annotated[
        bool, typer.Option("--tta/--no-tta", help="Average over six flipped and turned views", rich_help_panel=SCORING)
    ] = True,
    compat: Annotated[
        str | None,
        typer.Option("--compat", help="Reproduce a published program: nimbus-0.0.5", rich_help_panel=SCORING),
    ] = None,
    normalization: Annotated[
        Path | None, typer.Option("--normalization", help="Use the factors in this file", rich_help_panel=SCORING)
    ] = None,
    normalize: Annotated[
        str,
        typer.Option(
            "--normalize", help="pooled: one factor per marker; per-image: each its own", rich_help_panel=SCORING
        ),
    ] = "pooled",
    quantile: Annotated[
        float | None,
        typer.Option(
            "--quantile", help="Foreground quantile that becomes 1 (else the model's)", rich_help_panel=SCORING
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Score from which a cell is positive (else as calibrated, or 0.5)",
            rich_help_panel=SCORING,
        ),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option("--thresholds", help="Thresholds that mxbridge calibrate wrote", rich_help_panel=SCORING),
    ] = None,
    set_class: Annotated[
        bool, typer.Option("--set-class", help="Set derived classes, e.g. Tumor: CD3: CD8", rich_help_panel=SCORING)
    ] = False,
    classifiers: Annotated[
        bool,
        typer.Option(
            "--classifiers", help="Write QuPath object classifiers, to move thresholds there", rich_help_panel=SCORING
        ),
    ] = False,
    maps: Annotated[
        bool,
        typer.Option(
            "--maps",
            help="Keep probability maps (OME-Zarr); in a project also as an entry that shows them with the image",
            rich_help_panel=SCORING,
        ),
    ] = False,
    h5ad: Annotated[bool, typer.Option("--h5ad", help="Also cells.h5ad (AnnData)", rich_help_panel=SCORING)] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", help="nimbus, demo, a file, or a name you added", rich_help_panel=options.MODEL),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    tile: options.Tile = None,
    workers: options.Workers = None,
    out: options.Out = None,
    publish: options.Publish = True,
    report: options.Report = False,
    resume: options.Resume = True,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Score every cell 0..1 for each marker, and write the scores back as measurements (Nimbus: CD3)."""
    if normalize not in ("pooled", "per-image"):
        raise UsageError(f"--normalize {normalize!r} is neither pooled nor per-image")
    workspace = places.open()
    from mxbridge.models import catalogue
    from mxbridge.stream.engine import Engine
    from mxbridge.tasks.over_images import run_over_images
    from mxbridge.tasks.score import ScoreOptions, ScoreTask

    refs = workspace.list(places.names)
    found = catalogue.resolve(model or workspace.default_model or "nimbus")
    if found.card.system != "nimbus":
        raise ModelError(f"{found.path}: a model of the system {found.card.system} scores no cells", hint=OTHER_SYSTEM)
    chosen = ScoreOptions(
        markers=options.names("--markers", markers),
        panel=panel,
        tta=tta,
        compat=compat,
        normalization=normalization,
        normalize=normalize,  # type: ignore[arg-type]  # checked above
        quantile=found.card.normalization_quantile if quantile is None else quantile,
        cells=cells.value,
        threshold=threshold,
        thresholds=thresholds,
        set_class=set_class,
        classifiers=classifiers,
        maps=maps,
        h5ad=h5ad,
        inside=tuple(inside or ()),
    )
    engine = Engine(device=device, precision=precision, tile=tile, workers=workers)
    task = ScoreTask.for_workspace(workspace, catalogue.open_model(found), engine, chosen)
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    if dry_run:
        _say_plan(workspace, task, refs, teller, all_named=places.all_named, publish=publish, as_json=json)
        return
    finished = run_over_images(
        workspace, refs, task, all_named=places.all_named, out=out, publish=publish, resume=resume, progress=teller
    )
    notes = task.put_classifiers(workspace, finished.run, publish=publish)
    for note in notes:
        teller.note(note)
    page = told.report(finished, workspace, teller, wanted=report)
    _say_result(finished, task, publish, json, page, more=bool(notes))
    page.raise_for_errors(finished)


def _say_plan(
    workspace: Workspace,
    task: ScoreTask,
    refs: list[Any],
    teller: Progress,
    *,
    all_named: bool,
    publish: bool,
    as_json: bool,
) -> None:
    def classifiers() -> list[str]:
        markers = task.class_order if task.options.classifiers else ()
        return [f"object classifier: {task.measurement(m)} >= {task.threshold_of(m):g}" for m in markers]

    told.say_plans(
        workspace,
        task,
        refs,
        teller,
        all_named=all_named,
        publish=publish,
        document={"model": task.model.name} if as_json else None,
        row=lambda plan: {"channels": list(plan.basis["channels"]), "notes": list(plan.notes)},
        what=lambda row: f"{row['cells']} cells, {task.model.name}: {', '.join(row['channels'])}",
        last=classifiers,
        makes=("values", "channels") if task.options.maps else ("values",),
    )


def _say_result(
    finished: Finished, task: ScoreTask, publish: bool, as_json: bool, page: told.Reported, *, more: bool
) -> None:
    """more: something besides the scores was done or said."""
    run = finished.run
    positive = task.positives(run)
    if as_json:
        console.print_json(
            told.run_document(finished)
            | {
                "thresholds": {c.measurement: c.threshold for c in positive},
                "classifiers": run.details.get("classifiers"),
                "positive": [vars(c) for c in positive],
            }
            | page.document
        )
        return
    rows = [
        (c.image, c.measurement, c.cells, c.threshold, c.positive, 100 * c.positive / max(1, c.cells)) for c in positive
    ]
    if rows:
        console.print_table(("image", "measurement", "cells", "threshold", "positive", "%"), rows)
    told.say_where(finished, publish, files="Tables and settings", results="The measurements are", more=more)
    page.say()
