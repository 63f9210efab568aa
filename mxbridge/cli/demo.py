"""``mxbridge demo``: a project to play with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to make it (must not exist)")],
    seed: Annotated[int, typer.Option("--seed", help="Another number makes another tissue", min=0)] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a demo that is there")] = False,
    json: options.Json = False,
) -> None:
    """Make a QuPath project with two simulated images of 8 markers, about 3,000 segmented cells each."""
    from mxbridge.tasks.demo import make_demo

    made = make_demo(folder, seed=seed, force=force)
    if json:
        console.print_json({"project": made.project.resolve(), "images": made.images, "cells": made.cells})
        return
    console.out.print(f"Made {made.project} with {len(made.images)} images, {made.cells} cells.", markup=False)
    console.out.print(f"Score it:      mxbridge score --project {made.project}", markup=False)
    console.out.print(f"Look at it:    open {made.project} in QuPath", markup=False)
