"""``mxbridge evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxbridge.cli import console, evaluate_segmentation, options, told
from mxbridge.cli.places import Places, takes_places
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.tasks.evaluating.tables import Tables
    from mxbridge.tasks.over_images import Finished
    from mxbridge.workspaces.base import Workspace

COMPARING = "Comparing"
COMPAT = "Published program"
SEGMENTATION = "Segmentation"


@takes_places(labels=True, stretched=True)
def evaluate(
    places: Places,
    panel: options.Panel = None,
    task: Annotated[
        str, typer.Option("--task", help="What is evaluated: imputation or segmentation", rich_help_panel=COMPARING)
    ] = "imputation",
    marker: Annotated[
        str | None,
        typer.Option("--marker", help="Names, comma-separated (else all that are measured)", rich_help_panel=COMPARING),
    ] = None,
    cells: Annotated[
        options.CellChoice, typer.Option("--cells", help="Which objects are the cells", rich_help_panel=COMPARING)
    ] = options.CellChoice.cells,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="CSV: image, case (else each image is its own case)", rich_help_panel=COMPARING),
    ] = None,
    baselines: Annotated[
        list[Path] | None,
        typer.Option(
            "--baselines",
            help="baselines.npz of a training (else the one beside the model); repeatable",
            rich_help_panel=COMPARING,
        ),
    ] = None,
    positive_threshold: Annotated[
        str | None,
        typer.Option(
            "--positive-threshold",
            metavar="KI67=30,...",
            help="From which measured mean a cell is positive, in stored numbers (else Otsu's)",
            rich_help_panel=COMPARING,
        ),
    ] = None,
    value_scale: Annotated[
        float | None,
        typer.Option("--value-scale", help="Stored numbers are multiplied by this first", rich_help_panel=COMPARING),
    ] = None,
    views: Annotated[
        str,
        typer.Option(
            "--views",
            help="one, or six: the mean of six flipped and turned views, as impute --uncertainty gives",
            rich_help_panel=COMPARING,
        ),
    ] = "one",
    compat: Annotated[
        str | None,
        typer.Option("--compat", help="Also the tables of a published program: maxim", rich_help_panel=COMPAT),
    ] = None,
    compat_pad: Annotated[
        int | None,
        typer.Option("--compat-pad", help="Side up to which it pads an image with zeros", rich_help_panel=COMPAT),
    ] = None,
    compat_split: Annotated[
        str | None,
        typer.Option(
            "--compat-split",
            help="Split that is evaluated (else test); its tables are called after it",
            rich_help_panel=COMPAT,
        ),
    ] = None,
    npy: Annotated[
        Path | None,
        typer.Option("--npy", help="Its CSV of images (Image_Path, Split_Name), as a source", rich_help_panel=COMPAT),
    ] = None,
    npy_panel: Annotated[
        str | None,
        typer.Option("--npy-panel", help="Markers of its .npy planes, in order", rich_help_panel=COMPAT),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option("--inputs", help="Input markers of a checkpoint without card, in order", rich_help_panel=COMPAT),
    ] = None,
    truth: Annotated[
        list[str] | None,
        typer.Option(
            "--truth",
            help="Class images (red positive, blue negative, green border) or GeoJSON, found by name; repeatable",
            rich_help_panel=SEGMENTATION,
        ),
    ] = None,
    channels_truth: Annotated[
        list[str] | None,
        typer.Option(
            "--channels-truth",
            help="Pictures of measured channels, called as the inferred ones; repeatable",
            rich_help_panel=SEGMENTATION,
        ),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            "--radius",
            help="µm within which a nucleus counts as found, with --um-per-px (else 10 pixels)",
            rich_help_panel=SEGMENTATION,
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Imputation model; repeatable", rich_help_panel=options.MODEL)
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    tile: options.Tile = None,
    workers: options.Workers = None,
    out: options.Out = None,
    report: options.Report = False,
    resume: options.Resume = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Say how close outputs come to truth: imputed markers beside simple baselines, or segmented nuclei and their scores.

    --task segmentation: --files names class images, raw segmentation images, folders of them, or run folders of translate.
    """
    if task == "segmentation":
        own = {name: value for name, value in locals().items() if name != "places"}
        evaluate_segmentation.run_segmentation({**own, **places.values})
        return
    from mxbridge.tasks import evaluate as tasks

    if task not in tasks.TASKS:
        raise UsageError(f"--task {task} is not known", hint=f"There is: {', '.join(tasks.TASKS)}")
    if truth or channels_truth or radius is not None:
        raise UsageError("--truth, --channels-truth and --radius go with --task segmentation")
    split = "test" if compat_split is None else compat_split
    if npy is None:
        if npy_panel is not None:
            raise UsageError("--npy-panel goes with --npy")
        if compat is None and compat_split is not None:
            raise UsageError("--compat-split goes with --npy or --compat maxim")
        workspace = places.open()
    elif places.given - {"image", "um_per_px"}:
        raise UsageError("--npy is a source of its own", hint="Leave --project, --files and their options out")
    else:
        workspace = _npy_images(npy, npy_panel, split, places.um_per_px)
    from mxbridge.stream.engine import Engine
    from mxbridge.tasks.imputing.open_models import open_imputation_models

    if (compat is None) != (compat_pad is None):
        raise UsageError("--compat maxim and --compat-pad go together", hint="For example --compat-pad 2048")
    markers = options.names("--marker", marker)
    chosen = tasks.EvaluateOptions(
        markers=markers,
        cases=cases,
        baselines=tuple(baselines or ()),
        thresholds=tasks.parse_thresholds(positive_threshold),
        panel=panel,
        cells=cells.value,
        compat_pad=compat_pad,
        compat_split=tasks.checked_split(split),
        value_scale=value_scale,
        views=views,
    )
    models = open_imputation_models(
        model or (),
        compat=compat,
        inputs=options.names("--inputs", inputs),
        outputs=markers,
        um_per_px=places.um_per_px,
    )
    engine = Engine(device=device, precision=precision, tile=tile, workers=workers)
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    finished, tables = tasks.evaluate(
        workspace, models, engine, chosen, images=places.names, out=out, resume=resume, progress=teller
    )
    page = told.report(finished, workspace, teller, wanted=report)
    _say_result(finished, tables, page, as_json=json)
    page.raise_for_errors(finished)


def _npy_images(table: Path, panel: str | None, split: str, um_per_px: float | None) -> Workspace:
    from mxbridge.workspaces.npy_panels import NpyWorkspace

    return NpyWorkspace(table, options.names("--npy-panel", panel), split, um_per_px=um_per_px)


def _say_result(finished: Finished, tables: Tables, page: told.Reported, *, as_json: bool) -> None:
    run = finished.run
    if as_json:
        console.print_json(
            {
                "run": run.run_id,
                "folder": run.path.resolve(),
                "models": run.model,
                "computed": finished.computed,
                "images": [{"id": i.id, "name": i.name, "status": i.status, "error": i.error} for i in run.images],
                "markers": tables.markers.to_dict("records"),
                "wins": tables.wins.to_dict("records"),
                "thresholds": [
                    {"model": model, "marker": name, "threshold": one.value, "from": one.origin}
                    for (model, name), one in tables.thresholds.items()
                ],
            }
            | page.document
        )
        return
    for columns, rows, title in _short(tables):
        console.out.print(title, markup=False)
        console.print_table(columns, rows)
    any_cells = len(tables.markers) and tables.markers["cells"].any()
    for row in tables.wins.to_dict("records"):
        words = f"closer than {row['baseline']} in MAE on {row['mae']} of {row['mae_of']} markers"
        more = (
            {"cell_pearson": "Pearson of cells"} if any_cells else {"pearson": "Pearson", "smooth_iou": "smoothed IoU"}
        )
        words += "".join(f", in {name} on {row[m]} of {row[f'{m}_of']}" for m, name in more.items() if row[f"{m}_of"])
        console.out.print(f"{row['model']} is {words}", markup=False)
    console.out.print(f"Tables and pictures: {run.path.resolve()}", markup=False)
    page.say()


def _short(tables: Tables) -> list[tuple[tuple[str, ...], list[tuple[object, ...]], str]]:
    """Per model a table that fits a terminal: the model beside the strongest baseline there is."""
    from mxbridge.metrics.baselines import MEAN, RIDGE_3X3
    from mxbridge.tasks.evaluating.one_image import MODEL
    from mxbridge.tasks.evaluating.tables import CHANCE

    out: list[tuple[tuple[str, ...], list[tuple[object, ...]], str]] = []
    for label, part in tables.markers.groupby("model", sort=False):
        strongest = RIDGE_3X3 if (part["method"] == RIDGE_3X3).any() else MEAN
        cells = bool(part["cells"].any())
        more = {"cell_pearson": "cell r"} if cells else {"ssim_uniform7": "SSIM7", "smooth_iou": "smooth IoU"}
        shown = {"mae": "MAE", "pearson": "r", **more}
        alone = {"cell_ap": "AP", CHANCE: "chance"} if cells else {}
        columns = ("marker", *(name for title in shown.values() for name in (title, "base")), *alone.values())
        own, base = (part[part["method"] == method].set_index("marker") for method in (MODEL, strongest))
        rows: list[tuple[object, ...]] = []
        for name in own.index:
            pairs = [float(table.loc[name, metric]) for metric in shown for table in (own, base)]
            rows.append((name, *pairs, *(float(own.loc[name, metric]) for metric in alone)))
        cases = int(own["cases"].max()) if len(own) else 0
        how = " of six views" if (part["views"] == "six").any() else ""
        out.append((columns, rows, f"{label}{how}, means over {cases} cases, scaled 0..1 (base: {strongest})"))
    return out
