"""``mxbridge inspect``: what is there and would be read."""

from __future__ import annotations

from typing import Any

from mxbridge.cli import console, options
from mxbridge.cli.places import Places, takes_places


@takes_places(labels=True, stretched=True)
def inspect(
    places: Places,
    panel: options.Panel = None,
    cells: options.CellChoice = options.CellChoice.cells,
    json: options.Json = False,
) -> None:
    """Say what a run would see: images, sizes, pixel sizes, channels and their roles, cells. Pixels are not read."""
    workspace = places.open()
    from mxbridge.tasks.inspect import look

    seen = look(workspace, workspace.list(places.names), panel=panel, cells=cells.value)
    if json:
        console.print_json(seen.images)
    else:
        for one in seen.images:
            _say(one)
    seen.raise_for_errors()


def _say(one: dict[str, Any]) -> None:
    console.out.print(f"{one['name']}  (id {one['id']})", style="bold", markup=False)
    if "error" in one:
        console.out.print(f"  error: {one['error']}", markup=False)
        return
    size = f"{one['width']} x {one['height']} px, {one['dtype']}, {one['levels']} level{'s' * (one['levels'] > 1)}"
    scale = "no pixel size (--um-per-px)" if one["um_per_px"] is None else f"{one['um_per_px']:g} µm/px"
    console.out.print(f"  {size}, {scale}\n  cells: {one['cells']}", markup=False)
    for channel in one["channels"]:
        name = (
            channel["name"] if channel["name"] == channel["channel"] else f"{channel['channel']} -> {channel['name']}"
        )
        left = "" if channel["scored"] else ", not scored"
        left += "" if channel["why_not"] in (None, channel["role"]) else f": {channel['why_not']}"
        console.out.print(f"  {channel['index']:3}  {name}  ({channel['role']}{left})", markup=False)
    for warning in one["warnings"]:
        console.out.print(f"  warning: {warning}", markup=False)
