"""Which images of which server: ``omero:[USER@]HOST[:PORT]/dataset:5?group=lab``, as text and as parts.

Nothing here talks to a server, and nothing here is secret: an address is kept in the record of a run, so that its results can
be published and taken back later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qsl, quote, unquote, urlencode

from mxbridge.errors import UsageError

Scheme = Literal["ssl", "wss", "tcp", "ws"]
PORTS: dict[str, int] = {"ssl": 4064, "wss": 443, "tcp": 4063, "ws": 80}
PATHS = {"wss": "/omero-wss", "ws": "/omero-ws"}
"""Where servers keep their websockets unless told otherwise."""

KINDS = ("image", "dataset", "project", "plate", "screen")
OPTIONS = ("labels", "beside", "rois", "rois_as", "large", "as_owner", "um_per_px", "plane", "repository")
"""What an address may say besides server and images: all that decides what is read and what publishing does."""

EXAMPLE = "For example omero:alice@omero.example.org/dataset:5, or image:1,2, project:3, plate:4, screen:6"
MOST_IDS = 100_000
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")
_ENCODED_URL = re.compile(r"[a-z]+%3A%2F%2F", re.IGNORECASE)
_URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<host>[^/]*)(?P<path>/.*)?", re.DOTALL)


@dataclass(frozen=True)
class Server:
    """Where and as whom to log in. group: only this group's images are seen. verify: its certificate must be signed by one of
    ``ca_file`` (or of the system) and bear its name."""

    host: str
    port: int = PORTS["ssl"]
    scheme: Scheme = "ssl"
    path: str = ""
    user: str | None = None
    group: str | None = None
    verify: bool = False
    ca_file: Path | None = None

    @property
    def name(self) -> str:
        """``host:port``, for people and for folders."""
        return f"{self.shown_host}:{self.port}"

    @property
    def shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def is_encrypted(self) -> bool:
        return self.scheme in ("ssl", "wss")

    @classmethod
    def parse(cls, text: str) -> Server:
        """``[USER@]HOST[:PORT]`` or ``wss://[USER@]HOST[:PORT][/PATH]`` (also ssl, tcp, ws). Raises UsageError."""
        url = _URL.fullmatch(text.strip())
        refuse_password((url["host"] if url else text.strip()).rpartition("@")[0])
        scheme = url["scheme"].lower() if url else "ssl"
        if scheme not in get_args(Scheme):
            raise UsageError(f"server {text!r}: {scheme}:// is not understood", hint="There is ssl, wss, tcp and ws")
        user, _, place = (url["host"] if url else text.strip()).rpartition("@")
        host, port = _host_and_port(place, PORTS[scheme], text)
        path = (url["path"] or PATHS.get(scheme, "")) if url else ""
        if path and (scheme not in PATHS or not _PATH.fullmatch(path)):
            raise UsageError(f"server {text!r}: {path!r} is no path of a websocket")
        return cls(host, port, scheme, path, unquote(user) or None)  # type: ignore[arg-type]  # checked above

    def __str__(self) -> str:
        """What :meth:`parse` takes: without group and certificates."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        if self.scheme == "ssl":
            return f"{user}{self.shown_host}{port}"
        return f"{self.scheme}://{user}{self.shown_host}{port}{self.path}"


@dataclass(frozen=True)
class Place:
    """Images of a server. ids: of the objects of that kind. options: of ``OPTIONS``, as text; several labels are lines."""

    server: Server
    kind: str
    ids: tuple[int, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, server: Server | None = None) -> Place:
        """An address, with or without ``omero:`` in front. server: for one that names none. Raises UsageError."""
        address, _, query = text.strip().removeprefix("omero:").partition("?")
        where, _, what = address.rpartition("/")
        if not where and server is None:
            raise UsageError(f"{text!r} names no OMERO server", hint=EXAMPLE)
        found = Server.parse(unquote(where) if _ENCODED_URL.match(where) else where) if where else server
        assert found is not None  # noqa: S101 - one of both, see above
        kind, ids = parse_images(what)
        options = _options(query, text)
        group, verify, ca_file = (options.pop(name, None) for name in ("group", "verify", "ca_file"))
        found = replace(
            found,
            group=group or found.group,
            verify=verify == "1" or found.verify,
            ca_file=Path(ca_file) if ca_file else found.ca_file,
        )
        return cls(found, kind, ids, options)

    @property
    def images(self) -> str:
        """``dataset:5``."""
        return f"{self.kind}:{','.join(map(str, self.ids))}"

    def __str__(self) -> str:
        server = self.server
        where = str(server) if server.scheme == "ssl" else quote(str(server), safe="")
        told = {
            "group": server.group or "",
            "verify": "1" if server.verify else "",
            "ca_file": str(server.ca_file or ""),
            **self.options,
        }
        query = urlencode([(k, v) for k, v in told.items() if v], quote_via=quote, safe=":,/")
        return f"omero:{where}/{self.images}{'?' if query else ''}{query}"


def names_server(text: str) -> bool:
    """Whether an address says on which server its images are."""
    return "/" in text.partition("?")[0]


def place_of(text: str, server: str | None = None, *, user: str | None = None, group: str | None = None) -> Place:
    """What an address names; where it names no server, on that of :func:`server_of`. Raises UsageError."""
    return Place.parse(text, None if names_server(text) else server_of(server, user=user, group=group))


def parse_images(text: str) -> tuple[str, tuple[int, ...]]:
    """``dataset:5`` or ``image:1,2``, each id once. Raises UsageError."""
    kind, _, numbers = text.strip().partition(":")
    parts = [part.strip() for part in numbers.split(",") if part.strip()]
    fine = all(part.isascii() and part.isdigit() and 0 < int(part[:20]) < 2**63 for part in parts)
    if kind.lower() not in KINDS or not parts or not fine or len(parts) > MOST_IDS:
        raise UsageError(f"{text[:80]!r} names no images of an OMERO server", hint=EXAMPLE)
    return kind.lower(), tuple(dict.fromkeys(map(int, parts)))


def refuse_password(user: str) -> None:
    """``alice:secret``: it would be kept with every run. Raises UsageError, which does not repeat it."""
    if ":" in user:
        raise UsageError(
            "a user's name is followed by a colon and something that may be a password",
            hint="Give the name alone, and the password in OMERO_PASSWORD, the keyring or at the prompt",
        )


def server_of(text: str | None, *, user: str | None = None, group: str | None = None) -> Server:
    """The server that is meant: the one named, else that of ``OMERO_HOST`` (and ``OMERO_PORT``), else the one that the
    ``omero`` command last logged in to. Raises UsageError."""
    from mxbridge.workspaces.omero.sessions.login import last_server

    text = text or _from_environment() or last_server()
    if not text:
        raise UsageError("no OMERO server is named", hint="Give it with --server HOST[:PORT], or set OMERO_HOST")
    found = Server.parse(text)
    refuse_password(user or "")
    return replace(found, user=user or found.user, group=group or found.group)


def _from_environment() -> str | None:
    host, port = os.environ.get("OMERO_HOST", "").strip(), os.environ.get("OMERO_PORT", "").strip()
    return f"{host}:{port}" if host and port and ":" not in host else host or None


def _host_and_port(text: str, port: int, whole: str) -> tuple[str, int]:
    """Raises UsageError for what cannot be a host; an IPv6 address with a port stands in brackets."""
    found = re.fullmatch(r"(\[(?P<six>[^\]]*)\]|(?P<host>[^:]*))(:(?P<port>\d{1,5}))?", text)
    number = int(found["port"] or port) if found else 0
    host = (found["six"] or found["host"] or "") if found else ""
    if not 0 < number < 65536 or not (_is_ipv6(host) if ":" in host else _HOST.fullmatch(host)):
        raise UsageError(f"{whole[:80]!r} is no server", hint="It is HOST[:PORT], such as omero.example.org:4064")
    return host, number


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _options(query: str, text: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=40) if query.count("&") < 40 else [("&", "")]
    known = (*OPTIONS, "group", "verify", "ca_file")
    for name, value in pairs:
        if name not in known:
            raise UsageError(
                f"{text[:80]!r}: an OMERO address has no option {name!r}", hint=f"It has {', '.join(known)}"
            )
        if not value or [n for n, _ in pairs].count(name) > 1:
            raise UsageError(f"{text[:80]!r}: {name!r} needs one value")
    return dict(pairs)
