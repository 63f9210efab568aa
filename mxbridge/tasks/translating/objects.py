"""Nuclei as objects for workspaces, and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import LocalImage
from mxbridge.results import ImageRef, NewObjects
from mxbridge.tasks.regions import Annotations
from mxbridge.tasks.translating.finding import Found
from mxbridge.tasks.translating.options import TranslateOptions

if TYPE_CHECKING:
    import pandas as pd

POSITIVE, NEGATIVE = "Positive", "Negative"
"""Last parts of class names by which QuPath counts."""


def classes_of(found: Found, annotations: Annotations, options: TranslateOptions) -> list[str]:
    """Full class names: ``Positive``, or ``Tumor: Positive`` with a base class."""
    names = [NEGATIVE, POSITIVE]
    if options.base_class is not None:
        bases: Sequence[str | None] = [options.base_class]
        which = np.zeros(len(found), np.int64)
    elif annotations.limiting:
        bases, which = [*annotations.classes, None], found.annotation  # -1 is the last
    else:
        bases, which = [None], np.zeros(len(found), np.int64)
    full = [[name if base is None else f"{base}: {name}" for name in names] for base in bases]
    return [full[base][int(positive)] for base, positive in zip(which.tolist(), found.positive, strict=True)]


def new_objects(
    found: Found, annotations: Annotations, image: LocalImage, options: TranslateOptions, marker: str, key: str
) -> NewObjects:
    """Detections, or cells around the nuclei. marker: what the stain shows."""
    assert found.outlines is not None  # noqa: S101 - found wherever objects are wanted
    in_cells = options.objects == "cells"
    return NewObjects(
        kind="cell" if in_cells else "detection",
        result_key=key,
        keys=found.keys,
        outlines=found.cells or found.outlines,
        nuclei=found.outlines if in_cells else None,
        class_names=tuple(classes_of(found, annotations, options)),
        measurements=_measurements(found, image, marker),
    )


def _measurements(found: Found, image: LocalImage, marker: str) -> dict[str, NDArray[np.float32]]:
    area, name = area_of(found, image)
    columns = {
        f"{found.prefix}: {name}": area,
        f"{found.prefix}: {marker} mean": found.marker,
        f"{found.prefix}: Positive probability": found.probability,
    }
    return {
        name: values.astype(np.float32)
        for name, values in columns.items()
        if not np.isnan(values).all() or not len(values)
    }


def area_of(found: Found, image: LocalImage) -> tuple[NDArray[np.float64], str]:
    """Areas and what to call them: in µm² where the pixel size is known."""
    if image.pixel_size_um is None:
        return found.area_px, "Area px^2"
    return found.area_px * (image.pixel_size_um[0] * image.pixel_size_um[1]), "Area µm^2"


def nuclei_table(
    found: Found,
    nuclei: Sequence[str],
    annotations: Annotations,
    image: LocalImage,
    ref: ImageRef,
    options: TranslateOptions,
    marker: str,
) -> pd.DataFrame:
    """One row per nucleus. nuclei: their ids. µm are NaN where the image has no pixel size. Coordinates are full-resolution pixels."""
    import pandas as pd

    um_y, um_x = image.pixel_size_um or (np.nan, np.nan)
    labels, ids = (np.array([*names, ""], object) for names in (annotations.labels, annotations.ids))
    columns: dict[str, Any] = {
        "image": ref.name,
        "image_id": ref.id,
        "model": found.prefix,
        "nucleus": list(nuclei),
        "class": classes_of(found, annotations, options),
        "annotation": labels[found.annotation],
        "annotation_id": ids[found.annotation],
        "x_px": found.centroid[:, 1].astype(np.float32),
        "y_px": found.centroid[:, 0].astype(np.float32),
        "x_um": (found.centroid[:, 1] * um_x).astype(np.float32),
        "y_um": (found.centroid[:, 0] * um_y).astype(np.float32),
        "area_px": found.area_px.astype(np.float32),
        "area_um2": (found.area_px * um_y * um_x).astype(np.float32),
        f"{marker} mean": found.marker.astype(np.float32),
        "positive_probability": found.probability.astype(np.float32),
        "touches_edge": found.touches_edge,
    }
    return pd.DataFrame(columns)
