"""``mxbridge doctor``: is everything here and working."""

from __future__ import annotations

import typer

from mxbridge.cli import console, options


def doctor(json: options.Json = False) -> None:
    """Check this installation: libraries, devices, weights, folders, optional parts."""
    from mxbridge.tasks.doctor import examine

    findings = examine()
    if json:
        console.print_json([vars(f) for f in findings])
    else:
        marks = {"ok": "ok", "optional": "--", "broken": "!!"}
        for f in findings:
            hint = f"  {f.hint}" if f.hint else ""
            console.out.print(f"{marks[f.state]:3} {f.subject}: {f.finding}{hint}", markup=False)
    if any(f.state == "broken" for f in findings):
        raise typer.Exit(1)
