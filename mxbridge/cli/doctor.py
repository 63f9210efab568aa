"""``mxbridge doctor``: is everything here and working."""

from __future__ import annotations

from mxbridge.cli import console, options
from mxbridge.errors import InputError


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
    broken = [f for f in findings if f.state == "broken"]
    if broken:
        raise InputError(
            f"this installation is not whole: {', '.join(f.subject for f in broken)}",
            hint=next((f.hint for f in broken if f.hint), "What is wrong with them is listed above"),
        )
