"""A disturbed night against the test server ends as an undisturbed one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.batch.disturbed import disturbed, undisturbed
from tests.cli.prepared import Prepared
from tests.omero_server.needs import missing_server
from tests.omero_server.running import RunningServer

SEED, IMAGES, KILLS = 20261121, 3, 3

pytestmark = [
    pytest.mark.omero,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="forking with threads is not safe there"),
    pytest.mark.skipif(bool(missing_server()), reason=missing_server() or "there is one"),
]


def test_a_rough_night_ends_as_a_quiet_one(tmp_path: Path, prepared: Prepared) -> None:
    with RunningServer.start(tmp_path / "server") as server:
        quiet = undisturbed(server, prepared, tmp_path / "quiet", IMAGES)
        rough = disturbed(server, prepared, tmp_path / "rough", quiet, SEED, kills=KILLS)
    print(rough.describe())
    assert rough.wrong == []
    assert rough.kills >= 2  # a machine that has become faster may have done all before
    assert sum(rough.faults.values()) >= 1
