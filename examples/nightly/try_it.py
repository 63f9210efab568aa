"""A whole night on this machine: starts the project's test server, puts a dataset with two small simulated images and their cells
on it, runs ``job.toml`` on them, runs it again, and shows what is on the server.

    python -m examples.nightly.try_it [FOLDER]

FOLDER (else a temporary one) gets a copy of the job with its runs and its ledger. The server speaks OMERO's protocol and is made for
tests: it is no OMERO.server, and it and its images are gone when this ends.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.omero_server import server_with_slides
from tests.omero_server.running import RunningServer

HERE = Path(__file__).parent


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "job.toml", folder / "job.toml")
    with server_with_slides() as (server, login):
        environment = {**login, "NIGHTLY_DATASET": "1", "NIGHTLY_MASKS": "2"}
        for what in (("plan",), ("run",), ("run",), ("status",)):
            words = [sys.executable, "-m", "mxbridge", "batch", *what, "job.toml"]
            print(f"\n$ mxbridge batch {' '.join(what)} job.toml", flush=True)
            code = subprocess.run(words, cwd=folder, env=environment, check=False).returncode  # noqa: S603 - our own command
            if code:
                return code
        show(server)
    print(f"\nThe job, its runs and its ledger: {folder}")
    return 0


def show(server: RunningServer) -> None:
    """What stands beside the images on the server."""
    print("\nOn the server:")
    for image in server.state()["images"]:
        for one in image["annotations"]:
            kept = one.get("file", {})
            what = kept.get("name") or ", ".join(key for key, _ in one.get("values", []))
            rows = f", {len(kept['rows'])} rows" if "rows" in kept else ""
            print(f"  {image['name']}: {one['kind']} {one.get('ns') or ''}: {what}{rows}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mxbridge-nightly-")).absolute()))
