"""``mxbridge demo``: a project to play with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options


class Kind(StrEnum):
    multiplex = "multiplex"
    ihc = "ihc"


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to make it (must not exist)")],
    kind: Annotated[
        Kind, typer.Option("--kind", help="Simulated fluorescence to score, or a real IHC image to translate")
    ] = Kind.multiplex,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Another number makes another tissue (else 1)", min=0)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a demo that is there")] = False,
    json: options.Json = False,
) -> None:
    """Make a QuPath project: two simulated images of 8 markers, about 3,000 segmented cells each; or an IHC image."""
    from mxbridge.tasks.demo import make_demo

    made = make_demo(folder, kind=kind.value, seed=seed, force=force)
    if json:
        console.print_json(
            {"project": made.project.resolve(), "kind": made.kind, "images": made.images, "cells": made.cells}
        )
        return
    if made.kind == "ihc":
        console.out.print(f"Made {made.project} with a real IHC image and regions of two classes.", markup=False)
        console.out.print(f"Translate it:  mxbridge translate --project {made.project}", markup=False)
        console.out.print("               (--inside Tumor: only the glands)", markup=False)
    else:
        console.out.print(f"Made {made.project} with {len(made.images)} images, {made.cells} cells.", markup=False)
        console.out.print(f"Score it:      mxbridge score --project {made.project}", markup=False)
    console.out.print(f"Look at it:    open {made.project} in QuPath", markup=False)
