"""``mxbridge train maxim``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxbridge.cli import console, options
from mxbridge.cli.places import Places, takes_places
from mxbridge.cli.process import keep_freed_memory
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.models.card import ModelCard
    from mxbridge.progress import Progress
    from mxbridge.training.maxim.images import TrainingImage
    from mxbridge.training.maxim.recipe import Prepared

MARKERS = "Markers"
HELD_BACK = "What is held back"
TRAINING = "Training"
NETWORK = "Network"


@takes_places(several_projects=True)
def train_maxim(
    out: Annotated[
        Path, typer.Option("--out", help="Weights to write (.safetensors), card beside", rich_help_panel=options.OUTPUT)
    ],
    places: Places,
    panel: options.Panel = None,
    npy: Annotated[
        Path | None,
        typer.Option(
            "--npy", help="The published program's CSV (Image_Path, Split_Name)", rich_help_panel=options.IMAGES
        ),
    ] = None,
    npy_panel: Annotated[
        str | None,
        typer.Option("--npy-panel", help="Markers of its .npy planes, in order", rich_help_panel=options.IMAGES),
    ] = None,
    marker: Annotated[
        str | None, typer.Option("--marker", help="What to predict: KI67 or KI67,CD8", rich_help_panel=MARKERS)
    ] = None,
    any_marker: Annotated[
        bool, typer.Option("--any-marker", help="One model for whichever marker is missing", rich_help_panel=MARKERS)
    ] = False,
    inputs: Annotated[
        str | None,
        typer.Option("--inputs", help="From what (else all markers and counterstains)", rich_help_panel=MARKERS),
    ] = None,
    most_hidden: Annotated[
        int | None,
        typer.Option("--most-hidden", help="Markers hidden at a time with --any-marker", rich_help_panel=MARKERS),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option("--scaling", help="linear, arcsinh:5 (counts), or peer (/255)", rich_help_panel=MARKERS),
    ] = None,
    cap: Annotated[
        float | None, typer.Option("--cap", help="Quantile of training pixels that becomes 1", rich_help_panel=MARKERS)
    ] = None,
    model_um_per_px: Annotated[
        float | None,
        typer.Option("--model-um-per-px", help="Scale of the model (else the images')", rich_help_panel=MARKERS),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", help="CSV: image, case[, split]", rich_help_panel=HELD_BACK)
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", help="Cases to hold back (else a fifth of them)", rich_help_panel=HELD_BACK),
    ] = None,
    validation_region: Annotated[
        float | None,
        typer.Option(
            "--validation-region", help="Hold back this share of every image's rows", rich_help_panel=HELD_BACK
        ),
    ] = None,
    guard: Annotated[
        int | None,
        typer.Option("--guard", help="Unused rows beside that region, model pixels", rich_help_panel=HELD_BACK),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", help="Learn from this share of the data", rich_help_panel=HELD_BACK)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="house (small, quick) or paper", rich_help_panel=TRAINING)
    ] = "house",
    steps: Annotated[
        int | None, typer.Option("--steps", help="Batches to learn from, at most", rich_help_panel=TRAINING)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Instead: passes over the data", rich_help_panel=TRAINING)
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option("--validate-every", help="Steps between validations", rich_help_panel=TRAINING)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Validations without progress before it stops", rich_help_panel=TRAINING),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Patches per step", rich_help_panel=TRAINING)] = None,
    patch: Annotated[
        int | None, typer.Option("--patch", help="Side of a patch in pixels", rich_help_panel=TRAINING)
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option("--jitter", help="Vary input brightness: SD of its logarithm", rich_help_panel=TRAINING),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Highest rate", rich_help_panel=TRAINING)
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="alpha L1 + (1 - alpha) L2", rich_help_panel=TRAINING)
    ] = None,
    adversarial: Annotated[
        str | None,
        typer.Option("--adversarial", help="With a discriminator: paper or coded", rich_help_panel=TRAINING),
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", help="Weight of L1 beside the discriminator", rich_help_panel=TRAINING)
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of weights, patches and choices", rich_help_panel=TRAINING)
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", help="Filters of the first level", rich_help_panel=NETWORK)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", help="linear (correct a regression) or none (as published)", rich_help_panel=NETWORK),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    name: Annotated[
        str, typer.Option("--name", help="What its measurements are called", rich_help_panel=options.OUTPUT)
    ] = "MAXIM",
    licence: Annotated[
        str, typer.Option("--licence", help="Of the weights, for the card", rich_help_panel=options.OUTPUT)
    ] = "",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", help="To go on from after a stop (else OUT.checkpoint)", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--restart", help="Go on from the checkpoint, or start anew", rich_help_panel=options.OUTPUT
        ),
    ] = True,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Train an imputation model on your own good slides."""
    from mxbridge.training.maxim import recipe as maxim
    from mxbridge.training.maxim.settings import settings_of
    from mxbridge.training.maxim.split import read_cases

    settings = settings_of(
        preset,
        markers=options.names("--marker", marker, none="nothing") or None,
        any_marker=any_marker,
        inputs=options.names("--inputs", inputs, none="nothing") or None,
        most_hidden=most_hidden,
        um_per_px=model_um_per_px,
        scaling=scaling,
        cap=cap,
        width=width,
        side=patch,
        batch=batch,
        jitter=jitter,
        start=start,
        alpha=alpha,
        adversarial=adversarial,
        beta=beta,
        steps=steps,
        epochs=epochs,
        validate_every=validate_every,
        patience=patience,
        learning_rate=learning_rate,
        fraction=fraction,
        guard=guard,
        seed=seed,
        precision=precision,
    )
    held_back_cases = options.names("--validation", validation, none="nothing")
    if validation_region is not None and held_back_cases:
        raise UsageError("--validation and --validation-region are two ways of holding back; name one")
    if guard is not None and validation_region is None:
        raise UsageError("--guard goes with --validation-region")
    held_back = maxim.HoldBack(held_back_cases, validation_region, read_cases(cases) if cases is not None else ())
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    images = _images(places, panel, npy, npy_panel, teller)
    if dry_run:
        _say_plan(maxim.prepare(images, settings, held_back, teller), json)
        return
    keep_freed_memory()
    card = maxim.train_maxim(
        images,
        settings,
        out,
        held_back=held_back,
        name=name,
        licence=licence,
        device=device,
        checkpoint=checkpoint or out.with_name(f"{out.name}.checkpoint"),
        restart=not resume,
        progress=teller,
    )
    _say_result(out, maxim.training_folder(out), card, json)


def _images(
    places: Places, panel: Path | None, npy: Path | None, npy_panel: str | None, teller: Progress
) -> list[TrainingImage]:
    """All images that the options name, of projects and files, or of the published program's table."""
    from mxbridge.panel import read_panel
    from mxbridge.training.maxim.images import gather_images, gather_npy

    if npy is not None:
        if places.given - {"um_per_px"} or panel:
            raise UsageError("--npy is a source of its own", hint="Leave --project, --files and their options out")
        if npy_panel is None:
            raise UsageError("--npy needs to know the planes of its images", hint="--npy-panel DAPI,CD4,CD8")
        return gather_npy(npy, options.names("--npy-panel", npy_panel, none="nothing"), places.um_per_px, teller)
    if npy_panel is not None:
        raise UsageError("--npy-panel goes with --npy")
    return gather_images(
        places.open_each(),
        names=places.names,
        panel=read_panel(panel) if panel is not None else (),
        progress=teller,
    )


def _say_plan(prepared: Prepared, as_json: bool) -> None:
    panel, split = prepared.panel, prepared.split
    schedule = prepared.settings.schedule(split.training_pixels)
    document = {
        "dry_run": True,
        "inputs": list(panel.inputs),
        "outputs": list(panel.outputs),
        "um_per_px": prepared.um_per_px,
        "split": split.line,
        "images": [dict(row) for row in split.rows],
        "training_pixels": split.training_pixels,
        "steps": schedule.steps,
        "validate_every": schedule.validate_every,
        "scaling": {m: s.to_json() for m, s in prepared.scalings.items()},
    }
    if as_json:
        console.print_json(document)
        return
    console.print_table(("image", "case", "use"), [(r["image"], r["case"], r["use"]) for r in split.rows])
    console.out.print(
        f"{len(panel.inputs)} inputs, {len(panel.outputs)} outputs, {split.training_pixels} training pixels of "
        f"{prepared.um_per_px:g} µm, at most {schedule.steps} steps",
        markup=False,
    )


def _say_result(out: Path, folder: Path, card: ModelCard, as_json: bool) -> None:
    if as_json:
        console.print_json({"weights": out.resolve(), "folder": folder.resolve(), "card": vars(card)})
        return
    columns = ("mae", "ridge_mae", "ridge_3x3_mae", "pearson", "ridge_3x3_pearson")
    rows = [
        (m, *("" if card.metrics[m].get(c) is None else card.metrics[m][c] for c in columns))
        for m in card.outputs
        if isinstance(card.metrics.get(m), dict)
    ]
    console.print_table(("held back", "MAE", "ridge", "ridge 3x3", "Pearson", "ridge 3x3"), rows)
    console.out.print(f"Weights and card: {out.resolve()}", markup=False)
    console.out.print(f"Curves, patches, tables: {folder.resolve()}", markup=False)
    console.out.print(f"Impute with them: mxbridge impute --model {out} --marker ... ", markup=False)
