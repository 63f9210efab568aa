"""``mxbridge score`` beside Nimbus-Inference 0.0.5: whole commands, one marker at 0.5 µm per pixel, the same random weights of
the published width, the same pixels, cells and normalisation. With one thread each, and as both come.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

from benchmarks import peers
from benchmarks.fields import MARKER, Field, field, random_weights
from benchmarks.harness import ONE_THREAD, Bar, Case

TITLE = "mxbridge score and Nimbus-Inference 0.0.5"
CHECKPOINT = "mxbridge-benchmark.pt"
"""How the peer knows our weights; not a name that it would take for a newer version of its own."""
SMALL, LARGE = 1024, 4096
BLOCKS = {SMALL: 2, LARGE: 8}
EQUAL = 1e-5
COMPAT = ("--compat", "nimbus-0.0.5")


@dataclass(frozen=True)
class Threads:
    """What makes both programs use as many threads as ``name`` says: environment, and options of the driver and of ours."""

    name: str
    environment: dict[str, str] = dataclass_field(default_factory=dict)
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()


ONE = Threads("1 thread", ONE_THREAD, ("--threads", "1"), ("--workers", "1"))


@dataclass(frozen=True)
class Work:
    """One thing both programs do. own: our options. cpu: largest share of the peer's CPU seconds with one thread each."""

    name: str
    size: int
    tta: bool
    own: tuple[str, ...]
    cpu: float
    rss: float | None = None

    def peer_out(self, folder: Path) -> Path:
        return folder / f"peer {self.size}{' tta' if self.tta else ''}"


WORKS = (
    Work("no augmentation", SMALL, False, ("--no-tta",), 0.7),
    Work("its augmentation", SMALL, True, COMPAT, 0.4),
    Work("no augmentation", LARGE, False, ("--no-tta",), 0.55, rss=1400),
)


def cases(folder: Path) -> list[Case]:
    python = peers.python_of("nimbus")
    assets = peers.folder_of(python, "nimbus_inference") / "assets"
    assets.mkdir(exist_ok=True)
    shutil.copyfile(random_weights(folder), assets / CHECKPOINT)
    pairs = ((work, threads) for threads in (ONE, Threads("defaults")) for work in WORKS)
    return [case for work, threads in pairs for case in _pair(folder, python, work, threads)]


def _pair(folder: Path, python: Path, work: Work, threads: Threads) -> tuple[Case, Case]:
    """The peer's case and ours."""
    at = field(folder, work.size, blocks=BLOCKS[work.size], for_peer=True)
    name, theirs = f"{work.size}², {work.name}, {threads.name}", work.peer_out(folder)
    command = [str(python), str(peers.HERE / "nimbus.py"), str(at.fov), str(at.segmentation), str(theirs), CHECKPOINT]
    peer = Case(
        f"{name}: Nimbus-Inference",
        [*command, *threads.theirs, *(["--tta"] if work.tta else [])],
        environment={**threads.environment, "HF_HUB_OFFLINE": "1"},
        warm_up=work.size == SMALL,
        done=theirs / "nimbus_cell_table.csv",
    )
    run = folder / f"run {name}"
    bars = (Bar("cpu", work.cpu, peer.name),) if threads is ONE else ()
    mine = Case(
        f"{name}: mxbridge",
        [*ours_command(at, random_weights(folder), run), *work.own, *threads.ours],
        environment=threads.environment,
        rival=peer.name,
        bars=(*bars, *([Bar("rss", work.rss)] if work.rss else [])),
        warm_up=work.size == SMALL,
        done=run / "cells.csv",
    )
    return peer, mine


def ours_command(at: Field, weights: Path | str, out: Path) -> list[str]:
    command = [sys.executable, "-m", "mxbridge", "score", "--files", str(at.image), "--labels", str(at.labels)]
    return [*command, "--model", str(weights), "--restart", "--quiet", "--out", str(out)]


def check(folder: Path) -> list[str]:
    """Both programs' tables cell by cell: equal in compat, so that the speed is that of equal work."""
    out = []
    for work in WORKS:
        at, run = field(folder, work.size, blocks=BLOCKS[work.size]), folder / f"checked {work.size} {work.tta}"
        compat = [*ours_command(at, random_weights(folder), run), *COMPAT, *([] if work.tta else ["--no-tta"])]
        subprocess.run(compat, check=True, capture_output=True)
        theirs, what = work.peer_out(folder), f"{work.size}², {work.name}, compat"
        out.append(same_factors(theirs / "normalization_dict.json", run / "normalization.json", what))
        peer = read_scores(theirs / "nimbus_cell_table.csv")
        out.append(same_scores(peer, read_scores(run / "nimbus_cell_table.csv"), at.cells, what))
        if not work.tta:
            own = read_scores(folder / f"run {work.size}², {work.name}, {ONE.name}" / "cells.csv")
            worst = max(abs(peer[cell] - own[cell]) for cell in own)
            out.append(
                f"- {work.size}², {work.name}, as mxbridge scores by itself: up to {worst:.2g} from the peer's scores."
            )
    return out


def same_factors(theirs: Path, ours: Path, what: str) -> str:
    """Raises RuntimeError when the two programs normalised differently."""
    peer = float(json.loads(theirs.read_text(encoding="utf-8"))[MARKER])
    own = float(json.loads(ours.read_text(encoding="utf-8"))["factors"][MARKER])
    if abs(peer - own) > 1e-6 * peer:
        raise RuntimeError(f"{what}: the peer divides by {peer}, mxbridge by {own}")
    return f"- {what}: both programs found the factor {own:g}."


def same_scores(theirs: Mapping[str, float], ours: Mapping[str, float], cells: int, what: str) -> str:
    """Raises RuntimeError when a cell is missing or scores differ by more than ``EQUAL``."""
    if set(theirs) != set(ours) or len(ours) != cells:
        raise RuntimeError(f"{what}: {len(theirs)} cells in the peer's table, {len(ours)} in ours, {cells} in the mask")
    differences = [abs(theirs[cell] - ours[cell]) for cell in ours]
    if not all(difference <= EQUAL for difference in differences):  # NaN is not equal
        raise RuntimeError(f"{what}: scores of a cell differ by {max(differences):.2g}")
    low, high = min(ours.values()), max(ours.values())
    return f"- {what}: {cells} cells, scores {low:.3f} to {high:.3f}, largest difference between the programs {max(differences):.1g}."


def read_scores(table: Path) -> dict[str, float]:
    """Score by cell, from our table or the peer's."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    cell = "label" if "label" in rows[0] else "cell"
    column = next(name for name in rows[0] if name == MARKER or name.endswith(f": {MARKER}"))
    return {row[cell]: float(row[column]) for row in rows}
