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
    assert len(asked) == 3
    monkeypatch.setenv(name, "1")
    process._give_back_freed_memory()
    assert len(asked) == 3


def test_training_keeps_memory_only_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(process, "_set_allocator", asked.append)
    monkeypatch.setattr(process, "_ours", [])
    process.keep_freed_memory()
    assert asked == []
    monkeypatch.setattr(process.gc, "set_threshold", lambda *numbers: None)
    process.prepare_process()
    process.keep_freed_memory()
    assert len(asked) == 2 and asked[1][process._M_MMAP_THRESHOLD] > asked[0][process._M_MMAP_THRESHOLD]
