"""Where images live and results return: one door for all kinds of places."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from typing import TYPE_CHECKING, Any

from mxbridge.errors import UsageError

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace

GROUP = "mxbridge.workspaces"
PLUGINS = "MXBRIDGE_PLUGINS"
"""Environment variable with the names of the entry points to use (comma-separated); unset means all."""


def open_workspace(address: str | PathLike[str], **options: Any) -> Workspace:
    """Open the workspace at an address.

    address: ``KIND:PLACE`` with a kind that is installed (``project:a/b.qpproj``, ``files:a/*.tif``,
        ``omero:alice@omero.example.org/dataset:5``), a ``.qpproj`` file (kind ``project``), or a path (kind ``files``).
    options: what that kind takes, e.g. ``um_per_px=0.5``, ``labels=[...]``, ``path_maps=[...]``.

    Kinds are entry points of the group ``mxbridge.workspaces``; the built-in ones come through the same door. Raises
    UsageError for an unknown kind or option, and what the workspace raises.
    """
    kinds = workspace_kinds()
    kind, place = _split(os.fspath(address), kinds)
    if kind not in kinds:
        raise UsageError(
            f"no workspace of the kind {kind!r} is installed", hint=f"There is: {', '.join(sorted(kinds)) or 'nothing'}"
        )
    make: Callable[..., Workspace] = kinds[kind].load()
    try:
        return make(place, **options) if place else make(**options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UsageError(f"a workspace of the kind {kind!r} cannot be opened like this: {error}") from error


def workspace_kinds() -> dict[str, EntryPoint]:
    """Entry points by kind."""
    allowed = os.environ.get(PLUGINS)
    names = None if allowed is None else {n.strip() for n in allowed.split(",")}
    return {e.name: e for e in entry_points(group=GROUP) if names is None or e.name in names}


def _split(address: str, kinds: dict[str, EntryPoint]) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z][a-z0-9_-]+):(.*)", address, re.DOTALL)  # a drive letter is one character
    if match and (match[1] in kinds or not os.path.exists(address)):  # noqa: PTH110 - the address may be no path at all
        return match[1], match[2]
    return ("project" if address.lower().endswith(".qpproj") else "files"), address
