"""What is in a workspace, without reading pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxbridge.errors import MxbridgeError, SomeImagesFailed
from mxbridge.formats.file_names import readable
from mxbridge.image import LocalImage
from mxbridge.panel import PanelRow, panel_rows, read_panel, role_of, sort_channels
from mxbridge.results import ImageRef
from mxbridge.workspaces.base import CellKind, Workspace


@dataclass(frozen=True)
class Seen:
    """images: one dict per image, ready for JSON; one that cannot be read has ``error`` and ``error_code`` instead."""

    images: list[dict[str, Any]]
    errors: tuple[MxbridgeError, ...]

    def raise_for_errors(self) -> None:
        """Raise the images' own error when all failed, SomeImagesFailed when some did."""
        if not self.errors:
            return
        if len(self.errors) == len(self.images):
            raise self.errors[0]
        names = ", ".join(image["name"] for image in self.images if "error" in image)
        raise SomeImagesFailed(
            f"{len(self.errors)} of {len(self.images)} images cannot be read ({names}): {self.errors[0]}"
        )


def look(
    workspace: Workspace, refs: Sequence[ImageRef], *, panel: Path | None = None, cells: CellKind = "cells"
) -> Seen:
    """What a run would see. Raises SourceError, BrokenFile for the panel; errors of single images are in the answer."""
    rows = read_panel(panel) if panel else ()
    images: list[dict[str, Any]] = []
    errors = []
    for ref in refs:
        try:
            images.append(_one(workspace, ref, rows, cells))
        except MxbridgeError as error:
            errors.append(error)
            images.append({"id": ref.id, "name": ref.name, "error": str(error), "error_code": error.exit_code})
    return Seen(images, tuple(errors))


def _one(workspace: Workspace, ref: ImageRef, rows: Sequence[PanelRow], kind: CellKind) -> dict[str, Any]:
    pulled = workspace.pull(ref, kind)
    image = pulled.image
    size = image.pixel_size_um
    return {
        "id": ref.id,
        "name": ref.name,
        "width": image.shape[1],
        "height": image.shape[0],
        "dtype": str(image.dtype),
        "levels": len(image.levels),
        "um_per_px": None if size is None else (size[0] + size[1]) / 2,
        "rgb": image.rgb,
        "files": [readable(str(f)) for f in image.files],
        "channels": _channels(image, rows, ref),
        "cells": 0 if pulled.cells is None else len(pulled.cells),
        "warnings": list(pulled.all_warnings),
    }


def _channels(image: LocalImage, rows: Sequence[PanelRow], ref: ImageRef) -> list[dict[str, Any]]:
    """Each channel with its name in results, its role, and whether and why not it would be scored."""
    names = image.channel_names
    selection = sort_channels(names, panel=rows, where=f"image {ref}")
    listed = panel_rows(names, rows)
    left_out = dict.fromkeys(names, "a colour picture") if image.rgb else selection.left_out
    return [
        {
            "index": i,
            "channel": name,
            "name": listed[i].name if i in listed else name,
            "role": listed[i].role if i in listed else ("colour" if image.rgb else role_of(name)),
            "scored": name not in left_out,
            "why_not": left_out.get(name),
        }
        for i, name in enumerate(names)
    ]
