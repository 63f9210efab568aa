"""Sessions: logging in, joining, leaving, expiring; and the services that hang on them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import Ice
from omero.rtypes import rlong, rstring

from .caller import now
from .store import Row

if TYPE_CHECKING:
    from .world import World


class Session:
    """One login. `services` are its living servants by identity name, `ties` the connections that use it."""

    def __init__(self, world: World, user: Row, group: Row, agent: str = "", idle_ms: int = 600_000) -> None:
        self.world = world
        self.uuid = str(uuid.uuid4())
        self.user = user
        self.group = group
        self.references = 1
        self.detached = False
        self.ended = ""
        self.orphaned = False
        self.services: dict[str, Any] = {}
        self.ties: set[str] = set()
        self.made = 0
        with world.store.all_or_nothing():
            self.row = world.store.insert(
                "Session", uuid=self.uuid, owner=user, started=now(), timeToIdle=rlong(idle_ms), timeToLive=rlong(0),
                userAgent=agent, node=None, defaultEventType="User", closed=None, message=None, userIP=rstring("127.0.0.1"),
            )  # fmt: skip
            world.store.set_place(self.row, owner=user, group=group)

    def identity(self, name: str = "") -> Ice.Identity:
        """The Ice identity of the session, or of a service in it."""
        return Ice.Identity(name, self.uuid) if name else Ice.Identity(self.uuid, "session")

    def service_name(self, kind: str, stateful: bool) -> str:
        """One name per stateless service, a new one for every stateful one."""
        if not stateful:
            return kind
        self.made += 1
        return f"{kind}-{self.made}"

    def stateful(self) -> list[str]:
        """Services that a client has to close, and did not even try to."""
        return sorted(name for name, servant in self.services.items() if servant.stateful and not servant.closing)


class Sessions:
    """All sessions of a world, living and expired, and what clients forgot to close."""

    def __init__(self) -> None:
        self.living: dict[str, Session] = {}
        self.expired: dict[str, Session] = {}
        self.forgotten: list[str] = []

    def add(self, session: Session) -> Session:
        self.living[session.uuid] = session
        return session

    def leave(self, session: Session, key: str, *, properly: bool) -> bool:
        """A connection stops using a session; True when that ends it."""
        session.ties.discard(key)
        session.references -= 1
        if not properly and not session.ties:
            session.orphaned = True
        return session.references <= 0 and not session.detached

    def end(self, session: Session, why: str) -> list[Any]:
        """Take a session out; its servants are handed back to be released. `why` is closed, expired or gone."""
        self.living.pop(session.uuid, None)
        if session.ended:
            return []
        session.ended = why
        session.row.fields["closed"] = now()
        if why == "closed" and not session.orphaned:
            self.forgotten += [f"{name} of {session.user.value('omeName')}" for name in session.stateful()]
        if why == "expired":
            self.expired[session.uuid] = session
        servants = list(session.services.values())
        session.services.clear()
        return servants

    def leaks(self, orphans: bool) -> list[str]:
        """Stateful services that nobody closed; those of sessions whose connection was cut only when asked."""
        held = [
            f"{name} of {session.user.value('omeName')}"
            for session in self.living.values()
            for name in session.stateful()
            if orphans or not session.orphaned
        ]
        return self.forgotten + held
