"""Fixtures that every layer of tests shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mxbridge.cli.app import run

Answer = tuple[int, str, str]
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


@pytest.fixture
def mxbridge(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Answer]:
    """Run one command in this process: (exit code, stdout, stderr). The current folder is a temporary one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MXBRIDGE_MODELS", str(tmp_path / "no models"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call
