"""OMERO.tables: the servant and the HDF5 storage are omero-py's own; here they get sessions, files and rights."""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any

import Ice
import omero
import omero.grid
import omero.hdfstorageV2
import omero.tables
from omero.rtypes import rlong, unwrap

from ..caller import Caller
from ..hydrate import whole
from ..servant import SERVICES, Servant
from ..store import Row
from ..wire import dispatched, operations
from .admin import AdminService, SessionService
from .queries import QueryService
from .raw_files import RawFiles

LIBRARY = threading.RLock()
"""HDF5 is used by one thread at a time."""
LOCAL = {
    "getAdminService": AdminService, "getSessionService": SessionService, "getQueryService": QueryService, "createRawFileStore": RawFiles,
}  # fmt: skip


class _LocalService:
    """A service as the tables' own code calls it: without the wire."""

    def __init__(self, servant: Servant, factory: _LocalFactory) -> None:
        self._servant = servant
        self._factory = factory

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._servant, "do_" + operation)

        def call(*arguments: Any) -> Any:
            context = arguments[-1] if arguments and isinstance(arguments[-1], dict) else {}
            caller = Caller(self._servant.world, self._factory.session, context or self._factory.context)
            return method(caller, *(one for one in arguments if not isinstance(one, dict)))

        return call


class _LocalFactory:
    """The session that a table belongs to."""

    def __init__(self, server: Any, caller: Caller) -> None:
        self.server = server
        self.session = caller.session
        self.context = {"omero.group": str(caller.group_id)}

    def ice_getIdentity(self) -> Ice.Identity:
        return self.session.identity()

    def __getattr__(self, getter: str) -> Any:
        cls = LOCAL[getter]
        return lambda *_: _LocalService(cls(self.server, self.session), self)


class _Context:
    """What omero-py's SimpleServant wants to know."""

    def __init__(self, factory: _LocalFactory) -> None:
        self.factory = factory
        self.communicator = factory.server.communicator
        self.stop_event = threading.Event()

    def getSession(self, recreate: bool = True) -> _LocalFactory:
        return self.factory


@dispatched
class Table(Servant, omero.grid.Table):
    """One open table."""

    interface = "Table"
    stateful = True
    proxy = omero.grid.TablePrx
    table: Any = None

    def do_close(self, caller: Caller) -> None:
        try:
            with LIBRARY:
                self.table.close()
        finally:
            self.server.remove(self)

    def release(self, *, unsaved: bool) -> None:
        with LIBRARY, contextlib.suppress(FileNotFoundError):  # its file was deleted while it was open
            self.table.cleanup()


def _forwarded(operation: str) -> Any:
    def call(self: Table, caller: Caller, *arguments: Any) -> Any:
        if operation in ("addData", "initialize", "update"):
            self.world.check_disk()
        with LIBRARY:
            return getattr(self.table, operation)(*arguments, caller.current)

    return call


for _operation in operations(omero.grid.Table):
    if hasattr(omero.tables.TableI, _operation) and not hasattr(Table, f"do_{_operation}"):
        setattr(Table, f"do_{_operation}", _forwarded(_operation))


@dispatched
class SharedResources(Servant, omero.grid.SharedResources):
    """Makes and opens tables."""

    interface = "SharedResources"
    proxy = omero.grid.SharedResourcesPrx

    def do_areTablesEnabled(self, caller: Caller) -> bool:
        return self.world.settings.tables

    def do_repositories(self, caller: Caller) -> Any:
        found = omero.grid.RepositoryMap()
        assert self.world.repository is not None
        found.descriptions, found.proxies = [whole(caller, self.world.repository)], [None]
        return found

    def do_newTable(self, caller: Caller, repository_id: int, path: str) -> Any:
        if not self.world.settings.tables:
            return None
        self.world.check_disk()
        if len(path) > 255:
            raise omero.ValidationException(message="value too long for type character varying(255): OriginalFile.name")
        with caller.change() as change:
            file = change.insert("OriginalFile", name=path, path=path, mimetype="OMERO.tables", size=rlong(0))
        return self._opened(caller, file)

    def do_openTable(self, caller: Caller, given: Any) -> Any:
        if not self.world.settings.tables:
            return None
        return self._opened(caller, caller.see("OriginalFile", unwrap(given.id)))

    def _opened(self, caller: Caller, file: Row) -> Any:
        context = _Context(_LocalFactory(self.server, caller))
        servant = Table(self.server, caller.session)
        with LIBRARY:
            servant.table = omero.tables.TableI(
                context, whole(caller, file), str(self.world.file_path(file.id).with_suffix(".h5")), context.factory,
                omero.hdfstorageV2.HDFLIST, uuid=str(uuid.uuid4()), call_context={}, adapter=None,
            )  # fmt: skip
        return self.server.add(caller.session, servant, servant.table.uuid)


SERVICES["sharedResources"] = SharedResources
