"""``mxbridge publish`` and ``mxbridge undo``: put a run's results into its workspace, take them out again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxbridge.cli import console, options

if TYPE_CHECKING:
    from mxbridge.tasks.publish import Moved

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder (it holds run.json)")]


Project = Annotated[
    Path | None, typer.Option("--project", help="The project, where it is no longer beside the run or where it was")
]


def publish(
    run: RunFolder, project: Project = None, path_map: options.PathMap = None, json: options.Json = False
) -> None:
    """Put the results of a run into the project, or onto the OMERO server, that it was made from (again)."""
    from mxbridge.tasks.publish import publish_run

    _say(publish_run(run, project=project, path_maps=path_map or ()), json, "published", "is there already")


def undo(run: RunFolder, project: Project = None, path_map: options.PathMap = None, json: options.Json = False) -> None:
    """Take the results of a run out of its project or server; values and outlines that somebody edited since stay, and are reported."""
    from mxbridge.tasks.publish import undo_run

    _say(undo_run(run, project=project, path_maps=path_map or ()), json, "taken out", "nothing to take out")


def _say(moved: list[Moved], as_json: bool, done: str, nothing: str) -> None:
    if as_json:
        console.print_json([{"image": m.image, "changed": m.changed, "notes": list(m.notes)} for m in moved])
        return
    for one in moved:
        console.out.print(f"{one.image}: {done if one.changed else nothing}", markup=False)
    for note in dict.fromkeys(note for one in moved for note in one.notes):
        console.out.print(f"  {note}", markup=False)
