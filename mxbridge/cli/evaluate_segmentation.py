"""``mxbridge evaluate --task segmentation``: what is its own, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mxbridge.cli import console, told
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.tasks.evaluating.segmentation_tables import SegmentationTables
    from mxbridge.tasks.over_images import Finished

OWN = {
    "task", "files", "truth", "channels_truth", "radius", "um_per_px", "cases", "out", "report", "resume", "json", "quiet", "verbose",
    "progress",
}  # fmt: skip
"""Options that mean something here; the others are those of imputation."""

USUAL = {"cells": "cells", "views": "one", "device": "auto", "precision": "auto"}
"""What options are that were not given, where that is not nothing."""

SHOWN = {"dice": "Dice", "iou": "IoU", "pixel_accuracy": "PixAcc", "aji": "AJI", "object_f1": "F1 obj", "pq": "PQ",
         "detection_f1": "F1 det"}  # fmt: skip


def run_segmentation(given: Mapping[str, Any]) -> None:
    """given: all options of the command, by name. Raises UsageError for those that this task would not look at."""
    for name, value in given.items():
        if name not in OWN and value and str(getattr(value, "value", value)) != USUAL.get(name):
            raise UsageError(f"--{name.replace('_', '-')} does not go with --task segmentation")
    if not given["files"]:
        raise UsageError("nothing to evaluate", hint="Name pictures or run folders with --files PATH")
    from mxbridge.tasks.evaluate_segmentation import SegmentationOptions, evaluate_segmentation

    chosen = SegmentationOptions(
        truth=tuple(given["truth"] or ()),
        channels_truth=tuple(given["channels_truth"] or ()),
        cases=given["cases"],
        radius_um=given["radius"],
        um_per_px=given["um_per_px"],
    )
    teller = console.make_progress(given["progress"].value, quiet=given["quiet"], verbose=given["verbose"])
    finished, tables = evaluate_segmentation(
        given["files"], chosen, out=given["out"], resume=given["resume"], progress=teller
    )
    page = told.report(finished, None, teller, wanted=given["report"])
    _say_result(finished, tables, page, as_json=given["json"])
    page.raise_for_errors(finished)


def _say_result(finished: Finished, tables: SegmentationTables, page: told.Reported, *, as_json: bool) -> None:
    from mxbridge.tasks.evaluating.segmentation_tables import CLASSES, value

    run = finished.run
    if as_json:
        document = {
            "run": run.run_id,
            "folder": run.path.resolve(),
            "images": [{"id": i.id, "name": i.name, "status": i.status, "error": i.error} for i in run.images],
        }
        for name in ("metrics", "percents", "agreement", "summary", "channels"):
            document[name] = getattr(tables, name).to_dict("records")
        console.print_json(document | page.document)
        return
    for method in tables.agreement["method"] if len(tables.agreement) else ():
        rows = [(of, *(100 * value(tables.summary, method, of, m) for m in SHOWN)) for of in CLASSES]
        images = int((tables.percents["method"] == method).sum())
        console.out.print(f"{method}, {images} image{'s' * (images != 1)}, percent", markup=False)
        console.print_table(("class", *SHOWN.values()), rows)
        told = tables.agreement[tables.agreement["method"] == method].iloc[0]
        difference = value(tables.summary, method, "percent positive", "ihc_difference")
        limits = (
            told["why_not"] or f"limits {told['low']:.1f} to {told['high']:.1f}, concordance {told['concordance']:.2f}"
        )
        console.out.print(
            f"percent positive: off by {difference:.1f} points in the mean, bias {told['bias']:.1f} ({limits})",
            markup=False,
        )
    console.out.print(f"Tables and picture: {run.path.resolve()}", markup=False)
    page.say()
