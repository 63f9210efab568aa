"""What a report says of ``mxbridge qc``: which stains are flagged and why, what they look like, and where they fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mxbridge.report.blocks import Block, Card, Column, Gallery, Group, Note, Numbers, Plot, Section, Table
from mxbridge.report.dot_rows import DotRows, Dots
from mxbridge.report.run_tables import counted, numbers, several, shown

if TYPE_CHECKING:
    import pandas as pd

    from mxbridge.report.context import RunContext
    from mxbridge.report.qc_pictures import MarkerPicture
    from mxbridge.runs import ImageRecord

COLUMNS = {
    "image": Column("Image"),
    "marker": Column("Stain"),
    "verdict": Column("Verdict", "badge"),
    "reason": Column("Why"),
    "agreement": Column("Agreement", "number"),
    "expected_low": Column("Expected from", "number"),
    "expected_high": Column("To", "number"),
    "p": Column("p", "number", 2),
    "p_corrected": Column("p corrected", "number", 2),
    "agreement_without": Column("Agreement without the suspect", "number"),
    "blocks_used": Column("Blocks", "number"),
    "blocks_bad": Column("Bad", "number"),
    "model": Column("Model"),
}
"""Not more than paper is wide enough for, where there is one model."""

MORE_COLUMNS = {
    "image": Column("Image"),
    "marker": Column("Stain"),
    "pearson": Column("Pearson of pixels", "number"),
    "blocks_skipped": Column("Blocks without signal", "number"),
    "p_from": Column("p from"),
    "model": Column("Model"),
}
BLOCK_COLUMNS = {
    "image": Column("Image"),
    "marker": Column("Stain"),
    "x_um": Column("X, µm", "number", 6),
    "y_um": Column("Y, µm", "number", 6),
    "side_x_um": Column("Wide, µm", "number", 4),
    "side_y_um": Column("High, µm", "number", 4),
    "agreement": Column("Agreement", "number"),
    "model": Column("Model"),
}
HOW = (
    "Each stain was imputed from the others and compared with what was measured, block by block; the agreement is held "
    "against what the model's validation images showed."
)
PICTURES = (
    "As measured; as the other stains say it should be, with the same rule for white; what was measured beyond that (orange) or "
    "is missing (blue); the agreement of each block, dark for 0 and yellow for 1. Blocks that do not agree are framed."
)
ALL_BYTES, LEAST_BYTES, MOST_BYTES = 16_000_000, 6_000, 30_000
"""Of all pictures together; of one at least and at most."""

BLUE, ORANGE = "#0072B2", "#B34A00"

MOST_BLOCKS = 300
"""Bad blocks that are listed."""

MOST_STAINS = 8
"""Flagged stains of one image whose pictures are shown."""


def sections(context: RunContext) -> Iterator[Section]:
    """Needs ``qc.csv`` in the run folder; what else is missing is left out or told."""
    from mxbridge.report.run_tables import read_run_table
    from mxbridge.tasks.qc import BLOCKS, TABLE

    rows = read_run_table(context, TABLE, ["image", "image_id", "marker", "model", "verdict", "agreement"])
    if rows is None:
        yield Section("qc", "Verdicts", (Note(f"There is no readable {TABLE} in the run folder.", "warning"),))
        return
    order = np.argsort([_rank(verdict) for verdict in rows["verdict"]], kind="stable")
    rows = rows.iloc[order]
    yield Section("qc", "Verdicts", tuple(_verdicts(context, rows, TABLE)), lead=HOW)
    if (drawn := agreement_plot(rows)) is not None:
        yield Section("qc-agreement", "Agreement and what was expected", (drawn,))
    flagged = rows[[is_flag(verdict) for verdict in rows["verdict"]]]
    if len(flagged):
        yield Section("qc-flagged", "Flagged stains", _flagged(context, flagged), lead=PICTURES)
    blocks = read_run_table(context, BLOCKS, ["image", "marker", "x_um", "y_um", "agreement"])
    if blocks is not None and len(blocks):
        table = shown(blocks.iloc[:MOST_BLOCKS], _useful(blocks, BLOCK_COLUMNS), note=_rest(len(blocks), BLOCKS))
        lead = "Corners of the blocks that do not agree with the other stains, from the image's upper left."
        yield Section("qc-blocks", "Where flagged stains fail", (table,), lead=lead)


def is_flag(verdict: str) -> bool:
    from mxbridge.tasks.judging.verdicts import FLAGGED, SUSPECT

    return verdict == FLAGGED or verdict.startswith(SUSPECT)


def _rank(verdict: str) -> int:
    """What people want to see first."""
    from mxbridge.tasks.judging.verdicts import FLAGGED, OK

    return 0 if verdict == FLAGGED else 1 if is_flag(verdict) else 3 if verdict == OK else 2


def _verdicts(context: RunContext, rows: pd.DataFrame, file: str) -> Iterator[Block]:
    flags = sum(map(is_flag, rows["verdict"]))
    known = context.run.details.get("qc")
    about = known if isinstance(known, dict) else {}
    yield Numbers(
        (
            (str(flags), "flagged"),
            (str(len(rows)), "stains looked at"),
            counted(rows["image_id"].nunique(), "image"),
            (str(about.get("tests", "–")), "tests"),
        )
    )
    if about.get("tests"):
        yield Note(
            f"{about['tests']} agreements of this run were tested together, p-values corrected by {about.get('correction')}; "
            f"a stain is flagged at {about.get('alpha')} and clearly below what is usual."
        )
    yield shown(rows, _useful(rows, COLUMNS), caption="Every stain of every image", file=file)
    more = shown(rows, _useful(rows, MORE_COLUMNS), file=file)
    yield Group("Pixels, blocks and where p comes from", (more,), open=False, on_paper=False)


def _useful(rows: pd.DataFrame, columns: dict[str, Column]) -> dict[str, Column]:
    """Without the model where there is one, and without columns that say nothing."""
    dull = {name for name in ("model",) if not several(rows, name)}
    dull |= {
        name
        for name in ("reason", "agreement_without", "p_from")
        if name in rows and (rows[name].isna() | (rows[name] == "")).all()
    }
    return {name: column for name, column in columns.items() if name not in dull}


def _rest(count: int, file: str) -> str:
    return f"The first {MOST_BLOCKS} of {count} blocks; all are in {file}." if count > MOST_BLOCKS else ""


def agreement_plot(rows: pd.DataFrame) -> Plot | None:
    """Per stain the expected range and the agreement of every image; None where nothing was judged."""
    judged = rows[np.isfinite(numbers(rows, "agreement"))]
    if not len(judged):
        return None
    labels = _labels(judged)
    order = sorted(set(labels))
    places = np.array([order.index(label) for label in labels])
    flags = np.array([is_flag(verdict) for verdict in judged["verdict"]])
    values, low, high = (numbers(judged, name) for name in ("agreement", "expected_low", "expected_high"))
    ranges = {
        row: (float(low[places == row][0]), float(high[places == row][0])) for row in range(len(order))
    }  # the same for all images: it is the model's
    dots = [Dots("not flagged", BLUE, places[~flags], values[~flags])]
    if flags.any():
        dots.append(Dots("flagged", ORANGE, places[flags], values[flags], shape="D", size=5.5))
    drawing = DotRows(order, "agreement of measured and imputed", dots, ranges)
    return drawing.plot(
        f"Agreement of {len(order)} stains beside what was expected",
        "A dot is an image; the pale bar is the range that the model's validation lets expect.",
    )


def _labels(rows: pd.DataFrame) -> list[str]:
    """Stains, with the model where there are several."""
    models = several(rows, "model")
    return [f"{m} ({of})" if models else str(m) for m, of in zip(rows["marker"], rows["model"], strict=True)]


def _flagged(context: RunContext, flagged: pd.DataFrame) -> Iterator[Block]:
    """One group per image."""
    left = 0
    budget = int(np.clip(ALL_BYTES / (4 * len(flagged)), LEAST_BYTES, MOST_BYTES))
    for image in context.done:
        own = flagged[flagged["image_id"] == image.id]
        if not len(own):
            continue
        if not context.pictured(image):
            left += 1
            continue
        title = f"{image.name}: {len(own)} flagged"
        yield Group(title, tuple(_of_image(context, image, own, budget)))
    if left:
        yield Note(f"{left} more images with flagged stains are in the table only.")


def _of_image(context: RunContext, image: ImageRecord, own: pd.DataFrame, budget: int) -> Iterator[Block]:
    from mxbridge.errors import BrokenFile
    from mxbridge.report.qc_pictures import MarkerPicture

    folder = context.run.folder_of(image)
    try:
        kept = MarkerPicture.names(folder)
    except BrokenFile as error:
        context.problem(f"{image.name}: {error}")
        kept = []
    bare: list[tuple[str, str, str]] = []
    for number, row in enumerate(own.to_dict("records")):
        marker, model, verdict = str(row["marker"]), str(row["model"]), str(row["verdict"])
        reason = row.get("reason")
        reason = reason if isinstance(reason, str) else ""
        picture = None
        if (model, marker) in kept and number < MOST_STAINS:
            try:
                picture = MarkerPicture.load(folder, model, marker)
            except BrokenFile as error:
                context.problem(f"{image.name}: {error}")
        if picture is None:
            bare.append((marker, verdict, reason))
            continue
        yield Gallery(
            tuple(stain_cards(picture, budget)), title=f"{marker}: {verdict}" + (f"; {reason}" if reason else "")
        )
    if bare:
        columns = (Column("Stain"), Column("Verdict"), Column("Why"))
        yield Table(columns, tuple(bare), caption="Without pictures" if len(bare) < len(own) else "")


def stain_cards(picture: MarkerPicture, budget: int = MOST_BYTES) -> Iterator[Card]:
    """Measured, imputed, their difference and the agreement of blocks, the bad blocks framed. budget: bytes of each."""
    from mxbridge.report.encoding import encode
    from mxbridge.report.legends import Legend, with_legend
    from mxbridge.report.qc_pictures import PANELS, panel

    bad, of = int(picture.bad.sum()), int(np.isfinite(picture.blocks).sum())
    told = {
        "measured": f"{bad} of {of} blocks are bad",
        "blocks": f"median {np.nanmedian(picture.blocks):.2f}" if of else "",
    }
    for what in PANELS:
        drawn = np.asarray(panel(picture, what, outlined=what in told))
        colours = with_legend(drawn, Legend(um_per_px=picture.um_per_px(drawn.shape[:2])))
        name = "agreement" if what == "blocks" else PANELS[what]
        more = told.get(what, "")
        alt = f"{picture.marker}, {name}" + (f": {more}" if more else "")
        yield Card(encode(colours, alt, budget=budget), (name.capitalize(), more) if more else (name.capitalize(),))
