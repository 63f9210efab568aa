"""``mxbridge report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options
from mxbridge.cli.publish import Project, RunFolder


def report(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            help="Where the report goes (else report.html in the run folder; a large one becomes a folder)",
        ),
    ] = None,
    project: Project = None,
    path_map: options.PathMap = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    progress: options.ProgressOption = options.ProgressKind.text,
) -> None:
    """Pictures and tables of a run as one HTML file: to look at, to print, to send to somebody. It replaces its earlier one."""
    from mxbridge.report.build import build_report

    teller = console.make_progress(progress.value, quiet=quiet, verbose=verbose)
    path = build_report(run, out, project, path_maps=path_map or (), progress=teller)
    if json:
        console.print_json({"report": path.resolve()})
    else:
        console.out.print(f"Report: {path.resolve()}", markup=False)
