"""``mxbridge qupath``: new projects, checking projects; buttons and files of objects are beside this file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options, qupath_hand_over, qupath_objects, qupath_scripts
from mxbridge.errors import InputError, UsageError

app = typer.Typer(help="QuPath projects: make and check one, script buttons, objects in and out.", no_args_is_help=True)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project (must not exist)")],
    files: options.Files = None,
    labels: options.Labels = None,
    stretched_labels: options.StretchedLabels = False,
    um_per_px: options.UmPerPx = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a QuPath project; outlines of labels become cells."""
    if not files:
        raise UsageError("a project needs images", hint="Name them with --files")
    from mxbridge.tasks.new_project import make_project

    teller = console.make_progress("text", quiet=quiet, verbose=False)
    made = make_project(
        folder, files, labels or (), um_per_px=um_per_px, stretched_labels=stretched_labels, progress=teller
    )
    if json:
        console.print_json({"project": made.project, "cells": list(made.cells), "warnings": list(made.warnings)})
        return
    for warning in made.warnings:
        teller.warning(warning)
    images = f"{len(made.cells)} image{'s' * (len(made.cells) != 1)}"
    console.out.print(f"Made {made.project} with {images} and {sum(made.cells)} cells.", markup=False)


@app.command()
def check(
    project: Annotated[Path, typer.Argument(help="QuPath project (.qpproj, or its folder)")],
    path_map: options.PathMap = None,
    qupath: Annotated[
        bool | None, typer.Option("--qupath/--no-qupath", help="Compare with a real QuPath (else: where there is one)")
    ] = None,
    json: options.Json = False,
) -> None:
    """Read a project completely, write nothing, and compare with what real QuPath reads where there is one."""
    from mxbridge.workspaces.qupath.check import check_project

    report = check_project(project, path_maps=path_map or (), ask_qupath=qupath)
    if json:
        console.print_json({**asdict(report), "sound": report.sound})
    else:
        for entry in report.entries:
            state = "ok" if not entry.problems else "!!"
            console.out.print(
                f"{state} {entry.name} (id {entry.id}): {entry.objects} objects, {entry.cells} cells", markup=False
            )
            for line in (*entry.problems, *entry.notes):
                console.out.print(f"     {line}", markup=False)
        for line in report.problems:
            console.out.print(f"!! {line}", markup=False)
        console.out.print(report.judge, markup=False)
    if not report.sound:
        raise InputError(f"{report.project} has problems", hint="They are listed above")


app.command("export-objects")(qupath_objects.export_objects)
app.command("import-objects")(qupath_objects.import_objects)
app.command("install-scripts")(qupath_scripts.install_scripts)
app.command("uninstall-scripts")(qupath_scripts.uninstall_scripts)
app.command("hand-over")(qupath_hand_over.hand_over)
