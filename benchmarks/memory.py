"""Memory of ``mxbridge score``: four times the side, sixteen times the pixels, as many cells."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fields import field, random_weights
from benchmarks.harness import ONE_THREAD, Bar, Case
from benchmarks.score import ours_command

TITLE = "mxbridge score: memory and the size of the slide"
SMALL, LARGE = 4096, 16384


def cases(folder: Path) -> list[Case]:
    """The published width on islands of tissue (what lies between is skipped), and the embedded narrow network with a cell in
    every tile. 25,600 cells in all of them."""
    out = []
    for model, blocks, what in (
        (random_weights(folder), 8, "published width, islands"),
        ("demo", 160, "embedded weights"),
    ):
        names = [f"{size}², no augmentation, 1 thread, {what}" for size in (SMALL, LARGE)]
        for size, name in zip((SMALL, LARGE), names, strict=True):
            at, run = field(folder, size, blocks=blocks), folder / f"run {name}"
            bars = (Bar("rss", 1.1, names[0]),) if size == LARGE else (Bar("rss", 1400),)
            out.append(
                Case(
                    name,
                    [*ours_command(at, model, run), "--no-tta", "--workers", "1"],
                    environment=ONE_THREAD,
                    rival=names[0] if size == LARGE else None,
                    bars=bars,
                    most_runs=3,
                    warm_up=False,
                    done=run / "cells.csv",
                )
            )
    return out
