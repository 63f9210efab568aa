"""Measure a command as a process: several runs in turn with its rivals, medians, the system's own accounting.

A benchmark is a module of this folder with a ``TITLE``, ``cases(folder) -> list[Case]`` and, if it has something to prove
about what was measured, ``check(folder) -> list[str]`` (lines for people; it raises RuntimeError when it does not hold).
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

Kind = Literal["cpu", "wall", "rss"]
UNITS: dict[Kind, tuple[str, str]] = {"cpu": ("CPU", "s"), "wall": ("wall", "s"), "rss": ("RSS", "MB")}

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
"""Environment of a command that computes with one thread."""


@dataclass(frozen=True)
class Bar:
    """What a case must stay within. of: the case whose figure is multiplied by ``most``; without it ``most`` is in s or MB."""

    kind: Kind
    most: float
    of: str | None = None

    def limit(self, figures: Mapping[str, Figures]) -> float:
        return self.most * (getattr(figures[self.of], self.kind) if self.of else 1.0)


@dataclass(frozen=True)
class Case:
    """One command to measure.

    before: run (unmeasured) before each of its runs, e.g. to clear its results. rival: name of the case that its figures
    are divided by in the table. most_runs: never measure it more often. warm_up: whether it takes part in the round that is
    not counted. done: a file that the command must have written.
    """

    name: str
    command: Sequence[str]
    before: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    rival: str | None = None
    bars: tuple[Bar, ...] = ()
    most_runs: int | None = None
    warm_up: bool = True
    done: Path | None = None


@dataclass(frozen=True)
class Figures:
    """cpu, wall in seconds; rss in MB (the largest single process). runs: how many they are the medians of."""

    cpu: float
    wall: float
    rss: float
    runs: int = 1


def measure(case: Case) -> Figures:
    """Run one case once. Raises RuntimeError with its last lines when it fails."""
    environment = {**os.environ, **case.environment}
    if case.before:
        subprocess.run(case.before, check=True, capture_output=True, env=environment)
    if case.done is not None:
        case.done.unlink(missing_ok=True)
    started = time.monotonic()
    with subprocess.Popen(case.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        stderr = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or (case.done is not None and not case.done.is_file()):
        raise RuntimeError(f"{case.name} failed ({process.returncode}): {stderr.decode(errors='replace')[-800:]}")
    return Figures(usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1024)


def compare(cases: Sequence[Case], runs: int) -> dict[str, Figures]:
    """Medians of ``runs`` rounds, the cases in turn within each round, after one round that is not counted."""
    for case in cases:
        if case.warm_up:
            _told(case, "not counted")
    rounds: dict[str, list[Figures]] = {case.name: [] for case in cases}
    if len(rounds) < len(cases):
        raise ValueError("two cases have one name")
    for number in range(1, runs + 1):
        for case in cases:
            if number <= (case.most_runs or runs):
                rounds[case.name].append(_told(case, f"{number}/{runs}"))
    return {name: median(figures) for name, figures in rounds.items()}


def median(figures: Sequence[Figures]) -> Figures:
    cpu, wall, rss = (statistics.median(getattr(f, kind) for f in figures) for kind in ("cpu", "wall", "rss"))
    return Figures(cpu, wall, rss, len(figures))


def _told(case: Case, number: str) -> Figures:
    """A measurement that is shown at once: a long benchmark that is stopped has not measured for nothing."""
    figures = measure(case)
    told = f"[{number}] {case.name}: {figures.cpu:.2f} CPU s, {figures.wall:.2f} s, {figures.rss:.0f} MB"
    print(told, file=sys.stderr, flush=True)
    return figures


def table(title: str, figures: Mapping[str, Figures], runs: int, cases: Sequence[Case] = ()) -> str:
    """A Markdown table with machine and date; with ``cases`` also ratios to rivals, and bars."""
    by_name = {case.name: case for case in cases}
    lines = [f"### {title}", "", f"{machine()}; median of {runs}", ""]
    lines += [
        "| case | CPU s | wall s | peak RSS MB | CPU / wall / RSS of the rival's | bar |",
        "|---|---:|---:|---:|---|---|",
    ]
    for name, f in figures.items():
        case = by_name.get(name)
        ratios = bars = ""
        if case and case.rival in figures:
            rival = figures[case.rival]
            ratios = " / ".join(f"{getattr(f, kind) / getattr(rival, kind):.2f}" for kind in UNITS)
        if case:
            bars = "; ".join(_bar(bar, f, figures) for bar in case.bars if bar.of is None or bar.of in figures)
        fewer = f" (median of {f.runs})" if f.runs != runs else ""
        lines.append(f"| {name}{fewer} | {f.cpu:.2f} | {f.wall:.2f} | {f.rss:.0f} | {ratios} | {bars} |")
    return "\n".join(lines) + "\n"


def _bar(bar: Bar, figures: Figures, others: Mapping[str, Figures]) -> str:
    name, unit = UNITS[bar.kind]
    value, limit = getattr(figures, bar.kind), bar.limit(others)
    kept = "kept" if value <= limit else "**missed**"
    if bar.of is None:
        return f"{name} <= {bar.most:g} {unit}: {kept}"
    return f"{name} <= {bar.most:g} x: {value / limit * bar.most:.2f}, {kept}"


def machine() -> str:
    """One line: date, processor, cores, memory, system and the versions that decide how fast it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}; "
        + ", ".join([f"Python {platform.python_version()}", *(f"{p} {_version(p)}" for p in ("torch", "numpy"))])
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = " (AVX-512)" if "avx512f" in flags else " (AVX2)" if "avx2" in flags else ""
    return (names[0] if names else platform.machine()) + wide


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
