"""Put a reviewed run into its workspace, and take it out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mxbridge.errors import MxbridgeError, OutputError, SomeImagesFailed, UsageError
from mxbridge.results import RESULTS, Results
from mxbridge.runs import Run, now
from mxbridge.tasks.classifiers import DETAIL, put_classifiers, take_classifiers
from mxbridge.tasks.derived import is_placed, lost, place, replaced, take_back
from mxbridge.workspaces import open_workspace
from mxbridge.workspaces.base import Published, Workspace
from mxbridge.workspaces.qupath.object_classifiers import Written


@dataclass(frozen=True)
class Moved:
    """What happened to one image's results."""

    image: str
    changed: bool
    notes: tuple[str, ...]


def publish_run(folder: Path, *, project: Path | None = None, path_maps: Sequence[str] = ()) -> list[Moved]:
    """Publish every finished image of a run. project: where it is now, if it has moved away from its run.

    Raises SourceError, BrokenFile, OutputError; UsageError when nothing is finished; SomeImagesFailed.
    """

    def put(workspace: Workspace, results: Results, images: Path) -> Published | None:
        if is_placed(results, workspace) and workspace.holds(results):
            return None
        if lost(results, images, workspace):
            raise OutputError(
                f"{results.image}: another run has replaced the derived images of this one",
                hint="Run the command of this run again: it computes them anew",
            )
        place(results, images, workspace)
        return workspace.publish(results)

    return _each_finished(folder, project, path_maps, put, put_classifiers, "published")


def undo_run(folder: Path, *, project: Path | None = None, path_maps: Sequence[str] = ()) -> list[Moved]:
    """Take the results of a run out of its workspace; what another run has replaced since stays. Raises as publish_run."""

    def take(workspace: Workspace, results: Results, images: Path) -> Published:
        ours = None if workspace.holds(results) else results.run_id
        theirs = replaced(results, workspace)
        keys = [key for key in results.result_keys if key not in theirs]
        taken = workspace.retract(results.image, keys, run_id=ours)
        if taken.changed:
            take_back(results, images, workspace, taken.keys)
        return taken

    return _each_finished(folder, project, path_maps, take, take_classifiers, "computed")


def _each_finished(
    folder: Path,
    project: Path | None,
    path_maps: Sequence[str],
    move: Callable[[Workspace, Results, Path], Published | None],
    move_classifiers: Callable[[Workspace, Run], Written],
    status: Literal["published", "computed"],
) -> list[Moved]:
    run = Run.load(folder)
    if run.is_of_server and project:
        raise UsageError(
            f"{folder} is a run of images on an OMERO server, not of a project", hint="Leave --project out"
        )
    if path_maps and not (project or run.is_of_project):
        raise UsageError("--path-map goes with projects")
    options = {"path_maps": tuple(path_maps)} if project or run.is_of_project else {}
    workspace = open_workspace(f"project:{project}" if project else run.place, **options)
    workspace.check_writable()
    moved: list[Moved] = []
    errors: list[MxbridgeError] = []
    with run.locked():
        finished = [image for image in run.images if (run.folder_of(image) / RESULTS).is_file()]
        for image in finished:
            try:
                done = move(workspace, Results.load(run.folder_of(image)), run.folder_of(image))
            except MxbridgeError as error:
                errors.append(error)
                continue
            moved.append(Moved(image.name, bool(done and done.changed), done.notes if done else ()))
            image.status, image.error, image.error_code = status, None, None
            run.published = status == "published"
            run.finished = now() if run.finished is None and len(finished) == len(run.images) else run.finished
            run.save()
        if moved and DETAIL in run.details:
            classifiers = move_classifiers(workspace, run)
            moved.append(Moved("object classifiers", bool(classifiers.files), classifiers.notes))
    if not finished:
        raise UsageError(f"{folder} has no finished image", hint="Run the same command again to finish it")
    if errors and not moved:
        raise errors[0]
    if errors:
        raise SomeImagesFailed(f"{len(errors)} of {len(finished)} images failed, the rest are done: {errors[0]}")
    return moved
