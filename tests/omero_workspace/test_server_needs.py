"""What is said where the test server cannot run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.omero_server.needs import missing_client, missing_server


@pytest.mark.parametrize(("module", "package"), [("Ice", "zeroc-ice"), ("omero", "omero-py"), ("tables", "tables")])
def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else object())
    assert missing_server().startswith(f"needs {package}: ")
    assert "mxbridge doctor --fix omero" in missing_server()
    assert bool(missing_client()) == (package != "tables")


def test_the_reason_of_a_failed_installation_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".omero").write_text("error: no C++ compiler\n")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing_client().endswith("(error: no C++ compiler)")


def test_without_openssl_there_is_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "openssl" in missing_server()
