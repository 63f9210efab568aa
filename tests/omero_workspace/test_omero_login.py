"""Who logs in: the order of the places that know, and that none of them shows what it knows."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from mxbridge.errors import SourceError
from mxbridge.workspaces.omero.sessions import login
from mxbridge.workspaces.omero.sessions.address import Server
from mxbridge.workspaces.omero.sessions.login import Credentials, all_credentials, find_credentials

SERVER = Server("omero.example.org", user="alice")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty session store of the omero command; nothing else is known, and nobody sits at a terminal."""
    for name in ("OMERO_SESSION_KEY", "OMERO_PASSWORD", "OMERO_USER", "OMERO_USERDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMERO_SESSIONDIR", str(tmp_path))
    monkeypatch.setattr(login, "_from_keyring", lambda name: None)
    monkeypatch.setattr("sys.stdin", None)
    return tmp_path


def remember(store: Path, host: str, user: str, *keys: str, port: int | None = None) -> None:
    """As `omero login` does; the last key is the current one."""
    folder = store / host / user
    folder.mkdir(parents=True)
    for key in keys:
        lines = [f"omero.host={host}", f"omero.user={user}", f"omero.sess={key}"]
        (folder / key).write_text("\n".join([*lines, *([f"omero.port={port}"] if port else [])]))
    (store / "._LASTHOST_").write_text(host)
    (store / host / "._LASTUSER_").write_text(user)
    (folder / "._LASTSESS_").write_text(keys[-1])


def test_the_first_place_that_knows(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return "typed"

    assert find_credentials(SERVER, ask) == Credentials("alice", "typed", source="the prompt")
    assert asked == ["Password of alice at omero.example.org: "]
    remember(store, "omero.example.org", "alice", "key-1")
    assert find_credentials(SERVER, ask) == Credentials("alice", key="key-1", source=login.COMMAND_STORE, ours=False)
    monkeypatch.setattr(login, "_from_keyring", lambda name: {"alice@omero.example.org": "kept"}.get(name))
    assert find_credentials(SERVER, ask).password == "kept"
    monkeypatch.setenv("OMERO_PASSWORD", "exported")
    assert find_credentials(SERVER, ask).password == "exported"
    monkeypatch.setenv("OMERO_SESSION_KEY", "joined")
    found = find_credentials(SERVER, ask)
    assert (found.key, found.ours, found.password) == ("joined", False, None)
    assert len(asked) == 1, "people are asked last"


def test_the_user_is_named_or_remembered(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anybody = Server("omero.example.org")
    with pytest.raises(SourceError, match=r"nothing says who logs in to omero.example.org:4064.*--user"):
        find_credentials(anybody)
    monkeypatch.setenv("OMERO_PASSWORD", "x")
    with pytest.raises(SourceError, match=r"nothing says who logs in"):
        find_credentials(anybody)
    remember(store, "omero.example.org", "carol", "key")
    assert find_credentials(anybody).user == "carol"
    monkeypatch.setenv("OMERO_USER", "bob")
    assert find_credentials(anybody).user == "bob"
    assert find_credentials(SERVER).user == "alice"


def test_nothing_known_says_what_to_do(store: Path) -> None:
    with pytest.raises(
        SourceError, match=r"no password of alice.*OMERO_PASSWORD.*keyring set mxbridge alice@omero"
    ) as caught:
        find_credentials(SERVER)
    assert caught.value.exit_code == 4


def test_keys_of_the_store(store: Path) -> None:
    remember(store, "omero.example.org", "alice", "zz-current", port=4064)
    folder = store / "omero.example.org" / "alice"
    (folder / "aa-older").write_text("omero.sess=aa-older")
    (folder / "bb-other-port").write_text("omero.sess=bb\nomero.port=14064")
    (folder / "._LASTSESS_").write_text("zz-current")
    assert [c.key for c in all_credentials(SERVER)] == ["zz-current", "aa-older"]
    assert [c.key for c in all_credentials(Server("omero.example.org", 14064, user="alice"))] == ["bb"]
    assert list(all_credentials(Server("elsewhere", user="alice"))) == []
    assert list(all_credentials(Server("omero.example.org", user="../alice"))) == []


def test_keys_of_a_websocket_are_under_its_address(store: Path) -> None:
    remember(store, "wss%3A%2F%2Fomero.example.org%2Fomero-wss", "alice", "key")
    assert [c.key for c in all_credentials(Server.parse("wss://alice@omero.example.org"))] == ["key"]
    assert list(all_credentials(Server.parse("wss://alice@omero.example.org/other"))) == []


def test_a_broken_store_is_no_store(store: Path) -> None:
    folder = store / "omero.example.org" / "alice"
    folder.mkdir(parents=True)
    (folder / "._LASTSESS_").mkdir()
    (folder / "noise").write_bytes(b"\xff\x00" * 100_000)
    assert [c.source for c in all_credentials(SERVER)] == [login.COMMAND_STORE]
    (store / "omero.example.org" / "._LASTUSER_").write_bytes(b"\xff\xfe")
    find_credentials(SERVER)


def test_a_keyring_that_fails_knows_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    from keyring.errors import KeyringLocked

    monkeypatch.undo()
    monkeypatch.setattr(keyring, "get_password", lambda service, name: f"{service} {name}")
    assert login._from_keyring("a@h") == "mxbridge a@h"

    def locked(service: str, name: str) -> str:
        raise KeyringLocked("no")

    monkeypatch.setattr(keyring, "get_password", locked)
    assert login._from_keyring("a@h") is None


def test_secrets_are_not_shown() -> None:
    secret = Credentials("alice", "s3cret", "k3y")
    assert "s3cret" not in repr(secret) and "k3y" not in repr(secret) and "s3cret" not in f"{secret}"
    assert asdict(secret)["password"] == "s3cret" and pickle.loads(pickle.dumps(secret)) == secret
