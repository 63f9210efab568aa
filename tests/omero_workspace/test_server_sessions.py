"""The test server's sessions, connections and faults: what clients meet when something goes wrong."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.omero_server.running import RunningServer, ServerError
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero
PIXELS = np.arange(2 * 30 * 40, dtype=np.uint16).reshape(2, 30, 40)


def test_every_endpoint_speaks(server: RunningServer) -> None:
    import omero

    places = (
        f"ssl://127.0.0.1:{server.port}",
        f"tcp://127.0.0.1:{server.tcp_port}",
        f"ws://127.0.0.1:{server.ws_port}/omero-ws",
        f"wss://127.0.0.1:{server.wss_port}/omero-wss",
    )
    for place in places:
        made = omero.client(place)
        assert made.createSession("bob", "secret").getAdminService().getEventContext().userName == "bob"
        made.closeSession()
    assert server.sessions() == 0


def test_its_certificate_can_be_verified(server: RunningServer) -> None:
    import Ice
    import omero

    verified = {"IceSSL.VerifyPeer": "1", "IceSSL.CheckCertName": "1"}
    arguments = [f"--{key}={value}" for key, value in verified.items()]
    stranger = omero.client(args=[*arguments, "--omero.host=127.0.0.1", f"--omero.port={server.port}"])
    with pytest.raises(Ice.SecurityException):
        stranger.createSession("alice", "secret")
    stranger.__del__()
    known = omero.client(
        args=[*arguments, f"--IceSSL.CAs={server.ca_file}", "--omero.host=127.0.0.1", f"--omero.port={server.port}"]
    )
    assert known.createSession("alice", "secret") is not None
    known.closeSession()


@pytest.mark.parametrize(
    ("lost", "name"),
    [
        ("ObjectNotExistException", "ObjectNotExistException"),
        ("SessionTimeoutException", "SessionTimeoutException"),
        ("RemovedSessionException", "RemovedSessionException"),
    ],
)
def test_an_expired_session_says_so(server: RunningServer, lost: str, name: str) -> None:
    server.set(lost=lost)
    with client.logged_in(server.host, server.port) as conn:
        query = conn.getQueryService()
        server.expire_sessions()
        with pytest.raises(Exception) as caught:
            query.findAllByQuery("from Dataset", None)
        assert type(caught.value).__name__ == name
        assert not conn.keepAlive()


def test_an_expired_session_lets_go_of_everything(server: RunningServer) -> None:
    image = server.add_image("slide", PIXELS)
    with client.logged_in(server.host, server.port) as conn:
        store = conn.c.sf.createRawPixelsStore()
        store.setPixelsId(image, False)
        assert len(server.leaks()) == 1
        server.expire_sessions()
        assert server.leaks(orphans=True) == []


def test_a_forgotten_service_is_noticed(omero_server: RunningServer) -> None:
    omero_server.reset()
    with client.logged_in(omero_server.host, omero_server.port) as conn:
        conn.c.sf.createRawFileStore()
    assert omero_server.leaks() == ["RawFileStore-1 of alice"]
    omero_server.reset()
    assert omero_server.leaks() == []


def test_an_unknown_operation_is_loud(omero_server: RunningServer) -> None:
    import omero

    omero_server.reset()
    with client.logged_in(omero_server.host, omero_server.port) as conn:
        query = conn.getQueryService()
        with pytest.raises(omero.InternalException, match="not implemented"):
            query.refresh(client.dataset(), client.ALL_GROUPS)
    assert omero_server.unknown() == ["IQuery.refresh"]
    omero_server.reset()


@pytest.mark.parametrize(("do", "saved"), [("drop", 0), ("kill-connection-after", 1)])
def test_a_connection_is_cut_before_or_after_the_call_took_effect(server: RunningServer, do: str, saved: int) -> None:
    import Ice

    server.fault("IUpdate.saveAndReturnIds", do=do)
    with client.logged_in(server.host, server.port) as conn:
        conn.getUpdateService()
        with pytest.raises(Ice.ConnectionLostException):
            client.save(conn, client.dataset("one"))
        with pytest.raises(Ice.ObjectNotExistException):  # the new connection has no session
            conn.getQueryService().findAllByQuery("from Dataset", None)
    assert [one["name"] for one in server.state()["datasets"]] == ["one"] * saved
    assert server.struck() == [f"{do} at IUpdate.saveAndReturnIds"]


def test_the_third_call_fails_and_the_fourth_works(server: RunningServer) -> None:
    import omero

    server.fault("IUpdate.save*", nth=3, do="error", error="ResourceError")
    with client.logged_in(server.host, server.port) as conn:
        client.save(conn, client.dataset("1"))
        client.save(conn, client.dataset("2"))
        with pytest.raises(omero.ResourceError):
            client.save(conn, client.dataset("3"))
        client.save(conn, client.dataset("4"))
    assert [one["name"] for one in server.state()["datasets"]] == ["1", "2", "4"]


def test_a_session_whose_connection_was_cut_ends_unless_it_was_detached(server: RunningServer) -> None:
    import omero

    for detached in (False, True):
        made = omero.client("127.0.0.1", server.port)
        factory = made.createSession("alice", "secret")
        if detached:
            factory.detachOnDestroy()
        factory.ice_getConnection().close(True)
        deadline = time.monotonic() + 5
        while server.sessions() != int(detached) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.sessions() == int(detached)
        made.__del__()


def test_random_faults_follow_their_seed(server: RunningServer) -> None:
    def struck(seed: int) -> list[str]:
        server.clear_faults()
        with client.logged_in(server.host, server.port) as conn:
            server.faults_at_random(seed, 0.3, ["delay"])
            for _ in range(20):
                conn.getQueryService().findAllByQuery("from Dataset", None)
            found = server.struck()
            server.faults_at_random(seed, 0.0, ["delay"])
        return found

    assert struck(1) == struck(1) != struck(2)


def test_a_restart_forgets_sessions_and_keeps_contents(server: RunningServer) -> None:
    import Ice

    image = server.add_image("slide", PIXELS)
    before = server.state()
    with client.logged_in(server.host, server.port) as conn:
        query = conn.getQueryService()
        down = threading.Thread(target=server.restart, args=(0.3,))
        down.start()
        seen = set()
        deadline = time.monotonic() + 5
        while "ObjectNotExistException" not in seen and time.monotonic() < deadline:
            try:
                query.findAllByQuery("from Dataset", None)
            except Ice.Exception as error:
                seen.add(type(error).__name__)
            time.sleep(0.01)
        down.join()
    assert {"ConnectionRefusedException", "ObjectNotExistException"} <= seen
    assert server.sessions() == 0
    assert server.state() == before
    with client.logged_in(server.host, server.port) as conn:
        np.testing.assert_array_equal(client.read_plane(conn, image, np.dtype("u2"), (30, 40), 1), PIXELS[1])


def test_pixels_that_were_not_saved_may_be_lost_by_a_restart(server: RunningServer) -> None:
    image = server.add_image("slide", PIXELS)
    kept = set()
    for seed in range(6):
        server.set(seed=seed)
        with client.logged_in(server.host, server.port) as conn:
            store = conn.c.sf.createRawPixelsStore()
            store.setPixelsId(image, True)
            written = np.full((30, 40), 1000 + seed, ">u2")
            store.setPlane(written.tobytes(), 0, 0, 0)
            server.restart(0.0)
        with client.logged_in(server.host, server.port) as conn:
            kept.add(int(client.read_plane(conn, image, np.dtype("u2"), (30, 40))[0, 0]) == 1000 + seed)
    assert kept == {True, False}


def test_a_slow_call_does_not_hold_up_the_others(server: RunningServer) -> None:
    with client.logged_in(server.host, server.port) as conn:
        query = conn.getQueryService()
        server.fault("IQuery.findAllByQuery", do="delay", seconds=1.5)
        slow = threading.Thread(target=query.findAllByQuery, args=("from Dataset", None))
        slow.start()
        while not server.struck():
            time.sleep(0.005)
        assert conn.keepAlive()
        assert slow.is_alive()
        slow.join()


def test_a_wrong_setting_is_refused(server: RunningServer) -> None:
    with pytest.raises(ServerError, match="no setting"):
        server.set(max_plain=3)
    with pytest.raises(ServerError, match="unknown fault"):
        server.fault("*", do="explode")


def test_a_group_of_others_is_refused_at_login(server: RunningServer) -> None:
    import omero

    made = omero.client("127.0.0.1", server.port)
    made.getImplicitContext().put("omero.group", "private")
    with pytest.raises(omero.WrappedCreateSessionException, match="not a member"):
        made.createSession("bob", "secret")
    made.__del__()


def test_calls_are_counted(server: RunningServer) -> None:
    with client.logged_in(server.host, server.port) as conn:
        before = server.calls()
        conn.c.sf.keepAlive(None)
        assert dict(server.calls() - before) == {"ServiceFactory.keepAlive": 1}
