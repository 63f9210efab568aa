"""From a segmentation picture to nuclei: ours beside DeepLIIF's, on a mosaic of its official results (MXBRIDGE_SHARED).

Each in a fresh process. The bar is for the work alone, without imports and reading; the table shows whole processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks import peers
from benchmarks.harness import ONE_THREAD, Case

TITLE = "Nuclei of a segmentation picture"
SIDE = 4096
MOST = 2.0
"""CPU seconds, at most."""
SAMPLES = ("34_3", "6_2")


def cases(folder: Path) -> list[Case]:
    seg, original = mosaic(folder)
    script, checkout = peers.HERE / "deepliif_cells.py", peers.source("deepliif-source")
    theirs = [peers.python_of("deepliif"), script, checkout, seg, original, folder / "theirs.json"]
    ours = [sys.executable, "-m", "benchmarks.nuclei_alone", seg, original, folder / "ours.json"]
    return [
        Case(f"{SIDE}²: DeepLIIF, twice", [*map(str, theirs)], environment=ONE_THREAD, done=folder / "theirs.json"),
        Case(f"{SIDE}²: mxbridge", [*map(str, ours)], environment=ONE_THREAD, done=folder / "ours.json"),
    ]


def mosaic(folder: Path) -> tuple[Path, Path]:
    """Official segmentation results side by side until they fill the picture, and the stained tiles that belong to them."""
    paths = folder / "seg.png", folder / "ihc.png"
    if not all(path.exists() for path in paths):
        import numpy as np
        from PIL import Image

        shared = Path(os.environ.get("MXBRIDGE_SHARED", Path(__file__).parents[1] / "../shared")).resolve()
        data = shared / "data" / "deepliif"
        segs = [
            np.asarray(Image.open(data / f"test_DeepLIIF_results/{s}_fake_B_5.png").convert("RGB")) for s in SAMPLES
        ]
        stains = [np.asarray(Image.open(data / f"test/{s}.png").convert("RGB"))[:, :512] for s in SAMPLES]
        for path, tiles in zip(paths, (segs, stains), strict=True):
            rows = [
                np.concatenate([tiles[(y + x) % 2] for x in range(SIDE // 512)], axis=1) for y in range(SIDE // 512)
            ]
            Image.fromarray(np.concatenate(rows)).save(path)
    return paths


def check(folder: Path) -> list[str]:
    """The same counts, and the time of the work alone. Raises RuntimeError where the counts differ."""
    theirs, ours = (json.loads((folder / f"{name}.json").read_text()) for name in ("theirs", "ours"))
    if theirs["score"] != ours["score"]:
        raise RuntimeError(f"the programs count differently: {theirs['score']}, {ours['score']}")
    kept = "kept" if ours["cpu"] <= MOST else "**missed**"
    return [
        f"- Without imports and reading: {ours['cpu']:.2f} CPU s (bar {MOST:g}: {kept}); DeepLIIF {theirs['first']:.2f} with "
        f"its compilation, {theirs['second']:.2f} without. Both count {ours['score']['num_total']} cells, "
        f"{ours['score']['num_pos']} of them positive."
    ]
