"""``mxbridge impute``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options, told
from mxbridge.cli.places import Places, takes_places
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.progress import Progress
    from mxbridge.tasks.impute import ImputeTask
    from mxbridge.tasks.over_images import Finished
    from mxbridge.workspaces.base import Workspace

IMPUTING = "Imputing"


@takes_places(labels=True, stretched=True, publishes=True)
def impute(
    marker: Annotated[
        str,
        typer.Option(
            "--marker", help="What to impute: names as the model has them, comma-separated", rich_help_panel=IMPUTING
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="A file, or a name you added; repeatable: models of other markers, or of the same one (their mean is taken)",
            rich_help_panel=options.MODEL,
        ),
    ],
    places: Places,
    panel: options.Panel = None,
    inside: options.Inside = None,
    without: Annotated[
        str | None,
        typer.Option(
            "--without",
            help="Channels not to believe, as if they were missing; comma-separated",
            rich_help_panel=IMPUTING,
        ),
    ] = None,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="Impute a missing input first, by the --model that has it as output",
            rich_help_panel=IMPUTING,
        ),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also how much six flipped and turned views (or the models of one marker) differ; the image is their mean",
            rich_help_panel=IMPUTING,
        ),
    ] = False,
    value_scale: Annotated[
        float | None,
        typer.Option(
            "--value-scale",
            help="Multiply stored numbers by this first (8-bit images and a 16-bit model, or the reverse)",
            rich_help_panel=IMPUTING,
        ),
    ] = None,
    cells: Annotated[
        options.CellChoice, typer.Option("--cells", help="Which objects are the cells", rich_help_panel=IMPUTING)
    ] = options.CellChoice.cells,
    compat: Annotated[
        str | None,
        typer.Option("--compat", help="Reproduce a published program: maxim", rich_help_panel=IMPUTING),
    ] = None,
    compat_pad: Annotated[
        int | None,
        typer.Option("--compat-pad", help="Its padded side (else 2048)", min=16, rich_help_panel=IMPUTING),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            help="Inputs of its bare checkpoint.pt, in order, comma-separated; --marker names the outputs",
            rich_help_panel=IMPUTING,
        ),
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
    """Impute a missing or failed stain: a channel KI67 (MAXIM) beside the image, and MAXIM: KI67 mean on every cell."""
    markers = options.names("--marker", marker)
    if compat is None and compat_pad is not None:
        raise UsageError("--compat-pad goes with --compat maxim")
    workspace = places.open()
    from mxbridge.stream.engine import Engine
    from mxbridge.tasks.impute import ImputeOptions, ImputeTask
    from mxbridge.tasks.imputing.open_models import open_imputation_models
    from mxbridge.tasks.over_images import run_over_images

    refs = workspace.list(places.names)
    chosen = ImputeOptions(
        markers=markers,
        without=options.names("--without", without),
        chain=chain,
        uncertainty=uncertainty,
        panel=panel,
        value_scale=value_scale,
        compat=compat,
        compat_pad=2048 if compat_pad is None else compat_pad,
        cells=cells.value,
        inside=tuple(inside or ()),
    )
    panel_of = options.names("--inputs", inputs)
    models = open_imputation_models(model, compat=compat, inputs=panel_of, outputs=markers)
    engine = Engine(device=device, precision=precision, tile=tile, workers=workers)
    task = ImputeTask(tuple(found for _, found in models), engine, chosen)
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    if dry_run:
        _say_plan(workspace, task, refs, teller, all_named=places.all_named, publish=publish, as_json=json)
        return
    finished = run_over_images(
        workspace, refs, task, all_named=places.all_named, out=out, publish=publish, resume=resume, progress=teller
    )
    page = told.report(finished, workspace, teller, wanted=report)
    _say_result(finished, publish, json, page)
    page.raise_for_errors(finished)


def _say_plan(
    workspace: Workspace,
    task: ImputeTask,
    refs: list[Any],
    teller: Progress,
    *,
    all_named: bool,
    publish: bool,
    as_json: bool,
) -> None:
    told.say_plans(
        workspace,
        task,
        refs,
        teller,
        all_named=all_named,
        publish=publish,
        document={"model": task.describe()["model"]["name"]} if as_json else None,
        row=lambda plan: {"steps": plan.basis["steps"], "notes": [*plan.warnings, *plan.notes]},
        what=lambda row: (
            f"{' then '.join(', '.join(step['targets']) for step in row['steps'])} on {row['cells']} cells"
        ),
        makes=("channels", "values"),
    )


def _say_result(finished: Finished, publish: bool, as_json: bool, page: told.Reported) -> None:
    from mxbridge.tasks.impute import summary

    rows = summary(finished.run)
    if as_json:
        console.print_json(told.run_document(finished) | {"imputed": rows} | page.document)
        return
    if rows:
        columns = [key for key in rows[0] if key not in ("cells", "mean") or any(row["cells"] for row in rows)]
        console.print_table(columns, [[row[key] for key in columns] for row in rows])
    told.say_where(finished, publish, files="Tables and settings", results="Channels and measurements are")
    page.say()
