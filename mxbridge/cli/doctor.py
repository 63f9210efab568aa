"""``mxbridge doctor``: is everything here and working."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mxbridge.cli import console, options
from mxbridge.errors import InputError, UsageError


class Part(StrEnum):
    omero = "omero"


def doctor(
    fix: Annotated[
        Part | None,
        typer.Option("--fix", help="Install the OMERO client; its zeroc-ice is built where there is no ready-made one"),
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="With --fix omero: folder with ready-made wheels of zeroc-ice")
    ] = None,
    json: options.Json = False,
) -> None:
    """Check this installation: libraries, devices, weights, folders, optional parts."""
    if fix is not None:
        _fix_omero(wheels, json)
        return
    if wheels is not None:
        raise UsageError("--wheels goes with --fix omero")
    from mxbridge.tasks.doctor import examine

    findings = examine()
    if json:
        console.print_json([vars(f) for f in findings])
    else:
        marks = {"ok": "ok", "optional": "--", "broken": "!!"}
        for f in findings:
            hint = f"  {f.hint}" if f.hint else ""
            console.out.print(f"{marks[f.state]:3} {f.subject}: {f.finding}{hint}", markup=False)
    broken = [f for f in findings if f.state == "broken"]
    if broken:
        raise InputError(
            f"this installation is not whole: {', '.join(f.subject for f in broken)}",
            hint=next((f.hint for f in broken if f.hint), "What is wrong with them is listed above"),
        )


def _fix_omero(wheels: Path | None, as_json: bool) -> None:
    from mxbridge.tasks.omero_client import install_client

    done = install_client(wheels, console.make_progress("text", quiet=as_json, verbose=True))
    if as_json:
        console.print_json({"done": done})
        return
    for line in done:
        console.out.print(line, markup=False)
