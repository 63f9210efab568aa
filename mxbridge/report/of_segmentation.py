"""What a report says of ``mxbridge evaluate --task segmentation``: nuclei and percent positive against truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mxbridge.report.blocks import Block, Column, Group, Note, Numbers, Plot, Section, Table
from mxbridge.report.dot_rows import DotRows, Dots
from mxbridge.report.run_tables import capital, counted, numbers, read_run_table, shown

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.report.context import RunContext

SHOWN = {
    "dice": "Dice",
    "iou": "IoU",
    "pixel_accuracy": "Pixel accuracy",
    "aji": "AJI",
    "pq": "PQ",
    "object_f1": "F1 of objects",
    "detection_f1": "F1 of detection",
}
"""Of the summary; a second table has all."""

COLOURS = {"positive": "#D55E00", "negative": "#0072B2", "nuclei": "#009E73", "mean": "#777777"}
KEYS = {
    "method": Column("Method"),
    "image": Column("Image"),
    "channel": Column("Channel"),
    "case": Column("Case"),
    "class": Column("Class"),
}
SUMMARY = {
    "method": Column("Method"),
    "of": Column("Of"),
    "metric": Column("Metric"),
    "mean": Column("Mean", "number"),
    "low": Column("95 % from", "number"),
    "high": Column("To", "number"),
    "cases": Column("Cases", "number"),
    "images": Column("Images", "number"),
    "left_out": Column("Cases left out", "number"),
    "why_not": Column("Why no interval"),
}
AGREEMENT = {
    "method": Column("Method"),
    "images": Column("Images", "number"),
    "left_out": Column("Left out", "number"),
    "bias": Column("Bias, percentage points", "number"),
    "deviation": Column("Deviation", "number"),
    "low": Column("Limits from", "number"),
    "high": Column("To", "number"),
    "concordance": Column("Concordance", "number"),
    "why_not": Column("Why no limits"),
}
MOST_METHODS = 6
"""Methods that are drawn."""


def sections(context: RunContext) -> Iterator[Section]:
    """Needs ``metrics.csv`` in the run folder; what else is missing is left out or told."""
    metrics = read_run_table(context, "metrics.csv", ["method", "image", "case", "class"])
    if metrics is None or not len(metrics):
        yield Section("segmentation", "Nuclei against truth", (Note("metrics.csv says nothing.", "warning"),))
        return
    summary = read_run_table(context, "summary.csv", ["method", "of", "metric", "mean"])
    lead = "Pixels, objects and detected centres of each class, against the truth that was given."
    yield Section("segmentation", "Nuclei against truth", tuple(_overview(metrics, summary)), lead=lead)
    percents = read_run_table(
        context, "percent_positive.csv", ["method", "image", "truth_percent", "predicted_percent"]
    )
    if percents is not None and len(percents):
        yield Section("segmentation-percent", "Percent positive", tuple(_percent(context, percents)))
    channels = read_run_table(context, "channels.csv", ["channel", "method"])
    if channels is not None and len(channels):
        columns = _named(channels)
        yield Section("segmentation-channels", "Inferred channels against measured ones", (shown(channels, columns),))
    every = shown(metrics, _named(metrics), file="metrics.csv")
    yield Section("segmentation-images", "Every image", (Group("All metrics", (every,), open=False, on_paper=False),))


def _overview(metrics: pd.DataFrame, summary: pd.DataFrame | None) -> Iterator[Block]:
    yield Numbers(tuple(counted(metrics[word].nunique(), word) for word in ("image", "case", "method")))
    if summary is not None and len(summary):
        yield summary_table(summary)
    for method, own in list(metrics.groupby("method", sort=False))[:MOST_METHODS]:
        if "dice" in own:
            yield dice_plot(own, str(method))
    if summary is not None and len(summary):
        yield Group(
            "All means with their intervals", (shown(summary, SUMMARY, file="summary.csv"),), open=False, on_paper=False
        )


def summary_table(summary: pd.DataFrame) -> Table:
    """A row per method and class, the metrics of :data:`SHOWN` beside each other: means over cases."""
    there = [metric for metric in SHOWN if (summary["metric"] == metric).any()]
    rows: list[tuple[Any, ...]] = []
    for (method, of), own in summary.groupby(["method", "of"], sort=False):
        values = dict(zip(own["metric"], numbers(own, "mean"), strict=True))
        if any(metric in values for metric in there):
            rows.append((method, of, *(values.get(metric) for metric in there)))
    columns = (Column("Method"), Column("Class"), *(Column(SHOWN[metric], "number") for metric in there))
    return Table(columns, tuple(rows), caption="Means over cases")


def dice_plot(metrics: pd.DataFrame, method: str) -> Plot:
    """A row per image, a dot per class."""
    names = list(dict.fromkeys(metrics["image"]))
    dots = []
    for kind, colour in COLOURS.items():
        own = metrics[metrics["class"] == kind]
        if kind != "mean" and len(own):
            dots.append(Dots(kind, colour, [names.index(name) for name in own["image"]], numbers(own, "dice")))
    drawing = DotRows(names, f"Dice, {method}"[:80], dots, limits=(-0.02, 1.02))
    return drawing.plot(f"Dice coefficient of {len(names)} images, {method}", "1: prediction and truth are the same.")


def _percent(context: RunContext, percents: pd.DataFrame) -> Iterator[Block]:
    import matplotlib

    from mxbridge.report.agreement_plot import bland_altman
    from mxbridge.report.plotting import STYLE, to_svg

    by_method = {
        str(method): (own["image"].tolist(), numbers(own, "truth_percent"), numbers(own, "predicted_percent"))
        for method, own in list(percents.groupby("method", sort=False))[:MOST_METHODS]
    }
    if any(np.isfinite(truth + predicted).any() for _, truth, predicted in by_method.values()):
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings
            figure = bland_altman({name: (a, b.tolist(), c.tolist()) for name, (a, b, c) in by_method.items()})
        yield Plot(
            to_svg(figure),
            "Percent positive: difference of prediction and truth over their mean, and one over the other",
            "Solid: mean difference (bias); dashed: limits that hold 95 % of differences, if they are normal.",
        )
    agreed = read_run_table(context, "agreement.csv", ["method", "bias"])
    if agreed is not None and len(agreed):
        columns = {
            name: column
            for name, column in AGREEMENT.items()
            if name not in agreed or not (agreed[name].isna() | (agreed[name] == "")).all()
        }
        yield shown(agreed, columns, caption="Agreement over images")
    yield shown(percents, _named(percents), caption="Every image", file="percent_positive.csv")


def _named(table: pd.DataFrame) -> dict[str, Column]:
    """The keys of a table, then its numbers under names that people read."""
    columns = {name: column for name, column in KEYS.items() if name in table}
    for name in table.columns:
        if name not in columns:
            columns[name] = Column(SHOWN.get(name) or capital(name.replace("_", " ")), "number")
    return columns
