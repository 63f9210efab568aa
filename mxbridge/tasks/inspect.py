"""What is in a workspace, without reading pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxbridge.errors import MxbridgeError
from mxbridge.image import find_name
from mxbridge.panel import read_panel, role_of
from mxbridge.results import ImageRef
from mxbridge.workspaces.base import CellKind, Workspace


def look(
    workspace: Workspace, refs: Sequence[ImageRef], *, panel: Path | None = None, cells: CellKind = "cells"
) -> list[dict[str, Any]]:
    """One dict per image, ready for JSON; an image that cannot be read has ``error`` instead of its description."""
    rows = read_panel(panel) if panel else ()
    seen = []
    for ref in refs:
        try:
            seen.append(_one(workspace, ref, rows, cells))
        except MxbridgeError as error:
            seen.append({"id": ref.id, "name": ref.name, "error": str(error)})
    return seen


def _one(workspace: Workspace, ref: ImageRef, rows: Sequence[Any], kind: CellKind) -> dict[str, Any]:
    pulled = workspace.pull(ref, kind)
    image = pulled.image
    names = image.channel_names
    roles = {find_name(names, row.channel, kind="channel of the panel", where=ref.name): row for row in rows}
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
        "files": [str(f) for f in image.files],
        "channels": [
            {
                "index": i,
                "name": roles[i].name if i in roles else name,
                "role": roles[i].role if i in roles else ("colour" if image.rgb else role_of(name)),
            }
            for i, name in enumerate(names)
        ],
        "cells": 0 if pulled.cells is None else len(pulled.cells),
        "warnings": list(pulled.all_warnings),
    }
