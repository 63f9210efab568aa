"""Names of object classifiers as files that every system can hold and QuPath can list."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from mxbridge.formats.file_names import readable

LONGEST = 150
"""Bytes of a name before its check number; file systems take 255, and Windows counts the folders as well."""

COMPOSITE = "(all markers)"

_FORBIDDEN = set('\\/:"*?<>|')
"""What Windows does not allow, which is also what QuPath leaves out of names."""


def file_stems(model: str, markers: Sequence[str]) -> dict[str | None, str]:
    """File names without ``.json`` by marker, and of the composite by None: ``Nimbus CD3``, ``Nimbus (all markers)``.

    A name that had to be changed (``CD3/FITC``) ends in a check number, so that ``CD3:FITC`` keeps another one; and so do
    names of one set that differ in case only, which QuPath does not tell apart.
    """
    composite = _plain(f"{model} {COMPOSITE}")
    plain = {marker: _plain(f"{model} {marker}") for marker in markers}
    often = Counter([composite.casefold(), *(stem.casefold() for stem in plain.values())])
    out: dict[str | None, str] = {None: composite}
    for marker, stem in plain.items():
        unchanged = stem == unicodedata.normalize("NFC", f"{model} {marker}")
        out[marker] = stem if unchanged and often[stem.casefold()] == 1 else f"{stem} {_check(f'{model} {marker}')}"
    return out


def _plain(wanted: str) -> str:
    name = readable(unicodedata.normalize("NFC", wanted))
    allowed = "".join(c if c.isprintable() and c not in _FORBIDDEN else "-" for c in name)
    stem = " ".join(allowed.split()).strip(". ")
    while len(stem.encode()) > LONGEST:
        stem = stem[:-1]
    return stem.rstrip(". ")


def _check(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
