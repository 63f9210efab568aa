"""One large ``data.qpdata``: read, add ten measurements to every cell, write, verify by reading again; and a whole ``Results``
put into a project, put there once more, and taken out. Objects kept as bytes beside objects as nodes, which is the reference.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ONE_THREAD, Bar, Case

TITLE = "data.qpdata at size"
MANY, VERY_MANY = 100_000, 1_000_000
MARKERS = 10
SEED = 1234


def cases(folder: Path) -> list[Case]:
    """One process each, imports included; projects are made in a process of their own."""
    project, large = folder / "many", folder / "very many"
    for place, count in ((project, MANY), (large, VERY_MANY)):
        command = [sys.executable, "-m", "benchmarks.projects", str(place), "--cells", str(count)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    edit = f"read, add {MARKERS} measurements each, write, verify"
    nodes = f"{MANY:,} cells: {edit}; as nodes"
    return [
        _case(
            f"{MANY:,} cells: {edit}",
            ["edit", _data(project)],
            rival=nodes,
            bars=(Bar("cpu", 6), Bar("rss", 600)),
        ),
        _case(nodes, ["edit", _data(project), "--nodes"], most_runs=1, warm_up=False),
        _case(
            f"{MANY:,} cells: publish {MARKERS} measurements", ["publish", project], before=_command("take", project)
        ),
        _case(
            f"{MANY:,} cells: publish what is there already",
            ["publish", project, "--again"],
            before=_command("prepare", project),
        ),
        _case(f"{MANY:,} cells: pull them as arrays", ["pull", project]),
        _case(f"{VERY_MANY:,} cells: {edit}", ["edit", _data(large)], most_runs=1, warm_up=False),
    ]


def _data(project: Path) -> Path:
    return project / "data" / "1" / "data.qpdata"


def _case(name: str, arguments: list[str | Path], **more: object) -> Case:
    return Case(name, _command(*arguments), environment=ONE_THREAD, **more)  # type: ignore[arg-type]


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.qpdata", *map(str, arguments)]


def edit(path: Path, *, packed: bool) -> None:
    import numpy as np

    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    file = ImageDataFile(path.read_bytes(), path, packed=packed)
    which = np.flatnonzero(file.table.kinds(file.table.all()) == "cell")
    values = np.random.default_rng(SEED).random((MARKERS, len(which)), np.float32)
    file.table.set_columns(which, {f"Nimbus: marker {k}": column for k, column in enumerate(values)})
    target = path.with_name("edited.qpdata")
    target.write_bytes(file.to_bytes())
    file.verify(target.read_bytes())


def publish(folder: Path) -> bool:
    """Whether that changed anything."""
    import numpy as np

    from mxbridge.results import Measurement, Results
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    workspace = QuPathWorkspace(folder)
    (ref,) = workspace.list()
    ids = tuple(i for i in ImageDataFile.read(_data(folder)).table.ids if i is not None)
    values = np.random.default_rng(SEED).random((MARKERS, len(ids)), np.float32)
    columns = [Measurement(f"Nimbus: marker {k}", column, f"key {k}") for k, column in enumerate(values)]
    return workspace.publish(Results(ref, "run", ids, tuple(columns))).changed


def take(folder: Path) -> None:
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    workspace = QuPathWorkspace(folder)
    (ref,) = workspace.list()
    workspace.retract(ref, [f"key {k}" for k in range(MARKERS)])


def pull(folder: Path) -> None:
    from mxbridge.workspaces.qupath.cells import cells_of
    from mxbridge.workspaces.qupath.ledger import State
    from mxbridge.workspaces.qupath.qpdata import ImageDataFile

    cells, _ = cells_of(ImageDataFile.read(_data(folder)), "cells", (1 << 20, 1 << 20), State())
    if cells is None:
        raise SystemExit("no cells")


if __name__ == "__main__":
    what, where, *flags = sys.argv[1:]
    if what == "edit":
        edit(Path(where), packed="--nodes" not in flags)
    elif what == "publish":
        if publish(Path(where)) != ("--again" not in flags):
            raise SystemExit("published twice, or not at all")
    elif what == "prepare":
        publish(Path(where))
    elif what == "take":
        take(Path(where))
    else:
        pull(Path(where))
