"""Groups, owners and the Sudo privilege of the test server."""

from __future__ import annotations

import numpy as np
import pytest

from tests.omero_server.running import RunningServer
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero
PIXELS = np.zeros((1, 8, 9), np.uint8)
GROUPS = {"lab": 3, "private": 4, "notes": 5, "team": 6}


@pytest.mark.parametrize(
    ("group", "rights"),
    [
        ("lab", (False, False, False, False)),
        ("notes", (False, False, True, False)),
        ("team", (True, True, True, True)),
    ],
)
def test_what_others_may_do(server: RunningServer, group: str, rights: tuple[bool, ...]) -> None:
    image = server.add_image("slide", PIXELS, group=group)
    with client.logged_in(server.host, server.port, "bob") as conn:
        conn.SERVICE_OPTS.setOmeroGroup("-1")
        found = conn.getObject("Image", image)
        assert (found.canEdit(), found.canDelete(), found.canAnnotate(), found.canLink()) == rights


@pytest.mark.parametrize(("group", "allowed"), [("lab", False), ("notes", True), ("team", True)])
def test_annotating_the_image_of_another(server: RunningServer, group: str, allowed: bool) -> None:
    import omero

    image = server.add_image("slide", PIXELS, group=group)
    with client.logged_in(server.host, server.port, "bob") as conn:
        link = client.link(client.image(image), client.map_annotation("x", a="b"))
        if allowed:
            client.save(conn, link, group_id=GROUPS[group])
        else:
            with pytest.raises(omero.SecurityViolation):
                client.save(conn, link, group_id=GROUPS[group])
    (found,) = server.state()["images"]
    assert len(found["annotations"]) == int(allowed)


@pytest.mark.parametrize(("group", "allowed"), [("lab", False), ("notes", False), ("team", True)])
def test_changing_the_image_of_another(server: RunningServer, group: str, allowed: bool) -> None:
    import omero
    from omero.rtypes import rstring

    image = server.add_image("slide", PIXELS, group=group)
    with client.logged_in(server.host, server.port, "bob") as conn:
        (found,) = client.find(conn, "select i from Image i where i.id = :id", id=image)
        found.name = rstring("renamed")
        if allowed:
            client.save(conn, found, group_id=GROUPS[group])
        else:
            with pytest.raises(omero.SecurityViolation):
                client.save(conn, found, group_id=GROUPS[group])
    assert server.state()["images"][0]["name"] == ("renamed" if allowed else "slide")


@pytest.mark.parametrize(("group", "allowed"), [("notes", False), ("team", True)])
def test_putting_into_the_dataset_of_another(server: RunningServer, group: str, allowed: bool) -> None:
    import omero
    from omero.model import DatasetI

    dataset = server.add_dataset("hers", group=group)
    image = server.add_image("his", PIXELS, group=group, owner="bob", dataset=None)
    with client.logged_in(server.host, server.port, "bob") as conn:
        link = client.link(DatasetI(dataset, False), client.image(image))
        if allowed:
            client.save(conn, link, group_id=GROUPS[group])
        else:
            with pytest.raises(omero.SecurityViolation):
                client.save(conn, link, group_id=GROUPS[group])


def test_a_private_group_is_seen_by_its_members_only(server: RunningServer) -> None:
    server.add_image("secret", PIXELS, group="private")
    server.add_image("shown", PIXELS, group="lab")
    for user, names in (("alice", ["secret", "shown"]), ("bob", ["shown"]), ("root", ["secret", "shown"])):
        with client.logged_in(server.host, server.port, user, "omero" if user == "root" else "secret") as conn:
            assert sorted(name for (name,) in client.rows(conn, "select i.name from Image i")) == names


def test_groups_do_not_mix(server: RunningServer) -> None:
    import omero

    image = server.add_image("slide", PIXELS, group="team")
    with client.logged_in(server.host, server.port) as conn, pytest.raises(omero.ServerError):
        client.save(conn, client.link(client.image(image), client.map_annotation("x", a="b")), group_id=GROUPS["lab"])


def test_sudo_speaks_for_another_user(server: RunningServer) -> None:
    image = server.add_image("slide", PIXELS, group="lab")
    with client.logged_in(server.host, server.port, "sudo") as conn:
        other = conn.suConn("alice", "lab")
        assert other.getUser().getName() == "alice"
        client.save(other, client.link(client.image(image), client.map_annotation("x", a="b")), group_id=GROUPS["lab"])
        other.close()
    assert server.state()["images"][0]["annotations"][0]["place"] == ["alice", "lab"]
    assert server.sessions() == 0


@pytest.mark.parametrize("principal", ["root", "nobody"])
def test_sudo_has_its_limits(server: RunningServer, principal: str) -> None:
    import omero
    import omero.sys

    with client.logged_in(server.host, server.port, "sudo") as conn, pytest.raises(omero.ServerError):
        conn.getSessionService().createSessionWithTimeout(
            omero.sys.Principal(principal, "system", "User", None), 60_000
        )


def test_others_may_not_sudo(server: RunningServer) -> None:
    import omero
    import omero.sys

    with client.logged_in(server.host, server.port, "bob") as conn, pytest.raises(omero.SecurityViolation):
        conn.getSessionService().createSessionWithTimeout(omero.sys.Principal("alice", "lab", "User", None), 60_000)


def test_a_light_administrator_reads_everything_and_changes_nothing_of_others(server: RunningServer) -> None:
    import omero

    image = server.add_image("slide", PIXELS, group="private")
    with client.logged_in(server.host, server.port, "sudo") as conn:
        assert client.rows(conn, "select i.name from Image i") == [["slide"]]
        with pytest.raises(omero.SecurityViolation):
            client.save(
                conn, client.link(client.image(image), client.map_annotation("x", a="b")), group_id=GROUPS["private"]
            )


def test_deleting_what_belongs_to_another_is_refused(server: RunningServer) -> None:
    import omero.cmd

    image = server.add_image("slide", PIXELS, group="notes")
    with client.logged_in(server.host, server.port, "bob") as conn:
        assert isinstance(client.delete(conn, "Image", image), omero.cmd.ERR)
    assert len(server.state()["images"]) == 1
