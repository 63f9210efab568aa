"""A command beside the project's test server, with what the OMERO walk-through needs on it.

    python -m examples.omero_server bash

Dataset 1 has two small simulated images, dataset 2 label images of their cells. ``OMERO_HOST``, ``OMERO_USER`` and
``OMERO_PASSWORD`` are set for the command; when it ends, the server and everything on it are gone. It speaks OMERO's protocol and
is made for tests: it is no OMERO.server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from mxbridge.training.panels import demo_settings
from mxbridge.training.simulator import simulate
from tests.omero_server.running import RunningServer

SIDE_UM = 80


@contextmanager
def server_with_slides() -> Iterator[tuple[RunningServer, dict[str, str]]]:
    """The server with two slides in dataset 1 and label images of their cells in dataset 2, and the environment to log in."""
    with RunningServer.start() as server:
        settings = replace(demo_settings(), height_um=SIDE_UM, width_um=SIDE_UM)
        tissues = {f"tissue {seed}": simulate(settings, seed) for seed in (1, 2)}
        for name, tissue in tissues.items():
            server.add_image(name, tissue.image, channels=tissue.channels, um_per_px=settings.um_per_px)
        for name, tissue in tissues.items():
            server.add_image(name, tissue.cells[None].astype(np.int32), dataset="masks")
        login = {"OMERO_HOST": f"{server.host}:{server.port}", "OMERO_USER": "alice", "OMERO_PASSWORD": "secret"}
        yield server, os.environ | login


def main(command: Sequence[str]) -> int:
    with server_with_slides() as (_, environment):
        return subprocess.run(list(command), env=environment, check=False).returncode  # noqa: S603 - the user's own


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
