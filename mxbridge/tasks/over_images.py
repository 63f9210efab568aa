"""The loop every task shares: plan all images, compute one by one, publish each, go on after a kill or a bad image.

    plan ──► (same request done before? go on there) ──► prepare ──► for each image: compute ──► save ──► publish ──► finish

One bad image never stops the others: its error is kept in run.json and decides the exit code at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from mxbridge.errors import BrokenFile, MxbridgeError, NotApplicable, OutputError, SomeImagesFailed, SourceError
from mxbridge.formats.atomic import PART_SUFFIX, output_error
from mxbridge.progress import SILENT, Progress
from mxbridge.results import RESULTS, ImageRef, Results
from mxbridge.runs import ImageRecord, Run, cpu_seconds, finished_images, folder_name, now, open_run
from mxbridge.tasks.derived import is_placed, lost, place, sign
from mxbridge.tasks.regions import pull_for
from mxbridge.workspaces.base import CellKind, Pulled, Workspace


@dataclass(frozen=True)
class Plan:
    """What a task will do with one image, decided without reading its pixels. basis: all that decides the outcome."""

    ref: ImageRef
    basis: dict[str, Any]
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a task made of one image. counts: numbers for the summary, per image. notes: for whoever watches, not kept."""

    results: Results
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ImageTask(Protocol):
    """One verb (score, impute, ...) over many images."""

    name: str

    @property
    def cell_kind(self) -> CellKind:
        """The objects that it wants of an image."""

    @property
    def inside(self) -> Sequence[str]:
        """Classes or ids of the annotations that it stays in; none for the whole image, and where it chooses them itself."""

    def describe(self) -> dict[str, Any]:
        """``model`` and ``options`` for run.json."""

    def plan(self, pulled: Pulled) -> Plan:
        """Check one image and say what would be done. Raises MxbridgeError when it cannot be done."""

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        """Hash of everything that can change this image's result, other images of the run included."""

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        """What must be known before the first image (normalisation). Only called when something is left to compute."""

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        """Results of one image. ``folder`` is its own; what is left in ``folder/work`` serves a resumed run."""

    def finish(self, run: Run) -> None:
        """Tables over all images."""

    def is_finished(self, run: Run) -> bool:
        """Whether everything that :meth:`finish` should have made is there."""


@dataclass(frozen=True)
class Finished:
    """The run, and whether anything had to be computed or written at all."""

    run: Run
    computed: int
    published: int
    errors: tuple[MxbridgeError, ...]

    def raise_for_errors(self) -> None:
        """Raise the images' own error when all failed, SomeImagesFailed when some did."""
        if not self.errors:
            return
        failed = sum(image.error is not None for image in self.run.images)
        if failed == len(self.run.images):
            raise self.errors[0]
        names = ", ".join(image.name for image in self.run.images if image.error)
        raise SomeImagesFailed(
            f"{failed} of {len(self.run.images)} images failed ({names}), the rest are done: {self.errors[0]}",
            hint=f"See {self.run.path / 'run.json'}",
        )


def plan_images(
    workspace: Workspace, refs: Sequence[ImageRef], task: ImageTask, progress: Progress = SILENT
) -> tuple[list[Plan], dict[str, MxbridgeError]]:
    """Plans of the images that can be done, and the errors (by image id) of those that cannot."""
    plans, errors = [], {}
    for number, ref in enumerate(refs, start=1):
        progress.step("reading", number - 1, len(refs))
        try:
            plans.append(task.plan(pull_for(workspace, ref, task.cell_kind, task.inside)))
        except MxbridgeError as error:
            errors[ref.id] = error
    progress.step("reading", len(refs), len(refs))
    return plans, errors


def leave_out(
    refs: Sequence[ImageRef], plans: Sequence[Plan], failed: dict[str, MxbridgeError], progress: Progress
) -> list[ImageRef]:
    """The images without those a task is not made for, which are taken out of ``failed`` and told; all, if none is left."""
    foreign = [ref for ref in refs if isinstance(failed.get(ref.id), NotApplicable)]
    if not plans:
        return list(refs)
    for ref in foreign:
        progress.note(f"left out: {failed.pop(ref.id).message}")
    return [ref for ref in refs if ref not in foreign]


def telling(errors: Iterable[MxbridgeError]) -> MxbridgeError:
    """Of the errors of several images the first that is about the task, not about a picture it is not made for."""
    known = list(errors)
    return next((error for error in known if not isinstance(error, NotApplicable)), known[0])


def run_over_images(
    workspace: Workspace,
    refs: Sequence[ImageRef],
    task: ImageTask,
    *,
    all_named: bool = False,
    out: Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
) -> Finished:
    """Do ``task`` on all ``refs``. Errors of single images are collected in the answer, not raised.

    all_named: the images were named one by one; otherwise those that the task is not made for are left out with a note.

    Raises OutputError before any work when results could not be published.
    """
    if publish:
        workspace.check_writable()
    plans, failed = plan_images(workspace, refs, task, progress)
    refs = leave_out(refs, plans, failed, progress) if not all_named else refs
    if failed and not plans:
        raise telling(failed.values())
    by_id = {plan.ref.id: plan for plan in plans}
    records = [
        ImageRecord(
            id=ref.id,
            name=ref.name,
            fingerprint=task.fingerprint(by_id[ref.id], plans) if ref.id in by_id else f"failed: {failed[ref.id]}",
            folder=folder_name(number, ref.name),
        )
        for number, ref in enumerate(refs, start=1)
    ]
    options = task.describe()
    with open_run(
        workspace.runs_home, out, records, resume=resume, task=task.name, address=workspace.address, **options
    ) as (run, goes_on):
        run.address, run.published = workspace.address, publish
        if workspace.opened:
            run.details["opened"] = workspace.opened
        if goes_on:
            progress.note(f"{'Goes on with' if run.finished is None else 'Same as'} run {run.run_id}")
        return _work(_Loop(run, workspace, task, by_id, failed, publish, resume, progress))


@dataclass
class _Loop:
    run: Run
    workspace: Workspace
    task: ImageTask
    plans: dict[str, Plan]
    failed: dict[str, MxbridgeError]
    publish: bool
    reuse: bool
    progress: Progress
    prepared: bool = False
    computed: int = 0
    published: int = 0
    notes: dict[str, None] = field(default_factory=dict)

    @cached_property
    def earlier(self) -> dict[str, Path]:
        """Saved results of all runs by fingerprint."""
        return finished_images(self.workspace.runs_home) if self.reuse else {}


def _work(loop: _Loop) -> Finished:
    run, plans = loop.run, list(loop.plans.values())
    for plan in plans:
        for warning in plan.warnings:
            loop.progress.warning(_of_image(plan.ref.name, warning))
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        loop.progress.note(note)
    errors: list[MxbridgeError] = []
    for number, image in enumerate(run.images, start=1):
        loop.progress.image(number, len(run.images), image.name)
        try:
            _one_image(loop, image)
        except (MxbridgeError, OSError) as caught:
            error = caught if isinstance(caught, MxbridgeError) else output_error(run.folder_of(image), caught)
            errors.append(error)
            image.error, image.error_code = str(error), error.exit_code
            image.status = "computed" if image.counts and (run.folder_of(image) / RESULTS).is_file() else "failed"
            run.save()
            if len(run.images) > 1:  # the error of a single image is what the run itself ends with
                loop.progress.warning(str(error) if image.name in str(error) else f"{image.name}: {error}")
    for note in loop.notes:
        loop.progress.note(note)
    if loop.computed or run.finished is None or not loop.task.is_finished(run):
        with run.making():
            loop.task.finish(run)
        run.finished = now() if not errors else None
        run.save()
    return Finished(run, loop.computed, loop.published, tuple(errors))


def _one_image(loop: _Loop, image: ImageRecord) -> None:
    run, folder = loop.run, loop.run.folder_of(image)
    if image.id in loop.failed:
        raise loop.failed[image.id]
    results = _saved(loop, image, folder) or _taken_over(loop, image, folder) or _compute(loop, image, folder)
    if not loop.publish or (is_placed(results, loop.workspace) and loop.workspace.holds(results)):
        _settle(run, image, "published" if loop.publish else "computed")
        return
    try:
        place(results, folder, loop.workspace)
        done = loop.workspace.publish(results)
    except (OutputError, SourceError) as error:
        hint = f"{error.hint}. The results are kept: mxbridge publish {run.path}".lstrip(". ")
        raise type(error)(error.message, hint=hint) from error
    if done.changed and image.status == "published":
        loop.progress.warning(
            f"{image.name}: what this run had published was no longer there as it should be (another run or somebody "
            "replaced it, or other options of publishing are given); it has been put there again"
        )
    loop.published += done.changed
    loop.notes.update(dict.fromkeys(done.notes))
    _settle(run, image, "published")


def _saved(loop: _Loop, image: ImageRecord, folder: Path) -> Results | None:
    """Results of this very work that an earlier, perhaps killed, attempt left; damaged ones are computed again."""
    if not (folder / RESULTS).exists():
        return None
    try:
        results = Results.load(folder)
    except BrokenFile as error:
        loop.progress.warning(f"{image.name}: {error}; it is computed again")
        return None
    if results.fingerprint != image.fingerprint:
        return None
    if lost(results, folder, loop.workspace):
        loop.progress.note(f"{image.name}: another run has replaced its derived images; it is computed again")
        return None
    if not image.counts:
        _remember(image, results)
    shutil.rmtree(folder / "work", ignore_errors=True)
    return results


def _taken_over(loop: _Loop, image: ImageRecord, folder: Path) -> Results | None:
    """Copy the results of another run that has done exactly this (another image of that run may have failed)."""
    source = loop.earlier.get(image.fingerprint)
    if source is None or source == folder:
        return None
    part = folder.with_name(f"{folder.name}{PART_SUFFIX}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("work"))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except (OSError, shutil.Error):
        shutil.rmtree(part, ignore_errors=True)
        return None  # it can always be computed
    results = _saved(loop, image, folder)
    if results is not None:
        loop.progress.note(f"{image.name}: done by an earlier run, taken from there")
    return results


def _compute(loop: _Loop, image: ImageRecord, folder: Path) -> Results:
    plan = loop.plans[image.id]
    if not loop.prepared:
        loop.task.prepare(loop.run, loop.workspace, list(loop.plans.values()), loop.progress)
        loop.prepared = True
    started, cpu = time.monotonic(), cpu_seconds()
    pulled = pull_for(loop.workspace, plan.ref, loop.task.cell_kind, loop.task.inside)
    loop.workspace.rest()  # whatever the workspace holds, it is not needed while this computes
    outcome = loop.task.compute(loop.run, pulled, plan, folder, loop.progress)
    summary = {
        "counts": {**plan.counts, **outcome.counts},
        "warnings": [*dict.fromkeys((*plan.warnings, *outcome.warnings))],
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
    }
    results = replace(outcome.results, fingerprint=image.fingerprint, summary=summary, folder=folder)
    sign(results, folder)
    results.save(folder)
    _remember(image, results)
    loop.run.save()
    shutil.rmtree(folder / "work", ignore_errors=True)
    loop.computed += 1
    for warning in outcome.warnings:
        if warning not in plan.warnings:  # those were told before the first image
            loop.progress.warning(_of_image(image.name, warning))
    for note in outcome.notes:
        loop.progress.note(_of_image(image.name, note))
    return results


def _of_image(name: str, text: str) -> str:
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


def _remember(image: ImageRecord, results: Results) -> None:
    """What run.json says of an image that is computed."""
    image.status = "computed"
    image.counts, image.warnings = dict(results.summary["counts"]), list(results.summary["warnings"])
    image.seconds, image.cpu_seconds = results.summary["seconds"], results.summary["cpu_seconds"]


def _settle(run: Run, image: ImageRecord, status: Literal["computed", "published"]) -> None:
    """Record that an image is done; a run that changed nothing leaves run.json as it was."""
    if image.status == "published" and image.error is None:
        return
    if image.status != status or image.error is not None:
        image.status = status
        image.error = image.error_code = None
        run.save()
