"""Put a reviewed run into its workspace, and take it out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import UsageError
from mxbridge.results import ImageRef, Results
from mxbridge.runs import Run
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import Workspace


@dataclass(frozen=True)
class Moved:
    """What happened to one image's results."""

    image: str
    changed: bool
    notes: tuple[str, ...]


def publish_run(folder: Path, *, path_maps: Sequence[str] = ()) -> list[Moved]:
    """Publish every finished image of a run. Raises SourceError, BrokenFile, OutputError; UsageError when none is finished."""
    run, workspace = _open(folder, path_maps)
    workspace.check_writable()
    moved = []
    with run.locked():
        for image in run.images:
            if not (run.folder_of(image) / "results.json").is_file():
                continue
            results = Results.load(run.folder_of(image))
            done = None if workspace.holds(results) else workspace.publish(results)
            moved.append(Moved(image.name, bool(done and done.changed), done.notes if done else ()))
            if image.status != "published" or image.error:
                image.status, image.error, image.error_code = "published", None, None
                run.published = True
                run.save()
    if not moved:
        raise UsageError(f"{folder} has no finished image", hint="Run the same command again to finish it")
    return moved


def undo_run(folder: Path, *, path_maps: Sequence[str] = ()) -> list[Moved]:
    """Take the results of a run out of its workspace. Raises as :func:`publish_run`."""
    run, workspace = _open(folder, path_maps)
    workspace.check_writable()
    moved = []
    with run.locked():
        for image in run.images:
            if not (run.folder_of(image) / "results.json").is_file():
                continue
            keys = Results.load(run.folder_of(image)).result_keys
            done = workspace.retract(ImageRef(image.id, image.name), keys)
            moved.append(Moved(image.name, done.changed, done.notes))
            if image.status == "published":
                image.status = "computed"
                run.save()
    return moved


def _open(folder: Path, path_maps: Sequence[str]) -> tuple[Run, Workspace]:
    run = Run.load(folder)
    options = {"path_maps": tuple(path_maps)} if run.address.endswith(".qpproj") else {}
    return run, open_workspace(run.address, **options)
