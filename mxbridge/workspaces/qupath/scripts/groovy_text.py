"""What the installer reads and writes inside a script: its first line, its settings, and the mark below which says that it is ours.

A setting is ``def name = value`` between two marker comments; a value may be any Groovy literal, lists over several lines
included. Only where a value begins and ends is looked for here: nothing is evaluated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

BEGIN, END = "// --- settings ---", "// --- end of settings ---"

_FIRST = re.compile(r"// mxbridge \S+, format (\d+)\.")
_SETTING = re.compile(r"^[ \t]*def[ \t]+(\w+)[ \t]*=[ \t]*", re.MULTILINE)
_MARK_BEGIN = "// mxbridge qupath install-scripts: sha256 "
_MARK = re.compile(rf"\n{_MARK_BEGIN}([0-9a-f]{{64}}) of all but the values of settings\s*\Z")
_ANY = "<value>"
_BLANKS = re.compile(rf"(?<={_ANY})[ \t]+|[ \t]+$", re.MULTILINE)
_PLAIN = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_OPENS, _CLOSES = "([{", ")]}"


@dataclass(frozen=True)
class Setting:
    """value: as it is written, from ``begin`` to ``end`` in the text."""

    name: str
    value: str
    begin: int
    end: int


def literal(text: str) -> str:
    """A Groovy string in single quotes that means exactly this text, in ASCII: a script may be read in any encoding."""
    return "'" + "".join(_PLAIN.get(c) or (c if " " <= c <= "~" else _escaped(c)) for c in text) + "'"


def settings_of(text: str) -> dict[str, Setting]:
    """The settings of a script by name; none where the two marker comments are not there or in the wrong order."""
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        return {}
    found: dict[str, Setting] = {}
    at = begin + len(BEGIN)
    while (match := _SETTING.search(text, at, end)) is not None:
        at = _end_of_value(text, match.end(), end)
        value = text[match.end() : at].rstrip()
        found.setdefault(match[1], Setting(match[1], value, match.end(), match.end() + len(value)))
    return found


def with_settings(text: str, values: Mapping[str, str]) -> str:
    """The script with these values, each as it is to be written; names it does not have are passed over."""
    for setting in sorted(settings_of(text).values(), key=lambda s: -s.begin):
        if setting.name in values:
            text = text[: setting.begin] + values[setting.name] + text[setting.end :]
    return text


def with_version(text: str, version: str) -> str:
    """The script whose first line names this version of mxbridge."""
    return _FIRST.sub(lambda m: f"// mxbridge {version}, format {m[1]}.", text, count=1)


def marked(text: str, name: str) -> str:
    """The script with our mark as its last line. name: of its file: a copy of it under another name is somebody's own."""
    text = _unmarked(text).rstrip() + "\n"
    return f"{text}{_MARK_BEGIN}{_hash(text, name)} of all but the values of settings\n"


def is_ours(text: str, name: str) -> bool:
    """Whether the file of this name is a script as it was installed, apart from the values of its settings."""
    text = _with_newlines(text)
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _hash(text[: mark.start() + 1], name)


def has_mark(text: str) -> bool:
    """Whether this is, or was before somebody edited it, a script that we installed."""
    return _MARK_BEGIN in text or "Written by: mxbridge qupath install-scripts" in text.partition("\n")[0]


def _unmarked(text: str) -> str:
    return _MARK.sub("\n", _with_newlines(text))


def _hash(text: str, name: str) -> str:
    """Of a script without the values of its settings, and without blanks at the end of these and of lines."""
    bare = _BLANKS.sub("", with_settings(text, dict.fromkeys(settings_of(text), _ANY)))
    return hashlib.sha256(f"{name}\n{bare}".encode("utf-8", "surrogateescape")).hexdigest()


def _with_newlines(text: str) -> str:
    """Editors on Windows write other line ends."""
    return text.replace("\r\n", "\n")


def _end_of_value(text: str, at: int, end: int) -> int:
    """Where a value ends: at a comment or the end of its line, outside of strings and brackets."""
    depth = 0
    while at < end:
        c = text[at]
        if c in "'\"":
            at = _end_of_string(text, at, end)
            continue
        if text.startswith("//", at):
            if depth == 0:
                return at
            line = text.find("\n", at, end)
            at = end if line < 0 else line
            continue
        if c in "\r\n" and depth == 0:
            return at
        depth = max(depth + (c in _OPENS) - (c in _CLOSES), 0)
        at += 1
    return end


def _end_of_string(text: str, at: int, end: int) -> int:
    quote = text[at] * 3 if text.startswith(text[at] * 3, at) else text[at]
    at += len(quote)
    while at < end and not text.startswith(quote, at):
        if len(quote) == 1 and text[at] == "\n":  # not closed: the user will be told by QuPath
            return at
        at += 2 if text[at] == "\\" else 1
    return min(at + len(quote), end)


def _escaped(character: str) -> str:
    code = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[k : k + 4]}" for k in range(0, len(code), 4))
