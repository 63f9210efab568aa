"""The Ice side: endpoints, connections, dispatch of every call with its faults, expiry and restarts."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import Ice
import omero
import omero.columns
import omero.ObjectFactoryRegistrar
import omero.rtypes

from .caller import Caller
from .faults import Fault
from .hql_parse import HqlError
from .seed import seeded
from .servant import Servant
from .sessions import Session
from .wire import Facts, declares_server_error
from .world import World

log = logging.getLogger("omero_server")
LOST = ("ObjectNotExistException", "SessionTimeoutException", "RemovedSessionException")
MESSAGE_LIMIT_KB = 250_000


@dataclass(frozen=True)
class Ports:
    """Where the server listens; 0 leaves an endpoint out. The certificate makes ssl and wss possible."""

    ssl: int = 0
    tcp: int = 0
    ws: int = 0
    wss: int = 0
    certificate: Path | None = None
    password: str = ""

    def endpoints(self) -> str:
        """Ice's text for them."""
        listening = [("ssl", self.ssl), ("tcp", self.tcp), ("wss", self.wss), ("ws", self.ws)]
        paths = {"ws": " -r /omero-ws", "wss": " -r /omero-wss"}
        return ":".join(f"{kind} -h 127.0.0.1 -p {port}{paths.get(kind, '')}" for kind, port in listening if port)


class Dropped(Exception):
    """The connection of the running call was cut; nobody hears the answer."""


class IceServer:
    """One communicator with one object adapter; `world` is replaced by a reset."""

    def __init__(self, ports: Ports, folder: Path) -> None:
        self.ports = ports
        self.folder = folder
        self.lock = threading.RLock()
        self._restarting = threading.Lock()
        self.connections: dict[str, Any] = {}
        self.ties: dict[str, Session] = {}
        self.world = seeded(World(folder / "binary"))
        self.communicator = _communicator(ports)
        self.adapter: Any = None
        self._router: Servant | None = None

    def listen(self, router: Servant) -> None:
        """Open the endpoints."""
        self._router = router
        self.adapter = self.communicator.createObjectAdapterWithEndpoints("OMERO", self.ports.endpoints())
        self.adapter.add(router, Ice.Identity("router", "OMERO.Glacier2"))
        self.adapter.activate()

    # -- servants ---------------------------------------------------------------------------------------------------

    def add(self, session: Session, servant: Servant, name: str) -> Any:
        """Put a servant into a session; its proxy."""
        servant.name = name
        session.services[name] = servant
        return servant.proxy.uncheckedCast(self.adapter.add(servant, session.identity(name)))

    def provide(self, session: Session, cls: type[Servant]) -> Any:
        """The proxy of a service: the session's own when stateless, a new one when stateful."""
        with self.lock:
            name = session.service_name(cls.interface, cls.stateful)
            if name in session.services:
                return cls.proxy.uncheckedCast(self.adapter.createProxy(session.identity(name)))
            return self.add(session, cls(self, session), name)

    def remove(self, servant: Servant) -> None:
        """A client closed it."""
        session = servant.session
        if session is not None and session.services.pop(servant.name, None) is not None:
            self._unregister(session.identity(servant.name))

    def _unregister(self, identity: Ice.Identity) -> None:
        try:
            self.adapter.remove(identity)
        except (Ice.NotRegisteredException, Ice.ObjectAdapterDeactivatedException):
            log.debug("%s was gone", identity.name)

    def open_session(self, session: Session, factory: Servant) -> Any:
        """Register a session's service factory; its proxy."""
        self.world.sessions.add(session)
        return self.adapter.add(factory, session.identity())

    def end_session(self, session: Session, why: str = "closed") -> None:
        """Close or expire a session: its servants let go of what they hold. Expired ones go on answering: with errors."""
        with self.lock:
            names = list(session.services)
            servants = session.world.sessions.end(session, why)
            if why != "expired":
                for name in names:
                    self._unregister(session.identity(name))
                self._unregister(session.identity())
        for servant in servants:
            servant.release(unsaved=why != "gone" or self.world.settings.chance.random() < 0.5)

    # -- connections --------------------------------------------------------------------------------------------------

    def tie(self, connection: Any, session: Session) -> None:
        """From now on this connection speaks for the session, as in Glacier2."""
        key = connection.toString()
        with self.lock:
            self.ties[key] = session
            session.ties.add(key)
            session.orphaned = False

    def untie(self, key: str, *, properly: bool) -> bool:
        """The connection no longer speaks for its session; False when it did not."""
        with self.lock:
            session = self.ties.pop(key, None)
            if session is None:
                return False
            over = session.world.sessions.leave(session, key, properly=properly)
        if over and not session.ended:
            self.end_session(session)
        return True

    def seen(self, connection: Any) -> str:
        """Remember a connection until it closes."""
        key: str = connection.toString()
        if key not in self.connections:
            self.connections[key] = connection
            connection.setCallback(_Watcher(self, key))
        return key

    def cut(self, connection: Any) -> None:
        """Close a connection under the feet of its client, who cannot close anything any more."""
        with self.lock:
            session = self.ties.get(connection.toString())
            if session is not None and len(session.ties) == 1:
                session.orphaned = True
        connection.close(True)

    # -- calls --------------------------------------------------------------------------------------------------------

    def dispatch(self, servant: Servant, facts: Facts, arguments: tuple, current: Any) -> Any:
        """One call: latency, session, faults, then the servant's method."""
        operation = f"{servant.interface}.{facts.name}"
        world = servant.world
        world.count(operation)
        key = self.seen(current.con)
        if world.settings.latency_ms:
            time.sleep(world.settings.latency_ms / 1000)
        servant.closing = servant.closing or facts.name == "close"
        try:
            caller = self._caller(servant, facts, key, current)
            fault = world.faults.next(operation) if servant.session is not None else None
            if fault is not None:
                self._before(fault, servant, facts, current)
            method = getattr(servant, "do_" + facts.name, None)
            if method is None:
                with world.counting:
                    world.unknown[operation] += 1
                raise omero.InternalException(message=f"test server: {operation} is not implemented")
            result = method(caller, *arguments)
            if fault is not None and fault.do == "kill-connection-after":
                self.cut(current.con)
                raise Dropped
            return result
        except (Ice.Exception, Ice.UserException, Dropped):
            raise
        except HqlError as error:
            raise omero.ApiUsageException(message=str(error)) from error
        except Exception as error:
            world.errors.append(f"{operation}: {traceback.format_exc()}")
            raise omero.InternalException(
                traceback.format_exc(), type(error).__name__, f"test server bug: {error!r}"
            ) from error

    def _caller(self, servant: Servant, facts: Facts, key: str, current: Any) -> Any:
        session = servant.session
        if session is None:
            return current
        if session.ended:
            raise self.lost(facts)
        if self.ties.get(key) is not session:
            raise Ice.ObjectNotExistException  # Glacier2 knows no session of this connection
        caller = Caller(session.world, session, current.ctx)
        caller.current = current
        return caller

    def _before(self, fault: Fault, servant: Servant, facts: Facts, current: Any) -> None:
        if fault.do == "delay":
            time.sleep(fault.seconds)
        elif fault.do == "error":
            if not declares_server_error(facts):
                raise Ice.UnknownException(f"test fault at {facts.name}")
            raise getattr(omero, fault.error)(message=f"test fault at {facts.name}")
        elif fault.do == "expire":
            assert servant.session is not None
            self.end_session(servant.session, "expired")
            raise self.lost(facts)
        elif fault.do == "drop":
            self.cut(current.con)
            raise Dropped
        elif fault.do == "restart":
            threading.Thread(target=self.restart, args=(fault.seconds or 0.3,), daemon=True).start()
            time.sleep(0.05)
            raise Dropped

    def lost(self, facts: Facts) -> Exception:
        """What a call on an expired session raises; `settings.lost` picks the class."""
        wanted = self.world.settings.lost
        if wanted == "mixed":
            wanted = LOST[(self.world.settings.seed + sum(map(ord, facts.name))) % len(LOST)]
        if wanted == LOST[0] or not declares_server_error(facts):
            return Ice.ObjectNotExistException()
        error: Exception = getattr(omero, wanted)(message="session is gone")
        return error

    # -- what tests do to it ------------------------------------------------------------------------------------------

    def expire_all(self) -> None:
        """Every session runs into its idle time."""
        for session in list(self.world.sessions.living.values()):
            self.end_session(session, "expired")

    def reset(self) -> None:
        """A freshly seeded world."""
        before = self.world
        for session in [*before.sessions.living.values(), *before.sessions.expired.values()]:
            self.end_session(session, "gone")
        for session in before.sessions.expired.values():
            self._unregister(session.identity())
        with self.lock:
            self.ties.clear()
            self.world = seeded(World(self.folder / "binary"))

    def restart(self, down_s: float) -> None:
        """The process is gone for a while: no endpoints, no sessions; rows and pixels stay."""
        with self._restarting:
            self._restart(down_s)

    def _restart(self, down_s: float) -> None:
        with self.lock:
            connections = list(self.connections.values())
        for connection in connections:
            self.cut(connection)
        self.adapter.destroy()
        for session in list(self.world.sessions.living.values()):
            session.orphaned = True
            self.end_session(session, "gone")
        self.world.sessions.expired.clear()
        with self.lock:
            self.ties.clear()
            self.connections.clear()
        time.sleep(down_s)
        assert self._router is not None
        self.listen(self._router)

    def stop(self) -> None:
        """Close everything."""
        self.communicator.destroy()


class _Watcher(Ice.ConnectionCallback):
    """Told by Ice when a connection closes: then Glacier2 forgets whose it was."""

    def __init__(self, server: IceServer, key: str) -> None:
        self.server = server
        self.key = key

    def heartbeat(self, connection: Any) -> None:
        """Nothing to do."""

    def closed(self, connection: Any) -> None:
        self.server.connections.pop(self.key, None)
        self.server.untie(self.key, properly=False)


def _communicator(ports: Ports) -> Any:
    properties = Ice.createProperties()
    settings = {
        "Ice.ImplicitContext": "None", "Ice.MessageSizeMax": str(MESSAGE_LIMIT_KB), "Ice.ThreadPool.Server.Size": "16",
        "Ice.ThreadPool.Server.SizeMax": "64", "Ice.ThreadPool.Server.SizeWarn": "0", "Ice.ACM.Server.Timeout": "60",
        "Ice.ACM.Server.Close": "4", "Ice.Warn.Dispatch": "0", "Ice.Warn.Connections": "0",
    }  # fmt: skip
    if ports.certificate is not None:
        settings |= {
            "Ice.Plugin.IceSSL": "IceSSL:createIceSSL", "IceSSL.CertFile": str(ports.certificate), "IceSSL.Password": ports.password,
            "IceSSL.VerifyPeer": "0",
        }  # fmt: skip
    for key, value in settings.items():
        properties.setProperty(key, value)
    data = Ice.InitializationData()
    data.properties = properties
    communicator = Ice.initialize(data)
    omero.ObjectFactoryRegistrar.registerObjectFactory(communicator, None)
    for factories in (omero.rtypes.ObjectFactories, omero.columns.ObjectFactories):
        for factory in factories.values():
            factory.register(communicator)
    return communicator
