"""``mxbridge translate`` beside DeepLIIF as published: the same picture, the same random weights of its full size, one thread each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import peers
from benchmarks.harness import ONE_THREAD, Bar, Case
from benchmarks.ihc import SIDE, picture, random_model, slide

TITLE = "mxbridge translate and DeepLIIF"
LARGE = 2048
TILE = "512"
SAME, SCORES, FROZEN = 0.85, 0.25, 0.65
"""Of the peer's CPU seconds for all its outputs, at most."""
MEMORY = 2200
SLIDE, WHOLE = 4096, 20480
FLAT = 1.05
NO_NUCLEI = "509"
"""Red and blue together never exceed 510."""
OFF_BY_ONE = 0.01
"""Share of the pixels of a picture that may differ, by one grey level."""
IMAGES = ("mod1-Hema", "mod2-DAPI", "mod3-Lap2", "mod4-Marker", "Seg")


def cases(folder: Path) -> list[Case]:
    small, large = (_name(side, "DeepLIIF") for side in (SIDE, LARGE))
    compat = ("--compat", "deepliif", "--tile-size", TILE)
    scale = ("--um-per-px", "0.25", "--weighting", "test")
    memory = Bar("rss", MEMORY)
    return [
        _theirs(folder, SIDE),
        _ours(folder, SIDE, "all outputs, compat", small, (Bar("cpu", SAME, small), memory), "--outputs", "all", *compat),
        _ours(folder, SIDE, "scores only", small, (Bar("cpu", SCORES, small), memory), "--outputs", "score", *scale),
        _theirs(folder, LARGE),
        _ours(folder, LARGE, "all outputs, compat", large, (Bar("cpu", SAME, large), memory), "--outputs", "all", *compat),
        _ours(
            folder, LARGE, "all outputs, frozen statistics", large, (Bar("cpu", FROZEN, large), memory),
            "--outputs", "all", "--statistics", "slide", *scale,
        ),
        *_slides(folder),
    ]  # fmt: skip


def _slides(folder: Path) -> list[Case]:
    """Stains taken apart in place of networks: whether memory grows with the pixels of a slide (where no nucleus reaches the
    threshold), and how much its nuclei take."""
    small, large = (f"{side}²: mxbridge translate --model deconvolution, scores" for side in (SLIDE, WHOLE))
    bar = Bar("rss", FLAT, small)
    return [
        _slide(folder, SLIDE, small),
        _slide(folder, WHOLE, f"{large}, no nuclei", bar, "--seg-threshold", NO_NUCLEI),
        _slide(folder, WHOLE, large),
    ]


def _slide(folder: Path, side: int, name: str, bar: Bar | None = None, *options: str) -> Case:
    out = folder / f"run {name}"
    command = [
        "translate",
        "--files",
        slide(folder, side),
        "--out",
        out,
        "--model",
        "deconvolution",
        "--outputs",
        "score",
    ]
    return Case(
        name,
        [sys.executable, "-m", "mxbridge", *map(str, command), "--workers", "1", "--quiet", *options],
        before=["rm", "-rf", str(out)],
        environment=ONE_THREAD,
        bars=() if bar is None else (bar,),
        most_runs=1,
        warm_up=False,
        done=out / "run.json",
    )


def _name(side: int, what: str) -> str:
    return f"{side}²: {what}"


def _theirs(folder: Path, side: int) -> Case:
    script, checkout = peers.HERE / "deepliif.py", peers.source("deepliif-source")
    out = folder / f"peer {side}"
    command = [script, checkout, random_model(folder), picture(folder, side), out, TILE]
    return Case(
        _name(side, "DeepLIIF"),
        [str(peers.python_of("deepliif")), *map(str, command)],
        environment=ONE_THREAD,
        most_runs=1 if side == LARGE else None,
        warm_up=side != LARGE,
        done=out / f"{picture(folder, side).stem}.json",
    )


def _ours(folder: Path, side: int, what: str, rival: str, bars: tuple[Bar, ...], *options: str) -> Case:
    out = _run(folder, side, what)
    command = [sys.executable, "-m", "mxbridge", "translate", "--files", str(picture(folder, side))]
    command += ["--model", str(random_model(folder)), "--out", str(out), "--device", "cpu", "--workers", "1", "--quiet"]
    return Case(
        _name(side, f"mxbridge translate, {what}"),
        [*command, *options],
        before=["rm", "-rf", str(out)],
        environment=ONE_THREAD,
        rival=rival,
        bars=bars,
        most_runs=1 if side == LARGE else None,
        warm_up=side != LARGE,
        done=out / "run.json",
    )


def _run(folder: Path, side: int, what: str) -> Path:
    return folder / f"run {side} {what}"


def check(folder: Path) -> list[str]:
    """In compat both programs draw the same pictures and count the same cells."""
    return [_same(folder, side) for side in (SIDE, LARGE)]


def _same(folder: Path, side: int) -> str:
    """Raises RuntimeError where pictures or counts differ by more than the tolerance."""
    import numpy as np
    from PIL import Image

    stem, theirs = picture(folder, side).stem, folder / f"peer {side}"
    ours = next(_run(folder, side, "all outputs, compat").rglob(f"{stem}_Seg.png")).parent
    worst = 0.0
    for name in IMAGES:
        a, b = (np.asarray(Image.open(place / f"{stem}_{name}.png")).astype(int) for place in (theirs, ours))
        if a.shape != b.shape or np.abs(a - b).max() > 1:
            raise RuntimeError(f"{side}²: the programs draw another {name}")
        worst = max(worst, float((a != b).mean()))
    counts = [json.loads((place / f"{stem}.json").read_text(encoding="utf-8")) for place in (theirs, ours)]
    if worst > OFF_BY_ONE or counts[0] != counts[1]:
        raise RuntimeError(
            f"{side}²: {worst:.2%} of the pixels differ by one grey level; counts {counts[0]}, {counts[1]}"
        )
    return (
        f"- {side}²: at most {worst:.2%} of the pixels of a picture differ, by one grey level; both count "
        f"{counts[0]['num_total']} cells, {counts[0]['num_pos']} of them positive."
    )
