"""Which channels are markers, and what people call them.

A panel file is a CSV with the columns ``channel, name, role, keep`` (only ``channel`` is required): ``name`` renames the
channel in results, ``role`` is one of :data:`ROLES`, ``keep`` is 0/1/yes/no. Without a panel, counterstains,
autofluorescence and channels called empty are left out of marker tasks; what was left out is always reported.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import BrokenFile, InputError, SourceError, UnknownName
from mxbridge.image import find_name

ROLES = ("marker", "counterstain", "autofluorescence", "empty", "other")

_BY_NAME = {
    "counterstain": r"(dapi|hoechst|draq[57]|sytox|dna|iridium|ir19[13]|nuclear stain|hematoxylin|haematoxylin)",
    "autofluorescence": r"(af|auto ?fluorescence|background|bkg|argon|80arar|arar80)",
    "empty": r"(empty|blank|unused|none)",
}
"""Leading word of a channel name (letters only; digits, cycles and metals may follow) that gives away its role."""


@dataclass(frozen=True)
class Marker:
    """One channel to work on: its index in the image, its name there, and the name results carry."""

    index: int
    channel: str
    name: str


@dataclass(frozen=True)
class Selection:
    """What a marker task works on. left_out: channel name -> why."""

    markers: tuple[Marker, ...]
    left_out: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.markers)


@dataclass(frozen=True)
class PanelRow:
    channel: str
    name: str
    role: str
    keep: bool


def role_of(channel: str) -> str:
    """The role a channel's name gives away, ``marker`` when it gives away nothing.

    >>> role_of("DAPI (C1)"), role_of("DNA1_Ir191"), role_of("AF"), role_of("CD3")
    ('counterstain', 'counterstain', 'autofluorescence', 'marker')
    """
    for role, words in _BY_NAME.items():
        if re.match(rf"{words}(?![a-z])", channel.strip().casefold()):
            return role
    return "marker"


def read_panel(path: Path) -> tuple[PanelRow, ...]:
    """Read a panel CSV. Raises SourceError (no such file) and BrokenFile (columns, roles, repeated channels)."""
    if not path.is_file():
        raise SourceError(f"no panel file at {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            columns = [c.strip().casefold() for c in table.fieldnames or []]
            table.fieldnames = columns
            rows = [_panel_row(path, number, row) for number, row in enumerate(table, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenFile(path, f"is not a CSV table in UTF-8 ({error})") from error
    if "channel" not in columns:
        raise BrokenFile(path, "has no column 'channel'", hint="A panel has the columns channel, name, role, keep")
    repeated = {r.channel for r in rows if sum(o.channel == r.channel for o in rows) > 1}
    if repeated:
        raise BrokenFile(path, f"lists {', '.join(sorted(repeated))} more than once")
    return tuple(rows)


def _panel_row(path: Path, number: int, row: dict[str, str | None]) -> PanelRow:
    channel = (row.get("channel") or "").strip()
    role = (row.get("role") or "").strip().casefold() or role_of(channel)
    keep = (row.get("keep") or "1").strip().casefold()
    if role not in ROLES:
        raise BrokenFile(path, f"line {number}: role {role!r} is none of {', '.join(ROLES)}")
    if keep not in {"1", "0", "yes", "no", "true", "false"}:
        raise BrokenFile(path, f"line {number}: keep {keep!r} is neither yes nor no")
    return PanelRow(channel, (row.get("name") or "").strip() or channel, role, keep in {"1", "yes", "true"})


def select_markers(
    channels: Sequence[str], *, wanted: Sequence[str] = (), panel: Sequence[PanelRow] = (), where: str = ""
) -> Selection:
    """Markers of an image with ``channels`` (unambiguous names, see :func:`mxbridge.image.unique_names`).

    wanted: names given one by one (channel or panel names); they are taken whatever their role. Otherwise the panel decides,
    and without one the channel names do. Raises UnknownName, and InputError when nothing is left.
    """
    rows = {find_name(channels, row.channel, kind="channel of the panel", where=where): row for row in panel}
    named = {i: (rows[i].name if i in rows else channel) for i, channel in enumerate(channels)}
    if wanted:
        chosen = list(dict.fromkeys(_find(channels, named, name, where) for name in wanted))
        return _selection(channels, named, chosen, {})
    left_out = {}
    for i, channel in enumerate(channels):
        row = rows.get(i)
        role = row.role if row else role_of(channel)
        if panel and row is None:
            left_out[channel] = "not in the panel"
        elif row is not None and not row.keep:
            left_out[channel] = "keep is no in the panel"
        elif role != "marker":
            left_out[channel] = role
    chosen = [i for i, channel in enumerate(channels) if channel not in left_out]
    if not chosen:
        raise InputError(
            f"{where}: no channel is a marker ({', '.join(f'{c}: {why}' for c, why in left_out.items())})",
            hint="Name the markers with --markers",
        )
    return _selection(channels, named, chosen, left_out)


def _find(channels: Sequence[str], named: dict[int, str], wanted: str, where: str) -> int:
    try:
        return find_name(channels, wanted, kind="marker", where=where)
    except UnknownName:
        return find_name([named[i] for i in range(len(channels))], wanted, kind="marker", where=where)


def _selection(
    channels: Sequence[str], named: dict[int, str], chosen: Sequence[int], left_out: dict[str, str]
) -> Selection:
    names = [named[i] for i in chosen]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"two channels would both be called {', '.join(repeated)} in the results; mend the panel")
    return Selection(tuple(Marker(i, channels[i], named[i]) for i in chosen), left_out)
