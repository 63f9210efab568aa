"""Where an image of a project lies now: file URIs, moved projects and path maps. No file is opened.

QuPath stores absolute file URIs. Java writes them as ``file:/a``, ``file:///a``, ``file:/C:/a``, ``file://server/share/a`` or
``file:////server/share/a``; all of them are understood on every system, because projects travel between systems.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import quote, unquote_to_bytes

from mxbridge.errors import InputError, UsageError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")
_DRIVE = re.compile(r"^/?[A-Za-z]:(/|$)")
_SAFE = "/:@&=+$,;!~*'()"
"""Characters Java leaves as they are in the path of a URI."""


@dataclass(frozen=True)
class PathMap:
    """``old`` is a folder (or file) as the project stores it, ``new`` is where it is on this machine."""

    old: PurePath
    new: Path

    @classmethod
    def parse(cls, text: str) -> PathMap:
        """From ``OLD=NEW``; OLD is a path of any system or a file URI. Raises UsageError."""
        old, separator, new = text.partition("=")
        if not (separator and old.strip() and new.strip()):
            raise UsageError(f"--path-map {text!r} is not OLD=NEW", hint="e.g. --path-map D:/slides=/data/slides")
        old = old.strip()
        return cls(path_of(old) if old.lower().startswith("file:") else _pure(old), Path(new.strip()).expanduser())

    def apply(self, stored: PurePath) -> Path | None:
        rest = _below(stored, self.old)
        return None if rest is None else self.new.joinpath(*rest)


def path_of(uri: str) -> PurePath:
    """The path a file URI names: a PureWindowsPath for drive letters and UNC, else a PurePosixPath.

    Raises InputError for every other scheme: nothing is ever fetched from a network because a project says so.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme.group(1).lower() != "file":
        raise InputError(
            f"{uri[:200]!r} is not a file URI",
            hint="mxbridge opens only images on local or mounted storage; import the file into the project in QuPath",
        )
    rest = uri[scheme.end() :]
    if "?" in rest or "#" in rest:
        raise InputError(f"{uri[:200]!r}: a file URI cannot have '?' or '#' in it unless encoded as %3F or %23")
    try:
        path = unquote_to_bytes(rest).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{uri[:200]!r} is not valid UTF-8 once decoded") from None
    if any(ord(character) < 32 for character in path):
        raise InputError(f"{uri[:200]!r} has control characters in it")
    authority = ""
    if path.startswith("//"):
        authority, _, tail = path[2:].partition("/")
        path = "/" + tail
    if authority.lower() == "localhost":
        authority = ""
    if authority:
        return PureWindowsPath(f"//{authority}{path}")
    if path.startswith("//"):
        return PureWindowsPath(path)
    if _DRIVE.match(path):
        return PureWindowsPath(path.lstrip("/"))
    if not path.startswith("/"):
        raise InputError(f"{uri[:200]!r} is not an absolute file URI")
    return PurePosixPath(path)


def uri_of(path: PurePath) -> str:
    """The URI QuPath writes for an absolute path: ``file:/a%20b``, ``file:/C:/a``, ``file://server/share/a``."""
    if not path.is_absolute():
        raise InputError(f"{path} is not an absolute path")
    text = path.as_posix()
    if text.startswith("//"):
        return "file:" + quote(text, safe=_SAFE)
    return "file:/" + quote(text.lstrip("/"), safe=_SAFE)


def candidates(
    stored: PurePath,
    *,
    project_folder: Path,
    stored_project_folder: PurePath | None,
    moved: bool,
    path_maps: Sequence[PathMap] = (),
) -> list[PurePath]:
    """Where to look for a stored image path, in this order, each place once.

    Path maps first; in a moved project then the place relative to the project's folder (folder to folder, because the
    project file itself may be gone), then the path as stored. A path of another operating system stays in the list: it
    cannot be opened here, but an error should name it.
    """
    places: list[PurePath] = [place for m in path_maps if (place := m.apply(stored)) is not None]
    if moved and stored_project_folder is not None:
        relative = relocated(stored, stored_project_folder, project_folder)
        places += [relative] if relative is not None else []
    places.append(stored)
    return list(dict.fromkeys(places))


def existing(path: Path) -> Path | None:
    """What lies at ``path``; accents may be composed or decomposed, which differs between systems, in any part of it."""
    with suppress(OSError):
        if path.exists():
            return path
        here = Path(path.anchor)
        for part in path.parts[1:]:
            spellings = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
            found = next((here / spelt for spelt in spellings if (here / spelt).exists()), None)
            if found is None:
                return None
            here = found
        return here
    return None


def relocated(stored: PurePath, old_folder: PurePath, new_folder: Path) -> Path | None:
    """``stored`` seen from ``old_folder``, applied to ``new_folder``; None where no relative path exists (other drive)."""
    if isinstance(stored, PureWindowsPath) != isinstance(old_folder, PureWindowsPath):
        return None
    if stored.anchor.casefold() != old_folder.anchor.casefold():
        return None
    image, folder = _parts(stored), _parts(old_folder)
    same = 0
    while same < min(len(image), len(folder)) and image[same] == folder[same]:
        same += 1
    base = new_folder
    for _ in range(len(folder) - same):
        base = base.parent
    return base.joinpath(*stored.parts[same:])


def local(path: PurePath) -> Path | None:
    """The path as one of this machine, or None when it belongs to another operating system."""
    if isinstance(path, Path):
        return path
    return Path(path) if isinstance(path, PureWindowsPath) == (os.name == "nt") else None


def _pure(text: str) -> PurePath:
    windows = bool(_DRIVE.match(text.replace("\\", "/"))) or text.startswith(("\\\\", "//"))
    return PureWindowsPath(text) if windows else PurePosixPath(text)


def _parts(path: PurePath) -> tuple[str, ...]:
    """Components as the system compares them: Windows ignores case."""
    return tuple(p.casefold() for p in path.parts) if isinstance(path, PureWindowsPath) else path.parts


def _below(path: PurePath, folder: PurePath) -> tuple[str, ...] | None:
    if isinstance(path, PureWindowsPath) != isinstance(folder, PureWindowsPath):
        return None
    inner, outer = _parts(path), _parts(folder)
    return path.parts[len(outer) :] if inner[: len(outer)] == outer else None
