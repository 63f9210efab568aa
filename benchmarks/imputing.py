"""Imputation alone, in a process of its own: an image through the network, tile by tile, and nothing written but what is asked.

``python -m benchmarks.imputing IMAGE CHECKPOINT REPORT [--pad N] [--tile N] [--keep FILE.npy]``. REPORT says how many CPU seconds the
tiles took (JSON), without imports and loading. ``--keep`` needs the whole map in memory; without it each tile is let go.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

from benchmarks.slides import INPUTS, TARGET, UM_PER_PX


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("image", "checkpoint", "report", "--keep"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--pad", type=int)
    parser.add_argument("--tile", type=int)
    given = parser.parse_args()
    import numpy as np

    from mxbridge.formats.open_image import open_image
    from mxbridge.models.maxim import MaximStream, Request, load_checkpoint
    from mxbridge.stream.engine import Engine

    model = load_checkpoint(given.checkpoint, INPUTS, (TARGET,), UM_PER_PX)
    engine = Engine(device="cpu", tile=given.tile, workers=1)
    stream = MaximStream(model, open_image(given.image), engine, [Request((TARGET,))], compat_pad=given.pad)
    kept = np.empty(stream.shape, np.float32) if given.keep else None
    tiles, before = 0, cpu_seconds()
    for found in stream.tiles():
        tiles += 1
        if kept is not None:
            core = found.tile.core
            kept[core.y0 : core.y1, core.x0 : core.x1] = found.unit[0, 0]
    took = cpu_seconds() - before
    if kept is not None:
        np.save(given.keep, kept)
    height, width = stream.shape
    record = {"cpu": took, "pixels": height * width, "tiles": tiles}
    given.report.write_text(json.dumps(record), encoding="utf-8")


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
