"""From the common options to a workspace: exactly one way of naming images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace


def open_source(
    *,
    project: Path | None,
    files: list[str] | None,
    labels: list[str] | None = None,
    um_per_px: float | None = None,
    path_map: list[str] | None = None,
    stretched_labels: bool = False,
    plane: str | None = None,
) -> Workspace:
    """The workspace the options name. Raises UsageError when they name none, or two, or do not go together."""
    from mxbridge.workspaces import open_workspace

    if (project is None) == (not files):
        raise UsageError("name the images with either --project FILE.qpproj or --files PATH")
    if project is not None:
        if labels or stretched_labels or plane:
            raise UsageError("--labels, --stretched-labels and --plane go with --files; a project has its own cells")
        return open_workspace(f"project:{project}", path_maps=tuple(path_map or ()), um_per_px=um_per_px)
    if path_map:
        raise UsageError("--path-map goes with --project")
    return open_workspace(
        "files:",
        paths=tuple(files or ()),
        labels=tuple(labels or ()),
        um_per_px=um_per_px,
        stretched_labels=stretched_labels,
        plane=_plane(plane),
    )


def _plane(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(p.strip().isdigit() for p in parts):
        raise UsageError(f"--plane {text!r} is not Z,T such as 3,0")
    return int(parts[0]), int(parts[1])
