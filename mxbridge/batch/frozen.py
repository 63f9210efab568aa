"""Factors of normalisation that are found once, on the first images of a cohort, and then stay: nights can be compared.

They stand in the ledger of the runner that found them, and as a file that ``mxbridge score --normalization`` takes. A marker that
comes later is added; nothing else changes them but ``--refit-normalization``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mxbridge.batch.claims import CLAIMS, waited_for
from mxbridge.batch.ledger import FrozenRow, Ledgers
from mxbridge.batch.verbs import OpenTask
from mxbridge.errors import BrokenFile, MxbridgeError
from mxbridge.image import LocalImage
from mxbridge.models.normalization import NO_SIGNAL, Details, Normalization, fit, pooled
from mxbridge.runs import now
from mxbridge.workspaces.base import Workspace

PASSING = (4, 7)
"""Exit codes of what may be better in a minute: a place that does not answer, a file that is locked. The rest is tried again
only when something has changed."""


@dataclass(frozen=True)
class Fitted:
    """An image to fit on. name: tells it from all others. channels: indices by marker."""

    name: str
    open: Callable[[], LocalImage]
    channels: Mapping[str, int]


@dataclass
class FrozenFactors:
    """The factors of all cohorts of a job. files: folder for them as files."""

    ledgers: Ledgers
    files: Path
    _known: dict[str, FrozenRow | None] = field(default_factory=dict, init=False)
    own: dict[str, dict[str, float]] = field(default_factory=dict, init=False)
    """Of images that were among those fitted by this process: their own quantiles by marker, by what tells an image."""
    broken: dict[str, MxbridgeError] = field(default_factory=dict, init=False)
    """Images that could not be fitted on, and why."""

    def reload(self) -> None:
        """Another runner may have found some."""
        self._known.clear()

    def row(self, cohort: str) -> FrozenRow | None:
        if cohort not in self._known:
            self._known[cohort] = self.ledgers.frozen(cohort)
        return self._known[cohort]

    def of(self, task: OpenTask, workspace: Workspace) -> Normalization | None:
        """The factors that count now; None before any were found. Raises BrokenFile."""
        row = self.row(task.cohort(workspace))
        return None if row is None or not row.document["factors"] else _normalization(row)

    def known(self, task: OpenTask, workspace: Workspace) -> dict[str, float]:
        """Factors by marker."""
        found = self.of(task, workspace)
        return {} if found is None else found.factors

    def file(self, task: OpenTask, workspace: Workspace) -> Path:
        """The factors as a file that says exactly what the ledger says. Raises OutputError."""
        cohort = task.cohort(workspace)
        path = self.files / f"normalization-{_plain(task.name)}-{cohort[:8]}.json"
        row = self.row(cohort)
        assert row is not None  # noqa: S101 - asked for once there are some
        wanted = _normalization(row)
        if not path.exists() or not _says(path, wanted):
            self.files.mkdir(parents=True, exist_ok=True)
            wanted.save(path)
        return path

    def missing(self, task: OpenTask, workspace: Workspace, markers: Iterable[str]) -> tuple[str, ...]:
        """Markers without a factor, and such whose factor says only that no image had any signal yet."""
        known = self.of(task, workspace)
        if known is None:
            return tuple(markers)
        return tuple(m for m in markers if m not in known.factors or known.flags.get(m) == NO_SIGNAL)

    def find(
        self,
        task: OpenTask,
        workspace: Workspace,
        images: Sequence[Fitted],
        tell: Callable[[int, int], None] | None = None,
    ) -> FrozenRow | None:
        """Fit what is still missing on these images, while other runners wait. The new row, or None where another runner has
        done it meanwhile. An image that cannot be read is left out; what may pass (``PASSING``) is raised: on which images factors
        are fitted must not hang on the weather. Raises OutputError."""
        cohort = task.cohort(workspace)
        with self._alone(cohort):
            wanted = set(self.missing(task, workspace, sorted({m for one in images for m in one.channels})))
            before = self.known(task, workspace)
            chosen = [one for one in images if wanted & set(one.channels)]
            if not chosen:
                return None
            details = dict(self._measured(task, workspace, chosen, wanted, tell))
            if not details:
                return None  # each image says by itself what is wrong with it
            found = pooled(details, task.quantile(workspace))
            if wanted <= set(before) and all(found.flags.get(m) == NO_SIGNAL for m in wanted):
                return None  # still none of them has any signal: nothing new to say
            joined = _joined(self.of(task, workspace), found)
            return self._keep(cohort, task, joined, f"fitted on {len(details)} images", workspace)

    def _measured(
        self,
        task: OpenTask,
        workspace: Workspace,
        images: Sequence[Fitted],
        wanted: Collection[str],
        tell: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[str, Details]]:
        """What each image that can be read says of the markers, one after the other."""
        quantile = task.quantile(workspace)
        for number, one in enumerate(images, start=1):
            channels = {m: k for m, k in one.channels.items() if m in wanted}
            try:
                found = fit([(one.name, one.open(), channels)], quantile=quantile, readers=task.engine.readers)
                details = found.details[one.name]
                self.own.setdefault(one.name, {}).update(
                    {m: row["quantile"] for m, row in details.items() if "quantile" in row}
                )
            except MxbridgeError as error:
                if error.exit_code in PASSING:
                    raise
                self.broken[one.name] = error
            else:
                yield one.name, details
            if tell is not None:
                tell(number, len(images))

    def forget(self, task: OpenTask, workspace: Workspace, why: str) -> bool:
        """Let the factors of a cohort be found anew; whether there were any, and nobody has said so for this reason before."""
        cohort = task.cohort(workspace)
        with self._alone(cohort):
            rows = [row for row in self.ledgers.all_frozen() if row.cohort == cohort]
            if not rows or any(row.why == why for row in rows):
                return False
            self._keep(cohort, task, Normalization({}, task.quantile(workspace)), why, None)
            return True

    @contextmanager
    def _alone(self, cohort: str) -> Iterator[None]:
        with waited_for(self.ledgers.folder / CLAIMS, f"normalization-{cohort[:12]}"):
            self.reload()
            self.ledgers.refresh()
            yield

    def _keep(
        self, cohort: str, task: OpenTask, factors: Normalization, why: str, workspace: Workspace | None
    ) -> FrozenRow:
        last = self.row(cohort)
        row = FrozenRow(cohort, task.name, 1 if last is None else last.version + 1, why, _document(factors), now())
        self.ledgers.writer.freeze(row)
        self.reload()
        if workspace is not None:
            self.file(task, workspace)
        return row


def drift(own: Mapping[str, float], frozen: Mapping[str, float]) -> dict[str, float]:
    """How many times an image's own factor is the frozen one, by marker that has both."""
    return {marker: own[marker] / frozen[marker] for marker in own if frozen.get(marker)}


def has_drifted(ratio: float, limit: float) -> bool:
    return ratio > limit or ratio < 1 / limit


def _joined(before: Normalization | None, found: Normalization) -> Normalization:
    if before is None:
        return found
    flags = {m: flag for m, flag in before.flags.items() if m not in found.factors} | found.flags
    details = {name: dict(rows) for name, rows in before.details.items()}
    for name, rows in found.details.items():
        details[name] = details.get(name, {}) | rows
    return replace(before, factors=before.factors | found.factors, flags=flags, details=details)


def _document(factors: Normalization) -> dict[str, Any]:
    return {
        "factors": factors.factors,
        "quantile": factors.quantile,
        "flags": factors.flags,
        "details": factors.details,
    }


def _normalization(row: FrozenRow) -> Normalization:
    try:
        return Normalization(
            {str(m): float(f) for m, f in row.document["factors"].items()},
            row.document["quantile"],
            flags=dict(row.document["flags"]),
            details=dict(row.document["details"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BrokenFile("the ledger", f"its factors of {row.task} are damaged ({error})") from error


def _says(path: Path, wanted: Normalization) -> bool:
    try:
        return Normalization.load(path) == wanted
    except BrokenFile:
        return False


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
