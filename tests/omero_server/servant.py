"""What all servants share, and the register of services by the names clients ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .wire import dispatched

if TYPE_CHECKING:
    from .ice_server import IceServer
    from .sessions import Session
    from .world import World

SERVICES: dict[str, type[Servant]] = {}
"""Servant classes by the factory's operation (`getQueryService`) and by interface (`omero.api.IQuery`)."""


class Servant:
    """Base of everything with an identity. An operation `x` is implemented by `do_x(caller, ...)`."""

    stateful = False
    interface = ""
    proxy: Any = None

    def __init__(self, server: IceServer, session: Session | None) -> None:
        self.server = server
        self.session = session
        self.name = ""
        self.closing = False

    @property
    def world(self) -> World:
        """What the server remembers."""
        return self.server.world if self.session is None else self.session.world

    def release(self, *, unsaved: bool) -> None:
        """Give back files and buffers when the session ends; `unsaved` says whether writes under way survive."""


def service(interface: type, proxy: Any, getter: str) -> Callable[[type], type]:
    """Class decorator: a service of a session."""

    def registered(cls: Any) -> Any:
        cls.interface = interface.__name__
        cls.proxy = proxy
        cls.stateful = getter.startswith("create")
        dispatched(cls)
        SERVICES[getter] = SERVICES[f"omero.api.{interface.__name__}"] = cls
        return cls

    return registered
