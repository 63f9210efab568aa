"""Addresses of images on a server: text to parts and back, and what is no address."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import UsageError
from mxbridge.workspaces.omero.sessions.address import KINDS, PATHS, PORTS, Place, Server, server_of

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
HOSTS = st.sampled_from(["h", "omero.example.org", "10.0.0.7", "::1", "fe80::12", "a_b-c.d"])
SERVERS = st.builds(
    lambda host, port, scheme, user, group, verify, ca: Server(
        host, port, scheme, PATHS.get(scheme, ""), user, group, verify, ca
    ),
    HOSTS,
    st.integers(1, 65535),
    st.sampled_from(sorted(PORTS)),
    st.none() | NAMES.filter(str.strip),
    st.none() | NAMES,
    st.booleans(),
    st.none() | NAMES.map(Path),
)
OPTIONS = st.dictionaries(st.sampled_from(["labels", "rois", "repository", "as_owner"]), NAMES, max_size=3)
IDS = st.lists(st.integers(1, 2**63 - 1), min_size=1, max_size=4, unique=True).map(tuple)


@settings(deadline=None, max_examples=80)
@given(SERVERS, st.sampled_from(KINDS), IDS, OPTIONS)
def test_text_and_parts_say_the_same(server: Server, kind: str, ids: tuple[int, ...], options: dict[str, str]) -> None:
    place = Place(server, kind, ids, options)
    assert Place.parse(str(place)) == place
    assert Server.parse(str(server)).name == server.name


def test_an_address_as_people_write_it() -> None:
    place = Place.parse("omero:alice@omero.example.org/dataset:5?group=lab&labels=attachment:cells.zip")
    assert place.server == Server("omero.example.org", user="alice", group="lab")
    assert (place.kind, place.ids, place.options) == ("dataset", (5,), {"labels": "attachment:cells.zip"})
    assert str(place) == "omero:alice@omero.example.org/dataset:5?group=lab&labels=attachment:cells.zip"
    assert place.images == "dataset:5" and place.server.name == "omero.example.org:4064"


@pytest.mark.parametrize(
    "text, server",
    [
        ("h", Server("h", 4064)),
        ("h:4065", Server("h", 4065)),
        ("bob@h", Server("h", user="bob")),
        ("bob%40ldap@h", Server("h", user="bob@ldap")),
        ("[::1]:99", Server("::1", 99)),
        ("wss://h", Server("h", 443, "wss", "/omero-wss")),
        ("wss://h:444/ws", Server("h", 444, "wss", "/ws")),
        ("tcp://h", Server("h", 4063, "tcp")),
        ("WS://h/x", Server("h", 80, "ws", "/x")),
    ],
)
def test_servers(text: str, server: Server) -> None:
    assert Server.parse(text) == server
    assert Server.parse(str(server)) == server
    assert server.is_encrypted == (server.scheme in ("ssl", "wss"))


@pytest.mark.parametrize(
    "text",
    [
        "", "h:0", "h:65536", "h:x", "h -p 1", 'h" -h evil', "h/x", "::1", "[::1%eth0]", "ftp://h", "ssl://h/path", "wss://h/a b",
        "-h", "a@", "wss://",
    ],
)  # fmt: skip
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(UsageError):
        Server.parse(text)


@pytest.mark.parametrize(
    "text, why",
    [
        ("omero:h/dataset:", "names no images"),
        ("omero:h/dataset:0", "names no images"),
        ("omero:h/dataset:-1", "names no images"),
        ("omero:h/dataset:1e3", "names no images"),
        ("omero:h/dataset:99999999999999999999", "names no images"),
        ("omero:h/dataset:٣", "names no images"),
        ("omero:h/folder:1", "names no images"),
        ("omero:h", "names no OMERO server"),
        ("dataset:1", "names no OMERO server"),
        ("omero:h/dataset:1?gruop=lab", "no option 'gruop'"),
        ("omero:h/dataset:1?group=a&group=b", "'group' needs one value"),
        ("omero:h/dataset:1?group=", "'group' needs one value"),
        ("omero:h/dataset:1?password=x", "no option 'password'"),
        ("omero:h/dataset:1?" + "&".join(["group=a"] * 10_000), "no option"),
    ],
)
def test_what_is_no_address(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Place.parse(text)


def test_images_of_a_server_that_is_known_already() -> None:
    place = Place.parse("image:2,1,2", Server("h", user="alice"))
    assert place.ids == (2, 1) and str(place) == "omero:alice@h/image:2,1"


def test_which_server_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OMERO_HOST", "OMERO_PORT", "OMERO_USERDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMERO_SESSIONDIR", str(tmp_path))
    with pytest.raises(UsageError, match="no OMERO server is named"):
        server_of(None)
    (tmp_path / "._LASTHOST_").write_text("from.login\n")
    (tmp_path / "._LASTPORT_").write_text("14064\n")
    assert server_of(None).name == "from.login:14064"
    monkeypatch.setenv("OMERO_HOST", "from.environment")
    monkeypatch.setenv("OMERO_PORT", "5064")
    assert server_of(None).name == "from.environment:5064"
    assert server_of("bob@named", user="alice", group="lab") == Server("named", user="alice", group="lab")


@pytest.mark.parametrize(
    "text", ["alice:hidden@h/dataset:1", "wss%3A%2F%2Falice:hidden@h/dataset:1", "http%3A%2F%2Fa:hidden@h/image:1"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="may be a password") as caught:
        Place.parse(text)
    assert "hidden" not in str(caught.value)
    with pytest.raises(UsageError, match="may be a password"):
        server_of("h", user="alice:hidden")
