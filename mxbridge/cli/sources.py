"""From the common options to a workspace: exactly one way of naming images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxbridge.cli import console
from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace

OMERO_ONLY = frozenset(
    (
        "server", "user", "group", "verify_server", "ca_file", "cache", "cache_size", "repository", "beside", "rois", "rois_as",
        "large_images", "as_owner",
    )
)  # fmt: skip
"""Options that mean something for the images of a server only."""

CALLED = {"verify_server": "verify", "large_images": "large"}
"""What the workspace calls some of them."""

UNITS = {"": 10**9, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def open_source(
    *,
    project: Path | None = None,
    files: list[str] | None = None,
    omero: str | None = None,
    labels: list[str] | None = None,
    um_per_px: float | None = None,
    path_map: list[str] | None = None,
    stretched_labels: bool = False,
    plane: str | None = None,
    **of_omero: Any,
) -> Workspace:
    """The workspace the options name. of_omero: those of ``OMERO_ONLY``, None where they were not given.

    Raises UsageError when they name none, or two, or do not go together.
    """
    from mxbridge.workspaces import open_workspace

    if sum((project is not None, bool(files), omero is not None)) != 1:
        raise UsageError(
            "name the images with either --project FILE.qpproj, --files PATH or --omero dataset:5",
            hint="mxbridge COMMAND --help explains them",
        )
    told = {name: value for name, value in of_omero.items() if value is not None}
    if told and omero is None:
        raise UsageError(f"--{min(told).replace('_', '-')} goes with --omero")
    if project is not None:
        if labels or stretched_labels or plane:
            raise UsageError(
                "--labels, --stretched-labels and --plane do not go with --project", hint="A project has its own cells"
            )
        return open_workspace(f"project:{project}", path_maps=tuple(path_map or ()), um_per_px=um_per_px)
    if path_map:
        raise UsageError("--path-map goes with --project")
    common: dict[str, Any] = {"labels": tuple(labels or ()), "um_per_px": um_per_px, "plane": _plane(plane)}
    if omero is not None:
        if stretched_labels:
            raise UsageError("--stretched-labels goes with --files")
        return _open_omero(omero, {k: v for k, v in common.items() if v}, told)
    return open_workspace("files:", paths=tuple(files or ()), stretched_labels=stretched_labels, **common)


def _open_omero(images: str, common: dict[str, Any], told: dict[str, Any]) -> Workspace:
    """What can be seen to be wrong without a server is said before one is asked."""
    from mxbridge.workspaces import open_workspace
    from mxbridge.workspaces.omero.sessions.address import names_server, place_of

    if "rois_as" in told and "rois" not in told:
        raise UsageError(
            "--rois-as goes with --rois", hint="It says how many outlines may be written, e.g. --rois 5000"
        )
    if "cache_size" in told:
        told["cache_size"] = _bytes(told["cache_size"])
    if "server" in told and names_server(images):
        raise UsageError("--omero names a server already", hint="Leave --server out")
    place_of(images, told.get("server"), user=told.get("user"), group=told.get("group"))
    return open_workspace(
        f"omero:{images.removeprefix('omero:')}",
        tell=console.note,
        **common,
        **{CALLED.get(k, k): v for k, v in told.items()},
    )


def _bytes(text: str) -> int:
    """``50GB``; a number alone is meant in GB."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([a-z]{0,2})", text.strip().lower())
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise UsageError(f"--cache-size {text!r} is no size", hint="Such as 200GB")
    return int(float(found[1]) * UNITS[found[2]])


def _plane(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(p.strip().isdigit() for p in parts):
        raise UsageError(f"--plane {text!r} is not Z,T such as 3,0")
    return int(parts[0]), int(parts[1])
