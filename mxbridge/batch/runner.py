"""Doing what is to be done: group after group of images, task after task, each item claimed, done and written down."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from mxbridge.batch.claims import CLAIMS, claimed, shard_of
from mxbridge.batch.frozen import PASSING, FrozenFactors
from mxbridge.batch.group_factors import GroupFactors, label
from mxbridge.batch.job import Job
from mxbridge.batch.ledger import Ledgers
from mxbridge.batch.limits import Clock, Deadline, Window, parse_time
from mxbridge.batch.outcome import outcome
from mxbridge.batch.report import Report
from mxbridge.batch.sources import Place, Unreachable, open_places
from mxbridge.batch.survey import Item, Look, Survey
from mxbridge.batch.verbs import OpenTask
from mxbridge.errors import InputError, MxbridgeError, SourceError
from mxbridge.progress import SILENT, Progress
from mxbridge.results import ImageRef
from mxbridge.runs import new_run_id
from mxbridge.tasks.over_images import run_over_images


@dataclass(frozen=True)
class Request:
    """How one run of a job was asked for. shard: K of N. refit: a word that is the same for all runners of one request to find
    the frozen factors anew, empty for no such request."""

    runner: str
    shard: tuple[int, int] | None = None
    until: str | None = None
    images: int | None = None
    retry_failed: bool = False
    refit: str = ""


def run_job(job: Job, request: Request, *, progress: Progress = SILENT, clock: Clock | None = None) -> Report:
    """Do what is to be done of a job, as long as it may.

    What single images or sources fail of is in the answer (:meth:`Report.raise_for_errors`). Raises MxbridgeError for what stops
    everything: a model that is missing, a damaged ledger, a full disk under the ledger.
    """
    clock = clock or Clock()
    with Ledgers.opened(job.ledger, request.runner) as ledgers:
        runner = Runner(job, request, ledgers, progress, clock)
        runner.go()
        return runner.report


@dataclass
class WaitingImage:
    """An image with something to do. settled: the factors of all its tasks are frozen. due: on the monotonic clock, when it may be
    tried again."""

    place: Place
    ref: ImageRef
    looks: list[Look]
    settled: bool
    due: float = 0.0

    @property
    def key(self) -> str:
        return self.place.image_key(self.ref)

    @property
    def order(self) -> tuple[bool, bool]:
        """What was begun comes first; what the process has died of comes last. Until factors are frozen images stay in the order
        of their sources, so that a kill does not decide on which they are fitted."""
        if not self.settled:
            return False, False
        begun = any(look.verdict == "done" for look in self.looks)
        return any(look.deaths for look in self.looks), not begun


@dataclass
class Runner:
    """One runner of one job."""

    job: Job
    request: Request
    ledgers: Ledgers
    progress: Progress
    clock: Clock
    again: list[WaitingImage] = field(default_factory=list, init=False)
    down: dict[str, MxbridgeError] = field(default_factory=dict, init=False)
    """Places that stopped answering, by key."""
    writable: set[str] = field(default_factory=set, init=False)
    """Addresses where results can be published; that is asked once, not for every image."""
    begun: int = field(default=0, init=False)
    total: int = field(default=0, init=False)
    told: set[str] = field(default_factory=set, init=False)
    """Notes that were told once, which is enough for all images of a night."""

    def __post_init__(self) -> None:
        limits, now = self.job.limits, self.clock.now()
        self.night = f"{now - timedelta(hours=12):%Y-%m-%d}"
        self.started = now.isoformat(timespec="seconds")
        self.report = Report(new_run_id(), self.ledgers.runner)
        until = self.request.until or limits.until
        self.deadline = Deadline(
            self.clock,
            None if limits.window is None else Window.parse(limits.window),
            None if until is None else parse_time(until),
            self.request.images or limits.images,
        )
        self.tasks = [OpenTask.of(spec) for spec in self.job.tasks]
        self.frozen = FrozenFactors(self.ledgers, self.job.ledger)
        self.survey = Survey(self.job, self.tasks, self.ledgers, self.frozen, self.request.retry_failed)
        self.factors = GroupFactors(self)

    def go(self) -> None:
        self._note(None)
        places, self.report.unreachable = open_places(self.job, self.progress.note)
        for lost in self.report.unreachable:
            self.progress.warning(f"source {lost.source}: {lost.error}")
        for place in places:
            for task in self.tasks:
                with suppress(InputError, SourceError):  # of one place: its images say so
                    task.made_for(place.workspace)
        self._refit(places)
        todo = self._todo(places)
        self._note_vanished(places)
        self.total = sum(look.verdict in ("to do", "waits") for image in todo for look in image.looks)
        size = self.job.limits.group
        try:
            for start in range(0, len(todo), size):
                self._group(todo[start : start + size])
            while self.again and not (self.deadline.why_over() or self.stops):
                self._group([self.next_due(self.again)])
        finally:
            for place in places:
                place.workspace.rest()
            self._note(self.clock.now().isoformat(timespec="seconds"))

    def _note(self, ended: str | None) -> None:
        self.ledgers.writer.note_run(self.report.run, self.night, self.started, ended, self.report.document())

    def _refit(self, places: Sequence[Place]) -> None:
        for task in self.tasks if self.request.refit else ():
            for place in places if task.spec.freezes else ():
                if self.frozen.forget(task, place.workspace, self.request.refit):
                    self.progress.note(f"{task.name}: the frozen factors are found anew; all its images are done again")

    # --- what is to be done ---

    def _todo(self, places: Sequence[Place]) -> list[WaitingImage]:
        found = []
        mine = [(p, r) for p in places for r in p.refs if shard_of(p.image_key(r), self.request.shard)]
        for number, (place, ref) in enumerate(mine):
            self.progress.step("looking", number, len(mine))
            if place.key in self.down:
                continue
            looks = self.survey.image(place, ref)
            if self._is_down(place, looks):
                continue
            self._tell_looks(looks)
            if any(look.verdict == "to do" for look in looks):
                found.append(WaitingImage(place, ref, looks, self._is_settled(place)))
        for place in places:
            place.workspace.rest()
        return sorted(found, key=lambda image: image.order)

    def _is_settled(self, place: Place) -> bool:
        freezing = [task for task in self.tasks if task.spec.freezes and self.job.normalization.frozen]
        return all(self.frozen.known(task, place.workspace) for task in freezing)

    def _tell_looks(self, looks: Sequence[Look]) -> None:
        """What is not to be done, and why."""
        for look in looks:
            if look.verdict == "done":
                self.report.done_before += 1
            elif look.verdict == "given up":
                self.report.given_up[look.item.name] = look.why
            elif look.verdict == "left out":
                self.report.left_out.append(look.item.name)
            elif look.verdict == "cannot":
                self._cannot(look)
            elif look.verdict == "waits":
                self.report.waiting[look.item.name] = look.why

    def _cannot(self, look: Look) -> None:
        """Planning failed: it is written down when it was not known yet, and looked at again in every run."""
        item, error = look.item, look.error
        assert error is not None  # noqa: S101 - that is why it cannot be done
        self.report.failed[item.name] = error
        self.progress.warning(_with_name(item, str(error)))
        rows = self.ledgers.of(item.key)
        if not (rows and rows[-1].state == "failed" and rows[-1].error == str(error)):
            n = self.ledgers.writer.begin(**self._columns(item))
            self._end(n, "failed", error=error)

    def _is_down(self, place: Place, looks: Sequence[Look]) -> bool:
        """Whether what failed is not the image but the whole place."""
        return any(isinstance(look.error, SourceError) for look in looks) and self._stopped_answering(place)

    def _stopped_answering(self, place: Place) -> bool:
        try:
            place.reach()
        except (MxbridgeError, OSError) as error:
            known = error if isinstance(error, MxbridgeError) else SourceError(f"{place.source}: {error}")
            self.down[place.key] = known
            self.report.unreachable.append(Unreachable(place.source, known))
            self.progress.warning(f"source {place.source}: {known}")
            return True
        return False

    def _note_vanished(self, places: Sequence[Place]) -> None:
        for row in self.survey.vanished(places, [lost.source for lost in self.report.unreachable]):
            self.report.vanished.append(f"{row.name}, {row.task}")
            if row.state != "vanished":
                self.progress.warning(f"{row.name}: is no longer among the images of source {row.source}")
                known = {
                    k: getattr(row, k) for k in ("item", "source", "image", "name", "task", "fingerprint", "folder")
                }
                n = self.ledgers.writer.begin(**known, **self._when)
                self._end(n, "vanished")

    # --- doing it ---

    def _group(self, images: Sequence[WaitingImage]) -> None:
        """Take some images through all tasks together."""
        for task in self.tasks:
            if task.spec.freezes and self.job.normalization.frozen and not self.stops:
                self.factors.find(task, images)
            for image in images:
                self.do_item(image, task)

    @property
    def stops(self) -> bool:
        return self.job.stop_on_error and bool(self.report.failed)

    def next_due(self, images: Sequence[WaitingImage]) -> WaitingImage:
        """Of images that are to be tried again the first one, when its time has come."""
        image = min(images, key=lambda one: one.due)
        self.again.remove(image)
        wait = image.due - self.clock.monotonic()
        if wait > 0:
            self.progress.note(f"{image.ref.name}: is tried again in {wait:.0f} s")
            self.clock.sleep(wait)
        return image

    def do_item(self, image: WaitingImage, task: OpenTask) -> None:
        """One task of one image, if it is still to be done, may be begun, and is nobody else's."""
        item = self.item_of(image, task)
        known = next(look for look in image.looks if look.item.key == item.key)
        if known.verdict not in ("to do", "waits") or image.place.key in self.down:
            return
        why = "an image failed (on_error = stop)" if self.stops else self.deadline.why_not(image.key)
        if why:
            self.report.stopped = why
            self.report.left.append(item.name)
            self.report.waiting.pop(item.name, None)
            return
        with claimed(self.job.ledger / CLAIMS, image.key) as ours:
            if not ours:
                self.report.elsewhere.append(item.name)
                return
            look, before = self.survey.fresh(item)
            if look.verdict == "to do" and task.spec.freezes and not look.fingerprint:
                self._lacks_factors(look)
            elif look.verdict == "to do":
                self.deadline.begun.add(image.key)
                self._do(image, look, before)
            elif look.verdict == "done":  # another runner was faster
                self.report.waiting.pop(item.name, None)
                self.report.done_before += 1
            elif look.verdict == "waits" and item.name not in self.report.waiting:
                self.report.waiting[item.name] = look.why
            elif look.verdict == "cannot" and not self._is_down(image.place, [look]):
                self.report.waiting.pop(item.name, None)
                self._cannot(look)

    def _lacks_factors(self, look: Look) -> None:
        """Its own pixels cannot be read, or those of others could not."""
        broken = self.frozen.broken.get(label(look.item))
        if broken is None:
            self.report.waiting[look.item.name] = "for the frozen factors"
        else:
            self.report.waiting.pop(look.item.name, None)
            self._cannot(replace(look, error=broken))

    def item_of(self, image: WaitingImage, task: OpenTask) -> Item:
        return next(item for item in self.survey.items(image.place, image.ref) if item.task is task)

    def _do(self, image: WaitingImage, look: Look, before: Sequence[Look]) -> None:
        item = look.item
        self.report.waiting.pop(item.name, None)
        self.begun += 1
        self.total = max(self.total, self.begun)
        self.progress.image(self.begun, self.total, f"{item.name} ({look.why})")
        began = self.clock.monotonic()
        n = self.ledgers.writer.begin(**self._columns(item), fingerprint=look.fingerprint)
        try:
            told, folder = self._compute(item, look, before)
        except MxbridgeError as error:
            self._failed(image, look, n, error, self.clock.monotonic() - began)
        except KeyboardInterrupt:
            self._end(n, "cut off")
            raise
        except Exception as error:
            for line in traceback.format_exc().splitlines():
                self.progress.warning(line)
            bug = MxbridgeError(f"{type(error).__name__}: {error}", hint="This is a bug in mxbridge: please report it")
            self._failed(image, look, n, bug, self.clock.monotonic() - began)
        else:
            seconds = round(self.clock.monotonic() - began, 2)
            self._end(n, "done", counts=told, seconds=seconds, folder=folder)
            self.report.failed.pop(item.name, None)
            self.report.done.append(item.name)

    def _compute(self, item: Item, look: Look, before: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """What the ledger keeps, and the run's folder relative to all runs."""
        place = self.survey.place_for(item, before)
        told: dict[str, Any] = {}
        factors: Path | None = None
        if item.task.spec.freezes and self.job.normalization.frozen:
            told |= self.factors.drift(look, place)
            factors = self.frozen.file(item.task, item.place.workspace)
        task = item.task.made_for(item.place.workspace, place, factors)
        finished = run_over_images(
            replace(place, checked=place.address in self.writable),
            [item.ref],
            task,
            all_named=True,
            publish=item.task.spec.publishes,
            progress=_OfOneImage(self.progress, item, self.told),
        )
        if item.task.spec.publishes:
            self.writable.add(place.address)
        for error in finished.errors:
            raise error
        if getattr(item.task.spec.options, "classifiers", False):
            put = task.put_classifiers  # type: ignore[attr-defined]  # only score has that option
            for note in put(item.place.workspace, finished.run, publish=item.task.spec.publishes):
                self.progress.note(note)
        told |= outcome(task, finished.run) | {"published": item.task.spec.publishes}
        return told, finished.run.path.relative_to(self.job.runs).as_posix()

    def _failed(self, image: WaitingImage, look: Look, n: int, error: MxbridgeError, seconds: float) -> None:
        """Write it down, and try again later where that may help."""
        item = look.item
        self.progress.warning(_with_name(item, str(error)))
        if isinstance(error, SourceError) and self._stopped_answering(image.place):
            self._end(n, "cut off", error=error, seconds=round(seconds, 2))  # no fault of the image
            return
        self._end(n, "failed", error=error, seconds=round(seconds, 2))
        self.report.failed[item.name] = error
        tries = look.tries + 1
        if error.exit_code in PASSING and tries < self.job.limits.tries:
            image.due = self.clock.monotonic() + self.job.limits.retry_after * 2 ** (tries - 1)
            if image not in self.again:
                self.again.append(image)

    def _columns(self, item: Item) -> dict[str, Any]:
        place = {"source": item.place.source, "image": item.ref.id, "name": item.ref.name}
        return {"item": item.key, **place, "task": item.task.name, **self._when}

    @property
    def _when(self) -> dict[str, str]:
        return {
            "night": self.night,
            "run": self.report.run,
            "started": self.clock.now().isoformat(timespec="seconds"),
        }

    def _end(self, n: int, state: str, *, error: MxbridgeError | None = None, **more: Any) -> None:
        told = {} if error is None else {"error": str(error), "code": error.exit_code}
        ended = self.clock.now().isoformat(timespec="seconds")
        self.ledgers.writer.end(n, state=state, ended=ended, **told, **more)

    def warn(self, text: str) -> None:
        self.report.warnings.append(text)
        self.progress.warning(text)

    def step(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress.step(what, done, total)


class _OfOneImage(Progress):
    """What the run of one image tells, below the line of the batch."""

    def __init__(self, progress: Progress, item: Item, told: set[str]) -> None:
        self._progress, self._item, self._told = progress, item, told

    def step(self, name: str, done: int, total: int) -> None:
        self._progress.step(name, done, total)

    def note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._progress.note(text)

    def warning(self, text: str) -> None:
        self._progress.warning(_with_name(self._item, text))


def _with_name(item: Item, text: str) -> str:
    return text if item.ref.name in text else f"{item.name}: {text}"


@contextmanager
def only_looking(
    job: Job, folder: Path, *, retry: bool = False
) -> Iterator[tuple[Survey, list[Place], list[Unreachable]]]:
    """For ``plan``: how all images stand, without writing anything but into ``folder``."""
    with Ledgers.looked_at(job.ledger) as ledgers:
        tasks = [OpenTask.of(spec) for spec in job.tasks]
        places, lost = open_places(job)
        yield Survey(job, tasks, ledgers, FrozenFactors(ledgers, folder), retry), places, lost
