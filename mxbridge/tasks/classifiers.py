"""The scores of a run as object classifiers in its QuPath project (``score --classifiers``): written, repeated, taken out.

What a run's classifiers are stands in its run.json, so that ``mxbridge publish`` and ``undo`` need nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, get_args

import numpy as np

from mxbridge.errors import BrokenFile
from mxbridge.results import ImageRef
from mxbridge.runs import RECORD, Run
from mxbridge.tasks.positivity import class_part
from mxbridge.workspaces.base import CellKind, Workspace
from mxbridge.workspaces.qupath.object_classifiers import MarkerClassifier, Written, object_classifiers

DETAIL = "classifiers"
"""Key in the details of run.json."""

HOW_TO = (
    "in QuPath: Classify > Object classification > Load object classifier; it replaces the class of every object it is for, "
    "and the composite holds copies of the single ones"
)


def describe_classifiers(model: str, thresholds: Mapping[str, float], cells: CellKind) -> dict[str, Any]:
    """For run.json. thresholds: by marker, in the order in which their classes are joined."""
    markers = [
        MarkerClassifier(marker, f"{model}: {marker}", float(np.float32(threshold)), class_part(marker))
        for marker, threshold in thresholds.items()
    ]
    return {"model": model, "cells": cells, "markers": [asdict(m) for m in markers], "files": [], "kept": []}


def remember_classifiers(run: Run, detail: dict[str, Any]) -> None:
    """Note in run.json which classifiers a run is to have; those of an earlier round that are there stay noted."""
    known = run.details.get(DETAIL) or {}
    now = {**detail, **{key: known[key] for key in ("files", "kept") if key in known}}
    if now != known:
        run.details[DETAIL] = now
        run.save()


def put_classifiers(workspace: Workspace, run: Run) -> Written:
    """Write the classifiers that a run's record asks for, and note there which were written. None asked for: nothing.

    Raises UsageError outside of QuPath projects, OutputError, BrokenFile.
    """
    detail = run.details.get(DETAIL)
    if detail is None:
        return Written()
    classifiers = object_classifiers(workspace)
    try:
        markers, model, cells = [_marker(raw) for raw in detail["markers"]], detail["model"], detail["cells"]
        if cells not in get_args(CellKind) or not isinstance(model, str):
            raise ValueError(f"{cells!r} of {model!r}")
        stamp = int(datetime.fromisoformat(run.started).timestamp() * 1000)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenFile(run.path / RECORD, f"does not say what its classifiers are ({error})") from error
    kind = classifiers.kind_of(_scored(run), cells)
    written = classifiers.put(run.run_id, model, markers, kind=kind, timestamp_ms=stamp)
    now = {**detail, "files": list(written.ours), "kept": list(written.kept)}
    if now != detail:
        run.details[DETAIL] = now
        run.save()
    return written


def classifier_thresholds(run: Run) -> dict[str, float]:
    """By marker, those of the object classifiers that a run's record asks for; none where it asks for none."""
    detail = run.details.get(DETAIL) or {}
    try:
        return {marker.marker: marker.threshold for marker in map(_marker, detail.get("markers", ()))}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenFile(run.path / RECORD, f"does not say what its classifiers are ({error})") from error


def take_classifiers(workspace: Workspace, run: Run) -> Written:
    """Remove what a run wrote and nobody changed since."""
    if DETAIL not in run.details:
        return Written()
    return object_classifiers(workspace).take(run.run_id)


def _marker(raw: dict[str, Any]) -> MarkerClassifier:
    """From run.json. Raises KeyError, TypeError, ValueError."""
    names = [raw[key] for key in ("marker", "measurement", "class_name")]
    threshold = float(raw["threshold"])
    if not all(isinstance(name, str) for name in names) or not 0 < threshold < 1:
        raise ValueError(f"{names} with threshold {threshold}")
    return MarkerClassifier(raw["marker"], raw["measurement"], threshold, class_part(raw["class_name"]))


def _scored(run: Run) -> Sequence[ImageRef]:
    return [ImageRef(image.id, image.name) for image in run.images if image.status in ("computed", "published")]
