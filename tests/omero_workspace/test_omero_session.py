"""Sessions against the test server: who may log in, what a lost session does, and that nothing stays open."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxbridge.errors import MxbridgeError, OutputError, SourceError, UnknownName
from mxbridge.workspaces.omero.sessions import login
from mxbridge.workspaces.omero.sessions.address import Server
from mxbridge.workspaces.omero.sessions.faults import SessionLost
from mxbridge.workspaces.omero.sessions.login import COMMAND_STORE, Credentials
from mxbridge.workspaces.omero.sessions.session import Session, Sessions
from tests.omero_server.running import RunningServer

pytestmark = pytest.mark.omero
ALICE = Credentials("alice", "secret", source="OMERO_PASSWORD")


def opened(server: Server, who: Credentials = ALICE, **more: object) -> Sessions:
    settings = {"linger": 0.3, "wait": 0.02, **more}
    return Sessions(server, credentials=lambda: who, **settings)  # type: ignore[arg-type]


@pytest.fixture
def sessions(server: RunningServer) -> Iterator[Sessions]:
    found = opened(Server(server.host, server.port))
    yield found
    found.close()


def count(session: Session) -> int:
    return int(session.rows("select count(i.id) from Image i")[0][0])


def test_a_session_is_shared_and_closed_when_idle(server: RunningServer, sessions: Sessions) -> None:
    with sessions.use() as outer:
        with sessions.use() as inner:
            assert inner is outer
        assert outer.user_name == "alice" and outer.group_id is None and len(outer.database) > 8
        assert outer.conn.isSecure() and "secret" not in repr(vars(outer)) and "secret" not in repr(outer)
        kind = outer.conn.c.getRouter(outer.conn.c.getCommunicator()).ice_getConnection().type()
        assert kind == "ssl"
    with sessions.use() as again:
        assert again is outer, "it lingers"
    assert server.sessions() == 1
    end = time.monotonic() + 20
    while server.sessions() and time.monotonic() < end:
        time.sleep(0.05)
    assert server.sessions() == 0
    with sessions.use() as new:
        assert new is not outer and count(new) >= 0
    sessions.rest()
    assert server.sessions() == 0


def test_rest_waits_for_nobody_and_takes_nothing_away(server: RunningServer, sessions: Sessions) -> None:
    with sessions.use() as session:
        sessions.rest()
        assert count(session) >= 0


def test_values_go_there_and_come_back(server: RunningServer, sessions: Sessions) -> None:
    ids = [server.add_image(f"field {k}", np.zeros((1, 4, 4), np.uint8)) for k in range(3)]
    with sessions.use() as session:
        assert session.rows("select i.id, i.name from Image i where i.id in (:ids) order by i.id", ids=ids[:2]) == [
            (ids[0], "field 0"),
            (ids[1], "field 1"),
        ]
        assert session.rows("select i.id from Image i where i.name = :name", name="field 2") == [(ids[2],)]
        assert len(session.rows("select i.id from Image i order by i.id", limit=2)) == 2
        assert session.save([], session.user_id) == [] and session.rows("select i.id from Image i where i.id = 0") == []


def test_save_and_delete(server: RunningServer, sessions: Sessions) -> None:
    import omero.model
    from omero.rtypes import rstring

    def tag(text: str) -> omero.model.TagAnnotationI:
        made = omero.model.TagAnnotationI()
        made.setTextValue(rstring(text))
        return made

    with sessions.use() as session:
        lab = session.rows("select g.id from ExperimenterGroup g where g.name = 'lab'")[0][0]
        ids = session.save([tag("a"), tag("b")], lab)
        session.save_all([tag("c")], lab)
        found = session.rows("select t.textValue from TagAnnotation t order by t.textValue", group=lab)
        assert [text for (text,) in found][-3:] == ["a", "b", "c"]
        session.delete("TagAnnotation", ids, lab)
        session.delete("TagAnnotation", [], lab)
        assert session.rows("select t.id from TagAnnotation t where t.id in (:ids)", ids=ids) == []


def test_stores_are_closed_whatever_happens(server: RunningServer, sessions: Sessions) -> None:
    image = server.add_image("field", np.arange(64, dtype=np.uint16).reshape(1, 8, 8))
    with sessions.use() as session:
        pixels = session.rows("select p.id from Pixels p where p.image.id = :id", id=image)[0][0]
        with session.raw_pixels(pixels) as store:
            tile = np.frombuffer(store.getTile(0, 0, 0, 2, 1, 3, 2), ">u2").reshape(2, 3)
        assert tile.tolist() == [[10, 11, 12], [18, 19, 20]]
        with pytest.raises(ZeroDivisionError), session.raw_pixels(pixels):
            raise ZeroDivisionError
        assert server.leaks() == []


@pytest.mark.parametrize("scheme", ["tcp", "ws", "wss"])
def test_other_ways_to_connect(server: RunningServer, scheme: str) -> None:
    port = {"tcp": server.tcp_port, "ws": server.ws_port, "wss": server.wss_port}[scheme]
    told: list[str] = []
    found = opened(Server.parse(f"{scheme}://{server.host}:{port}"), tell=told.append)
    with found.use() as session:
        assert session.conn.c.getRouter(session.conn.c.getCommunicator()).ice_getConnection().type() == scheme
        assert count(session) >= 0
    found.close()
    assert (len(told) == 1 and "not encrypted" in told[0]) == (scheme in ("tcp", "ws"))


def test_certificates(server: RunningServer, tmp_path: Path) -> None:
    there = Server(server.host, server.port, verify=True)
    with pytest.raises(SourceError, match=r"cannot be verified.*--ca-file") as caught, opened(there).use():
        pass
    assert caught.value.exit_code == 4
    with pytest.raises(SourceError, match=r"no file"), opened(replace(there, ca_file=tmp_path / "none.pem")).use():
        pass
    signed = opened(replace(there, ca_file=server.ca_file))
    with signed.use() as session:
        assert count(session) >= 0
    signed.close()


@pytest.mark.parametrize(
    "user, password, group, why",
    [
        ("alice", "wrong", None, "does not accept the password of alice"),
        ("nobody", "secret", None, "does not accept the password of nobody"),
        ("alice", "secret", "nowhere", "has no group 'nowhere'"),
        ("bob", "secret", "private", "(not in the|has no) group 'private'"),
    ],
)
def test_who_may_not_log_in(server: RunningServer, user: str, password: str, group: str | None, why: str) -> None:
    attempts: list[int] = []

    def who() -> Credentials:
        attempts.append(1)
        return Credentials(user, password, source="OMERO_PASSWORD")

    found = Sessions(Server(server.host, server.port, group=group), credentials=who, wait=0.01)
    with pytest.raises(SourceError, match=why) as caught:
        found.attempt("listing", count)
    assert caught.value.exit_code == 4 and len(attempts) == 1, "a wrong password is not tried twice"
    assert "wrong" not in str(caught.value) and server.sessions() == 0


def test_a_group_narrows_what_is_seen(server: RunningServer) -> None:
    server.add_image("mine", np.zeros((1, 4, 4), np.uint8), group="private", dataset=None)
    server.add_image("ours", np.zeros((1, 4, 4), np.uint8), group="lab", dataset=None)
    names = "select i.name from Image i where i.name in ('mine', 'ours') order by i.name"
    for group, seen in ((None, ["mine", "ours"]), ("private", ["mine"])):
        found = opened(Server(server.host, server.port, group=group))
        with found.use() as session:
            assert [name for (name,) in session.rows(names)] == seen
        found.close()


def test_an_unknown_key_says_so(server: RunningServer) -> None:
    key = Credentials(None, key="0" * 8, source="OMERO_SESSION_KEY", ours=False)
    with pytest.raises(SourceError, match=r"session key from OMERO_SESSION_KEY is not valid"):
        opened(Server(server.host, server.port), key).attempt("listing", count)


def test_a_joined_session_stays_open_for_its_owner(server: RunningServer, sessions: Sessions) -> None:
    with sessions.use() as session:
        joined = opened(Server(server.host, server.port), Credentials(None, key=session.key, source="x", ours=False))
        with joined.use() as same:
            assert (same.key, same.user_name) == (session.key, "alice")
        joined.close()
        assert count(session) >= 0 and server.sessions() == 1


def test_a_stale_key_of_the_command_is_passed_over(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Credentials("alice", key="stale", source=COMMAND_STORE, ours=False), ALICE]
    monkeypatch.setattr(login, "all_credentials", lambda server: iter(found))
    sessions = Sessions(Server(server.host, server.port))
    assert sessions.attempt("counting", count) >= 0
    sessions.rest()
    found.clear()
    assert sessions.attempt("counting", count) >= 0, "who logged in is known until close()"
    sessions.close()
    with pytest.raises(SourceError, match=r"nothing says who logs in|no password"):
        sessions.attempt("counting", count)
    found.append(Credentials("alice", key="stale", source=COMMAND_STORE, ours=False))
    with pytest.raises(SourceError, match=r"session key from the omero command's store is not valid"):
        sessions.attempt("counting", count)


@pytest.mark.parametrize("fault", ["drop", "expire", "kill-connection-after"])
def test_work_begins_anew_on_another_session(server: RunningServer, fault: str) -> None:
    told: list[str] = []
    sessions = opened(Server(server.host, server.port), tell=told.append)
    begun: list[str] = []

    def work(session: Session) -> int:
        begun.append(session.key)
        with sessions.use() as same:
            assert same is session
            return count(same)

    server.fault("IQuery.projection", nth=1, do=fault)
    assert sessions.attempt("counting", work) >= 0
    assert len(begun) == 2 and begun[0] != begun[1]
    assert len(told) == 1 and "counting: " in told[0] and "attempt 2 of 6" in told[0]
    assert server.sessions() == 1, "what the broken connection left was ended"
    sessions.close()


def test_a_restarted_server_is_waited_for(server: RunningServer, sessions: Sessions) -> None:
    assert sessions.attempt("counting", count) >= 0
    with sessions.use() as old:
        server.restart(0.3)
        with pytest.raises(SessionLost), sessions.use() as same:
            assert same is old
            count(same)
        assert sessions.attempt("counting", count) >= 0, "within the block of a session that is lost"
    with sessions.use() as new:
        assert new is not old


def test_attempts_end(server: RunningServer) -> None:
    told: list[str] = []
    sessions = opened(Server(server.host, server.port), attempts=3, tell=told.append)
    assert sessions.attempt("counting", count) >= 0
    server.fault("IQuery.projection", do="expire", times=100)
    outer: list[int] = []

    def work(session: Session) -> int:
        outer.append(1)
        return sessions.attempt("counting", count)

    with pytest.raises(SourceError, match=r"counting: .*went away.*3 attempts did not help") as caught:
        sessions.attempt("scoring", work)
    assert not isinstance(caught.value, SessionLost) and len(told) == 2 and len(outer) == 1
    server.clear_faults()
    assert sessions.attempt("counting", count) >= 0
    sessions.close()


def test_errors_of_the_work_are_not_repeated(server: RunningServer, sessions: Sessions) -> None:
    begun: list[int] = []

    def work(session: Session) -> None:
        begun.append(1)
        if len(begun) > 1:
            raise OutputError("of ours")
        session.rows("select nonsense from")

    with pytest.raises(MxbridgeError, match=r"asking: the OMERO server answers"):
        sessions.attempt("asking", work)
    with pytest.raises(OutputError, match=r"of ours"):
        sessions.attempt("asking", work)
    assert len(begun) == 2
    server.errors()


def test_threads_share_one_session_and_one_loss(server: RunningServer, sessions: Sessions) -> None:
    sessions.attempt("counting", count)
    server.fault("IQuery.projection", nth=3, do="expire")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: sessions.attempt(f"counting {k}", count), range(16)))
    assert len(set(found)) == 1
    assert server.calls()["Router.createSession"] == 2 and server.sessions() == 1


def test_a_killed_program_leaves_no_session(server: RunningServer) -> None:
    program = f"""
import os
from mxbridge.workspaces.omero.sessions.address import Server
from mxbridge.workspaces.omero.sessions.login import Credentials
from mxbridge.workspaces.omero.sessions.session import Sessions
sessions = Sessions(Server({server.host!r}, {server.port}), credentials=lambda: Credentials("alice", os.environ["P"]))
session = sessions._take()
store = session.conn.c.sf.createRawPixelsStore()
print("ready", flush=True)
input()
"""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"P": "secret"},
    )
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == b"ready\n" and server.sessions() == 1
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    end = time.monotonic() + 20
    while server.sessions() and time.monotonic() < end:
        time.sleep(0.05)
    assert server.sessions() == 0


def test_in_the_name_of_another_user(server: RunningServer) -> None:
    there = Server(server.host, server.port)
    sudo = opened(there, Credentials("sudo", "secret"))
    alice = sudo.as_owner("alice")
    with alice.use() as session:
        assert session.user_name == "alice" and count(session) >= 0
    server.expire_sessions()
    assert alice.attempt("counting", count) >= 0, "a new session is made for the owner when theirs was lost"
    alice.close()
    with pytest.raises(UnknownName, match=r"no user 'nobody'"):
        sudo.as_owner("nobody")
    sudo.close()
    plain = opened(there, Credentials("bob", "secret"))
    with pytest.raises(OutputError, match=r"bob cannot act as alice.*privilege Sudo") as caught:
        plain.as_owner("alice")
    assert caught.value.exit_code == 7
    plain.close()


@pytest.mark.slow
def test_a_silent_host_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("Ice")
    pytest.importorskip("omero")
    monkeypatch.setattr("mxbridge.workspaces.omero.sessions.connection.CONNECT_MS", 200)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.process_time()
        with pytest.raises(SourceError, match=r"does not answer.*--server"):
            opened(Server("127.0.0.1", silent.getsockname()[1])).attempt("listing", count)
        assert time.process_time() - begun < 30


NO_CERTIFICATE = """
import sys, Ice
settings = Ice.InitializationData()
settings.properties = Ice.createProperties()
for name, value in (
    ("Ice.Plugin.IceSSL", "IceSSL:createIceSSL"), ("IceSSL.VerifyPeer", "0"), ("IceSSL.Ciphers", "ADH:@SECLEVEL=0"),
    ("IceSSL.Protocols", "TLS1_2"),
):
    settings.properties.setProperty(name, value)
communicator = Ice.initialize(settings)
adapter = communicator.createObjectAdapterWithEndpoints("anonymous", "ssl -h 127.0.0.1")
adapter.activate()
print(adapter.getEndpoints()[0].getInfo().port, flush=True)
sys.stdin.readline()
communicator.destroy()
"""


def test_a_server_without_certificate_gets_a_hint() -> None:
    pytest.importorskip("Ice")
    pytest.importorskip("omero")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NO_CERTIFICATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as anonymous:
        assert anonymous.stdout is not None and anonymous.stdin is not None
        port = int(anonymous.stdout.readline())
        with pytest.raises(SourceError, match=r"agree on no encryption.*omero certificates") as caught:
            opened(Server("127.0.0.1", port)).attempt("listing", count)
        assert caught.value.exit_code == 4
        anonymous.communicate(b"\n")


def test_nobody_listens_there() -> None:
    pytest.importorskip("Ice")
    pytest.importorskip("omero")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    told: list[str] = []
    with pytest.raises(SourceError, match=r"no OMERO server answers at 127.0.0.1"):
        opened(Server("127.0.0.1", port), tell=told.append).attempt("listing", count)
    with pytest.raises(SourceError, match=r"no host no-such-host.invalid"):
        opened(Server("no-such-host.invalid"), tell=told.append).attempt("listing", count)
    assert told == [], "what was never there is not waited for"


def test_what_speaks_another_language() -> None:
    pytest.importorskip("Ice")
    pytest.importorskip("omero")
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            for _ in range(4):
                try:
                    peer, _address = web.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(200)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(SourceError, match=r"does not speak as an OMERO server does"):
            opened(Server("127.0.0.1", web.getsockname()[1])).attempt("listing", count)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_leaves_its_parents_session_alone(server: RunningServer, sessions: Sessions) -> None:
    with sessions.use() as mine:
        child = os.fork()
        if child == 0:
            alone = sessions._current is None and sessions._timer is None
            sessions.close()
            os._exit(0 if alone else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert count(mine) == 0
        assert server.sessions() == 1
