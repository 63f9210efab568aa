"""One connection to an OMERO server with a session of its own, and the calls that everything else here is made of.

The client library is imported when a session is opened, not before.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mxbridge.errors import MxbridgeError, OutputError, SourceError, UnknownName
from mxbridge.workspaces.omero.sessions.address import Server
from mxbridge.workspaces.omero.sessions.faults import as_people_say, is_foreign, login_failed
from mxbridge.workspaces.omero.sessions.login import Credentials

CONNECT_MS = 2500
"""Milliseconds to connect; the client tries three times, so that a silent host is given up after about ten seconds."""

KEEP_ALIVE_S = 60
ALL_GROUPS = -1
SUDO_IDLE_MS = 600_000
DELETE_POLLS, DELETE_POLL_MS = 2400, 500
"""A deletion is waited for as long as twenty minutes."""


def require_client() -> None:
    """Raise SourceError with what to do where the client is not installed."""
    try:
        import tenacity  # noqa: F401

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client's own use of what it deprecates
            import omero.gateway  # noqa: F401
    except ImportError as error:
        raise SourceError(
            f"the OMERO client is not installed ({error})",
            hint="`mxbridge doctor --fix omero` builds what is missing for this Python and installs it",
        ) from error


class Session:
    """A session that is open. Its calls may come from several threads.

    conn: the gateway. group_id: of the group in the server's address, else None. users, lost: kept by ``Sessions``.
    """

    def __init__(self, conn: Any, server: Server, *, ours: bool) -> None:
        self.conn, self.server, self.ours = conn, server, ours
        self.users, self.lost = 0, False
        self._services: dict[str, Any] = {}
        self._lock = threading.Lock()
        about = conn.c.sf.getAdminService().getEventContext()
        self.key: str = about.sessionUuid
        self.user_id, self.user_name, self.is_admin = int(about.userId), str(about.userName), bool(about.isAdmin)
        self.database: str = conn.c.sf.getConfigService().getDatabaseUuid()
        self.group_id = None if server.group is None else self._group_called(server.group)

    def __repr__(self) -> str:
        return f"Session({self.user_name} at {self.server.name})"

    @property
    def query(self) -> Any:
        """IQuery; calls need a context, see :meth:`context`."""
        return self._service("getQueryService")

    @property
    def update(self) -> Any:
        """IUpdate; calls need the context of the group they write into."""
        return self._service("getUpdateService")

    def rows(
        self, hql: str, *, group: int | None = None, limit: int | None = None, **params: Any
    ) -> list[tuple[Any, ...]]:
        """What IQuery.projection yields, as Python values. params: numbers, texts, or sequences of them (``in (:ids)``)."""
        from omero.rtypes import unwrap

        found = self.query.projection(hql, _parameters(params, limit), self._reading(group))
        return [tuple(unwrap(value) for value in row) for row in found]

    def objects(self, hql: str, *, group: int | None = None, limit: int | None = None, **params: Any) -> list[Any]:
        """What IQuery.findAllByQuery yields; fetch-joined collections may yield an object several times."""
        return list(self.query.findAllByQuery(hql, _parameters(params, limit), self._reading(group)))

    def context(self, group_id: int) -> dict[str, str]:
        """The call context for work in one group (-1: all)."""
        found: dict[str, str] = self.conn.c.getContext(group_id)
        return found

    def save(self, objects: Sequence[Any], group_id: int) -> list[int]:
        """Save new objects of one class; their ids in the same order."""
        return list(self.update.saveAndReturnIds(list(objects), self.context(group_id))) if objects else []

    def save_return(self, obj: Any, group_id: int) -> Any:
        return self.update.saveAndReturnObject(obj, self.context(group_id))

    def save_all(self, objects: Sequence[Any], group_id: int) -> None:
        """Save objects of any classes in one transaction: all of them or none."""
        if objects:
            self.update.saveArray(list(objects), self.context(group_id))

    def delete(self, kind: str, ids: Sequence[int], group_id: int, *, keep: Sequence[str] = ()) -> None:
        """Delete objects and what belongs to them, and wait for it. keep: classes of children that stay, unlinked.

        Raises OutputError where the server refuses or takes too long.
        """
        if not ids:
            return
        import omero
        from omero.cmd import Delete2
        from omero.cmd.graphs import ChildOption

        options = [ChildOption(excludeType=list(keep))] if keep else None
        request = Delete2(targetObjects={kind: [int(i) for i in ids]}, childOptions=options, dryRun=False)
        what = f"deleting {kind} {', '.join(map(str, list(ids)[:5]))}{', ...' if len(ids) > 5 else ''}"
        try:
            done = self.conn.c.submit(request, loops=DELETE_POLLS, ms=DELETE_POLL_MS, ctx=self.context(group_id))
            done.close(True)
        except omero.CmdError as error:
            raise as_people_say(error, what) from error
        except omero.LockTimeout as error:
            raise OutputError(f"{what}: the OMERO server has not finished in time", hint="Try again later") from error

    @contextmanager
    def raw_pixels(self, pixels_id: int, *, group_id: int | None = None, write: bool = False) -> Iterator[Any]:
        """A RawPixelsStore on these pixels, for one thread, closed at the end. Its calls are made in that group (else all)."""
        with self._stateful("createRawPixelsStore", group_id) as store:
            store.setPixelsId(int(pixels_id), write)
            yield store

    @contextmanager
    def raw_file(self, file_id: int, *, group_id: int | None = None) -> Iterator[Any]:
        """A RawFileStore on an original file, likewise."""
        with self._stateful("createRawFileStore", group_id) as store:
            store.setFileId(int(file_id))
            yield store

    def sudo_key(self, user_name: str) -> str:
        """The key of a new session of another user. Raises OutputError (not allowed), UnknownName (nobody is called so)."""
        import omero

        named = self.rows("select e.id from Experimenter e where e.omeName = :name", name=user_name)
        if not named:
            raise UnknownName("user", user_name, (), where=f"the OMERO server {self.server.name}")
        principal = omero.sys.Principal()
        principal.name, principal.group, principal.eventType = user_name, self.server.group, "User"
        try:
            made = self._service("getSessionService").createSessionWithTimeouts(
                principal, 0, SUDO_IDLE_MS, self.context(ALL_GROUPS)
            )
        except omero.ServerError as error:
            told = as_people_say(error, f"{self.user_name} cannot act as {user_name}")
            raise OutputError(
                told.message, hint="An administrator gives the privilege Sudo; or leave --as-owner out"
            ) from error
        return str(made.getUuid().val)

    def end_session(self, key: str) -> None:
        """End another session of this user: whatever it left open at the server is closed."""
        from omero.model import SessionI
        from omero.rtypes import rstring

        ended = SessionI()
        ended.setUuid(rstring(key))
        self._service("getSessionService").closeSession(ended)

    def close(self) -> None:
        """Leave; a session of our own ends. What fails then has nobody left to care."""
        with suppress(Exception):
            self.conn.close(hard=self.ours and not self.lost)

    def _service(self, getter: str) -> Any:
        """A stateless service, asked for once."""
        with self._lock:
            if getter not in self._services:
                self._services[getter] = getattr(self.conn.c.sf, getter)()
            return self._services[getter]

    @contextmanager
    def _stateful(self, maker: str, group_id: int | None) -> Iterator[Any]:
        context = self.context(ALL_GROUPS if group_id is None else group_id)
        store = getattr(self.conn.c.sf, maker)(context).ice_context(context)
        try:
            yield store
        except BaseException:
            with suppress(Exception):  # what went wrong before says more
                store.close()
            raise
        store.close()

    def _reading(self, group: int | None) -> dict[str, str]:
        chosen = group if group is not None else self.group_id
        return self.context(ALL_GROUPS if chosen is None else chosen)

    def _group_called(self, name: str) -> int:
        """The group in the address. Raises SourceError where there is none of that name, or this user is not in it."""
        found = self.rows("select g.id from ExperimenterGroup g where g.name = :name", group=ALL_GROUPS, name=name)
        if not found:
            raise SourceError(f"{self.server.name} has no group {name!r}", hint="Look at the name in --group")
        about = self._service("getAdminService").getEventContext()
        if found[0][0] not in about.memberOfGroups and not self.is_admin:
            raise SourceError(
                f"{self.user_name} is not in the group {name!r} of {self.server.name}",
                hint="Ask the group's owner, or leave --group out",
            )
        return int(found[0][0])


def log_in(server: Server, credentials: Credentials) -> Session:
    """Open a session. Raises SourceError with what to do; nothing is attempted twice."""
    require_client()
    import omero
    from omero.gateway import BlitzGateway

    for name in ("omero", "mxbridge.omero"):  # the client reports to the log whatever it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client = None
    try:
        client = omero.client(pmap=_properties(server))
        client.setAgent("mxbridge")
        if credentials.key is not None:
            session = client.joinSession(credentials.key)
            if not credentials.ours:
                session.detachOnDestroy()  # it stays open for its owner
        else:
            client.createSession(credentials.user, credentials.password)
        client.enableKeepAlive(KEEP_ALIVE_S)
        # a gateway that opens the connection itself would join again without encryption
        return Session(BlitzGateway(client_obj=client, secure=True), server, ours=credentials.ours)
    except BaseException as error:
        if client is not None:
            with suppress(Exception):
                client.closeSession()
        if not is_foreign(error) or isinstance(error, MxbridgeError):
            raise
        raise login_failed(
            error,
            server.name,
            user=credentials.user,
            source=credentials.source,
            with_key=credentials.key is not None,
        ) from error


def _properties(server: Server) -> dict[str, str]:
    """What Ice and the client are told. Raises SourceError where the file of authorities is not there."""
    path = f' -r "{server.path}"' if server.path else ""
    found = {
        "omero.host": server.host,
        "omero.port": str(server.port),
        "Ice.Default.Router": f'OMERO.Glacier2/router:{server.scheme} -p {server.port} -h "{server.host}"{path}',
        "Ice.Override.ConnectTimeout": str(CONNECT_MS),
        "Ice.LogFile": os.devnull,  # what it would print to the terminal is raised as well
    }
    if not server.verify and server.ca_file is None:
        return found
    found |= {"IceSSL.VerifyPeer": "1", "IceSSL.CheckCertName": "1"}
    if server.ca_file is None:
        return found | {"IceSSL.UsePlatformCAs": "1"}
    if not server.ca_file.is_file():
        raise SourceError(f"no file {server.ca_file}", hint="--ca-file is a PEM file with certificates")
    return found | {"IceSSL.CAs": str(server.ca_file.resolve())}


def _parameters(params: dict[str, Any], limit: int | None) -> Any:
    from omero.sys import ParametersI

    found = ParametersI()
    for name, value in params.items():
        found.add(name, _wrapped(value))
    if limit is not None:
        found.page(0, limit)
    return found


def _wrapped(value: Any) -> Any:
    from omero.rtypes import rbool, rdouble, rlist, rlong, rstring

    if isinstance(value, bool):
        return rbool(value)
    if isinstance(value, str):
        return rstring(value)
    if isinstance(value, float):
        return rdouble(value)
    if isinstance(value, list | tuple | set | frozenset | range):
        return rlist([_wrapped(v) for v in value])
    return rlong(int(value))
