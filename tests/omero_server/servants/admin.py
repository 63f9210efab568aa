"""IAdmin and ISession: who is who, and sessions on behalf of others."""

from __future__ import annotations

from typing import Any

import omero
import omero.api
import omero.model
import omero.sys

from ..caller import Caller
from ..hydrate import Hydration, whole
from ..kinds import kind_of
from ..servant import Servant, service
from ..sessions import Session
from ..store import Row

ROLES = {
    "rootId": 0, "rootName": "root", "systemGroupId": 0, "systemGroupName": "system", "userGroupId": 1, "userGroupName": "user",
    "guestId": 1, "guestName": "guest", "guestGroupId": 2, "guestGroupName": "guest",
}  # fmt: skip


def event_context(caller: Caller) -> Any:
    """What IAdmin.getEventContext says."""
    world, user = caller.world, caller.user
    group = caller.session.group if caller.group_id < 0 else world.store.need("ExperimenterGroup", caller.group_id)
    made = omero.sys.EventContext()
    made.shareId, made.sessionId, made.sessionUuid = -1, caller.session.row.id, caller.session.uuid
    made.userId, made.userName = user.id, user.value("omeName")
    made.groupId, made.groupName = group.id, group.value("name")
    made.isAdmin, made.adminPrivileges = caller.admin, privileges(caller)
    made.eventId, made.eventType = -1, "User"
    made.memberOfGroups = sorted(caller.groups)
    made.leaderOfGroups = sorted(led.id for leader, led in world.leaders if leader is user)
    made.groupPermissions = omero.model.PermissionsI(world.mode(group))
    return made


def privileges(caller: Caller) -> list[str]:
    """Names of what an administrator may do."""
    if not caller.admin:
        return []
    every = [row.value("value") for row in caller.world.store.rows("AdminPrivilege")]
    return list(caller.world.light.get(caller.user, every))


def _with_members(caller: Caller, row: Row, other: str) -> Any:
    hydration = Hydration(caller)
    hydration.load(row)
    for membership in row.members("groupExperimenterMap"):
        hydration.load(membership)
        hydration.load(membership.fields[other])
        hydration.gather(row, "groupExperimenterMap", membership)
    hydration.finish()
    return hydration.objects[row]


@service(omero.api.IAdmin, omero.api.IAdminPrx, "getAdminService")
class AdminService(Servant, omero.api.IAdmin):
    """Users and groups."""

    def do_getEventContext(self, caller: Caller) -> Any:
        return event_context(caller)

    def do_getSecurityRoles(self, caller: Caller) -> Any:
        roles = omero.sys.Roles()
        for name, value in ROLES.items():
            setattr(roles, name, value)
        return roles

    def _user(self, caller: Caller, user_id: int) -> Row:
        return self._need(caller, "Experimenter", user_id)

    def _need(self, caller: Caller, kind: str, row_id: int) -> Row:
        row = caller.world.store.get(kind, row_id)
        if row is None:
            raise omero.ApiUsageException(message=f"No such {kind}: {row_id}")
        return row

    def _named(self, found: Row | None, name: str) -> Row:
        if found is None:
            raise omero.ApiUsageException(message=f"No such name: {name}")
        return found

    def do_getExperimenter(self, caller: Caller, user_id: int) -> Any:
        return _with_members(caller, self._user(caller, user_id), "parent")

    def do_getGroup(self, caller: Caller, group_id: int) -> Any:
        return _with_members(caller, self._need(caller, "ExperimenterGroup", group_id), "child")

    def do_lookupExperimenter(self, caller: Caller, name: str) -> Any:
        return _with_members(caller, self._named(caller.world.user(name), name), "parent")

    def do_lookupGroup(self, caller: Caller, name: str) -> Any:
        return _with_members(caller, self._named(caller.world.group(name), name), "child")

    def do_lookupExperimenters(self, caller: Caller) -> list[Any]:
        return [_with_members(caller, row, "parent") for row in caller.world.store.rows("Experimenter")]

    def do_lookupGroups(self, caller: Caller) -> list[Any]:
        return [_with_members(caller, row, "child") for row in caller.world.store.rows("ExperimenterGroup")]

    def do_containedGroups(self, caller: Caller, user_id: int) -> list[Any]:
        groups = sorted(caller.world.groups_of(self._user(caller, user_id)))
        return [self.do_getGroup(caller, group_id) for group_id in groups]

    def do_containedExperimenters(self, caller: Caller, group_id: int) -> list[Any]:
        group = self._need(caller, "ExperimenterGroup", group_id)
        return [_with_members(caller, one.fields["child"], "parent") for one in group.members("groupExperimenterMap")]

    def do_getMemberOfGroupIds(self, caller: Caller, user: Any) -> list[int]:
        return sorted(caller.world.groups_of(self._user(caller, user.id.val)))

    def do_getLeaderOfGroupIds(self, caller: Caller, user: Any) -> list[int]:
        return sorted(led.id for leader, led in caller.world.leaders if leader.id == user.id.val)

    def do_getDefaultGroup(self, caller: Caller, user_id: int) -> Any:
        return whole(caller, caller.world.home_groups[self._user(caller, user_id)])

    def do_canUpdate(self, caller: Caller, given: Any) -> bool:
        row = caller.world.store.get(kind_of(given).name, given._id.val)
        return row is not None and caller.may_edit(row)

    def do_getCurrentAdminPrivileges(self, caller: Caller) -> list[Any]:
        return [whole(caller, caller.world.store.word("AdminPrivilege", name)) for name in privileges(caller)]

    def do_getAdminPrivileges(self, caller: Caller, user: Any) -> list[Any]:
        row = self._user(caller, user.id.val)
        names = caller.world.light.get(row, ()) if caller.world.is_admin(row) else ()
        return [whole(caller, caller.world.store.word("AdminPrivilege", name)) for name in names]


@service(omero.api.ISession, omero.api.ISessionPrx, "getSessionService")
class SessionService(Servant, omero.api.ISession):
    """Sessions of one's own, and with the Sudo privilege those of others."""

    def do_getSession(self, caller: Caller, key: str) -> Any:
        session = caller.world.sessions.living.get(key)
        if session is None:
            raise omero.RemovedSessionException(message=f"no session {key}")
        if session.user is not caller.user and not caller.admin:
            raise omero.SecurityViolation(message="that session is somebody else's")
        return whole(caller, session.row)

    def do_getReferenceCount(self, caller: Caller, key: str) -> int:
        session = caller.world.sessions.living.get(key)
        return session.references if session is not None else 0

    def do_closeSession(self, caller: Caller, given: Any) -> int:
        session = caller.world.sessions.living.get(given.uuid.val)
        if session is None:
            return -2
        if session.user is not caller.user and not caller.full_admin:
            raise omero.SecurityViolation(message="that session is somebody else's")
        session.references -= 1
        if session.references > 0:
            return session.references
        self.server.end_session(session)
        return -2

    def do_createSessionWithTimeout(self, caller: Caller, principal: Any, milliseconds: int) -> Any:
        return self._for_another(caller, principal, milliseconds)

    def do_createSessionWithTimeouts(self, caller: Caller, principal: Any, live_ms: int, idle_ms: int) -> Any:
        return self._for_another(caller, principal, idle_ms)

    def _for_another(self, caller: Caller, principal: Any, idle_ms: int) -> Any:
        world = caller.world
        if not caller.admin or "Sudo" not in privileges(caller):
            raise omero.SecurityViolation(message="light admin privilege Sudo is needed to create sessions for others")
        user = world.user(principal.name)
        if user is None:
            raise omero.ApiUsageException(message=f"No such user: {principal.name}")
        if world.is_admin(user) and not caller.full_admin:
            raise omero.SecurityViolation(message=f"may not become the administrator {principal.name}")
        group = world.group(principal.group) if principal.group else world.home_groups[user]
        if group is None or group.id not in world.groups_of(user):
            raise omero.ApiUsageException(message=f"{principal.name} is not a member of {principal.group}")
        return self._opened(caller, user, group, idle_ms)

    def do_createUserSession(self, caller: Caller, live_ms: int, idle_ms: int, group: str) -> Any:
        chosen = caller.world.group(group) if group else caller.session.group
        if chosen is None:
            raise omero.ApiUsageException(message=f"No such group: {group}")
        return self._opened(caller, caller.user, chosen, idle_ms)

    def _opened(self, caller: Caller, user: Row, group: Row, idle_ms: int) -> Any:
        from .factory import ServiceFactory

        session = Session(caller.world, user, group, idle_ms=idle_ms)
        session.references = 0
        session.detached = True
        self.server.open_session(session, ServiceFactory(self.server, session))
        return whole(caller, session.row)

    def do_getMyOpenSessions(self, caller: Caller) -> list[Any]:
        mine = [session for session in caller.world.sessions.living.values() if session.user is caller.user]
        return [whole(caller, session.row) for session in mine]
