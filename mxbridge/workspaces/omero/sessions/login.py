"""Who logs in, and with what: the first of several places that knows.

Passwords and session keys come from the environment, the system's keyring, the store of the ``omero`` command or a prompt,
never from the command line; they live in :class:`Credentials`, which does not show them, and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from mxbridge.errors import SourceError
from mxbridge.workspaces.omero.sessions.address import PORTS, Server

KEYRING_SERVICE = "mxbridge"
COMMAND_STORE = "the omero command's store"
"""Where keys come from that may have run out since; another way is tried then."""

_LONGEST = 10_000
"""Bytes of a file in the store."""


@dataclass(frozen=True)
class Credentials:
    """Either a password of ``user`` or the key of a session that is open. source: where they were found. ours: whether the
    session ends with our work, which a joined one does not."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    source: str = "given"
    ours: bool = True


def find_credentials(server: Server, ask: Callable[[str], str] | None = None) -> Credentials:
    """The first that :func:`all_credentials` finds. Raises SourceError where nothing is known."""
    found = next(all_credentials(server, ask), None)
    if found is None:
        raise no_credentials(server)
    return found


def all_credentials(server: Server, ask: Callable[[str], str] | None = None) -> Iterator[Credentials]:
    """Ways to log in, in the order in which to try them.

    1. ``OMERO_SESSION_KEY``; 2. ``OMERO_PASSWORD``; 3. the system's keyring (service ``mxbridge``, name ``user@host``);
    4. the session store of the ``omero`` command; 5. a prompt, where stdin is a terminal.

    The user is that of the server's address, else ``OMERO_USER``, else whom the ``omero`` command last logged in as. ask: how
    to ask for a password (else getpass on a terminal).
    """
    if key := os.environ.get("OMERO_SESSION_KEY", "").strip():
        yield Credentials(server.user, key=key, source="OMERO_SESSION_KEY", ours=False)
        return
    user = user_of(server)
    if user is not None and (password := os.environ.get("OMERO_PASSWORD")):
        yield Credentials(user, password, source="OMERO_PASSWORD")
        return
    if user is not None and (password := _from_keyring(f"{user}@{server.host}")):
        yield Credentials(user, password, source="the keyring")
        return
    for key in _stored_keys(server, user):
        yield Credentials(user, key=key, source=COMMAND_STORE, ours=False)
    if ask is None and sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass as ask
    if ask is not None and user is not None and (password := ask(f"Password of {user} at {server.host}: ")):
        yield Credentials(user, password, source="the prompt")


def no_credentials(server: Server) -> SourceError:
    """What to do where nothing is known."""
    user = user_of(server)
    if user is None:
        return SourceError(
            f"nothing says who logs in to {server.name}",
            hint="Give --user NAME or set OMERO_USER, and set OMERO_PASSWORD; or run `omero login` first",
        )
    return SourceError(
        f"no password of {user} at {server.name} is known",
        hint=f"Set OMERO_PASSWORD, or `keyring set {KEYRING_SERVICE} {user}@{server.host}`, or run `omero login` first",
    )


def user_of(server: Server) -> str | None:
    """Who is meant, see :func:`all_credentials`."""
    return server.user or os.environ.get("OMERO_USER", "").strip() or _line(_store(server) / "._LASTUSER_")


def last_server() -> str | None:
    """``HOST:PORT`` that the ``omero`` command last logged in to, or None."""
    host, port = _line(_stores() / "._LASTHOST_"), _line(_stores() / "._LASTPORT_")
    return f"{host}:{port}" if host and port and port != str(PORTS["ssl"]) and ":" not in host else host


def _from_keyring(name: str) -> str | None:
    """The password of ``user@host`` where the system keeps passwords and this one is among them."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:  # part of the omero extra
        return None
    with suppress(KeyringError, RuntimeError, OSError):  # none is set up, it is locked, or it cannot be reached
        return keyring.get_password(KEYRING_SERVICE, name)
    return None


def _stores() -> Path:
    """Folder of the ``omero`` command's sessions."""
    if place := os.environ.get("OMERO_SESSIONDIR"):
        return Path(place)
    home = os.environ.get("OMERO_USERDIR")
    return (Path(home) if home else Path.home() / "omero") / "sessions"


def _store(server: Server) -> Path:
    """Its folder of one server; a websocket's is called after its whole address."""
    names = [server.host, quote(server.host, safe="")]
    if server.scheme != "ssl":
        names = [f.name for f in _folders(_stores()) if _is_same(unquote(f.name), server)] + names
    return next((_stores() / name for name in names if (_stores() / name).is_dir()), _stores() / names[-1])


def _is_same(text: str, server: Server) -> bool:
    from mxbridge.errors import UsageError

    with suppress(UsageError):
        other = Server.parse(text)
        return (other.scheme, other.host, other.path) == (server.scheme, server.host, server.path)
    return False


def _stored_keys(server: Server, user: str | None) -> Iterator[str]:
    """Keys of this user's sessions on this server, the current one first."""
    if user is None or "/" in user or "\\" in user or user.startswith("."):
        return
    folder = _store(server) / user
    current = _line(folder / "._LASTSESS_")
    files = {f.name: f for f in _files(folder) if not f.name.startswith(".")}
    for name in sorted(files, key=lambda n: (n != current, n)):
        told = dict(line.partition("=")[::2] for line in _text(files[name]).splitlines())
        if told.get("omero.port", str(PORTS["ssl"])) == str(server.port) or server.scheme != "ssl":
            yield told.get("omero.sess", name).strip()


def _line(path: Path) -> str | None:
    return _text(path).strip() or None


def _text(path: Path) -> str:
    """What a file of the store says; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def _files(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_file()]
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError:
        return []
