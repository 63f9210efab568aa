"""Handing the results of a large image over to QuPath: 100,000 cells, seven measurements and a class each.

Cases are whole processes; how long the exchange file alone takes, without imports and without reading the project, is measured
inside one and held against its bar.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import ONE_THREAD, Case

if TYPE_CHECKING:
    from mxbridge.results import Results
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

TITLE = "Results handed over to QuPath"
CELLS, MARKERS = 100_000, 7
SEED = 1234
MOST = 2.0
"""CPU seconds for the exchange file of so many cells."""


def cases(folder: Path) -> list[Case]:
    """One process each, imports included; the project is made in a process of its own."""
    project = _project(folder)
    handed = _command("hand-over", project)
    return [
        Case(f"{CELLS:,} cells: hand over {MARKERS} measurements and classes", handed, environment=ONE_THREAD),
        Case(f"{CELLS:,} cells: read the file, checked", _command("read", project), environment=ONE_THREAD),
    ]


def check(folder: Path) -> list[str]:
    """CPU seconds of comparing and writing, and of writing alone; the best of three. Raises SystemExit beyond the bar."""
    command = _command("time", _project(folder))
    environment = {**os.environ, **ONE_THREAD}
    told = [
        [float(word) for word in subprocess.check_output(command, env=environment, text=True).split()] for _ in range(3)
    ]
    edit, compare, write, size = (min(column) for column in zip(*told, strict=True))
    line = (
        f"{CELLS:,} cells x {MARKERS}: edit in memory {edit:.2f} CPU s, compare {compare:.2f}, write {write:.2f}, "
        f"{size / 1e6:.1f} MB; bar for compare and write: {MOST:g}"
    )
    if compare + write > MOST:
        raise SystemExit(f"too slow: {line}")
    return [line]


def _project(folder: Path) -> Path:
    project = folder / "many"
    if not project.exists():
        command = [sys.executable, "-m", "benchmarks.projects", str(project), "--cells", str(CELLS)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return project


def _command(what: str, project: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.exchange", what, str(project)]


def results_of(workspace: QuPathWorkspace) -> Results:
    """Made-up scores; every other cell gets a class."""
    import numpy as np

    from mxbridge.results import ClassChanges, Measurement, Results
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    (ref,) = workspace.list()
    table = ImageDataFile.read(workspace.project.data_path(int(ref.id))).table
    cells = [(i, name) for i, name in zip(table.ids, table.class_names(table.all()), strict=True) if i is not None]
    ids, bases = zip(*cells, strict=True)
    values = np.random.default_rng(SEED).random((MARKERS, len(ids)), np.float32)
    columns = [Measurement(f"Nimbus: marker {k}", column, f"key {k}") for k, column in enumerate(values)]
    names = tuple("Tumor: CD3" if k % 2 else name for k, name in enumerate(bases))
    return Results(ref, "run", ids, tuple(columns), ClassChanges(names, bases, "key of classes"))


def hand_over(project: Path) -> Path:
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    workspace = QuPathWorkspace(project)
    folder = project / "handed"
    folder.mkdir(exist_ok=True)
    return workspace.hand_over(results_of(workspace), folder, task="score", model="Nimbus").file


def timed(project: Path) -> tuple[float, float, float, int]:
    """CPU seconds of the edit in memory, of comparing, and of writing (with reading back); bytes of the file."""
    from mxbridge.workspaces.qupath import edit
    from mxbridge.workspaces.qupath.handover.difference import Before, columns_touched, difference
    from mxbridge.workspaces.qupath.handover.exchange_file import Header, write
    from mxbridge.workspaces.qupath.ledger import State
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    workspace = QuPathWorkspace(project)
    results = results_of(workspace)
    tree = ImageDataFile.read(workspace.project.data_path(int(results.image.id)))
    clock = time.process_time
    start = clock()
    before = Before.of(tree, columns_touched(State(), results))
    looked = clock()
    edited = edit.put(tree, State(), results, entry_id=results.image.id, known_colors={})
    done = clock()
    found = difference(before, tree, edited)
    compared = clock()
    told = Header("run", "score", "Nimbus", "1", "image", "now", "0", None, found.columns, found.classes, found.counts)
    file = project / "timed.jsonl.gz"
    write(file, told, found.lines(tree, results))
    return done - looked, looked - start + compared - done, clock() - compared, file.stat().st_size


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "time":
        print(*timed(where))
    elif what == "hand-over":
        hand_over(where)
    else:
        from mxbridge.workspaces.qupath.handover.exchange_file import read

        if len(read(hand_over(where)).cells) != CELLS:
            raise SystemExit("not all cells are in the file")
