"""Put the script buttons where QuPath's menus find them, and take them out again.

A script says itself, in its last line, that it is ours and what it was: so settings that a user changed are kept when it is
installed again, and a script whose logic a user changed is never lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mxbridge.errors import OutputError, SourceError, UsageError
from mxbridge.formats.atomic import make_folder, output_error, write_atomically
from mxbridge.formats.exchange import BACKUP_SUFFIX, read_seen, replace_seen
from mxbridge.workspaces.qupath.project import find_project
from mxbridge.workspaces.qupath.scripts.groovy_text import (
    has_mark,
    is_ours,
    literal,
    marked,
    settings_of,
    with_settings,
    with_version,
)
from mxbridge.workspaces.qupath.scripts.sources import SHARED_NAME, read_sources
from mxbridge.workspaces.qupath.scripts.user_folder import find_user_folder

_LIMIT = 16 * 1024**2
_FILLED_IN = ("python", "shared")
"""Settings that installing sets anew; all others are the user's."""

_PATIENCE = 60.0
"""Seconds that another Python may take to find mxbridge."""


@dataclass(frozen=True)
class Places:
    """folder: of the buttons. shared: file of the logic that buttons name, beside other files of it. named: the path of it as
    buttons give it. menu: where QuPath shows them."""

    folder: Path
    shared: Path
    named: str
    menu: str

    @classmethod
    def of_project(cls, project: str | os.PathLike[str]) -> Places:
        """Raises SourceError where there is no project."""
        folder = find_project(Path(project)).parent
        shared = folder / "mxbridge" / "groovy" / SHARED_NAME
        return cls(folder / "scripts", shared, f"{{project}}/mxbridge/groovy/{SHARED_NAME}", "Project scripts")

    @classmethod
    def of_user(cls, folder: Path | None = None) -> tuple[Places, str]:
        """folder: QuPath's user directory; None looks for it. Also how it is known. Raises SourceError."""
        how = "as given"
        if folder is None:
            folder, how = find_user_folder()
        folder = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - a link is the address that QuPath knows
        if not folder.is_dir():
            raise SourceError(
                f"{folder} is not a folder", hint="QuPath says which it is: Edit > Preferences > QuPath user directory"
            )
        shared = folder / "mxbridge" / SHARED_NAME
        return cls(folder / "scripts", shared, str(shared), "User scripts"), how


@dataclass(frozen=True)
class Script:
    """One file. state: ``new``, ``updated``, ``unchanged``, ``removed`` or ``left``. kept: names of the settings that keep a user's
    value. backup: where a script is now that a user had edited."""

    file: Path
    state: str
    kept: tuple[str, ...] = ()
    backup: Path | None = None


@dataclass(frozen=True)
class Installed:
    """python: what the buttons call. scripts: the buttons and the logic they share. warnings: for people."""

    places: Places
    python: str
    scripts: tuple[Script, ...]
    warnings: tuple[str, ...] = ()

    @property
    def buttons(self) -> list[Script]:
        return [s for s in self.scripts if s.file.parent == self.places.folder and s.state not in ("removed", "left")]


def install_scripts(places: Places, python: Path | None = None) -> Installed:
    """Write the buttons and what they share; the settings of buttons that are there already are kept.

    python: the Python that has mxbridge, else this one. A second time changes nothing. Raises SourceError, UsageError,
    OutputError.
    """
    called = python_to_call(python)
    warnings = _python_problems(called)
    sources = read_sources()
    _refuse_links(places)
    here = version("mxbridge")
    make_folder(places.shared.parent)
    make_folder(places.folder)
    filled = {"python": literal(called), "shared": literal(places.named)}
    done: list[Script] = []
    for folder, texts in ((places.shared.parent, sources.shared), (places.folder, sources.buttons)):
        done += [_put(folder / name, with_version(text, here), filled) for name, text in texts.items()]
        for file in _ours_in(folder):  # an earlier mxbridge may have had others
            if file.name not in texts and is_ours(_read(file), file.name):
                _remove(file)
                done.append(Script(file, "removed"))
    for script in done:
        if script.backup is not None:
            warnings.append(
                f"{script.file.name} had been changed by somebody, not only its settings: that one is now {script.backup}"
            )
    return Installed(places, called, tuple(done), tuple(warnings))


def uninstall_scripts(places: Places) -> tuple[Script, ...]:
    """Remove what :func:`install_scripts` wrote, whatever its settings are now; a script somebody has edited otherwise stays.

    A folder goes only when the last thing in it was ours. Raises OutputError.
    """
    _refuse_links(places)
    found: list[Script] = []
    for file in (*_ours_in(places.folder), *_ours_in(places.shared.parent)):
        if is_ours(_read(file), file.name):
            _remove(file)
            found.append(Script(file, "removed"))
        else:
            found.append(Script(file, "left"))
    emptied = {script.file.parent for script in found if script.state == "removed"}
    for folder in emptied:
        with suppress(OSError):  # other things are in it
            folder.rmdir()
    own = places.shared.parent
    if own.name != "mxbridge" and own in emptied and not own.exists():  # inside the folder that a project has for us
        with suppress(OSError):
            own.parent.rmdir()
    return tuple(found)


def python_to_call(python: Path | None = None) -> str:
    """The absolute path of the Python for the buttons. A link stays a link: that of a virtual environment is one.

    Raises UsageError where there is no such file.
    """
    given = str(python.expanduser()) if python is not None else sys.executable
    if not given:
        raise UsageError("this Python does not know where it is", hint="Say it with --python FILE")
    path = Path(os.path.abspath(given))  # noqa: PTH100 - resolve() would leave the virtual environment
    if path.name.lower() == "pythonw.exe" and path.with_name("python.exe").is_file():
        path = path.with_name("python.exe")  # the other one says nothing on stdout
    if not path.is_file():
        what = "is a folder: give the program in it" if path.is_dir() else "does not exist"
        raise UsageError(f"--python {path} {what}", hint="E.g. --python .../bin/python, or ...\\python.exe on Windows")
    return str(path)


def _python_problems(python: str) -> list[str]:
    """What is wrong with a Python, as QuPath would start it: without the settings of this terminal."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with tempfile.TemporaryDirectory() as elsewhere:
        try:
            result = subprocess.run(  # noqa: S603 - the program that the user names
                [python, "-c", "import mxbridge"],
                cwd=elsewhere,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [f"{python} did not say within {_PATIENCE:g} s whether it has mxbridge"]
        except OSError as error:
            return [f"{python} cannot be started ({error.strerror or error}): the buttons will fail"]
    if result.returncode == 0:
        return []
    last = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
    return [f"{python} cannot import mxbridge ({last or f'it ended with {result.returncode}'}): the buttons will fail"]


def _put(file: Path, source: str, filled: dict[str, str]) -> Script:
    """Write one script. What is there already gives its settings, and is kept beside where more than these was changed."""
    kept: dict[str, str] = {}
    there, before, seen = "", b"", None
    if file.is_symlink():
        raise _link(file)
    if file.exists():
        before, seen = read_seen(file, _LIMIT)
        there = before.decode("utf-8", "surrogateescape")
        fresh = settings_of(source)
        known = {s.name: s.value for s in settings_of(there).values() if s.name in fresh and s.name not in _FILLED_IN}
        kept = {name: value for name, value in known.items() if value != fresh[name].value}
    data = marked(with_settings(source, {**kept, **filled}), file.name).encode("utf-8")
    if seen is None:
        with write_atomically(file) as part:
            part.write_bytes(data)
        return Script(file, "new")
    if before == data:
        return Script(file, "unchanged", tuple(kept))
    backup = None if is_ours(there, file.name) else _back_up(file, before)
    replace_seen(file, data, seen, verify=lambda _: None)
    return Script(file, "updated", tuple(kept), backup)


def _back_up(file: Path, data: bytes) -> Path:
    """Keep a script as it is under a name that nothing has yet."""
    number = 1
    while True:
        backup = file.with_name(file.name + BACKUP_SUFFIX + (f"-{number}" if number > 1 else ""))
        if not backup.is_symlink() and backup.is_file() and read_seen(backup, _LIMIT)[0] == data:
            return backup
        if not backup.exists() and not backup.is_symlink():
            with write_atomically(backup) as part:
                part.write_bytes(data)
            return backup
        number += 1


def _read(file: Path) -> str:
    return read_seen(file, _LIMIT)[0].decode("utf-8", "surrogateescape")


def _remove(file: Path) -> None:
    if file.is_symlink():
        raise _link(file)
    try:
        file.unlink()
    except OSError as error:
        raise output_error(file, error) from error


def _ours_in(folder: Path) -> list[Path]:
    """Scripts in a folder that we installed, whatever became of them since."""
    return [path for path in sorted(folder.glob("*.groovy")) if path.is_file() and has_mark(_read(path))]


def _refuse_links(places: Places) -> None:
    """What we write must lie where it seems to."""
    above = places.shared.parent.parent
    for folder in (places.folder, places.shared.parent, *([above] if above.name == "mxbridge" else ())):
        if folder.is_symlink():
            raise _link(folder)
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file, and a folder is needed there")


def _link(path: Path) -> OutputError:
    return OutputError(
        f"{path} is a symbolic link",
        hint="mxbridge does not write through links; replace the link by what it points to",
    )
