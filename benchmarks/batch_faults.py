"""Nights against the test server with connections cut, sessions expired, restarts and kills, held against an undisturbed one.

    python -m benchmarks.batch_faults [--images 50] [--seeds 1,2,3] [--kills 5]

Two tasks on each image (impute, then score the imputed stain). Prints a table; fails when anything is not as after an undisturbed
night. Needs omero-py, zeroc-ice and tables; the server is the project's test server, no OMERO.server.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import ONE_THREAD
from tests.batch.disturbed import Quiet, Rough, disturbed, undisturbed
from tests.cli.prepared import Prepared
from tests.omero_server.running import RunningServer

COLUMNS = (
    "seed",
    "runs",
    "killed",
    "restarts",
    "cut connections",
    "expired sessions",
    "begun and cut off",
    "seconds",
    "wrong",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--seeds", default="1,2,3", help="one disturbed night each")
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    os.environ |= {"OMERO_PASSWORD": "secret", **ONE_THREAD}
    with tempfile.TemporaryDirectory(prefix="mxbridge-bench-") as name, Prepared() as prepared:
        folder = Path(name)
        with RunningServer.start(folder / "server") as server:
            quiet = undisturbed(server, prepared, folder / "quiet", options.images)
            print(f"{title(quiet)}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
            rough = []
            for seed in (int(word) for word in options.seeds.split(",")):
                rough.append(disturbed(server, prepared, folder / f"rough {seed}", quiet, seed, kills=options.kills))
                print(row(rough[-1]), flush=True)
    for one in rough:
        for wrong in one.wrong:
            print(f"seed {one.seed}: {wrong}", file=sys.stderr)
    return int(any(one.wrong for one in rough))


def title(quiet: Quiet) -> str:
    return f"{quiet.images} images, two tasks each; an undisturbed night takes {quiet.seconds:.0f} s"


def row(rough: Rough) -> str:
    cut = rough.faults["drop"] + rough.faults["kill-connection-after"]
    figures = (
        rough.seed, rough.nights, rough.kills, rough.restarts, cut, rough.faults["expire"], rough.attempts["begun"],
        f"{rough.seconds:.0f}", len(rough.wrong),
    )  # fmt: skip
    return f"| {' | '.join(map(str, figures))} |"


if __name__ == "__main__":
    sys.exit(main())
