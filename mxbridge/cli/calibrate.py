"""``mxbridge calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxbridge.cli import console, options
from mxbridge.errors import InputError, UsageError

if TYPE_CHECKING:
    from mxbridge.tasks.calibrate import Calibration

CALLS = "Hand-made classes"


def calibrate(
    project: options.Project = None,
    image: options.Image = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Scores of this run folder, published or not", rich_help_panel=options.IMAGES),
    ] = None,
    cells: Annotated[
        options.CellChoice | None,
        typer.Option("--cells", help="Which objects are the cells (else those scored)", rich_help_panel=options.IMAGES),
    ] = None,
    marker: Annotated[
        list[str] | None, typer.Option("--marker", help="Only this marker; repeatable", rich_help_panel=CALLS)
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(
            "--positive", help="Class of positive cells (else CD3, CD3+, CD3: Positive)", rich_help_panel=CALLS
        ),
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option("--negative", help="Class of negative cells (else CD3-, CD3: Negative)", rich_help_panel=CALLS),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="CSV instead: image, cell, marker, class", rich_help_panel=CALLS),
    ] = None,
    min_cells: Annotated[
        int, typer.Option("--min-cells", help="Fewest positive and negative cells of a marker", rich_help_panel=CALLS)
    ] = 5,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Whose scores, as in 'Nimbus: CD3', where there are several", rich_help_panel=CALLS
        ),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", help="FILE.csv: the report; FILE.json: for score --thresholds", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    classifiers: Annotated[
        bool, typer.Option("--classifiers", help="Renew the QuPath object classifiers", rich_help_panel=options.OUTPUT)
    ] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Fit thresholds to cells that were classed by hand, and keep them for later runs.

    Hand-made are classes that you gave cells, and classed annotations around cells or on them, not what a run of mxbridge set.
    """
    from mxbridge.tasks import calibrate as task
    from mxbridge.workspaces import open_workspace

    chosen = task.CalibrateOptions(
        markers=tuple(marker or ()),
        positive=tuple(positive or ()),
        negative=tuple(negative or ()),
        model=model,
        run=run,
        classes=classes,
        cells=None if cells is None else cells.value,
        min_cells=min_cells,
    )
    tables, files = _outputs(out or [])
    found = task.calibrate(open_workspace(f"project:{project}") if project is not None else None, chosen, image or ())
    if classifiers and found.workspace is None:
        raise UsageError("--classifiers writes into QuPath projects only", hint="Name one with --project")
    kept: list[Path] = []
    notes = list(found.notes)
    if not dry_run:
        kept, more = task.keep(found, files, tables, classifiers=classifiers)
        notes += more
    _say(found, [] if dry_run else tables, kept, notes, dry_run=dry_run, as_json=json)
    if not found.fitted:
        raise InputError("no threshold could be fitted", hint="The reasons are above")


def _outputs(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Reports and files of thresholds, by what their names end in."""
    odd = [p for p in paths if p.suffix.lower() not in (".csv", ".json")]
    if odd:
        raise UsageError(f"--out {odd[0]} is neither a .csv (report) nor a .json (thresholds)")
    return [p for p in paths if p.suffix.lower() == ".csv"], [p for p in paths if p.suffix.lower() == ".json"]


def _say(
    found: Calibration, tables: list[Path], kept: list[Path], notes: list[str], *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        console.print_json(
            {
                "model": found.model,
                "source": found.source,
                "fitted": [_plain(one) for one in found.fitted],
                "refused": [vars(one) for one in found.refused],
                "notes": notes,
                "kept": kept,
                "dry_run": dry_run,
            }
        )
        return
    console.out.print(f"Scores: {found.source}", markup=False)
    rows = [
        (one.marker, one.positive, one.negative, one.before, one.threshold, _span(one.interval), one.auroc,
         _span(one.auroc_interval), one.f1_before, one.f1_after)
        for one in found.fitted
    ]  # fmt: skip
    names = ("marker", "pos", "neg", "old", "new", "(95 %)", "AUROC", "(95 %)", "F1 old", "F1 new")  # in 80 columns
    if rows:
        console.print_table(names, rows)
    for one in found.refused:
        console.out.print(f"{one.marker}: no threshold: {one.why}", markup=False)
    for note in notes:
        console.out.print(f"  {note}", markup=False)
    for path in tables:
        console.out.print(f"Report: {path}", markup=False)
    for path in kept:
        console.out.print(f"Thresholds: {path}", markup=False)
    if found.fitted and not kept:
        why = "nothing was written (--dry-run)" if dry_run else "nothing was kept; give --out thresholds.json"
        console.out.print(why, markup=False)


def _plain(one: Any) -> dict[str, Any]:
    return {**vars(one), "rule": vars(one.rule)}


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f}-{interval[1]:.2f}"
