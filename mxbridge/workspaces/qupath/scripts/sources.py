"""The scripts as mxbridge brings them along: inside the installed package, or beside it in a clone of the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import SourceError

SHARED_NAME = "Mxbridge.groovy"
"""The file of the shared logic that buttons name; the others are beside it."""

PATTERN = "mxbridge_*.groovy"
"""File names of buttons: QuPath shows them in its menus with blanks for underscores."""

_PACKAGE = Path(__file__).resolve().parents[3]

FOLDERS = (_PACKAGE / "groovy", _PACKAGE.parent / "groovy")
"""Looked into in this order."""


@dataclass(frozen=True)
class Sources:
    """Texts by file name: buttons are what people choose in QuPath; shared is the logic that all of them load, in one folder."""

    buttons: dict[str, str]
    shared: dict[str, str]


def read_sources() -> Sources:
    """Raises SourceError where this installation of mxbridge has no scripts."""
    for folder in FOLDERS:
        if (folder / "shared" / SHARED_NAME).is_file():
            return Sources(_texts(folder, PATTERN), _texts(folder / "shared", "*.groovy"))
    raise SourceError("this installation of mxbridge has no scripts for QuPath", hint="Install mxbridge again with pip")


def _texts(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern))}


def menu_name(file: str) -> str:
    """How QuPath's menus call a script."""
    return file.removesuffix(".groovy").replace("_", " ")
