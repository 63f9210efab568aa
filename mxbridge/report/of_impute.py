"""What a report says of ``mxbridge impute``: derived stains beside measured ones, the cells' means, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import MxbridgeError
from mxbridge.report.blocks import Block, Column, Group, Note, Pictures, Plot, Section, Table
from mxbridge.report.run_tables import MOST_ROWS, numbers, read_run_table, shown
from mxbridge.report.side_by_side import Stain, derived_folder, measured_means
from mxbridge.report.texts import short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from mxbridge.image import LocalImage
    from mxbridge.report.context import RunContext
    from mxbridge.results import DerivedImage, Results
    from mxbridge.runs import ImageRecord
    from mxbridge.workspaces.base import Pulled

SPREAD_COLUMNS = {
    "marker": Column("Marker"),
    "source": Column("Spread of"),
    "pixels": Column("Pixels", "number"),
    "spread": Column("Spread (0 to 1)", "number"),
    "error": Column("Mean absolute error (0 to 1)", "number"),
}
BYTES, LEAST, MOST = 16_000_000, 9_000, 60_000
"""Of all pictures together; of one at least and at most."""

KEPT_CELLS = 2000
"""Cells of one image that enter a drawing, evenly spread over all."""

NAMED = 8
"""Images whose lines are told apart by colour."""

BINS, DENSITY = 60, 64
"""Of a distribution, and of each side of one value against another."""

MOST_MARKERS = 40

OPEN_IMAGES, OPEN_MARKERS = 5, 3
"""Unfolded at first."""


def sections(context: RunContext) -> Iterator[Section]:
    """Whatever of images and tables is there; what is missing is told. The cells' section is filled while the pictures are made."""
    yield Section("imputed", "What was imputed", tuple(_overview(context)))
    seen: dict[str, CellValues] = {}
    lead = "Measured and imputed with one rule for white, so that equal greys are equal numbers."
    yield Section("imputed-images", "Imputed beside measured", _images(context, seen), lead=lead)
    if any(image.counts.get("cells") for image in context.done):
        yield Section("imputed-cells", "Means of cells", _cells(seen))
    spread = read_run_table(context, "spread.csv", ["marker", "spread", "error"])
    if spread is not None and len(spread):
        lead = "On the images that the model's weights were chosen by: pixels in groups of growing spread, and their error."
        yield Section("imputed-spread", "What the spread says of the error", tuple(_spread(spread)), lead=lead)


# --- tables ---


def _overview(context: RunContext) -> Iterator[Block]:
    from mxbridge.tasks.impute import summary

    rows: list[tuple[Any, ...]] = []
    for image in context.done:
        one = partial(summary, replace(context.run, images=[image]))
        rows += [tuple(row.values()) for row in context.attempt(image, one, "its results") or []]
    if not rows:
        yield Note("No image has results that can be read.", "warning")
        return
    columns = (
        Column("Image"),
        Column("Imputed"),
        Column("Cells", "number"),
        Column("Mean over cells", "number", 4),
        Column("Like the training", "badge"),
    )
    more = f"The first {MOST_ROWS} of {len(rows)} rows." if len(rows) > MOST_ROWS else ""
    yield Table(columns, tuple(rows[:MOST_ROWS]), note=more)
    yield from _familiarity(context)


def _familiarity(context: RunContext) -> Iterator[Block]:
    """How far each image is from those of the training, where the model knows."""
    rows: list[tuple[Any, ...]] = []
    for image in context.done:
        known = image.counts.get("familiarity")
        for one in known if isinstance(known, list) else ():
            if isinstance(one, dict):
                flagged = "no" if one.get("flagged") else "yes"
                rows.append(
                    (image.name, str(one.get("model")), one.get("distance"), one.get("limit"), flagged, _unusual(one))
                )
    if not rows:
        yield Note("The models do not know what their training images looked like; unlike images are not found.")
        return
    if unlike := sum(row[4] == "no" for row in rows):
        words = "image is" if unlike == 1 else "images are"
        yield Note(f"{unlike} {words} unlike those of the training: trust the imputed stain less there.", "warning")
    columns = (
        Column("Image"),
        Column("Model"),
        Column("Distance", "number"),
        Column("Limit", "number"),
        Column("Like the training", "badge"),
        Column("Unusual channels"),
    )
    yield Table(columns, tuple(rows[:MOST_ROWS]), caption="Distance of channel means from those of the training images")


def _unusual(known: dict[str, Any]) -> str:
    pairs = known.get("unusual")
    try:
        return ", ".join(f"{name} ({value:+.1f} sd)" for name, value in pairs or ())
    except (TypeError, ValueError):
        return ""


def _spread(spread: pd.DataFrame) -> Iterator[Block]:
    if (drawn := spread_plot(spread)) is not None:
        yield drawn
    yield shown(spread, SPREAD_COLUMNS, file="spread.csv")


def spread_plot(spread: pd.DataFrame) -> Plot | None:
    """Error over spread, a line for each marker; None where nothing is a number."""
    from mxbridge.report.dot_rows import page_axes
    from mxbridge.report.plots import COLOURS
    from mxbridge.report.plotting import to_svg

    known = spread[np.isfinite(numbers(spread, "spread")) & np.isfinite(numbers(spread, "error"))]
    if not len(known):
        return None
    with page_axes(3.2, 5.6) as (figure, axes):
        for k, (marker, own) in enumerate(list(known.groupby("marker", sort=False))[:MOST_MARKERS]):
            label = short(str(marker)) if k < NAMED else None
            axes.plot(own["spread"], own["error"], "o-", color=COLOURS[k % len(COLOURS)], markersize=3, label=label)
        top = float(known["spread"].max())
        axes.plot([0, top], [0, top], color="#8fa3b5", linewidth=1, linestyle=":", label="error = spread")
        axes.set(xlabel="spread of the predictions (0 to 1)", ylabel="mean absolute error (0 to 1)", ylim=(0, None))
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return Plot(
        to_svg(figure), "Error over spread on validation images", "Where a line rises, the spread says something."
    )


# --- pictures ---


@dataclass
class CellValues:
    """Of one measurement: by image, the values of a part of the cells; pairs: measured and imputed means of the same cells."""

    lines: list[tuple[str, NDArray[np.float32]]] = field(default_factory=list)
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)


def _images(context: RunContext, seen: dict[str, CellValues]) -> Iterator[Block]:
    """A group per image; fills ``seen`` on the way."""
    markers = sum(int(image.counts.get("markers") or 1) for image in context.done if context.pictured(image))
    budget = int(np.clip(BYTES / max(1, 4 * markers), LEAST, MOST))
    left = 0
    for number, image in enumerate(context.done):
        results = context.results(image)
        if results is None:
            continue
        pulled = context.pulled(image)
        stains = [one for one in (_stain(context, image, results, made, pulled) for made in results.derived) if one]
        _collect(context, image, results, stains, pulled, seen)
        if not context.pictured(image):
            left += 1
            continue
        blocks = tuple(_of_image(context, image, stains[:MOST_MARKERS], budget))
        yield Group(image.name, blocks, open=number < OPEN_IMAGES)
    if left:
        yield Note(f"{left} more images are in the tables only.")


def _of_image(context: RunContext, image: ImageRecord, stains: Sequence[Stain], budget: int) -> Iterator[Block]:
    from mxbridge.report.pixels import TooLarge

    choices = []
    for stain in stains:
        try:
            choices.append((stain.marker, tuple(stain.pictures(budget))))
        except (MxbridgeError, TooLarge, OSError) as error:
            context.problem(f"{image.name}: {stain.marker} cannot be shown ({error})")
    if not choices:
        yield Note("Its derived images cannot be shown; the problems at the end say why.", "warning")
        return
    if without := [stain.marker for stain in stains if stain.measured is None]:
        yield Note(f"Not measured in this image, or not within reach: {', '.join(without)}.")
    yield Pictures(choices[0][0] if len(choices) == 1 else "Marker by marker", tuple(choices))


def _stain(
    context: RunContext, image: ImageRecord, results: Results, made: DerivedImage, pulled: Pulled | None
) -> Stain | None:
    """What can be shown of a derived image; None where it is gone."""
    from mxbridge.formats.open_image import open_image
    from mxbridge.tasks.derived import FOLDER, replaced
    from mxbridge.workspaces.with_derived import SPREAD

    places = [context.run.folder_of(image) / FOLDER]
    workspace = context.workspace
    if workspace is not None:
        home = context.attempt(image, lambda: workspace.derived_folder(results.image), "its derived images")
        taken = context.attempt(image, lambda: replaced(results, workspace), "its derived images") or ()
        if home is not None and made.result_key in taken:
            context.problem(f"{image.name}: another run has replaced its derived image {made.file}")
        elif home is not None:
            places.insert(0, home)
    path = derived_folder(places, made.file)
    if path is None or made.rgb:
        context.problem(f"{image.name}: its derived image {made.file} is not there")
        return None
    derived = context.attempt(image, lambda: open_image(path), f"its derived image {made.file}")
    if derived is None or len(derived.channels) != len(made.channels):
        return None
    spread = next((k for k, name in enumerate(made.channels) if SPREAD.search(name)), None)
    channel = next((k for k in range(len(made.channels)) if k != spread), 0)
    marker = made.channels[channel].rpartition(" (")[0] or made.channels[channel]
    measured, at = (None, 0) if pulled is None else _measured(context, image, pulled.image, marker)
    if measured is not None and measured.shape != derived.shape:
        context.problem(f"{image.name}: its size has changed since {marker} was imputed")
        measured = None
    return Stain(marker, derived, channel, spread, measured, at)


def _measured(
    context: RunContext, image: ImageRecord, pixels: LocalImage, marker: str
) -> tuple[LocalImage | None, int]:
    """The image under the names that the run gave its channels, and where the measured marker is; None without one."""
    from mxbridge.models.maxim_input import find_markers
    from mxbridge.panel import read_panel
    from mxbridge.tasks.imputing.named_channels import named

    def find() -> tuple[LocalImage, dict[str, int]]:
        panel = context.run.options.get("panel")
        seen = named(pixels, read_panel(Path(panel)) if isinstance(panel, str) else ())
        return seen, find_markers(seen, [marker])

    found = context.attempt(image, find, f"the measured {marker}")
    return (found[0], found[1][marker]) if found is not None and marker in found[1] else (None, 0)


# --- cells ---


def _collect(
    context: RunContext,
    image: ImageRecord,
    results: Results,
    stains: Sequence[Stain],
    pulled: Pulled | None,
    seen: dict[str, CellValues],
) -> None:
    """A part of the means of an image's cells; with the measured ones where both can be had."""
    from mxbridge.formats.cell_tables import MEAN

    for one in (m for m in results.measurements if m.name.endswith(MEAN)):
        values = one.values[np.isfinite(one.values)]
        of = seen.setdefault(one.name, CellValues())
        of.lines.append((image.name, values[:: 1 + len(values) // KEPT_CELLS].astype(np.float32)))
        stain = next((s for s in stains if one.name.endswith(f": {s.marker}{MEAN}")), None)
        if stain is None or stain.measured is None or pulled is None or pulled.cells is None:
            continue
        if context.pictured(image):
            means = partial(measured_means, stain.measured, stain.measured_channel, pulled.cells)
            found = context.attempt(image, means, f"the measured {stain.marker} of its cells")
            if found is not None:
                of.pairs.append(_joined(results.cell_ids, one.values, pulled.cells.ids, *found))


def _joined(
    imputed_ids: Sequence[str],
    imputed: NDArray[np.float32],
    ids: Sequence[str],
    which: NDArray[np.int64],
    measured: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measured and imputed values of the same cells. which: number of each measured one among ``ids``, as they are now."""
    row_of = {cell: k for k, cell in enumerate(imputed_ids)}
    rows = np.array([row_of.get(ids[k], -1) for k in which.tolist()], np.int64)
    values = np.where(rows >= 0, imputed[np.maximum(rows, 0)] if len(imputed) else np.nan, np.nan)
    there = np.isfinite(values)
    return measured[there], values[there].astype(np.float64)


def _cells(seen: dict[str, CellValues]) -> Iterator[Block]:
    for number, (name, of) in enumerate(list(seen.items())[:MOST_MARKERS]):
        blocks: list[Block] = []
        if any(values.size for _, values in of.lines):
            blocks.append(distribution_plot(name, of.lines))
        if sum(len(measured) for measured, _ in of.pairs) > 1:
            blocks.append(against_plot(name, of.pairs))
        if blocks:
            yield Group(name, tuple(blocks), open=number < OPEN_MARKERS, on_paper=False)
    if not any(values.size for of in seen.values() for _, values in of.lines):
        yield Note("No cells were measured.")


def distribution_plot(name: str, lines: Sequence[tuple[str, NDArray[np.float32]]]) -> Plot:
    """Shares of cells by their mean, a line for each image."""
    from mxbridge.report.dot_rows import page_axes
    from mxbridge.report.plots import COLOURS
    from mxbridge.report.plotting import to_svg

    pooled = np.concatenate([values for _, values in lines])
    low, high = float(pooled.min()), float(np.quantile(pooled, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    few = len(lines) <= NAMED
    with page_axes(2.8) as (figure, axes):
        for k, (image, values) in enumerate(line for line in lines if line[1].size):
            counts = np.histogram(np.minimum(values, edges[-1]), edges)[0] / values.size
            colour = COLOURS[k % len(COLOURS)] if few else "#8fa3b5"
            _step(axes, counts, edges, colour, short(image) if few else "", faint=not few)
        if not few:
            counts = np.histogram(np.minimum(pooled, edges[-1]), edges)[0] / pooled.size
            _step(axes, counts, edges, COLOURS[0], "all images", faint=False)
        axes.set_xlabel(short(name), parse_math=False)
        axes.set_ylabel("share of cells")
        axes.set_ylim(bottom=0)
        if len(lines) > 1:
            figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    text = f"Cells by {name}, in the numbers of the image" + ("; a line is an image." if len(lines) > 1 else ".")
    return Plot(to_svg(figure), f"Distribution of {name} over cells", text)


def _step(axes: Axes, counts: NDArray[Any], edges: NDArray[Any], colour: str, label: str, *, faint: bool) -> None:
    axes.stairs(
        counts, edges, color=colour, linewidth=0.8 if faint else 1.4, alpha=0.6 if faint else 1, label=label or None
    )


def against_plot(name: str, pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Plot:
    """Imputed over measured means of the same cells."""
    from mxbridge.metrics.cell import pearson
    from mxbridge.report.dot_rows import page_axes
    from mxbridge.report.plotting import to_svg

    x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
    top = float(max(np.quantile(x, 0.995), np.quantile(y, 0.995))) or 1.0
    with page_axes(3.6, 4.2) as (figure, axes):
        axes.plot([0, top], [0, top], color="#B34A00", linewidth=1, zorder=3)
        counts = np.histogram2d(y, x, bins=DENSITY, range=((0, top), (0, top)))[0]
        counts[counts == 0] = np.nan
        axes.imshow(np.log(counts), origin="lower", extent=(0, top, 0, top), cmap="viridis", interpolation="none")
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="measured mean")
        axes.set_ylabel(short(name), parse_math=False)
    r = pearson(x, y)
    images = "1 image" if len(pairs) == 1 else f"{len(pairs)} images"
    words = f"Pearson {r:.2f} over {len(x):,} cells of {images}; bright: many cells; line: equal.".replace(",", " ", 1)
    return Plot(to_svg(figure), f"{name} over the measured mean of the same cells", words)
