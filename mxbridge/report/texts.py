"""How names and numbers are written in a report."""

from __future__ import annotations

import math
import re
from typing import Any

from mxbridge.report.blocks import Column, is_missing

NO_VALUE = "–"
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""Controls, marks that turn the direction of what follows, and halves of characters (from file names that are no text)."""

GOOD = ("ok", "done", "published", "computed", "passed", "yes")
BAD = ("failed", "bad", "error", "flag")


def harmless(text: str) -> str:
    """A text in which every character is one that can be seen: names come from files and servers."""
    return _UNSEEN.sub("\ufffd", text)


def short(name: str, longest: int = 40) -> str:
    """A name as an axis or a legend has room for, in ``longest`` characters."""
    plain = "".join(c if c.isprintable() else " " for c in name)
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def shown(value: Any, column: Column) -> str:
    """A cell of a table as people read it."""
    if is_missing(value):
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.kind in ("percent", "bar"):
        return f"{100 * float(value):.1f}\u202f%"
    if column.kind == "number" and not isinstance(value, str):
        return number(value, column.digits)
    return str(value)


def number(value: Any, digits: int = 3) -> str:
    """Whole numbers in full, with thin spaces; others with so many significant digits."""
    if is_missing(value):
        return NO_VALUE
    if not hasattr(value, "is_integer") or (not isinstance(value, float) and float(value).is_integer()):
        return f"{int(value):,}".replace(",", "\u202f")
    real = float(value)
    size = abs(real)
    if math.isinf(real):
        return "∞" if real > 0 else "−∞"
    if size and not 1e-4 <= size < 1e9:
        return f"{real:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    return f"{real:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def sorting(value: Any, column: Column) -> str | None:
    """What a column of numbers is sorted by; None for what has no value, and for texts."""
    if column.kind in ("text", "badge") or is_missing(value) or isinstance(value, str):
        return None
    return repr(float(value))


def tone(word: str) -> str:
    """The kind of colour of a badge: good, bad, or careful."""
    plain = word.strip().lower()
    if plain.startswith(GOOD):
        return "good"
    return "bad" if plain.startswith(BAD) else "careful"


def width(value: Any) -> str:
    """Of a bar, in percent of its column."""
    return f"{100 * min(1.0, max(0.0, float(value))):.1f}%"
