"""The test server for everything that talks to OMERO."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxbridge.workspaces.omero.sessions.connection import Session
from tests.omero_server.needs import missing_server
from tests.omero_server.running import RunningServer
from tests.omero_workspace.toy_results import asking


@pytest.fixture(scope="session")
def omero_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server process for all tests."""
    if reason := missing_server():
        pytest.skip(reason)
    folder: Path = tmp_path_factory.mktemp("omero-server")
    with RunningServer.start(folder) as running:
        yield running


def _leaks(running: RunningServer) -> list[str]:
    """What is still open once the server has noticed the end of killed clients."""
    for _ in range(100):
        if not (found := running.leaks()):
            break
        time.sleep(0.02)
    return found


@pytest.fixture
def server(omero_server: RunningServer) -> Iterator[RunningServer]:
    """The server, freshly seeded. At the end nothing may be left open, unknown or broken in it."""
    omero_server.reset()
    yield omero_server
    assert _leaks(omero_server) == [], "stateful services were not closed"
    assert omero_server.unknown() == [], "operations that the test server does not know"
    assert omero_server.errors() == [], "the test server itself failed"


@pytest.fixture
def session(server: RunningServer) -> Iterator[Session]:
    """A session of alice on it."""
    with asking(server) as session:
        yield session
