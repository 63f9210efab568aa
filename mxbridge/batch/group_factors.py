"""Finding the factors that a group of images lacks, at the moment at which they all are ready, and holding images against them.

On which images factors are fitted must hang neither on a kill nor on a server that was away for a minute: what failed before is
tried again first, and where a place does not answer nothing is fitted in this run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mxbridge.batch.frozen import PASSING, Fitted, drift, has_drifted
from mxbridge.errors import MxbridgeError
from mxbridge.image import LocalImage
from mxbridge.models.normalization import fit
from mxbridge.workspaces.base import Workspace

if TYPE_CHECKING:
    from mxbridge.batch.runner import Runner, WaitingImage
    from mxbridge.batch.survey import Item, Look
    from mxbridge.batch.verbs import OpenTask


def label(item: Item) -> str:
    """Of an image in a list of fitted images: readable, and of this image only."""
    return f"{item.ref.name} {item.key[:8]}"


@dataclass
class GroupFactors:
    """The factors of one runner's groups."""

    runner: Runner
    held: set[str] = field(default_factory=set, init=False)
    """Cohorts whose factors could not be found in this run."""

    def find(self, task: OpenTask, images: Sequence[WaitingImage]) -> None:
        """Find what images of this group still lack, cohort by cohort. What keeps it from being found stands in the report."""
        runner = self.runner
        for tries in range(runner.job.limits.tries):
            self._catch_up(task, images)
            try:
                for cohort, members in self._cohorts(task, images).items():
                    if cohort not in self.held:
                        self._fit(task, members)
                runner.report.failed.pop(f"factors, {task.name}", None)
                return
            except MxbridgeError as error:
                runner.progress.warning(f"{task.name}: the factors could not be found: {error}")
                runner.report.failed[f"factors, {task.name}"] = error
            if runner.deadline.why_over() or any(image.place.key in runner.down for image in images):
                break
            runner.clock.sleep(runner.job.limits.retry_after * 2**tries)
        self.held.update(task.cohort(image.place.workspace) for image in images)

    def _catch_up(self, task: OpenTask, images: Sequence[WaitingImage]) -> None:
        """Try again what failed of the tasks before, in a group whose factors are about to be found."""
        runner = self.runner
        if all(self._has_some(task, image.place.workspace) for image in images):
            return
        keys = {image.key for image in images}
        while waiting := [image for image in runner.again if image.key in keys]:
            if runner.deadline.why_over() or runner.stops:
                return
            image = runner.next_due(waiting)
            for earlier in runner.tasks[: runner.tasks.index(task)]:
                runner.do_item(image, earlier)

    def _has_some(self, task: OpenTask, workspace: Workspace) -> bool:
        return bool(self.runner.frozen.known(task, workspace))

    def _cohorts(self, task: OpenTask, images: Sequence[WaitingImage]) -> dict[str, list[tuple[Look, list[Look]]]]:
        """The images that lack factors, by cohort. Raises what keeps a place from answering."""
        runner = self.runner
        found: dict[str, list[tuple[Look, list[Look]]]] = {}
        for image in images:
            if runner.deadline.why_not(image.key):
                continue
            workspace = image.place.workspace
            if image.place.key in runner.down:
                if not self._has_some(task, workspace):
                    raise runner.down[image.place.key]
                continue
            look, before = runner.survey.fresh(runner.item_of(image, task))
            if look.error is not None and look.error.exit_code in PASSING:
                raise look.error
            if look.verdict == "to do" and runner.frozen.missing(task, workspace, look.channels):
                found.setdefault(task.cohort(workspace), []).append((look, before))
        return found

    def _fit(self, task: OpenTask, members: Sequence[tuple[Look, list[Look]]]) -> None:
        runner = self.runner
        chosen = members[: runner.job.normalization.images]
        workspace = chosen[0][0].item.place.workspace
        row = runner.frozen.find(task, workspace, self._pixels(chosen), runner.step("normalising"))
        if row is not None:
            about = ", ".join(f"{m} {f:.4g}" for m, f in row.document["factors"].items())
            runner.progress.note(f"{task.name}: factors frozen, {row.why}: {about}")
            for marker, flag in row.document["flags"].items():
                runner.warn(f"{task.name}: {marker}: {flag} in all of them; its scores mean little")

    def _pixels(self, chosen: Sequence[tuple[Look, list[Look]]]) -> list[Fitted]:
        survey = self.runner.survey

        def opened(look: Look, before: list[Look]) -> Callable[[], LocalImage]:
            return lambda: survey.place_for(look.item, before).pull(look.item.ref, None).image

        return [Fitted(label(look.item), opened(look, before), look.channels) for look, before in chosen]

    def drift(self, look: Look, place: Workspace) -> dict[str, Any]:
        """An image's own factors beside the frozen ones, for the ledger; too large a difference is told.

        place: the image as the task sees it. Raises what its pixels raise.
        """
        runner, item = self.runner, look.item
        workspace, limit, name = item.place.workspace, runner.job.normalization.drift, label(item)
        if limit is False:
            return {}
        own = {m: v for m, v in runner.frozen.own.pop(name, {}).items() if m in look.channels}
        left = {m: k for m, k in look.channels.items() if m not in own}
        if left:
            image, quantile = place.pull(item.ref, None).image, item.task.quantile(workspace)
            step = runner.step("comparing brightness")
            found = fit([(name, image, left)], quantile=quantile, readers=item.task.engine.readers, progress=step)
            own |= {m: d["quantile"] for m, d in found.details[name].items() if "quantile" in d}
        ratios = drift(own, runner.frozen.known(item.task, workspace))
        for marker, ratio in ratios.items():
            if has_drifted(ratio, limit):
                runner.warn(
                    f"{item.name}: {marker} is {ratio:.2g} times as bright as the frozen factor says; "
                    "--refit-normalization would find it anew"
                )
        return {"own": own, "drift": {m: round(r, 4) for m, r in ratios.items()}}
