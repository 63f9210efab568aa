"""What a report says of ``mxbridge importance``: which measured markers an imputed marker is made of, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mxbridge.report.blocks import Block, Column, Group, Note, Plot, Section, Table
from mxbridge.report.run_tables import numbers, read_run_table, several, shown

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.report.context import RunContext

NEEDED = ("image", "image_id", "target", "model", "input", "absolute_percent", "positive_percent", "negative_percent")
PAIR_COLUMNS = {
    "first": Column("Marker"),
    "second": Column("And marker"),
    "correlation": Column("Correlation of maps", "number"),
    "images": Column("Images", "number"),
}
COLUMNS = {
    "image": Column("Image"),
    "target": Column("Imputed"),
    "model": Column("Model"),
    "input": Column("From"),
    "absolute": Column("Attribution, absolute", "number"),
    "positive": Column("Positive", "number"),
    "negative": Column("Negative", "number"),
    "absolute_percent": Column("Absolute, %", "number"),
    "positive_percent": Column("Positive, %", "number"),
    "negative_percent": Column("Negative, %", "number"),
    "change": Column("Imputed mean, minus that of an empty image", "number"),
    "delta": Column("Missed by the sum", "number"),
    "places": Column("Places looked at", "number"),
    "possible": Column("Of", "number"),
}
HOW = (
    "Integrated gradients say how much each measured marker adds to the imputed intensity. They describe the model, not the "
    "tissue: of two markers that look alike the model may use either."
)
MOST_DRAWN = 40
"""Imputed markers that are drawn."""

OPEN = 3
"""Imputed markers whose part is unfolded at first."""

ENOUGH = 80.0
"""Percent of the attribution that the markers named together reach."""

POOR = 0.05
"""Part of the attributions by which their sum may miss what it should be."""


def sections(context: RunContext) -> Iterator[Section]:
    """Needs ``attributions.csv`` in the run folder; what else is missing is left out or told."""
    from mxbridge.tasks.importance import PAIRS, TABLE

    table = read_run_table(context, TABLE, NEEDED)
    if table is None or not len(table):
        yield Section("importance", "Where imputed markers come from", (Note(f"{TABLE} says nothing.", "warning"),))
        return
    pairs = read_run_table(context, PAIRS, ["target", "model", "first", "second", "correlation"])
    yield Section("importance", "Where imputed markers come from", tuple(_overview(table)), lead=HOW)
    yield Section("importance-targets", "Imputed markers one by one", _targets(table, pairs))
    lead = "Sums over pixels, mean over the places looked at."
    every = shown(table, _useful(table), file=TABLE)
    yield Section(
        "importance-images",
        "Every image",
        (Group("All attributions", (every,), open=False, on_paper=False),),
        lead=lead,
    )


def _useful(table: pd.DataFrame) -> dict[str, Column]:
    dull = () if several(table, "model") else ("model",)
    return {name: column for name, column in COLUMNS.items() if name not in dull}


def _overview(table: pd.DataFrame) -> Iterator[Block]:
    rows = []
    for (target, model), own in table.groupby(["target", "model"], sort=False):
        means = input_means(own)
        reached = means["absolute_percent"].cumsum().to_numpy()
        count = min(len(means), int(np.count_nonzero(~(reached >= ENOUGH - 1e-9))) + 1)
        leading = ", ".join(means["input"].iloc[:count])
        rows.append((target, model, own["image_id"].nunique(), count, len(means), leading, worst_miss(own)))
    columns = (
        Column("Imputed"),
        Column("Model"),
        Column("Images", "number"),
        Column(f"Markers for {ENOUGH:.0f} %", "number"),
        Column("Of", "number"),
        Column("Which, the most important first"),
        Column("Sum missed by", "percent"),
    )
    yield Table(columns, tuple(rows), caption=f"The fewest markers that make up {ENOUGH:.0f} % of the attribution")
    if any(row[-1] > POOR for row in rows):
        yield Note("Where the sum is missed by more than 5 %, more --steps make the shares surer.", "warning")


def input_means(own: pd.DataFrame) -> pd.DataFrame:
    """Of one target: a row per input with the mean shares over images, their lowest and highest; the largest first."""
    shares = ["absolute_percent", "positive_percent", "negative_percent"]
    found = own.groupby("input", sort=False)
    means = found[shares].mean()
    means["lowest"], means["highest"] = found["absolute_percent"].min(), found["absolute_percent"].max()
    return means.reset_index().sort_values(shares[0], ascending=False, kind="stable", na_position="last")


def worst_miss(own: pd.DataFrame) -> float:
    """By which part of their size the attributions of an image miss what they should add up to, at most; NaN if not known."""
    if "delta" not in own or "absolute" not in own:
        return float("nan")
    delta = np.abs(numbers(own, "delta"))
    summed = own.groupby("image_id")["absolute"].transform("sum").clip(lower=1e-9).to_numpy(np.float64)
    known = (delta / summed)[np.isfinite(delta)]
    return float(known.max()) if known.size else float("nan")


def _targets(table: pd.DataFrame, pairs: pd.DataFrame | None) -> Iterator[Block]:
    from mxbridge.report.importance_plot import targets_of

    every = targets_of(table)
    named = several(table, "model")
    for number, (target, model) in enumerate(every[:MOST_DRAWN]):
        own = table[(table["target"] == target) & (table["model"] == model)]
        mine = None if pairs is None else pairs[(pairs["target"] == target) & (pairs["model"] == model)]
        title = f"{target} ({model})" if named else str(target)
        yield Group(title, tuple(_one_target(own, mine, (target, model))), open=number < OPEN, on_paper=False)
    if len(every) > MOST_DRAWN:
        yield Note(f"{len(every) - MOST_DRAWN} more imputed markers are in the tables only.")


def _one_target(own: pd.DataFrame, pairs: pd.DataFrame | None, target: tuple[str, str]) -> Iterator[Block]:
    if pairs is not None and len(pairs):
        yield importance_plot(own, pairs, target)
    means = input_means(own)
    parts = [means["input"].to_list()]
    names = ["absolute_percent", "positive_percent", "negative_percent"]
    columns = [Column("From"), Column("Absolute", "bar"), Column("Positive", "percent"), Column("Negative", "percent")]
    if own["image_id"].nunique() > 1:
        names += ["lowest", "highest"]
        columns += [Column("Lowest", "percent"), Column("Highest", "percent")]
    parts += [(means[name] / 100).to_list() for name in names]
    yield Table(
        tuple(columns),
        tuple(zip(*parts, strict=True)),
        caption="Shares of the attribution, means over images",
        note="Positive: more of this marker, more of the imputed one; negative: less. Shares of each kind add up to 100 %.",
    )
    if pairs is not None and len(pairs):
        yield Group("Correlation of the maps of two markers", (shown(pairs, PAIR_COLUMNS),), open=False, on_paper=False)


def importance_plot(own: pd.DataFrame, pairs: pd.DataFrame, target: tuple[str, str]) -> Plot:
    """The picture of the run folder, of one target."""
    import matplotlib

    from mxbridge.report.importance_plot import importance_figure
    from mxbridge.report.plotting import STYLE, to_svg

    known = pairs["first"].isin(own["input"]) & pairs["second"].isin(own["input"])
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings
        figure = importance_figure(own, pairs[known], [target])
    return Plot(to_svg(figure), f"Shares of the markers that {target[0]} is imputed from, and how their maps correlate")
