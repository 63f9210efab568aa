"""``mxbridge qupath hand-over``: what the script buttons inside QuPath ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options
from mxbridge.cli.publish import Project, RunFolder
from mxbridge.errors import UsageError

SPOKEN = 1
"""Format of the exchange file that this mxbridge writes, and that the scripts it installs read."""


def hand_over(
    run: RunFolder,
    project: Project = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="Image by name, or id:3 by its number (repeatable; else all)")
    ] = None,
    spoken: Annotated[int, typer.Option("--format", help="Format of the exchange file that is understood")] = SPOKEN,
    path_map: options.PathMap = None,
    json: options.Json = False,
) -> None:
    """Write results of a run as files that a script in QuPath applies to open images (the buttons do that; no project is written)."""
    if spoken != SPOKEN:
        raise UsageError(
            f"the scripts in this project speak format {spoken}, this mxbridge speaks {SPOKEN}",
            hint="Run mxbridge qupath install-scripts again",
        )
    from mxbridge.tasks.hand_over import hand_over_run

    done = hand_over_run(run, project=project, names=image or (), path_maps=path_map or ())
    if json:
        images = [
            {
                "id": one.id,
                "name": one.name,
                "file": None if one.file is None else Path(one.file).resolve(),
                "cells_gone": one.cells_gone,
                "notes": list(one.notes),
                "error": None if one.error is None else str(one.error),
            }
            for one in done.images
        ]
        console.print_json({"run": done.run_id, "images": images})
    for one in () if json else done.images:
        console.out.print(f"{one.name}: {one.file if one.error is None else one.error}", markup=False)
        for note in one.notes:
            console.out.print(f"  {note}", markup=False)
    done.raise_for_errors()
