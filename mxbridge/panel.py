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

_DYES = re.compile(r"(dapi|hoechst|draq[57]|sytox|hematoxylin|haematoxylin|iridium)\d*|ir19[13](di)?|19[13]ir(di)?")
"""Words that name a counterstain wherever they stand in a channel's name; nothing else is called like this."""

_LEADING = {
    "counterstain": re.compile(r"nuclear stain\b"),
    "autofluorescence": re.compile(r"(auto ?fluorescence|background|bkg|argon|80arar|arar80)\d*\b"),
    "empty": re.compile(r"(empty|blank|unused|none)\d*\b"),
}
"""Words that give a role away at the beginning of a name, whatever follows."""

_ALONE = {
    "counterstain": re.compile(r"dna\d{0,2}"),
    "autofluorescence": re.compile(r"af\d{0,2}|auto ?fluorescence|background|bkg"),
    "empty": re.compile(r"empty|blank|unused"),
}
"""Words that give a role away only where the rest of the name says nothing of a target: ``DNA-PKcs`` is a marker."""

_NOTHING = re.compile(
    r"\d+"
    r"|(c|r|t|z|s|cycle|cyc|round|channel|ch|region|reg|hyb|sample|slide|tile|image|exposure|stain|dye|intercalator|nuclear|nuclei|signal|raw)\d*"
    r"|(y|in|sn|xe|ba|la|ce|pr|nd|sm|eu|gd|tb|dy|ho|er|tm|yb|lu|pt|bi)\d{2,3}(di)?"
    r"|\d{2,3}(y|in|sn|xe|ba|la|ce|pr|nd|sm|eu|gd|tb|dy|ho|er|tm|yb|lu|pt|bi)(di)?"
)
"""Words that say nothing of a target: numbers, cycles, metals (not cadmium: Cd4 and CD4 look alike)."""


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

    A dye such as DAPI counts wherever it stands as a word; short words that also begin names of targets (``DNA``, and
    ``AF``, which is Alexa Fluor when a wavelength follows) only where nothing else in the name speaks of a target.

    >>> role_of("Cycle1_DAPI"), role_of("DNA1_Ir191"), role_of("AF"), role_of("AF488-CD3"), role_of("DNA-PKcs")
    ('counterstain', 'counterstain', 'autofluorescence', 'marker', 'marker')
    """
    words = [w for w in re.split(r"[\W_]+", channel.casefold()) if w]
    if not words:
        return "marker"
    name = " ".join(words)
    for role, pattern in _LEADING.items():
        if pattern.match(name):
            return role
    if any(_DYES.fullmatch(word) for word in words):
        # "AF DAPI" is what the DAPI filter sees of an unstained section
        return "autofluorescence" if words[0] == "af" else "counterstain"
    for role, pattern in _ALONE.items():
        if _stands_alone(pattern, words, role):
            return role
    return "marker"


def _stands_alone(pattern: re.Pattern[str], words: Sequence[str], role: str) -> bool:
    """Whether a word of ``pattern`` is there and all others say nothing of a target."""
    rest = [word for word in words if not pattern.fullmatch(word)]
    if len(rest) == len(words) or not all(_NOTHING.fullmatch(word) for word in rest):
        return False
    wavelength = any(re.fullmatch(r"\d{3,}", word) for word in rest)
    return not (wavelength and role == "autofluorescence" and any(word.startswith("af") for word in words))


def read_panel(path: Path) -> tuple[PanelRow, ...]:
    """Read a panel CSV. Raises SourceError (no such file) and BrokenFile (columns, roles, repeated channels)."""
    try:
        if not path.is_file():
            raise SourceError(f"no panel file at {path}")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            columns = [c.strip().casefold() for c in table.fieldnames or []]
            table.fieldnames = columns
            rows = [_panel_row(path, number, row) for number, row in enumerate(table, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenFile(path, f"is not a CSV table in UTF-8 ({error})") from error
    except OSError as error:
        raise SourceError(f"{path}: the panel cannot be read ({error.strerror or error})") from error
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
    if wanted:
        named = {i: row.name for i, row in panel_rows(channels, panel, where=where).items()}
        names = [named.get(i, channel) for i, channel in enumerate(channels)]
        chosen = list(dict.fromkeys(_find(channels, names, name, where) for name in wanted))
        return _selection(channels, names, chosen, {})
    selection = sort_channels(channels, panel=panel, where=where)
    if not selection.markers:
        raise InputError(
            f"{where}: no channel is a marker ({', '.join(f'{c}: {why}' for c, why in selection.left_out.items())})",
            hint="Name the markers with --markers",
        )
    return selection


def sort_channels(channels: Sequence[str], *, panel: Sequence[PanelRow] = (), where: str = "") -> Selection:
    """Which channels are markers, by the panel or by their names; there may be none. Raises UnknownName, InputError."""
    rows = panel_rows(channels, panel, where=where)
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
    names = [rows[i].name if i in rows else channel for i, channel in enumerate(channels)]
    return _selection(channels, names, [i for i, c in enumerate(channels) if c not in left_out], left_out)


def panel_rows(channels: Sequence[str], panel: Sequence[PanelRow], *, where: str = "") -> dict[int, PanelRow]:
    """Rows of the panel by index of their channel. Raises UnknownName for a row whose channel is not there."""
    return {find_name(channels, row.channel, kind="channel of the panel", where=where): row for row in panel}


def _find(channels: Sequence[str], names: Sequence[str], wanted: str, where: str) -> int:
    try:
        return find_name(channels, wanted, kind="marker", where=where)
    except UnknownName:
        return find_name(names, wanted, kind="marker", where=where)


def _selection(
    channels: Sequence[str], names: Sequence[str], chosen: Sequence[int], left_out: dict[str, str]
) -> Selection:
    taken = [names[i] for i in chosen]
    repeated = sorted({n for n in taken if taken.count(n) > 1})
    if repeated:
        raise InputError(f"two channels would both be called {', '.join(repeated)} in the results; mend the panel")
    return Selection(tuple(Marker(i, channels[i], names[i]) for i in chosen), left_out)
