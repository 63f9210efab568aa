"""A run whose report has every kind of block, and names that try to be more than names."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from mxbridge.models.normalization import Normalization
from mxbridge.report.blocks import (
    Card,
    Code,
    Column,
    Facts,
    Gallery,
    Group,
    Note,
    Numbers,
    Picture,
    Pictures,
    Plot,
    Section,
    Table,
)
from mxbridge.report.context import RunContext
from mxbridge.report.plotting import STYLE, new_figure, to_svg
from mxbridge.results import RESULTS, ImageRef, Results
from mxbridge.runs import ImageRecord, Run, folder_name, now, versions

HOSTILE = "<script>document.title='taken'</script>\"'><img src=x onerror=alert(1)> \u202egnp.dab\u202c {{ 7*7 }} &amp;"
LONG = "a_very_long_name_without_any_space_of_a_slide_as_scanners_write_them_" * 3
MARKERS = ("CD3", "CD8", "CD20", "CD68", "PanCK", "Ki67", "FOXP3")


@cache
def picture(seed: int, side: int = 240, *, quality: int = 60, caption: str = "") -> Picture:
    """Smooth random colours."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=quality)
    return Picture(stream.getvalue(), side, side, f"smooth colours {seed}", caption)


@cache
def plot() -> Plot:
    figure = new_figure(7.2, 2.6)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots(1, 3, sharey=True)
        for k, (each, name) in enumerate(zip(axes, (MARKERS[0], "日本 $x", HOSTILE[:40]), strict=True)):
            each.hist(np.random.default_rng(k).beta(0.6, 1.4, 500), bins=30, color="#0072B2")
            each.axvline(0.5, color="#D55E00", linewidth=1.2)
            each.set_title(name, parse_math=False)
            each.set_xlabel("score")
        axes[0].set_ylabel("cells")
    return Plot(
        to_svg(figure), "Histograms of scores per marker, each with its threshold", "Scores and thresholds (orange)"
    )


def sections(context: RunContext) -> Iterator[Section]:
    """As the module of a kind of run. Of one that is called ``light`` a few blocks are enough."""
    if context.run.task == "light":
        context.pulled(context.run.images[0])
        yield Section("images", "Images", (Group(f"{k}", (picture(k, 16), plot())) for k in range(12)))
        return
    columns = (Column("Marker"), Column("Cells", "number"), Column("Score", "number"), Column("Positive", "bar"),
               Column("Share", "percent"), Column("Verdict", "badge"))  # fmt: skip
    rows = tuple(
        (name, 3005 * k, None if k == 2 else 10.0 ** (k - 3), k / 7, float("nan") if k == 3 else k / 9, verdict)
        for k, (name, verdict) in enumerate(
            zip((*MARKERS, HOSTILE), ("ok", "flagged", "suspect", "failed", "ok", "ok", "ok", None), strict=True)
        )
    )
    yield Section(
        "counts",
        "Positive cells",
        (
            Numbers((("6\u202f054", "cells"), ("7", "markers"))),
            Table(columns, rows, "Per marker", "Scores from 0 to 1."),
            Note("A threshold from hand-classed cells would be better.", "note"),
            Note(f"Look at {HOSTILE}", "warning"),
            Note("One image has no cells.", "error"),
            Facts((("Threshold", "0.5"), (HOSTILE, LONG))),
            plot(),
        ),
        "How many cells are positive for each marker.",
    )

    def images() -> Iterator[Group]:
        for number, image in enumerate(context.run.images):
            several = tuple(
                (m, (picture(k, caption=f"{m} of {image.name}"), picture(k + 50))) for k, m in enumerate(MARKERS)
            )
            cards = tuple(Card(picture(k, 64), (f"cell {k}", f"score 0.{k:02d}", LONG[:60])) for k in range(24))
            blocks = (
                Pictures("Cells by score", several),
                Gallery(cards, "Nearest the threshold: CD3"),
                picture(99, 500),
            )
            yield Group(image.name, blocks, open=number == 0)

    yield Section("images", "Images", images(), "Every image with its cells.")
    many = tuple((f"C{k}", (picture(k),)) for k in range(12))
    few = (("one", (picture(1),)), ("two", (picture(2),)))
    wide = Table(
        tuple(Column(f"Metric {k}", "number") for k in range(22)), ((0.0709,) * 22,), "Wide", file="metrics.csv"
    )
    folded = Group("Folded", (wide,), open=False, on_paper=False)
    views = Pictures("Channels", many), Pictures("Views", few)
    yield Section("more", "More", (*views, Code("mxbridge score " * 20, "As text"), wide, folded))


def make_run(folder: Path, names: tuple[str, ...] = ("tissue A", HOSTILE, LONG), task: str = "showcase") -> Run:
    """A run folder with a record, factors and empty results; the last image has failed."""
    folder.mkdir(parents=True)
    images = [ImageRecord(str(k), name, f"f{k}", folder_name(k, name)) for k, name in enumerate(names, start=1)]
    run = Run(folder, folder.name, task, "files:/nowhere/at/all.tif", "r", now(), images, versions=versions())
    run.command = ["/somewhere/bin/mxbridge", "score", "--files", "a b.tif", HOSTILE]
    run.model = {"name": "Nimbus", "weights_sha256": "0" * 64, "algorithm": {"version": 2}}
    run.options = {"markers": list(MARKERS), "tta": True, "panel": None, "note": HOSTILE}
    run.warnings = ["FOXP3: no signal"]
    for k, image in enumerate(images):
        if k == len(images) - 1 and k:
            image.status, image.error, image.error_code = "failed", f"{image.name}: no such file", 4
            continue
        image.status, image.seconds, image.warnings = "computed", 1.5 + k, ["stacks: first plane taken"]
        image.counts = {"cells": 3000 + k, "markers": 7, "tiles_skipped": k}
        Results(ImageRef(image.id, image.name), run.run_id).save(run.folder_of(image))
        assert (run.folder_of(image) / RESULTS).is_file()
    details = {"1": {m: {"foreground_px": 1000.0 * k, "quantile": 812.5} for k, m in enumerate(MARKERS)}}
    factors = dict.fromkeys(MARKERS, 812.5)
    Normalization(factors, 0.999, flags={"FOXP3": "no signal"}, details=details).save(folder / "normalization.json")
    run.finished = now()
    run.save()
    return run
