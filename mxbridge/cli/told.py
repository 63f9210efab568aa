"""What commands over many images say in the same way: what would be done, and what was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxbridge.cli import console
from mxbridge.errors import MxbridgeError, SomeImagesFailed

if TYPE_CHECKING:
    from mxbridge.progress import Progress
    from mxbridge.results import ImageRef
    from mxbridge.tasks.over_images import Finished, ImageTask, Plan
    from mxbridge.workspaces.base import Workspace


def say_plans(
    workspace: Workspace,
    task: ImageTask,
    refs: Sequence[ImageRef],
    teller: Progress,
    *,
    all_named: bool,
    publish: bool,
    document: dict[str, Any] | None,
    row: Callable[[Plan], dict[str, Any]],
    what: Callable[[dict[str, Any]], str],
    last: Callable[[], Sequence[str]] = tuple,
    makes: Collection[str] = ("values",),
) -> None:
    """``--dry-run``. document: what JSON says besides the images, None for text. row: what is told of a plan, ``notes`` among it;
    what: that in a few words. publish: tell what publishing would do, too. last: lines below all images. makes: what the task
    makes (of ``workspaces.base.MADE``). Raises SomeImagesFailed, or the images' own error where none can be done."""
    from mxbridge.tasks.over_images import leave_out, plan_images, telling

    plans, failed = plan_images(workspace, refs, task)
    refs = refs if all_named else leave_out(refs, plans, failed, teller)
    rows = [
        {
            "image": plan.ref.name,
            "id": plan.ref.id,
            **plan.counts,
            **row(plan),
            **_intentions(workspace, plan.ref, makes if publish else ()),
        }
        for plan in plans
    ]
    rows += [{"image": ref.name, "id": ref.id, "error": str(failed[ref.id])} for ref in refs if ref.id in failed]
    if document is not None:
        console.print_json({"dry_run": True, **document, "images": rows})
    for told in rows if document is None else ():
        console.out.print(f"{told['image']}: {told['error'] if 'error' in told else what(told)}", markup=False)
        for note in (*told.get("notes", ()), *told.get("publishing", ())):
            console.out.print(f"  {note}", markup=False)
    for line in last() if document is None else ():
        console.out.print(line, markup=False)
    if failed and not plans:
        raise telling(failed.values())
    if failed:
        raise SomeImagesFailed(f"{len(failed)} of {len(refs)} images cannot be done", hint="They are named above")


def _intentions(workspace: Workspace, ref: ImageRef, makes: Collection[str]) -> dict[str, list[str]]:
    """What publishing would do, where the workspace has something to say of it; what would prevent it is told, not raised."""
    try:
        lines = workspace.intentions(ref, makes) if makes else ()
    except MxbridgeError as error:
        lines = (f"cannot be published: {error}",)
    return {"publishing": list(lines)} if lines else {}


def run_document(finished: Finished) -> dict[str, Any]:
    """What JSON says of every run."""
    run = finished.run
    return {
        "run": run.run_id,
        "folder": run.path.resolve(),
        "model": run.model,
        "computed": finished.computed,
        "published": finished.published,
        "images": [
            {"id": i.id, "name": i.name, "status": i.status, "error": i.error, "warnings": i.warnings, **i.counts}
            for i in run.images
        ],
    }


@dataclass(frozen=True)
class Reported:
    """The page of a run, if it was asked for: where it is, or why there is none."""

    wanted: bool
    path: Path | None = None
    error: MxbridgeError | None = None

    @property
    def document(self) -> dict[str, Any]:
        """What JSON says of it."""
        return {"report": self.path} if self.wanted else {}

    def say(self) -> None:
        if self.path is not None:
            console.out.print(f"Report: {self.path}", markup=False)

    def raise_for_errors(self, finished: Finished) -> None:
        """The errors of the images first."""
        finished.raise_for_errors()
        if self.error is not None:
            raise self.error


def report(finished: Finished, workspace: Workspace | None, teller: Progress, *, wanted: bool) -> Reported:
    """Make the page of a run that has just ended. What prevents it is raised when everything else has been said."""
    if not wanted:
        return Reported(wanted)
    from mxbridge.report.build import build_report

    try:
        path = build_report(finished.run.path, workspace=workspace, progress=teller)
    except MxbridgeError as error:
        return Reported(wanted, error=error)
    return Reported(wanted, path.resolve())


def say_where(finished: Finished, publish: bool, *, files: str, results: str, more: bool = False) -> None:
    """The last lines of a run. files: what is in its folder; results: what is in a project or on a server. more: something else
    was done."""
    run = finished.run
    if not (finished.computed or finished.published or finished.errors or more):
        console.out.print("Nothing to do: all of this was done before. --restart does it again.")
    if any(image.error is None for image in run.images):
        console.out.print(f"{files}: {run.path.resolve()}", markup=False)
    if not publish or finished.errors:
        return
    if run.is_of_project:
        console.out.print(f"{results} in {run.address}", markup=False)
    elif run.is_of_server:
        from mxbridge.workspaces.omero.sessions.address import Place

        place = Place.parse(run.address)
        console.out.print(f"{results} on {place.server.name} ({place.images})", markup=False)
