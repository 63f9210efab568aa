"""Measure a command as a process: several runs in turn with its rivals, medians, the system's own accounting."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class Case:
    """One command to measure. before: run (unmeasured) before each of its runs, e.g. to clear its results."""

    name: str
    command: Sequence[str]
    before: Sequence[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """cpu, wall in seconds; rss in MB (the largest single process)."""

    cpu: float
    wall: float
    rss: float


def measure(case: Case) -> Figures:
    """Run one case once. Raises RuntimeError with its last lines when it fails."""
    environment = {**os.environ, **case.environment}
    if case.before:
        subprocess.run(case.before, check=True, capture_output=True, env=environment)
    started = time.monotonic()
    with subprocess.Popen(case.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        stderr = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{case.name} failed ({process.returncode}): {stderr.decode(errors='replace')[-800:]}")
    return Figures(usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1024)


def compare(cases: Sequence[Case], runs: int) -> dict[str, Figures]:
    """Medians of ``runs`` rounds, the cases in turn within each round, after one round that is not counted."""
    for case in cases:
        measure(case)
    rounds = {case.name: [] for case in cases}
    for _ in range(runs):
        for case in cases:
            rounds[case.name].append(measure(case))
    return {
        name: Figures(*(statistics.median(getattr(f, key) for f in figures) for key in ("cpu", "wall", "rss")))
        for name, figures in rounds.items()
    }


def table(title: str, figures: dict[str, Figures], runs: int) -> str:
    """A Markdown table with machine and date."""
    lines = [
        f"### {title}",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, median of {runs}",
        "",
        "| case | CPU s | wall s | peak RSS MB |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {name} | {f.cpu:.1f} | {f.wall:.1f} | {f.rss:.0f} |" for name, f in figures.items()]
    return "\n".join(lines) + "\n"
