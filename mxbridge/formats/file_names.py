"""File names as text that every file, table and terminal can hold.

A name on disk is bytes on Linux and may be no UTF-8; Python then hands out text that cannot be encoded again (surrogates).
"""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])|\\u(d[89a-f][0-9a-f]{2})")


def readable(name: str) -> str:
    r"""The name with bytes that are no text written as ``\xff``; other names stay as they are."""
    return _SURROGATE.sub(_escape, name)


def on_disk(name: str) -> str:
    """The name as the system knows it: undoes :func:`readable`."""
    return _ESCAPED.sub(lambda m: chr(0xDC00 + int(m[1], 16) if m[1] else int(m[2], 16)), name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
