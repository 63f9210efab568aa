"""Put a reviewed run into its workspace, and take it out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mxbridge.errors import UsageError
from mxbridge.results import Results
from mxbridge.runs import Run
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import Published, Workspace


@dataclass(frozen=True)
class Moved:
    """What happened to one image's results."""

    image: str
    changed: bool
    notes: tuple[str, ...]


def publish_run(folder: Path, *, path_maps: Sequence[str] = ()) -> list[Moved]:
    """Publish every finished image of a run. Raises SourceError, BrokenFile, OutputError; UsageError when none is finished."""

    def put(workspace: Workspace, results: Results) -> Published | None:
        return None if workspace.holds(results) else workspace.publish(results)

    return _each_finished(folder, path_maps, put, "published")


def undo_run(folder: Path, *, path_maps: Sequence[str] = ()) -> list[Moved]:
    """Take the results of a run out of its workspace. Raises as :func:`publish_run`."""

    def take(workspace: Workspace, results: Results) -> Published:
        return workspace.retract(results.image, results.result_keys)

    return _each_finished(folder, path_maps, take, "computed")


def _each_finished(
    folder: Path,
    path_maps: Sequence[str],
    move: Callable[[Workspace, Results], Published | None],
    status: Literal["published", "computed"],
) -> list[Moved]:
    run = Run.load(folder)
    options = {"path_maps": tuple(path_maps)} if run.address.endswith(".qpproj") else {}
    workspace = open_workspace(run.address, **options)
    workspace.check_writable()
    moved = []
    with run.locked():
        for image in run.images:
            if not (run.folder_of(image) / "results.json").is_file():
                continue
            done = move(workspace, Results.load(run.folder_of(image)))
            moved.append(Moved(image.name, bool(done and done.changed), done.notes if done else ()))
            image.status, image.error, image.error_code = status, None, None
            run.published = status == "published"
            run.save()
    if not moved:
        raise UsageError(f"{folder} has no finished image", hint="Run the same command again to finish it")
    return moved
