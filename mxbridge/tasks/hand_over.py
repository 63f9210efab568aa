"""Hand the results of a run over to QuPath, for images that are open there: a script in it applies them to what is on screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import MxbridgeError, OutputError, SomeImagesFailed, UsageError
from mxbridge.results import RESULTS, ImageRef, Results
from mxbridge.runs import Run
from mxbridge.tasks.derived import lost, place
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace


@dataclass(frozen=True)
class Handed:
    """What there is for one image. file: the exchange file, None where ``error`` says why there is none."""

    id: str
    name: str
    file: Path | None = None
    cells_gone: int = 0
    notes: tuple[str, ...] = ()
    error: MxbridgeError | None = None


@dataclass(frozen=True)
class HandOver:
    """What was handed over of a run, by image."""

    run_id: str
    images: tuple[Handed, ...]

    def raise_for_errors(self) -> None:
        """Raise the image's own error when all failed, SomeImagesFailed when some did."""
        errors = [image.error for image in self.images if image.error is not None]
        if errors and len(errors) == len(self.images):
            raise errors[0]
        if errors:
            raise SomeImagesFailed(f"{len(errors)} of {len(self.images)} images cannot be handed over: {errors[0]}")


def hand_over_run(
    folder: Path, *, project: Path | None = None, names: Sequence[str] = (), path_maps: Sequence[str] = ()
) -> HandOver:
    """Write the exchange file of each finished image of a run, or of those named, into the run folder. Neither the project
    file nor an image's data are written; the run stays one that is computed and not published.

    project: where it is now, if it has moved away from its run. Errors of single images are in the answer. Raises
    SourceError, BrokenFile, OutputError; UnknownName, UsageError when nothing is finished, or the run is not of a project.
    """
    run = Run.load(folder)
    if not (project or run.is_of_project):
        raise UsageError(
            f"{folder} is not a run of images of a QuPath project", hint="Name the project with --project if it was"
        )
    workspace = QuPathWorkspace(project or run.place, path_maps=path_maps)
    wanted = {ref.id: ref for ref in workspace.list(names)} if names else None
    workspace.check_writable()
    handed: list[Handed] = []
    with run.locked():
        finished = {image.id: image for image in run.images if (run.folder_of(image) / RESULTS).is_file()}
        if not finished:
            raise UsageError(f"{folder} has no finished image", hint="Run the same command again to finish it")
        for ref in wanted.values() if wanted is not None else [ImageRef(i.id, i.name) for i in finished.values()]:
            if ref.id not in finished:
                error = UsageError(f"{ref} is not among the finished images of {folder}")
                handed.append(Handed(ref.id, ref.name, error=error))
                continue
            handed.append(_one_image(run, workspace, ref, run.folder_of(finished[ref.id])))
    return HandOver(run.run_id, tuple(handed))


def _one_image(run: Run, workspace: QuPathWorkspace, ref: ImageRef, folder: Path) -> Handed:
    try:
        results = Results.load(folder)
        if lost(results, folder, workspace):
            raise OutputError(
                f"{ref}: another run has replaced the derived images of this one",
                hint="Run the command of this run again: it computes them anew",
            )
        place(results, folder, workspace)
        model = run.model.get("name")
        done = workspace.hand_over(results, folder, task=run.task, model=model if isinstance(model, str) else "")
    except MxbridgeError as error:
        return Handed(ref.id, ref.name, error=error)
    return Handed(ref.id, ref.name, done.file, done.cells_gone, done.notes)
