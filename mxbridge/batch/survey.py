"""What is to be done: each task of each image held against the ledger. Nothing is written, no pixel of an image is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from mxbridge.batch.frozen import PASSING, FrozenFactors
from mxbridge.batch.job import Job
from mxbridge.batch.ledger import Ledgers, Row
from mxbridge.batch.sources import Place
from mxbridge.batch.verbs import OpenTask
from mxbridge.errors import BrokenFile, MxbridgeError, NotApplicable, SourceError
from mxbridge.results import RESULTS, ImageRef, Results
from mxbridge.runs import Run, folder_name
from mxbridge.tasks.derived import is_placed, lost
from mxbridge.tasks.over_images import ImageTask, Plan
from mxbridge.tasks.regions import pull_for
from mxbridge.workspaces.base import CellKind, Pulled, Workspace
from mxbridge.workspaces.with_derived import MadeImage, WithDerived, made_images

Verdict = Literal["done", "to do", "waits", "given up", "cannot", "left out"]
"""``waits``: for an earlier task. ``cannot``: planning failed. ``left out``: not made for it."""

MOST_DEATHS = 6
"""Attempts that ended with the runner's own death before an image is left alone."""


@dataclass(frozen=True)
class Item:
    """One task of one image. key: in the ledger. home: folder of its runs."""

    place: Place
    ref: ImageRef
    task: OpenTask
    key: str
    home: Path

    @property
    def name(self) -> str:
        return f"{self.ref.name}, {self.task.name}"


@dataclass(frozen=True)
class Look:
    """What is known of an item. why: in words. fingerprint: of its inputs, empty where it is not known yet. row: of the ledger,
    where it is done. channels: index by marker, of a task that normalises. tries: failed attempts with these inputs; deaths:
    such that ended with the runner's own."""

    item: Item
    verdict: Verdict
    why: str
    fingerprint: str = ""
    row: Row | None = None
    channels: Mapping[str, int] = field(default_factory=dict)
    tries: int = 0
    deaths: int = 0
    error: MxbridgeError | None = None


@dataclass
class Survey:
    """How the images of a job stand. retry: also what was given up."""

    job: Job
    tasks: Sequence[OpenTask]
    ledgers: Ledgers
    frozen: FrozenFactors
    retry: bool = False

    def items(self, place: Place, ref: ImageRef) -> list[Item]:
        """The tasks of an image, in order."""
        return [self._item(place, ref, task) for task in self.tasks]

    def _item(self, place: Place, ref: ImageRef, task: OpenTask) -> Item:
        key = place.item_key(ref, task.name)
        folder = f"{folder_name(0, ref.name)[5:] or 'image'}-{key[:10]}"
        return Item(place, ref, task, key, self.job.runs / task.name / folder)

    def image(self, place: Place, ref: ImageRef) -> list[Look]:
        """A look at each task of an image. What is wrong with it is in the looks."""
        seen = _Remembering(place.workspace)
        looks: dict[str, Look] = {}
        for item in self.items(place, ref):
            looks[item.task.name] = self._look(item, seen, looks)
        return list(looks.values())

    def fresh(self, item: Item) -> tuple[Look, list[Look]]:
        """An item as it is now, after what other runners have done meanwhile, and the tasks that it comes after."""
        self.ledgers.refresh()
        self.frozen.reload()
        looks = {look.item.task.name: look for look in self.image(item.place, item.ref)}
        return looks[item.task.name], [looks[name] for name in item.task.spec.after]

    def _look(self, item: Item, seen: Workspace, looks: Mapping[str, Look]) -> Look:
        before = [looks[name] for name in item.task.spec.after]
        waits = next((look for look in before if look.verdict != "done"), None)
        if waits is not None:
            if waits.verdict == "left out":
                return Look(item, "left out", f"not without {waits.item.task.name}")
            return Look(item, "waits", f"after {waits.item.task.name}")
        try:
            place = self.place_for(item, before, seen)
            task = item.task.made_for(item.place.workspace, place)
            plan = task.plan(pull_for(place, item.ref, task.cell_kind, task.inside))
            return self._judged(item, task, plan, place)
        except NotApplicable as error:
            if item.place.named:
                return Look(item, "cannot", str(error), error=error)
            return Look(item, "left out", error.message, error=error)
        except MxbridgeError as error:
            return Look(item, "cannot", str(error), error=error)

    def place_for(self, item: Item, before: Iterable[Look], workspace: Workspace | None = None) -> WithDerived:
        """The workspace as this task is to see it: with the channels that the tasks before it made, and runs of its own."""
        made: list[MadeImage] = []
        for look in before:
            if look.row is not None:
                folder = self.results_folder(look.row)
                home = item.place.workspace.derived_folder(item.ref)
                made += made_images(Results.load(folder), folder, home)
        return WithDerived(workspace or item.place.workspace, {item.ref.id: made}, item.home)

    def _judged(self, item: Item, task: ImageTask, plan: Plan, place: Workspace) -> Look:
        """Hold a plan against the ledger."""
        channels: Mapping[str, int] = plan.basis.get("channels", {}) if item.task.spec.freezes else {}
        fingerprint = self._fingerprint(item, task, plan, place)
        rows = self.ledgers.of(item.key)
        same = [row for row in rows if row.fingerprint == fingerprint]
        done = [row for row in same if row.state == "done"]
        look = partial(Look, item, fingerprint=fingerprint, channels=channels)
        if not fingerprint:
            return look("to do", "new" if not rows else "factors are to be found first")
        for row in reversed(done):
            gone = self._gone(item, row)
            if not gone:
                return look("done", "", row=row)
        if done:
            return look("to do", gone)
        failed = [row for row in same if row.state == "failed"]
        deaths = sum(row.state == "begun" for row in same)
        look = partial(look, tries=len(failed), deaths=deaths)
        if (stop := self._given_up(failed, deaths)) and not self.retry:
            return look("given up", stop)
        if failed:
            why = f"failed before: try {len(failed) + 1} of {self.job.limits.tries}"
        elif deaths or any(row.state == "cut off" for row in same):
            why = "was cut off"
        else:
            why = "changed" if any(row.state == "done" for row in rows) else "new"
        return look("to do", why)

    def _fingerprint(self, item: Item, task: ImageTask, plan: Plan, place: Workspace) -> str:
        """Nothing where frozen factors are still to be found."""
        if not item.task.spec.freezes or not self.job.normalization.frozen:
            return task.fingerprint(plan, [plan])
        factors = self.frozen.of(item.task, item.place.workspace)
        if factors is None or set(plan.basis["channels"]) - set(factors.factors):
            return ""
        path = self.frozen.file(item.task, item.place.workspace)
        return item.task.made_for(item.place.workspace, place, path).fingerprint(plan, [plan])

    def _given_up(self, failed: Sequence[Row], deaths: int) -> str:
        """Why an item is not tried again with these inputs; nothing where it is."""
        if failed and (len(failed) >= self.job.limits.tries or failed[-1].code not in PASSING):
            return (
                f"failed {len(failed)} times: {failed[-1].error}" if len(failed) > 1 else f"failed: {failed[-1].error}"
            )
        if deaths >= MOST_DEATHS:
            return f"the process ended {deaths} times while it worked on it"
        return ""

    def _gone(self, item: Item, row: Row) -> str:
        """Why something that is done must be done again; nothing where it need not."""
        folder, workspace = self.results_folder(row), item.place.workspace
        publishes = item.task.spec.publishes
        why = ""
        try:
            if not (folder / RESULTS).is_file():
                why = "its run folder is gone"
            elif publishes or item.task.spec.verb.makes_channels:
                results = Results.load(folder)
                if lost(results, folder, workspace):
                    why = "another run has replaced its derived images"
                elif publishes and not row.counts.get("published"):
                    why = "is not published yet"
                elif publishes and not self._was_undone(row) and not self._is_there(results, workspace):
                    why = "is no longer there"
        except BrokenFile as error:
            why = f"its results are damaged ({error.message})"
        return why

    @staticmethod
    def _is_there(results: Results, workspace: Workspace) -> bool:
        return is_placed(results, workspace) and workspace.holds(results)

    def _was_undone(self, row: Row) -> bool:
        """Whether somebody has taken it out again with ``mxbridge undo``: then it stays out, until it changes."""
        run = Run.load(self.job.runs / row.folder)
        return not run.published

    def results_folder(self, row: Row) -> Path:
        """Where the results of a finished run of one image lie."""
        path = self.job.runs / row.folder
        try:
            run = Run.load(path)
        except (SourceError, BrokenFile):
            return path / "images" / "gone"
        return run.folder_of(run.images[0])

    def vanished(self, places: Sequence[Place], unreachable: Iterable[str]) -> list[Row]:
        """The last rows of images that were once there and are no more, of sources that could be asked."""
        there = {item.key for place in places for ref in place.refs for item in self.items(place, ref)}
        asked = {place.source for place in places} - set(unreachable)
        last: dict[str, Row] = {row.item: row for row in self.ledgers.rows()}
        names = {task.name for task in self.tasks}
        return [row for key, row in last.items() if key not in there and row.source in asked and row.task in names]


class _Remembering(WithDerived):
    """A workspace that reads an image once for several tasks that are only planned; and asks once, where nobody answers."""

    def __init__(self, inner: Workspace) -> None:
        super().__init__(inner)
        self._last: dict[tuple[str, CellKind | None], Pulled | SourceError] = {}

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        if (ref.id, cells) not in self._last:
            try:
                self._last[ref.id, cells] = self.inner.pull(ref, cells)
            except SourceError as error:
                self._last[ref.id, cells] = error
        found = self._last[ref.id, cells]
        if isinstance(found, SourceError):
            raise found
        return found
