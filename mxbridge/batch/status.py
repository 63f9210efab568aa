"""What a job has done so far, and how its numbers go from night to night. Read from the ledgers alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mxbridge.batch.frozen import has_drifted
from mxbridge.batch.ledger import Ledgers, Row


@dataclass(frozen=True)
class TaskStatus:
    """How one task stands, by number of images. cut_off: begun and not ended, by a runner that is at work or has died."""

    task: str
    done: int = 0
    failed: int = 0
    cut_off: int = 0
    vanished: int = 0


@dataclass(frozen=True)
class Trend:
    """One marker (or measurement, or stain that was judged) of one task in one night; None for what that task does not say.

    factor: frozen; own: median of the images' own; drifted: images beyond the limit. percent: of all cells together.
    flagged: of ``judged`` stains, those that are not ok.
    """

    night: str
    task: str
    what: str
    images: int
    factor: float | None = None
    own: float | None = None
    ratio: float | None = None
    drifted: int | None = None
    percent: float | None = None
    cells: int | None = None
    flagged: int | None = None


@dataclass(frozen=True)
class Status:
    """tasks: how they stand. problems: rows of what is not done, the newest first. trends: by task, marker and night."""

    tasks: tuple[TaskStatus, ...]
    problems: tuple[Row, ...]
    trends: tuple[Trend, ...]
    runs: tuple[dict[str, Any], ...]
    frozen: tuple[dict[str, Any], ...] = field(default=())

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "tasks": [asdict(task) for task in self.tasks],
            "problems": [asdict(row) for row in self.problems],
            "trends": [asdict(trend) for trend in self.trends],
            "runs": list(self.runs),
            "normalizations": list(self.frozen),
        }


def read_status(ledgers: Ledgers, tasks: Sequence[str], drift: float | None) -> Status:
    """tasks: names in the order of the job. drift: the ratio beyond which an image has drifted."""
    rows = [row for row in ledgers.rows() if row.task in tasks]
    last: dict[str, Row] = {row.item: row for row in rows}
    problems = [row for row in last.values() if row.state != "done"]
    frozen = [
        {
            "task": f.task,
            "cohort": f.cohort[:8],
            "version": f.version,
            "why": f.why,
            "made": f.made,
            **_short(f.document),
        }
        for f in ledgers.all_frozen()
    ]
    return Status(
        tasks=tuple(_task_status(name, last.values()) for name in tasks),
        problems=tuple(reversed(problems)),
        trends=tuple(_trends(rows, tasks, drift)),
        runs=tuple(ledgers.runs()),
        frozen=tuple(frozen),
    )


def _short(document: dict[str, Any]) -> dict[str, Any]:
    return {"factors": document.get("factors", {}), "flags": document.get("flags", {})}


def _task_status(name: str, last: Iterable[Row]) -> TaskStatus:
    states = [row.state for row in last if row.task == name]
    cut = states.count("begun") + states.count("cut off")
    return TaskStatus(name, states.count("done"), states.count("failed"), cut, states.count("vanished"))


def _trends(rows: Sequence[Row], tasks: Sequence[str], drift: float | None) -> list[Trend]:
    """In each night every image counts once, with its last row."""
    nights: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.state == "done":
            nights[row.night, row.task][row.item] = row
    found = []
    for (night, task), done in nights.items():
        for trend in (*_brightness(done.values(), drift), *_positivity(done.values()), *_verdicts(done.values())):
            found.append(Trend(night=night, task=task, **trend))
    return sorted(found, key=lambda t: (tasks.index(t.task), t.what, t.night))


def _brightness(rows: Iterable[Row], drift: float | None) -> list[dict[str, Any]]:
    factors: dict[str, list[float]] = defaultdict(list)
    own: dict[str, list[float]] = defaultdict(list)
    ratios: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for what, into in (("factors", factors), ("own", own), ("drift", ratios)):
            for marker, value in _numbers(row.counts.get(what)):
                into[marker].append(value)
    return [
        {
            "what": marker,
            "images": len(values),
            "factor": values[-1],
            "own": median(own[marker]) if own[marker] else None,
            "ratio": median(ratios[marker]) if ratios[marker] else None,
            "drifted": None if drift is None else sum(has_drifted(r, drift) for r in ratios[marker]),
        }
        for marker, values in factors.items()
    ]


def _positivity(rows: Iterable[Row]) -> list[dict[str, Any]]:
    positive: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        for measurement, pair in (row.counts.get("positive") or {}).items():
            positive[measurement].append((int(pair[0]), int(pair[1])))
    return [
        {
            "what": measurement,
            "images": len(pairs),
            "percent": 100 * sum(p for p, _ in pairs) / max(1, sum(n for _, n in pairs)),
            "cells": sum(n for _, n in pairs),
        }
        for measurement, pairs in positive.items()
    ]


def _verdicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    verdicts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for marker, verdict in (row.counts.get("verdicts") or {}).items():
            verdicts[marker].append(str(verdict))
    return [
        {"what": marker, "images": len(said), "flagged": sum(v.startswith(("flagged", "suspect input")) for v in said)}
        for marker, said in verdicts.items()
    ]


def _numbers(found: Any) -> list[tuple[str, float]]:
    return [(str(k), float(v)) for k, v in (found or {}).items() if isinstance(v, int | float)]
