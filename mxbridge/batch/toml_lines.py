"""In which line of a TOML text each key stands, for messages to people. The text has been read by ``tomllib`` before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Keys from the top; arrays of tables by number, from 0."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ENDS = ('"""', "'''", '"', "'")


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """The line of a key, or of the nearest one above it that stands in the text."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)


def key_lines(text: str) -> dict[Path, int]:
    """Lines (from 1) by key path. What inline tables hold has the line of their own key."""
    return _Scanner(text).lines


@dataclass
class _Scanner:
    text: str
    at: int = 0
    table: Path = ()
    lines: dict[Path, int] = field(default_factory=dict)
    arrays: dict[Path, int] = field(default_factory=dict)
    """Number of tables so far, by path of the array of tables."""
    line: int = 1
    counted: int = 0
    """Up to where lines are counted."""

    def __post_init__(self) -> None:
        while self._skip_blank():
            if self._takes("[["):
                self.table = self._placed(self._key(), is_array=True)
                self._takes("]]")
            elif self._takes("["):
                self.table = self._placed(self._key(), is_array=False)
                self._takes("]")
            else:
                line = self._line()
                key = self._key()
                for n in range(1, len(key) + 1):
                    self.lines.setdefault(self.table + key[:n], line)
                self._takes("=")
                self._skip_value()

    def _placed(self, key: Path, *, is_array: bool) -> Path:
        """The path of a header, with the numbers of the arrays of tables on its way."""
        place: Path = ()
        for n, part in enumerate(key, start=1):
            place = (*place, part)
            if is_array and n == len(key):
                self.arrays[place] = self.arrays.get(place, -1) + 1
                self.lines.setdefault(place, self._line())
            if place in self.arrays:
                place = (*place, self.arrays[place])
        self.lines.setdefault(place, self._line())
        return place

    def _line(self) -> int:
        """Counted on from where it was asked last, so that long texts take no longer for each of their lines."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def _takes(self, what: str) -> bool:
        self._skip_spaces()
        found = self.text.startswith(what, self.at)
        self.at += len(what) if found else 0
        return found

    def _skip_spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1

    def _skip_blank(self) -> bool:
        """Go to the next statement; whether there is one."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                self._skip_comment()
            elif self.text[self.at] in " \t\r\n":
                self.at += 1
            else:
                return True
        return False

    def _skip_comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _key(self) -> Path:
        parts: list[str | int] = []
        while True:
            self._skip_spaces()
            if self.at < len(self.text) and self.text[self.at] in "\"'":
                start = self.at
                self._skip_string()
                parts.append(self.text[start + 1 : self.at - 1])
            else:
                bare = _BARE.match(self.text, self.at)
                if bare is None:  # cannot be, tomllib has read it; never loop for ever
                    self.at += 1
                    return tuple(parts)
                parts.append(bare[0])
                self.at = bare.end()
            if not self._takes("."):
                return tuple(parts)

    def _skip_string(self) -> None:
        quote = next(q for q in _ENDS if self.text.startswith(q, self.at))
        self.at += len(quote)
        while self.at < len(self.text) and not self.text.startswith(quote, self.at):
            self.at += 2 if quote[0] == '"' and self.text[self.at] == "\\" else 1
        self.at += len(quote)
        while len(quote) == 3 and self.text.startswith(quote[0], self.at):  # up to two quotes may end the text itself
            self.at += 1

    def _skip_value(self) -> None:
        depth = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in "\"'":
                self._skip_string()
            elif character == "#":
                self._skip_comment()
            elif character == "\n" and depth == 0:
                return
            else:
                depth += (character in "[{") - (character in "]}")
                self.at += 1
