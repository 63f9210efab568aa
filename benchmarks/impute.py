"""``mxbridge impute`` beside MAXIM as published: six markers to one, its full width, the same random weights, one thread each.

The published program pads an image of 1396 x 1860 px to 2048 x 2048. Then larger images, tile by tile, beside the same network on
the whole of 2048 x 2048 px in one pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.harness import ONE_THREAD, Bar, Case
from benchmarks.slides import INPUTS, PANEL, TARGET, Slide, random_weights, slide

if TYPE_CHECKING:
    import numpy as np

TITLE = "mxbridge impute and MAXIM"
FIELD = (1396, 1860)
"""Pixels of one field as published (y, x)."""
PAD = 2048
UNTILED, LARGE, LARGEST = 2048, 4096, 8192
SHARE = 0.40
"""Of the peer's CPU seconds, at most."""
PER_PIXEL = 1.25
"""Of the CPU seconds per pixel of one pass over everything, at most."""
FLAT = 1.1
EQUAL = 1e-5
ONE_PASS, TILES = f"the network alone, {UNTILED}² in one pass", "the network alone, {}² in tiles"
ALIKE = "padded alike"
COMPAT = ("--compat", "maxim", "--compat-pad", str(PAD), "--inputs", ",".join(INPUTS))


def cases(folder: Path) -> list[Case]:
    return [*_beside_the_peer(folder), *_large(folder)]


def _beside_the_peer(folder: Path) -> list[Case]:
    at, (checkpoint, model) = slide(folder, *FIELD), random_weights(folder)
    name = f"{FIELD[0]} x {FIELD[1]}"
    theirs = [sys.executable, str(peers.HERE / "maxim.py"), str(peers.source("maxim")), str(at.table), str(checkpoint)]
    peer = Case(
        f"{name}, padded to {PAD}²: MAXIM",
        [*theirs, str(folder / "peer"), ",".join(PANEL), TARGET, str(PAD)],
        environment=ONE_THREAD,
        done=_peer_map(folder),
    )
    mine = []
    for what, weights, own in ((ALIKE, checkpoint, COMPAT), ("its own padding", model, ())):
        run = folder / f"run {what}"
        mine.append(
            Case(
                f"{name}, {what}: mxbridge impute",
                [*_command(at, weights, run), *own],
                before=["rm", "-rf", str(run)],
                environment=ONE_THREAD,
                rival=peer.name,
                bars=(Bar("cpu", SHARE, peer.name),),
                done=run / "run.json",
            )
        )
    return [peer, *mine]


def _large(folder: Path) -> list[Case]:
    """The network alone; one process each."""
    large, largest = TILES.format(LARGE), TILES.format(LARGEST)
    return [
        _alone(folder, ONE_PASS, UNTILED, "--tile", UNTILED),
        _alone(folder, large, LARGE),
        _alone(folder, largest, LARGEST, rival=large, bars=(Bar("rss", FLAT, large),)),
    ]


def _alone(folder: Path, name: str, side: int, *options: object, **more: object) -> Case:
    report = _report(folder, name)
    command = _network(slide(folder, side, side), random_weights(folder)[0], report, *options)
    once = {"environment": ONE_THREAD, "most_runs": 1, "warm_up": False, "done": report}
    return Case(name, command, **once, **more)  # type: ignore[arg-type]


def _command(at: Slide, weights: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "mxbridge", "impute", "--files", str(at.image), "--model", str(weights)]
    return [*command, "--marker", TARGET, "--quiet", "--workers", "1", "--device", "cpu", "--out", str(out)]


def _network(at: Slide, checkpoint: Path, report: Path, *options: object) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.imputing", str(at.image), str(checkpoint), str(report)]
    return [*command, *map(str, options)]


def _report(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _peer_map(folder: Path) -> Path:
    return folder / "peer" / f"test_{PAD}_{PAD}" / f"{slide(folder, *FIELD).array.name}"


def check(folder: Path) -> list[str]:
    """Equal numbers where the padding is equal, and what tiles cost beside one pass over everything."""
    return [_same_maps(folder), _same_channel(folder), *_cost_per_pixel(folder)]


def _same_maps(folder: Path) -> str:
    """Raises RuntimeError when the maps differ by more than ``EQUAL`` somewhere."""
    import numpy as np

    kept = folder / f"{ALIKE}.npy"
    command = _network(
        slide(folder, *FIELD), random_weights(folder)[0], _report(folder, "alike"), "--pad", PAD, "--keep", kept
    )
    subprocess.run(command, check=True, capture_output=True)
    return same_maps(np.load(_peer_map(folder))[1], np.load(kept))


def same_maps(theirs: np.ndarray, ours: np.ndarray) -> str:
    """``(y, x)`` each, 0..1. Raises RuntimeError when they differ by more than ``EQUAL`` somewhere, or are constant."""
    import numpy as np

    if theirs.shape != ours.shape:
        raise RuntimeError(f"the peer's map is {theirs.shape}, ours {ours.shape}")
    worst = float(np.abs(theirs - ours).max())
    if not worst <= EQUAL:  # NaN is not equal
        raise RuntimeError(f"imputed pixels differ by {worst:.2g}")
    if np.ptp(theirs) < 0.5:
        raise RuntimeError(f"the peer's map spans only {np.ptp(theirs):.2g}; such maps are equal anyhow")
    return (
        f"- {ALIKE}, {theirs.size:,} pixels from {theirs.min():.3f} to {theirs.max():.3f}: the largest difference "
        f"between the programs is {worst:.1g}."
    )


def _same_channel(folder: Path) -> str:
    """The channel that the measured command wrote. Raises RuntimeError where it is not the peer's map, rounded to uint8."""
    import numpy as np

    from mxbridge.formats.open_image import open_image

    (path,) = (folder / f"run {ALIKE}").glob("images/*/derived/*.ome.zarr")
    stored = np.asarray(open_image(path).levels[0][0])
    worst = float(np.abs(stored - 255 * np.load(_peer_map(folder))[1]).max())
    if stored.dtype != np.uint8 or not worst <= 0.5 + 255 * EQUAL:
        raise RuntimeError(f"the channel ({stored.dtype}) is up to {worst:.3g} grey levels from the peer's map")
    return f"- {ALIKE}, the channel that was written: the peer's map in {stored.dtype}, at most {worst:.3f} grey levels away."


def _cost_per_pixel(folder: Path) -> list[str]:
    """From what the network alone took, without starting up."""
    names = (ONE_PASS, TILES.format(LARGE), TILES.format(LARGEST))
    records = {name: json.loads(_report(folder, name).read_text(encoding="utf-8")) for name in names}
    cost = {name: record["cpu"] / record["pixels"] * 1e6 for name, record in records.items()}
    lines = []
    for name, seconds in cost.items():
        share = seconds / cost[ONE_PASS]
        bar = "" if name == ONE_PASS else f", {share:.2f} x one pass (bar {PER_PIXEL:g}: {_kept(share <= PER_PIXEL)})"
        lines.append(f"- {name} ({records[name]['tiles']}): {seconds:.2f} CPU s per million pixels{bar}.")
    return lines


def _kept(kept: bool) -> str:
    return "kept" if kept else "**missed**"
