"""``mxbridge qupath new``: a QuPath project from image files and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxbridge.progress import SILENT, Progress
from mxbridge.workspaces.found_images import find_images, find_masks, match_masks
from mxbridge.workspaces.qupath.new import Made, create_project, open_new_image


def make_project(
    folder: Path,
    files: Sequence[str],
    labels: Sequence[str] = (),
    *,
    um_per_px: float | None = None,
    stretched_labels: bool = False,
    progress: Progress = SILENT,
) -> Made:
    """Make a project in ``folder``; files and labels are taken as ``--files`` and ``--labels`` are everywhere.

    Raises SourceError, InputError, NoPixelSize, OutputError; then nothing is left behind.
    """
    masks = find_masks(labels)
    found = find_images(files, masks)
    pairs, remarks = match_masks(found, masks)
    images = [
        open_new_image(image.path, pairs.get(image.path), name=image.name, stretched_labels=stretched_labels)
        for image in found
    ]
    made = create_project(
        folder, images, um_per_px=um_per_px, progress=lambda done, total, _: progress.step("images", done, total)
    )
    notes = [f"{image.name}: {image.note}" for image in found if image.note]
    return replace(made, warnings=(*notes, *remarks, *made.warnings))
