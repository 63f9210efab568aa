"""What the program sets for its whole process, the library leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mxbridge.cli import process


def test_only_the_program_changes_the_process() -> None:
    code = """
import gc
before = gc.get_threshold()
import mxbridge, mxbridge.cli.app as app
assert gc.get_threshold() == before
try:
    app.main(["--version"])
except SystemExit as end:
    assert end.code == 0
assert gc.get_threshold() != before and gc.get_freeze_count() > 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"])
def test_the_users_own_settings_stay(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = []
    library = type("Library", (), {"mallopt": lambda self, *setting: asked.append(setting)})
    monkeypatch.setattr("ctypes.CDLL", lambda name: library())
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    process._give_back_freed_memory()
    assert len(asked) == 2
    monkeypatch.setenv(name, "1")
    process._give_back_freed_memory()
    assert len(asked) == 2
