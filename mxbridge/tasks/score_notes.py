"""What people should know of the scores of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mxbridge.panel import Selection

if TYPE_CHECKING:
    from mxbridge.models.nimbus import CellScores
    from mxbridge.tasks.regions import Region


def notes_of(scores: CellScores, region: Region | None) -> tuple[str, ...]:
    if not scores.tiles_skipped:
        return ()
    what = "no cell" if region is None else "nothing of the cells inside"
    return (f"{scores.tiles_skipped} of {scores.tiles_done + scores.tiles_skipped} tiles hold {what} and were skipped",)


def warnings_of(scores: CellScores, selection: Selection) -> tuple[str, ...]:
    out = []
    if scores.cells_without_area:
        out.append(f"{scores.cells_without_area} cells cover no pixel centre; their scores are NaN")
    if scores.cells_without_core:
        out.append(f"{scores.cells_without_core} cells are too thin for the eroded mask; the model hardly sees them")
    for name, (broken, negative) in zip(selection.names, scores.bad_pixels, strict=True):
        if broken:
            out.append(f"{name}: {broken} pixels are not finite; taken as 0, and left out of mean intensities")
        if negative:
            out.append(f"{name}: {negative} pixels are negative; taken as 0 by the model")
    return tuple(out)
