"""``mxbridge qc``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options, told
from mxbridge.cli.places import Places, takes_places

if TYPE_CHECKING:
    from mxbridge.runs import Run
    from mxbridge.tasks.judging.verdicts import Row
    from mxbridge.tasks.over_images import Finished
    from mxbridge.tasks.qc import QcTask

JUDGING = "Judging"
SUSPECT = "suspect input"
MOST_ROWS = 60
"""Beyond, only what is not ok is printed; the CSV has all."""


@takes_places()
def qc(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="A file, or a name you added; repeatable: several single-marker models judge each other's inputs",
            rich_help_panel=options.MODEL,
        ),
    ],
    places: Places,
    panel: options.Panel = None,
    inside: options.Inside = None,
    marker: Annotated[
        str | None, typer.Option("--marker", help="Only these, comma-separated (else all)", rich_help_panel=JUDGING)
    ] = None,
    value_scale: Annotated[
        float | None,
        typer.Option(
            "--value-scale",
            help="Multiply stored numbers by this first (8-bit images and a 16-bit model, or the reverse)",
            rich_help_panel=JUDGING,
        ),
    ] = None,
    fail_on_flag: Annotated[
        bool, typer.Option("--fail-on-flag", help="Exit with 8 when a stain is flagged", rich_help_panel=JUDGING)
    ] = False,
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
    """Find failed stains: each is imputed from the others and compared with what was measured.

    Their agreement is held against what the model's validation saw. Nothing is written into the project.
    """
    workspace = places.open()
    from mxbridge.stream.engine import Engine
    from mxbridge.tasks.imputing.open_models import open_imputation_models
    from mxbridge.tasks.over_images import run_over_images
    from mxbridge.tasks.qc import QcOptions, QcTask

    refs = workspace.list(places.names)
    models = [loaded for _, loaded in open_imputation_models(model)]
    engine = Engine(device=device, precision=precision, tile=tile, workers=workers)
    task = QcTask(models, engine, QcOptions(options.names("--marker", marker), panel, value_scale, tuple(inside or ())))
    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    finished = run_over_images(
        workspace, refs, task, all_named=places.all_named, out=out, publish=False, resume=resume, progress=teller
    )
    rows = task.rows(finished.run)
    page = told.report(finished, workspace, teller, wanted=report)
    _say_result(finished, task, rows, page, as_json=json)
    page.raise_for_errors(finished)
    if fail_on_flag:
        task.raise_for_flags(rows, finished.run)


def _say_result(finished: Finished, task: QcTask, rows: list[Row], page: told.Reported, *, as_json: bool) -> None:
    run = finished.run
    pictures = {(row.image_id, row.marker, row.model): path for row, path in task.pictures(run, rows)}
    if as_json:
        console.print_json(_document(finished, rows, pictures) | page.document)
        return
    shown = rows if len(rows) <= MOST_ROWS else [row for row in rows if row.verdict != "ok"]
    table = [
        (row.image, row.marker, _number(row.agreement), _span(row), _p(row.p_corrected), _short(row.verdict))
        for row in shown
    ]
    if table:
        console.print_table(("image", "marker", "agreement", "expected", "p corr.", "verdict"), table)
    for row in shown:
        if row.reason:
            console.out.print(f"{row.image}, {row.marker}: {row.verdict}; {row.reason}", markup=False)
    if len(shown) < len(rows):
        console.out.print(f"{len(rows) - len(shown)} stains are ok and not shown", markup=False)
    for line in _notes(run, rows):
        console.out.print(line, markup=False)
    console.out.print(f"Table and pictures: {run.path.resolve()}", markup=False)
    page.say()


def _document(finished: Finished, rows: list[Row], pictures: dict[Any, Any]) -> dict[str, Any]:
    run = finished.run
    return {
        "run": run.run_id,
        "folder": run.path.resolve(),
        "model": run.model,
        "computed": finished.computed,
        "images": [{"id": i.id, "name": i.name, "status": i.status, "error": i.error} for i in run.images],
        "qc": run.details.get("qc"),
        "flagged": sum(row.is_flag for row in rows),
        "rows": [{**asdict(row), "picture": pictures.get((row.image_id, row.marker, row.model))} for row in rows],
    }


def _notes(run: Run, rows: list[Row]) -> list[str]:
    """How p-values came about, and what cannot be told."""
    about = run.details.get("qc", {})
    notes = []
    if about.get("tests"):
        notes.append(
            f"p corr.: {about['tests']} tests of this run, corrected by {about['correction']}; "
            f"flagged at {about['alpha']:g} and clearly below what is usual"
        )
    fitted = sorted({row.marker for row in rows if row.p_from.startswith("normal")})
    if fitted:
        notes.append(
            f"too few validation windows for ranks among so many tests ({', '.join(fitted[:8])}"
            f"{', ...' if len(fitted) > 8 else ''}): their p come from a normal distribution fitted to the windows"
        )
    flags = sum(row.is_flag for row in rows)
    return [*notes, f"{flags} of {len(rows)} stains are flagged"]


def _short(verdict: str) -> str:
    """Without the inputs, which are named below the table."""
    return SUSPECT if verdict.startswith(SUSPECT) else verdict


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"  # noqa: PLR0124 - NaN


def _p(value: float) -> str:
    return f"{value:.2g}" if value == value else "-"  # noqa: PLR0124 - NaN


def _span(row: Row) -> str:
    low, high = row.expected_low, row.expected_high
    return f"{low:.2f} to {high:.2f}" if low == low else "-"  # noqa: PLR0124 - NaN
