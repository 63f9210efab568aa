"""The loop every task shares: plan all images, compute one by one, publish each, go on after a kill or a bad image.

    plan ──► (same request done before? go on there) ──► prepare ──► for each image: compute ──► save ──► publish ──► finish

One bad image never stops the others: its error is kept in run.json and decides the exit code at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mxbridge.errors import MxbridgeError, OutputError, SomeImagesFailed
from mxbridge.formats.atomic import PART_SUFFIX
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ImageRef, Results
from mxbridge.runs import ImageRecord, Run, cpu_seconds, find_image, folder_name, now, open_run
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
    """What a task made of one image. counts: numbers for the summary, per image."""

    results: Results
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ImageTask(Protocol):
    """One verb (score, impute, ...) over many images."""

    name: str
    cell_kind: CellKind

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
            plans.append(task.plan(workspace.pull(ref, task.cell_kind)))
        except MxbridgeError as error:
            errors[ref.id] = error
    progress.step("reading", len(refs), len(refs))
    return plans, errors


def run_over_images(
    workspace: Workspace,
    refs: Sequence[ImageRef],
    task: ImageTask,
    *,
    out: Path | None = None,
    publish: bool = True,
    resume: bool = True,
    progress: Progress = SILENT,
) -> Finished:
    """Do ``task`` on all ``refs``. Errors of single images are collected in the answer, not raised.

    Raises OutputError before any work when results could not be published.
    """
    if publish:
        workspace.check_writable()
    plans, failed = plan_images(workspace, refs, task, progress)
    if failed and not plans:
        raise next(iter(failed.values()))
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
    run, goes_on = open_run(
        workspace.runs_home,
        out,
        records,
        resume=resume,
        task=task.name,
        address=workspace.address,
        published=publish,
        **task.describe(),
    )
    with run.locked():
        run.published = run.published or publish
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
    computed: int = 0
    published: int = 0
    notes: dict[str, None] = field(default_factory=dict)


def _work(loop: _Loop) -> Finished:
    run, plans = loop.run, list(loop.plans.values())
    for plan in plans:
        for warning in plan.warnings:
            loop.progress.warning(f"{plan.ref.name}: {warning}")
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        loop.progress.note(note)
    waiting = [image for image in run.images if image.id in loop.plans and not _is_saved(run, image)]
    if waiting:
        loop.task.prepare(run, loop.workspace, plans, loop.progress)
    errors: list[MxbridgeError] = []
    for number, image in enumerate(run.images, start=1):
        loop.progress.image(number, len(run.images), image.name)
        try:
            _one_image(loop, image)
        except MxbridgeError as error:
            errors.append(error)
            image.error, image.error_code = str(error), error.exit_code
            image.status = "computed" if _is_saved(run, image) else "failed"
            run.save()
            loop.progress.warning(f"{image.name}: {error}")
    for note in loop.notes:
        loop.progress.note(note)
    if loop.computed or run.finished is None:
        loop.task.finish(run)
        run.finished = _now_if_done(run)
        run.save()
    return Finished(run, loop.computed, loop.published, tuple(errors))


def _one_image(loop: _Loop, image: ImageRecord) -> None:
    run, folder = loop.run, loop.run.folder_of(image)
    if image.id in loop.failed:
        raise loop.failed[image.id]
    if not _is_saved(run, image) and loop.reuse:
        _take_over(loop, image, folder)
    results = Results.load(folder) if _is_saved(run, image) else _compute(loop, image, folder)
    if not loop.publish or loop.workspace.holds(results):
        _settle(run, image, "published" if loop.publish else "computed")
        return
    try:
        done = loop.workspace.publish(results)
    except OutputError as error:
        hint = f"{error.hint}. The results are kept: mxbridge publish {run.path}".lstrip(". ")
        raise type(error)(error.message, hint=hint) from error
    if done.changed and image.status == "published":
        loop.progress.warning(
            f"{image.name}: what was published on {run.finished or run.started} was no longer there "
            "(saved over from an open QuPath?); it has been put back"
        )
    loop.published += done.changed
    loop.notes.update(dict.fromkeys(done.notes))
    _settle(run, image, "published")


def _take_over(loop: _Loop, image: ImageRecord, folder: Path) -> None:
    """Copy the results of an earlier run that has done exactly this (another image of that run may have failed)."""
    earlier = find_image(loop.workspace.runs_home, image.fingerprint)
    if earlier is None:
        return
    source, counts = earlier
    part = folder.with_name(f"{folder.name}{PART_SUFFIX}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part, ignore=shutil.ignore_patterns("work"))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    image.counts = counts
    loop.progress.note(f"{image.name}: done by an earlier run, taken from there")


def _compute(loop: _Loop, image: ImageRecord, folder: Path) -> Results:
    plan = loop.plans[image.id]
    started, cpu = time.monotonic(), cpu_seconds()
    pulled = loop.workspace.pull(plan.ref, loop.task.cell_kind)
    outcome = loop.task.compute(loop.run, pulled, plan, folder, loop.progress)
    outcome.results.save(folder)
    image.status = "computed"
    image.counts = {**plan.counts, **outcome.counts}
    image.warnings = [*plan.warnings, *outcome.warnings]
    image.seconds, image.cpu_seconds = round(time.monotonic() - started, 2), round(cpu_seconds() - cpu, 2)
    loop.run.save()
    shutil.rmtree(folder / "work", ignore_errors=True)
    loop.computed += 1
    for warning in outcome.warnings:
        loop.progress.warning(f"{image.name}: {warning}")
    return outcome.results


def _settle(run: Run, image: ImageRecord, status: str) -> None:
    """Record that an image is done; a run that changed nothing leaves run.json as it was."""
    if image.status == status and image.error is None:
        return
    if not (status == "computed" and image.status == "published"):
        image.status = "published" if status == "published" else "computed"
    image.error = image.error_code = None
    run.save()


def _is_saved(run: Run, image: ImageRecord) -> bool:
    """Results are on disk: their JSON is written last."""
    return (run.folder_of(image) / "results.json").is_file()


def _now_if_done(run: Run) -> str | None:
    return now() if all(image.error is None for image in run.images) else None
