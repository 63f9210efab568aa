"""Objects for OMERO: masks of a label picture beside omero-rois, and tables of any length in the same memory.

Masks are compared bit by bit; their bar is for the work alone, without imports. The tables go to the server of the tests
(``tests/omero_server``) over loopback TLS. ``python -m benchmarks.omero_objects CASE ...`` runs one case.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.harness import ONE_THREAD, Bar, Case

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TITLE = "OMERO: objects and tables"
SIDE, GRID = 2048, 40
MOST = 1.0
"""CPU seconds for the ROIs of all cells, at most."""
PEER, VERSION = "omero-rois", "0.4.1"
FEW, MANY, MARKERS = 100_000, 1_000_000, 10
MORE_MEMORY = 1.1
"""What ten times as many rows may cost."""
PIECE = 50_000


def cases(folder: Path) -> list[Case]:
    port = str(_server(folder / "server"))
    theirs = {**ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(peer_folder()), str(Path(__file__).parents[1])])}

    def case(name: str, what: str, *arguments: str, **more: Any) -> Case:
        return Case(name, [sys.executable, "-W", "ignore", "-m", "benchmarks.omero_objects", what, *arguments], **more)

    few, many = (f"table of {rows:,} rows x {MARKERS} markers" for rows in (FEW, MANY))
    ours = f"{GRID**2:,} cells in {SIDE}² as mask ROIs"
    return [
        case(f"{ours}: omero-rois", "theirs", str(folder / "theirs.json"), environment=theirs, warm_up=False, most_runs=1),
        case(f"{ours}: mxbridge", "ours", str(folder / "ours.json"), environment=ONE_THREAD, rival=f"{ours}: omero-rois"),
        case("the same as simplified polygons: mxbridge", "polygons", str(folder / "polygons.json"), environment=ONE_THREAD),
        case(few, "table", port, str(FEW), environment=ONE_THREAD, warm_up=False),
        case(many, "table", port, str(MANY), environment=ONE_THREAD, warm_up=False, most_runs=3, rival=few,
             bars=(Bar("rss", MORE_MEMORY, few),)),
    ]  # fmt: skip


def check(folder: Path) -> list[str]:
    """The same masks, and the time of the work alone. Raises RuntimeError where they differ."""
    theirs, ours, polygons = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("theirs", "ours", "polygons")
    )
    if theirs["masks"] != ours["masks"]:
        raise RuntimeError("the masks differ")
    kept = "kept" if ours["cpu"] <= MOST else "**missed**"
    return [
        f"- Without imports: {ours['cpu']:.2f} CPU s (bar {MOST:g}: {kept}); omero-rois {theirs['cpu']:.1f}. Every mask is the "
        f"same, bit by bit. As simplified polygons (0.95 overlap or more each): {polygons['cpu']:.2f} CPU s, "
        f"{polygons['points']:.0f} points each instead of {polygons['exact points']:.0f}."
    ]


def peer_folder() -> Path:
    """omero-rois alone, without the client, which is ours. Raises RuntimeError when it cannot be installed."""
    place = peers.home() / PEER
    if not (place / f"omero_rois-{VERSION}.dist-info").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(place),
            f"{PEER}=={VERSION}",
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{PEER} cannot be installed: {done.stderr[-800:]}")
    return place


def _server(folder: Path) -> int:
    from tests.omero_server.running import RunningServer

    server = RunningServer.start(folder)
    atexit.register(server.stop)
    server.reset()
    return server.port


def picture() -> np.ndarray:
    """Cells of 24 to 44 pixels across, some elongated, none touching: labels ``(y, x)``."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.zeros((SIDE, SIDE), np.int32)
    y, x = np.ogrid[-25:26, -25:26]
    step = SIDE // GRID
    for k in range(GRID**2):
        top, left = k // GRID * step, k % GRID * step
        radius, stretch = rng.uniform(12, 22), rng.uniform(0.85, 1.15)
        cell = (y * stretch) ** 2 + (x / stretch) ** 2 < radius**2
        labels[top : top + 51, left : left + 51][cell] = k + 1
    return labels


def ours(report: Path) -> None:
    import omero.model  # noqa: F401 - the time of the import is not that of the work

    from benchmarks.imputing import cpu_seconds
    from mxbridge.workspaces.omero.objects.masks import masks_of_raster
    from mxbridge.workspaces.omero.objects.roi_parts import roi_of

    labels = picture()
    before = cpu_seconds()
    rois = [roi_of(mask, str(label), None, "token", (0, 0))[0] for label, mask in masks_of_raster(labels)]
    took = cpu_seconds() - before
    masks = (
        (int(s.textValue.val), s.x.val, s.y.val, s.width.val, s.height.val, s.bytes)
        for r in rois
        for s in r.copyShapes()
    )
    report.write_text(json.dumps({"cpu": took, "masks": _digest(masks)}))


def polygons(report: Path) -> None:
    import dask.array as da

    from benchmarks.imputing import cpu_seconds
    from mxbridge.formats.label_outlines import labels_to_outlines
    from mxbridge.formats.labels import scan_labels
    from mxbridge.workspaces.omero.objects.polygons import polygons_of

    labels = picture()
    exact = labels_to_outlines(scan_labels(da.from_array(labels), labels.shape, where="picture")).outlines
    before = cpu_seconds()
    simple = [polygons_of(exact.rings_of(k)) or [] for k in range(len(exact))]
    took = cpu_seconds() - before
    points = sum(len(ring) for rings in simple for ring in rings)
    report.write_text(
        json.dumps({"cpu": took, "points": points / len(simple), "exact points": len(exact.xy) / len(simple)})
    )


def theirs(report: Path) -> None:
    from omero_rois import masks_from_label_image

    from benchmarks.imputing import cpu_seconds

    labels = picture().astype(int)
    before = cpu_seconds()
    shapes = masks_from_label_image(labels)
    took = cpu_seconds() - before
    masks = ((k, s.x.val, s.y.val, s.width.val, s.height.val, s.bytes) for k, s in enumerate(shapes, 1))
    report.write_text(json.dumps({"cpu": took, "masks": _digest(masks)}))


def _digest(masks: Iterable[tuple[int, float, float, float, float, Any]]) -> str:
    digest = hashlib.sha256()
    for label, x, y, width, height, bits in masks:
        digest.update(f"{label} {x:g} {y:g} {width:g} {height:g}\n".encode() + bytes(bits))
    return digest.hexdigest()


def table(port: int, rows: int) -> None:
    """Write rows and read them again."""
    from mxbridge.workspaces.omero.attachments.tables import read_table, table_columns, write_tables
    from mxbridge.workspaces.omero.sessions.address import Server
    from mxbridge.workspaces.omero.sessions.login import Credentials
    from mxbridge.workspaces.omero.sessions.session import Sessions

    sessions = Sessions(Server("127.0.0.1", port), credentials=lambda: Credentials("alice", "secret"))
    with sessions.use() as session:
        ((group,),) = session.rows("select g.id from ExperimenterGroup g where g.name = :name", name="lab")
        columns = table_columns(next(_pieces(rows)))
        (file_id,) = write_tables(session, _pieces(rows), columns, group_id=group, name="mxbridge/1/bench/cells")
        if sum(len(piece) for piece in read_table(session, file_id)) != rows:
            raise RuntimeError("rows were lost")
    sessions.close()


def _pieces(rows: int) -> Iterator[pd.DataFrame]:
    import numpy as np

    from mxbridge.workspaces.omero.attachments.tables import cell_frame

    rng = np.random.default_rng(0)
    for first in range(0, rows, PIECE):
        n = min(PIECE, rows - first)
        values = {f"Nimbus: marker {m}": rng.random(n, np.float32) for m in range(MARKERS)}
        yield cell_frame(1, [f"{k}:{k + 1}" for k in range(first, first + n)], ["Tumor"] * n, values)


def main(what: str, *arguments: str) -> None:
    if what == "table":
        table(*map(int, arguments))
    else:
        {"ours": ours, "theirs": theirs, "polygons": polygons}[what](Path(arguments[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
