"""``mxbridge importance``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mxbridge.cli import console, options, told
from mxbridge.cli.places import Places, takes_places
from mxbridge.cli.process import keep_freed_memory
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.tasks.importance import ImportanceTask
    from mxbridge.tasks.over_images import Finished

ATTRIBUTION = "Attribution"


@takes_places()
def importance(
    model: Annotated[
        list[str],
        typer.Option("--model", help="A file, or a name you added; repeatable", rich_help_panel=options.MODEL),
    ],
    places: Places,
    panel: options.Panel = None,
    method: Annotated[
        str, typer.Option("--method", help="How: integrated-gradients", rich_help_panel=ATTRIBUTION)
    ] = "integrated-gradients",
    marker: Annotated[
        str | None,
        typer.Option(
            "--marker", help="Imputed markers to explain, comma-separated (else all)", rich_help_panel=ATTRIBUTION
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", help="Points between an empty image and this one", rich_help_panel=ATTRIBUTION)
    ] = 50,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Passes at once (else as memory allows)", rich_help_panel=ATTRIBUTION)
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            "--crop",
            help="Look at squares of this side, at the model's scale (else images up to 512 px whole, others by 256)",
            rich_help_panel=ATTRIBUTION,
        ),
    ] = None,
    patches: Annotated[
        int, typer.Option("--patches", help="At most so many squares per image", rich_help_panel=ATTRIBUTION)
    ] = 16,
    seed: Annotated[int, typer.Option("--seed", help="For the choice of squares", rich_help_panel=ATTRIBUTION)] = 1,
    value_scale: Annotated[
        float | None,
        typer.Option(
            "--value-scale",
            help="Multiply stored numbers by this first (8-bit images and a 16-bit model, or the reverse)",
            rich_help_panel=ATTRIBUTION,
        ),
    ] = None,
    compat: Annotated[
        str | None,
        typer.Option("--compat", help="Reproduce a published program's files: maxim", rich_help_panel=ATTRIBUTION),
    ] = None,
    compat_pad: Annotated[
        int | None,
        typer.Option("--compat-pad", help="Its padded side (else 2048)", min=16, rich_help_panel=ATTRIBUTION),
    ] = None,
    compat_split: Annotated[
        str, typer.Option("--compat-split", help="Its name for the images, in file names", rich_help_panel=ATTRIBUTION)
    ] = "test",
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            help="Inputs of its bare checkpoint.pt, in order, comma-separated; --marker names the outputs",
            rich_help_panel=ATTRIBUTION,
        ),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    out: options.Out = None,
    report: options.Report = False,
    resume: options.Resume = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Which measured markers an imputed one is made of: attributions of its mean intensity, summed per marker."""
    if compat is None and (compat_pad is not None or inputs is not None):
        raise UsageError("--compat-pad and --inputs go with --compat maxim")
    if compat is not None and crop is not None:
        raise UsageError("--crop does not go with --compat, which looks at whole images")
    workspace = places.open()
    from mxbridge.models.attribution import AttributionSettings
    from mxbridge.stream.engine import Engine
    from mxbridge.tasks import importance_of_image
    from mxbridge.tasks.importance import ImportanceOptions, ImportanceTask
    from mxbridge.tasks.imputing.open_models import open_imputation_models
    from mxbridge.tasks.over_images import run_over_images

    settings = AttributionSettings(method, steps, batch)
    refs = workspace.list(places.names)
    targets = options.names("--marker", marker)
    opened = open_imputation_models(model, compat=compat, inputs=options.names("--inputs", inputs), outputs=targets)
    looked_at = importance_of_image.Places(patches=patches, seed=seed)
    if crop is not None:
        looked_at = importance_of_image.Places(0, crop, patches, seed)
    chosen = ImportanceOptions(
        markers=targets,
        settings=settings,
        places=looked_at,
        panel=panel,
        value_scale=value_scale,
        compat=compat,
        compat_pad=2048 if compat_pad is None else compat_pad,
        split=compat_split,
    )
    task = ImportanceTask([loaded for _, loaded in opened], Engine(device=device, workers=workers), chosen)
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    keep_freed_memory()
    finished = run_over_images(
        workspace, refs, task, all_named=places.all_named, out=out, publish=False, resume=resume, progress=teller
    )
    page = told.report(finished, workspace, teller, wanted=report)
    _say_result(finished, task, page, as_json=json)
    page.raise_for_errors(finished)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _say_result(finished: Finished, task: ImportanceTask, page: told.Reported, *, as_json: bool) -> None:
    run, table, pairs = finished.run, task.table(finished.run), task.pairs(finished.run)
    if as_json:
        console.print_json(
            {
                "run": run.run_id,
                "folder": run.path.resolve(),
                "model": run.model,
                "method": task.options.settings.method,
                "computed": finished.computed,
                "images": [{"id": i.id, "name": i.name, "status": i.status, "error": i.error} for i in run.images],
                "rows": table.to_dict("records"),
                "pairs": pairs.to_dict("records"),
            }
            | page.document
        )
        return
    if len(table):
        shares = ["absolute_percent", "positive_percent", "negative_percent"]
        means = table.groupby(["target", "model", "input"], sort=False)[shares].mean().reset_index()
        means = means.sort_values(["target", "model", shares[0]], ascending=[True, True, False], kind="stable")
        names = ("target", "model", "input", "abs. %", "pos. %", "neg. %")
        rows = [(*row[:3], *(round(float(share), 1) for share in row[3:])) for row in means.itertuples(index=False)]
        console.print_table(names, rows)
        summed = table.groupby(["image_id", "target", "model"])["absolute"].transform("sum")
        worst = (table["delta"].abs() / summed.clip(lower=1e-9)).max()
        console.out.print(
            f"Means over {_images(table['image_id'].nunique())}. What they should add up to is missed by at most {worst:.1%} of their size"
            f"{'; more --steps would help' if worst > 0.05 else ''}",
            markup=False,
        )
    console.out.print(f"Tables and picture: {run.path.resolve()}", markup=False)
    page.say()
