"""The folder in which QuPath keeps a user's own scripts and extensions: a preference of each user.

QuPath keeps preferences where Java does (``java.util.prefs``): XML files below ``~/.java`` on Linux, one property list on
macOS, the registry on Windows; the node is ``io.github.qupath/<version>`` and the key ``userPath`` in QuPath 0.4 to 0.7.
The Linux form was checked against Java itself; those of macOS and Windows follow Java's documentation of them.
"""

from __future__ import annotations

import base64
import binascii
import plistlib
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError

from mxbridge.errors import SourceError

NODE, KEY = "io.github.qupath", "userPath"
_LIMIT = 4 * 1024**2
_LINUX_NAMES = str.maketrans(
    "!\"#$%&'(),-.:;<>@[]^`_{|}~?", "ABCDEFGHIJKLMNOPQRSTUVWXYZ/"
)  # Java writes base64 of UTF-16 in other letters, because some file systems do not tell capitals apart
_VERSION = re.compile(r"v?(\d+)\.(\d+)")


def find_user_folder(*, home: Path | None = None, platform: str = sys.platform) -> tuple[Path, str]:
    """The user folder of the newest QuPath here, and how it is known.

    That of QuPath's own preferences comes first, then the folder it suggests: ``~/QuPath/v0.6`` (``~/QuPath`` before 0.5).
    Raises SourceError where there is none.
    """
    home = Path.home() if home is None else home
    for version, folder in sorted(_preferred(home, platform), key=lambda found: _number(found[0]), reverse=True):
        if folder.is_dir():
            return folder, f"QuPath {version} has it in its preferences"
    usual = home / "QuPath"
    versions = [p for p in usual.glob("v*") if p.is_dir() and _VERSION.fullmatch(p.name)] if usual.is_dir() else []
    for folder in (*sorted(versions, key=lambda p: _number(p.name), reverse=True), usual):
        if folder.is_dir():
            return folder, "where QuPath usually has it"
    raise SourceError(
        "no user folder of QuPath was found",
        hint="In QuPath, Edit > Preferences > QuPath user directory says where it is (set it there first, if it is empty): "
        "give it with --user-dir",
    )


def _preferred(home: Path, platform: str) -> Iterator[tuple[str, Path]]:
    """Version and user folder of every QuPath that has preferences here; what cannot be read says nothing."""
    read = {"win32": _of_windows, "darwin": _of_macos}.get(platform, _of_linux)
    for version, told in read(home):
        if isinstance(told, str) and told.strip() and "\0" not in told:
            yield version, Path(told.strip())


def _of_linux(home: Path) -> Iterator[tuple[str, Any]]:
    root = home / ".java" / ".userPrefs"
    if not root.is_dir():
        return
    for node in root.iterdir():
        if _name_on_linux(node.name) != NODE or not node.is_dir():
            continue
        for folder in node.iterdir():
            with suppress(OSError, ElementTree.ParseError, ExpatError, ValueError):
                yield _name_on_linux(folder.name), _xml_value(folder / "prefs.xml")


def _name_on_linux(name: str) -> str:
    """What a folder of preferences is called in Java: names with a dot or an underscore are stored in another form."""
    if not name.startswith("_"):
        return name
    try:
        return base64.b64decode(name[1:].translate(_LINUX_NAMES), validate=True).decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError):
        return name


def _xml_value(path: Path) -> str | None:
    with path.open("rb") as stream:
        data = stream.read(_LIMIT + 1)
    if len(data) > _LIMIT or b"<!ENTITY" in data:
        return None
    for entry in ElementTree.fromstring(data).iter("entry"):  # noqa: S314 - without entities, of bounded size
        if entry.get("key") == KEY:
            return entry.get("value")
    return None


def _of_macos(home: Path) -> Iterator[tuple[str, Any]]:
    path = home / "Library" / "Preferences" / "com.apple.java.util.prefs.plist"
    document: Any = None
    with suppress(OSError, plistlib.InvalidFileException, ExpatError, ValueError, RecursionError, OverflowError):
        if path.stat().st_size <= _LIMIT:
            document = plistlib.loads(path.read_bytes())
    for step in ("/", f"{NODE}/"):
        document = document.get(step) if isinstance(document, dict) else None
    for name, values in document.items() if isinstance(document, dict) else ():
        if isinstance(values, dict):
            yield str(name).rstrip("/"), values.get(KEY)


def _of_windows(home: Path) -> Iterator[tuple[str, Any]]:
    """home says nothing: the registry is that of who is logged in."""
    del home
    import winreg as registry_module

    registry: Any = registry_module  # it has nothing on other systems, where mypy looks
    with suppress(OSError), registry.OpenKey(registry.HKEY_CURRENT_USER, rf"Software\JavaSoft\Prefs\{NODE}") as node:
        number = 0
        while True:  # ends with OSError after the last
            name = registry.EnumKey(node, number)
            number += 1
            with suppress(OSError), registry.OpenKey(node, name) as version:
                told, _ = registry.QueryValueEx(version, "user/Path")
                yield name, told_by_windows(str(told))


def told_by_windows(stored: str) -> str:
    """A text as Java keeps it in the registry: ``/C`` is a capital, ``//`` a backslash, ``/u00e9`` any other character."""
    return re.sub(r"/u([0-9a-f]{4})|/(.)|(\\)", _windows_character, stored, flags=re.DOTALL)


def _windows_character(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1], 16))
    return "/" if found[3] else "\\" if found[2] == "/" else found[2]


def _number(version: str) -> tuple[int, int]:
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else (-1, -1)
