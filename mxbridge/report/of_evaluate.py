"""What a report says of ``mxbridge evaluate``: imputed against measured markers beside simple baselines, or, where the run
compared segmentations, those (:mod:`mxbridge.report.of_segmentation`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mxbridge.errors import MxbridgeError
from mxbridge.report.blocks import Block, Column, Facts, Group, Note, Numbers, Picture, Plot, Section
from mxbridge.report.dot_rows import DotRows, Dots
from mxbridge.report.run_tables import capital, counted, numbers, read_run_table, several, shown
from mxbridge.report.texts import short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from mxbridge.report.context import RunContext
    from mxbridge.tasks.evaluating.tables import Saved

METRICS = {
    "mae": "MAE",
    "pearson": "Pearson",
    "ssim_uniform7": "SSIM (7x7)",
    "cell_mae": "MAE of cells",
    "cell_pearson": "Pearson of cells",
    "cell_auroc": "AUROC of cells",
    "cell_ap": "AP of cells",
    "cell_ap_chance": "Chance",
}
"""Those that are shown first; a second table has all."""

DRAWN = ("mae", "cell_pearson", "pearson", "cell_ap")
"""The first two that there are are seen at once."""

WON = ("mae", "pearson", "cell_pearson", "cell_ap")
"""In which a model can be ahead; the table in the run folder has all."""

NAMES = {
    "mse": "MSE",
    "rmse": "RMSE",
    "psnr": "PSNR",
    "ssim_gauss11": "SSIM (Gaussian)",
    "smooth_l1": "Smoothed L1",
    "smooth_l2": "Smoothed L2",
    "smooth_iou": "Smoothed IoU",
    "cell_spearman": "Spearman of cells",
    "prevalence": "Positive cells",
    "threshold": "Threshold",
    "threshold_from": "Threshold from",
    "why_not": "Why no AUROC and AP",
    "pixels": "Pixels",
    "cells": "Cells",
}
F = TypeVar("F")

KEYS = {
    "model": Column("Model"),
    "marker": Column("Marker"),
    "method": Column("Method"),
    "image": Column("Image"),
    "case": Column("Case"),
    "images": Column("Images", "number"),
    "cases": Column("Cases", "number"),
}
HOW = (
    "Every marker was imputed without itself and compared with what was measured, per pixel and per cell, on values scaled "
    "0 to 1. A model is worth its effort where it is ahead of the simple methods beside it."
)
BESIDE = {
    "zero": "an empty image",
    "mean of inputs": "the mean of the other markers",
    "train mean": "the same everywhere: what the marker was in training, on average",
    "ridge": "a linear regression on the other markers, pixel by pixel",
    "ridge 3x3": "the same with their means over 3 x 3 pixels; no network is needed for this",
}
"""The simple methods, in words."""

MOST_DRAWN = 40
"""Markers of a model with pictures of their own."""

OPEN = 3
"""Markers that are unfolded at first."""

MOST_SAMPLED = 30
"""Images whose cells and pixels enter the pictures of a marker."""

STEPS = 120
"""Points of a curve."""

PAIRED_BYTES = 40_000
"""Of the picture of paired errors of a marker."""


def sections(context: RunContext) -> Iterator[Section]:
    """Needs the tables that the run wrote; what else is missing is left out or told."""
    from mxbridge.report import of_segmentation

    if (context.run.path / "metrics.csv").is_file():
        yield from of_segmentation.sections(context)
        return
    markers = read_run_table(context, "markers.csv", ["model", "marker", "method"])
    if markers is None or not len(markers):
        yield Section("evaluation", "How good the imputed markers are", (Note("markers.csv says nothing.", "warning"),))
        return
    images = read_run_table(context, "images.csv", ["model", "marker", "method", "image", "image_id", "case", "mae"])
    yield Section("evaluation", "How good the imputed markers are", _overview(markers, images), lead=HOW)
    yield Section("evaluation-tables", "Means over cases", tuple(_means(context, markers)))
    if images is not None:
        yield Section("evaluation-markers", "Markers one by one", _pictures(context, images))
        yield Section("evaluation-images", "Cases and images", tuple(_single(context, images)))


# --- tables ---


def _overview(markers: pd.DataFrame, images: pd.DataFrame | None) -> Iterator[Block]:
    counts = [(markers, "marker", "marker"), (markers, "method", "method")]
    if images is not None:
        counts += [(images, "image_id", "image"), (images, "case", "case")]
    yield Numbers(tuple(counted(table[name].nunique(), word) for table, name, word in counts))
    known = [(name, words) for name, words in BESIDE.items() if (markers["method"] == name).any()]
    if known:
        yield Facts(tuple(known))
    for label, own in markers.groupby("model", sort=False):
        drawn = [metric for metric in DRAWN if metric in own and np.isfinite(numbers(own, metric)).any()]
        plots = [metric_plot(own, metric, str(label)) for metric in drawn]
        first: list[Block] = [*plots[:2]]
        if plots[2:]:
            first.append(Group("More metrics", tuple(plots[2:]), open=False, on_paper=False))
        if several(markers, "model"):
            yield Group(str(label), tuple(first))
        else:
            yield from first


def metric_plot(means: pd.DataFrame, metric: str, label: str) -> Plot:
    """A row per marker: the model and its baselines, with the intervals of the table."""
    from mxbridge.tasks.evaluating.one_image import MODEL
    from mxbridge.tasks.evaluating.plots import COLOURS
    from mxbridge.tasks.evaluating.tables import LOWER_IS_BETTER

    names = list(dict.fromkeys(means["marker"]))
    dots = []
    for method, own in means.groupby("method", sort=False):
        of_model = method == MODEL
        sure = [f"{metric}_{end}" for end in ("low", "high")] if of_model else []
        low, high = (numbers(own, end) for end in sure) if all(end in own for end in sure) and sure else ((), ())
        colour, shape, size = COLOURS.get(str(method), "#555555"), "o" if of_model else "D", 6.5 if of_model else 3.6
        places = [names.index(marker) for marker in own["marker"]]
        dots.append(Dots(str(method), colour, places, numbers(own, metric), low, high, shape, size))
    better = "smaller is better" if metric in LOWER_IS_BETTER else "larger is better"
    if metric == "cell_ap" and "cell_ap_chance" in means:
        chance = means.drop_duplicates("marker")
        dots.append(
            Dots("chance", "#000000", range(len(chance)), numbers(chance, "cell_ap_chance"), shape="|", size=8.0)
        )
    drawing = DotRows(names, f"{METRICS[metric]}, {better}", dots)
    return drawing.plot(
        f"{METRICS[metric]} of {label} and of the methods beside it, for {len(names)} markers",
        "Means over cases; lines: 95 % intervals of the model, where there are cases enough.",
    )


def _means(context: RunContext, markers: pd.DataFrame) -> Iterator[Block]:
    keys = {name: column for name, column in KEYS.items() if name != "model" or several(markers, "model")}
    chosen = {metric: Column(name, "number") for metric, name in METRICS.items() if _known(markers, metric)}
    yield shown(markers, {**keys, **chosen}, file="markers.csv")
    wins = read_run_table(context, "wins.csv", ["model", "baseline", "markers"])
    if wins is not None and len(wins):
        yield shown(
            wins, _of_wins(wins), caption="On how many markers a model is ahead, of those that both can be judged on"
        )
    every = shown(markers, _everything(markers, keys), file="markers.csv")
    yield Group("All metrics with their intervals", (every,), open=False, on_paper=False)


def _of_wins(wins: pd.DataFrame) -> dict[str, Column]:
    columns = {"model": Column("Model"), "baseline": Column("Ahead of"), "markers": Column("Markers", "number")}
    for metric in WON:
        if f"{metric}_of" in wins and (numbers(wins, f"{metric}_of") > 0).any():
            columns |= {metric: Column(f"In {METRICS[metric]}", "number"), f"{metric}_of": Column("Of", "number")}
    return columns


def _everything(table: pd.DataFrame, keys: Mapping[str, Column]) -> dict[str, Column]:
    """The keys, then every column of numbers under a name that people read."""
    from mxbridge.report.run_tables import TEXTS

    columns = dict(keys)
    for name in table.columns:
        base = name.removesuffix("_low").removesuffix("_high")
        if name in KEYS or name in ("image_id", "views", "p_value") or not _known(table, name):
            continue
        words = METRICS.get(base) or NAMES.get(base) or capital(base.replace("_", " "))
        end = " from" if name.endswith("_low") else " to" if name.endswith("_high") else ""
        columns[name] = Column(words + end, "text" if name in TEXTS else "number")
    return columns


def _known(table: pd.DataFrame, name: str) -> bool:
    """Whether a column says anything."""
    return name in table.columns and not (table[name].isna() | (table[name] == "")).all()


def _single(context: RunContext, images: pd.DataFrame) -> Iterator[Block]:
    cases = read_run_table(context, "cases.csv", ["model", "marker", "method", "case"])
    for title, table, file in (("Every case", cases, "cases.csv"), ("Every image", images, "images.csv")):
        if table is None or not len(table):
            continue
        keys = {name: column for name, column in KEYS.items() if name != "model" or several(table, "model")}
        keys = {name: column for name, column in keys.items() if name in table}
        yield Group(title, (shown(table, _everything(table, keys), file=file),), open=False, on_paper=False)


# --- pictures ---


def _pictures(context: RunContext, images: pd.DataFrame) -> Iterator[Block]:
    """Per model and marker; then the channel means of the images."""
    saved = _saved(context)
    left = 0
    for label in dict.fromkeys(images["model"]):
        of_model = images[images["model"] == label]
        mine = [one for one in saved if one.label == label]
        sampled = mine[:MOST_SAMPLED]
        for number, marker in enumerate(dict.fromkeys(of_model["marker"])):
            if number >= MOST_DRAWN:
                left += 1
                continue
            title = f"{marker} ({label})" if several(images, "model") else str(marker)
            rows = of_model[of_model["marker"] == marker]
            yield Group(title, _of_marker(context, rows, sampled, str(marker)), open=number < OPEN, on_paper=False)
        if (components := _components(context, mine, of_model)) is not None:
            yield components
    if left:
        yield Note(f"{left} more markers are in the tables only.")


def _saved(context: RunContext) -> list[Saved]:
    """What was kept of every image; a damaged one is a problem and left out."""
    from mxbridge.tasks.evaluating.tables import saved_comparisons

    found: list[Saved] = []
    for image in context.run.images:
        try:
            found += list(saved_comparisons(replace(context.run, images=[image])))
        except MxbridgeError as error:
            context.problem(f"{image.name}: {error}")
    return found


def _of_marker(context: RunContext, rows: pd.DataFrame, saved: Sequence[Saved], marker: str) -> Iterator[Block]:
    holders = [one for one in saved if marker in one.markers]
    few = f" Of the first {len(holders)} images." if len(holders) == MOST_SAMPLED else ""
    if rows["image_id"].nunique() > 1:
        yield _violins(rows, marker)
    try:
        if (curves := _curves(rows, holders, marker)) is not None:
            yield Plot(
                _svg(curves),
                f"Precision and recall of positive cells, {marker}",
                f"Cells positive for the measured {marker}, found by their imputed means; dotted: what guessing reaches.{few}",
            )
        if (paired := _paired(holders, marker)) is not None:
            yield paired
    except (MxbridgeError, LookupError, ValueError) as error:
        context.problem(f"pictures of {marker}: {error}")


def _violins(rows: pd.DataFrame, marker: str) -> Plot:
    from mxbridge.report.plots import COLOURS as CYCLE
    from mxbridge.report.plots import violins
    from mxbridge.tasks.evaluating.plots import COLOURS, SHOWN

    colours = {str(m): COLOURS.get(str(m), CYCLE[-1]) for m in dict.fromkeys(rows["method"])}
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for metric, name in SHOWN.items():
        if metric in rows and np.isfinite(numbers(rows, metric)).any():
            by_method = {m: numbers(rows[rows["method"] == m], metric).tolist() for m in colours}
            values[name] = {"": by_method}
    figure = _styled(lambda: violins(values, [""], colours))
    figure.set_size_inches(7.2, 1.5 * len(values) + 0.6)
    return Plot(_svg(figure), f"{marker}: metrics of single images", "Dots: images; lines: their median.")


def _curves(rows: pd.DataFrame, saved: Sequence[Saved], marker: str) -> Figure | None:
    from mxbridge.report.plots import precision_recall_curves
    from mxbridge.tasks.evaluating.plots import COLOURS, curve_of
    from mxbridge.tasks.evaluating.tables import Threshold

    known = rows[np.isfinite(numbers(rows, "threshold"))] if "threshold" in rows else rows[:0]
    holders = [one for one in saved if one.has_cells]
    if not len(known) or not holders:
        return None
    origin = str(known["threshold_from"].iloc[0]) if "threshold_from" in known else ""
    threshold = Threshold(float(numbers(known, "threshold")[0]), "stored" in origin, origin)
    found = curve_of(holders, marker, threshold, STEPS)
    if found is None:
        return None
    curves, prevalence = found
    title = short(marker)
    figure = _styled(lambda: precision_recall_curves({title: curves}, {title: prevalence}, COLOURS))
    figure.set_size_inches(4.6, 3.6)
    return figure


def _paired(saved: Sequence[Saved], marker: str) -> Picture | None:
    from io import BytesIO

    from PIL import Image

    from mxbridge.report.encoding import encode
    from mxbridge.report.plots import paired_errors
    from mxbridge.tasks.evaluating.plots import pairs_of

    pairs = pairs_of(saved, marker) if saved else {}
    if not pairs:
        return None
    figure = _styled(lambda: paired_errors({short(marker): pairs}))
    stream = BytesIO()
    figure.savefig(stream, format="png")
    pixels = np.asarray(Image.open(stream, formats=("PNG",)).convert("RGB"))
    words = "Errors of the same pixels; below the line the model is closer. Bright: many pixels."
    return encode(pixels, f"{marker}: error of the model over that of a baseline", words, budget=PAIRED_BYTES)


def _components(context: RunContext, saved: Sequence[Saved], images: pd.DataFrame) -> Plot | None:
    """How alike the images are; None for too few of them."""
    from mxbridge.tasks.evaluating.plots import components_of

    known = [one for one in saved if one.image.id in set(images["image_id"])]
    try:
        figure = _styled(lambda: components_of(known, images.assign(case=images["case"].map(short))))
    except (ValueError, LookupError, np.linalg.LinAlgError) as error:
        context.problem(f"channel means: {error}")
        return None
    if figure is None:
        return None
    words = "Images far from the others are unlike them in the brightness of their channels."
    return Plot(_svg(figure), "Principal components of the images' channel means", words)


def _styled(draw: Callable[[], F]) -> F:
    """What is drawn, in the style of the page."""
    import matplotlib

    from mxbridge.report.plotting import STYLE

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings
        return draw()


def _svg(figure: Figure) -> str:
    from mxbridge.report.plotting import to_svg

    return to_svg(figure)
