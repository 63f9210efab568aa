"""Fixtures that every layer of tests shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, oracles and golden projects; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MXBRIDGE_SHARED", REPOSITORY / "../shared")).resolve()
    if not (folder / "DESIGN.md").exists():
        pytest.skip("needs the shared folder of real data and oracles (set MXBRIDGE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """Small files that travel with the project."""
    return Path(__file__).parent / "data"
