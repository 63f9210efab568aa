"""Glacier2's router and the service factory of a session."""

from __future__ import annotations

import uuid
from typing import Any

import Glacier2
import Ice
import omero
import omero.api
import omero.model

from ..caller import Caller
from ..servant import SERVICES, Servant
from ..sessions import Session
from ..wire import SessionNotExist, dispatched
from .requests import Handle, respond


@dispatched
class Router(Servant, Glacier2.Router):
    """The door: logs in, joins, leaves."""

    interface = "Router"

    def do_createSession(self, current: Any, user: str, password: str) -> Any:
        world = self.server.world
        session = world.sessions.living.get(user)
        if session is not None and password == user:
            session.references += 1
        else:
            session = self._new(current, user, password)
        self.server.tie(current.con, session)
        return Glacier2.SessionPrx.uncheckedCast(self.server.adapter.createProxy(session.identity()))

    def _new(self, current: Any, name: str, password: str) -> Session:
        world = self.server.world
        user = world.user(name)
        if user is None or world.passwords.get(name) != password:
            raise Glacier2.PermissionDeniedException("Password check failed")
        group = world.home_groups[user]
        wanted = current.ctx.get("omero.group", "")
        if wanted and wanted != "-1":
            named = world.group(wanted) or (
                world.store.get("ExperimenterGroup", int(wanted)) if wanted.isdigit() else None
            )
            if named is None or (named.id not in world.groups_of(user) and not world.is_admin(user)):
                raise omero.WrappedCreateSessionException(
                    f"User {name} is not a member of group {wanted}", False, 0, "ome.conditions.SecurityViolation"
                )
            group = named
        session = Session(world, user, group, current.ctx.get("omero.agent", ""))
        self.server.open_session(session, ServiceFactory(self.server, session))
        return session

    def do_createSessionFromSecureConnection(self, current: Any) -> Any:
        raise Glacier2.PermissionDeniedException("certificates are not accounts here")

    def do_destroySession(self, current: Any) -> None:
        if not self.server.untie(current.con.toString(), properly=True):
            raise SessionNotExist

    def do_refreshSession(self, current: Any) -> None:
        if current.con.toString() not in self.server.ties:
            raise SessionNotExist

    def do_getCategoryForClient(self, current: Any) -> str:
        return "callback-" + uuid.uuid4().hex

    def do_getServerProxy(self, current: Any) -> Any:
        return self.server.adapter.createProxy(Ice.Identity("server", "OMERO.Glacier2"))

    def do_getClientProxy(self, current: Any) -> Any:
        """None: routed calls use the router's own endpoints and connection."""

    def do_addProxies(self, current: Any, proxies: list[Any]) -> list[Any]:
        return []

    def do_getSessionTimeout(self, current: Any) -> int:
        return 600

    def do_getACMTimeout(self, current: Any) -> int:
        return 60


@dispatched
class ServiceFactory(Servant, omero.api.ServiceFactory):
    """One per session."""

    interface = "ServiceFactory"

    def do_setCallback(self, caller: Caller, callback: Any) -> None:
        """Nobody is called back."""

    def do_subscribe(self, caller: Caller, topic: str, proxy: Any) -> None:
        """Nothing is published."""

    def do_closeOnDestroy(self, caller: Caller) -> None:
        caller.session.detached = False

    def do_detachOnDestroy(self, caller: Caller) -> None:
        caller.session.detached = True

    def do_destroy(self, caller: Caller) -> None:
        self.server.end_session(caller.session)

    def do_keepAlive(self, caller: Caller, proxy: Any) -> bool:
        return True

    def do_keepAllAlive(self, caller: Caller, proxies: list[Any]) -> int:
        return 0

    def do_activeServices(self, caller: Caller) -> list[str]:
        return list(caller.session.services)

    def do_getByName(self, caller: Caller, name: str) -> Any:
        open_ = caller.session.services.get(name)
        if open_ is not None:
            proxy = self.server.adapter.createProxy(caller.session.identity(name))
        else:
            proxy = self.server.provide(caller.session, _by_name(name))
        return omero.api.ServiceInterfacePrx.uncheckedCast(proxy)

    def do_createByName(self, caller: Caller, name: str) -> Any:
        return omero.api.StatefulServiceInterfacePrx.uncheckedCast(self.server.provide(caller.session, _by_name(name)))

    def do_getSecurityContexts(self, caller: Caller) -> list[Any]:
        return [omero.model.ExperimenterGroupI(one, False) for one in sorted(caller.groups)]

    def do_setSecurityContext(self, caller: Caller, given: Any) -> Any:
        session = caller.session
        if session.stateful():
            raise omero.SecurityViolation(message=f"close first: {', '.join(session.stateful())}")
        group = caller.world.store.need("ExperimenterGroup", given.id.val)
        if group.id not in caller.groups and not caller.admin:
            raise omero.SecurityViolation(message=f"not a member of group {group.id}")
        before, session.group = session.group, group
        return omero.model.ExperimenterGroupI(before.id, False)

    def do_sharedResources(self, caller: Caller) -> Any:
        return self.server.provide(caller.session, SERVICES["sharedResources"])

    def do_submit(self, caller: Caller, request: Any) -> Any:
        handle = Handle(self.server, caller.session)
        across_groups = Caller(caller.world, caller.session, {"omero.group": "-1"})  # as graph requests work
        handle.request, handle.response = request, respond(across_groups, request)
        return self.server.add(caller.session, handle, str(uuid.uuid4()))


def _by_name(name: str) -> type[Servant]:
    if name not in SERVICES:
        raise omero.ApiUsageException(message=f"no service '{name}' in the test server")
    return SERVICES[name]


def _getter(name: str) -> Any:
    def provided(self: ServiceFactory, caller: Caller) -> Any:
        return self.server.provide(caller.session, SERVICES[name])

    return provided


def add_getters() -> None:
    """`getQueryService` and its like, for every service that is registered."""
    for name in SERVICES:
        if name.startswith(("get", "create")):
            setattr(ServiceFactory, f"do_{name}", _getter(name))
