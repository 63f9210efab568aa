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
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mxbridge.training.panels import demo_settings
from mxbridge.training.simulator import simulate
from tests.omero_server.running import RunningServer

SIDE_UM = 80


def main(command: Sequence[str]) -> int:
    with RunningServer.start() as server:
        settings = replace(demo_settings(), height_um=SIDE_UM, width_um=SIDE_UM)
        tissues = {f"tissue {seed}": simulate(settings, seed) for seed in (1, 2)}
        for name, tissue in tissues.items():
            server.add_image(name, tissue.image, channels=tissue.channels, um_per_px=settings.um_per_px)
        for name, tissue in tissues.items():
            server.add_image(name, tissue.cells[None].astype(np.int32), dataset="masks")
        login = {"OMERO_HOST": f"{server.host}:{server.port}", "OMERO_USER": "alice", "OMERO_PASSWORD": "secret"}
        return subprocess.run(list(command), env=os.environ | login, check=False).returncode  # noqa: S603 - the user's own


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
