"""The process beside mxbridge: messages, time limits, and programs that do not keep to the rules."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import SourceError
from mxbridge.workspaces.qupath import qupath_process
from mxbridge.workspaces.qupath.frames import HEADER, MAGIC, FrameError, read_frame, write_frame
from mxbridge.workspaces.qupath.qupath_process import QuPathProcess

from .fake_qupath import stand_in

JSON = st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda s: st.lists(s, max_size=3), max_leaves=5)


@given(messages=st.lists(st.tuples(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.binary(max_size=40))))
@settings(max_examples=30, deadline=None)
def test_messages_come_out_as_they_went_in(messages):
    stream = io.BytesIO()
    for message, payload in messages:
        write_frame(stream, message, payload)
    stream.seek(0)
    assert [read_frame(stream, lambda: 40) for _ in messages] == messages
    with pytest.raises(EOFError):
        read_frame(stream)


@given(noise=st.binary(min_size=1, max_size=60), cut=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_anything_else_is_refused(noise, cut):
    stream = io.BytesIO()
    write_frame(stream, {"a": 1}, b"12345")
    whole = stream.getvalue()
    with pytest.raises(FrameError):
        read_frame(io.BytesIO(noise), lambda: 5)
    with pytest.raises((FrameError, EOFError)):
        read_frame(io.BytesIO(whole[: min(cut, len(whole) - 1)]), lambda: 5)
    with pytest.raises(FrameError, match="too long"):
        read_frame(io.BytesIO(whole), lambda: 4)
    with pytest.raises(FrameError, match="no JSON object"):
        read_frame(io.BytesIO(HEADER.pack(MAGIC, 2, 0) + b"[]"))
    with pytest.raises(FrameError, match="not JSON"):
        read_frame(io.BytesIO(HEADER.pack(MAGIC, 200_000, 0) + b"[" * 200_000))


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("dies", "exit code 134): # A fatal error has been detected"),
        ("garbage", "something that is no message"),
        ("huge", "too long"),
        ("not-json", "not JSON"),
        ("hangs", "has not answered for 0.3 s"),
    ],
)
def test_whoever_does_not_keep_to_the_rules_is_ended(monkeypatch, tmp_path, mode, what):
    stand_in(monkeypatch, tmp_path, mode)
    process = QuPathProcess()
    assert process.version == "9.9.9 (fake)"
    process.send({"ask": "entry"})
    with pytest.raises(SourceError) as caught:
        process.receive(0.3 if mode == "hangs" else 60)
    assert what in caught.value.message
    assert process._process.poll() is not None
    with pytest.raises(SourceError, match="has ended"):
        process.send({"ask": "entry"})


def test_a_program_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(qupath_process, "command", lambda: [str(tmp_path / "none")])
    with pytest.raises(SourceError, match="cannot be started"):
        QuPathProcess()


def test_the_process_ends_when_mxbridge_is_killed(tmp_path):
    """Its pipe ends, and so does it, although nobody was left to tell it."""
    script = (
        "import sys, time; from mxbridge.workspaces.qupath import qupath_process as q;"
        f"q.command = lambda: [sys.executable, '-P', {str(__file__).replace('test_qupath_process', 'fake_qupath')!r},"
        f" 'honest', {str(tmp_path / 'n')!r}];"
        "p = q.QuPathProcess(); print(p._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=qupath_process.environment())
    with parent:
        number = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not _runs(number):
            break
        time.sleep(0.1)
    assert not _runs(number)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{number}/stat")  # nobody may be there to take note of its end
    return not status.exists() or status.read_text().split()[2] != "Z"


def test_the_other_program_has_the_same_modules_and_no_foreign_ones(monkeypatch, tmp_path):
    """paquo.py is the name of the program and of the library: the folder of the program must not be searched first."""
    assert "-P" in qupath_process.command()
    (tmp_path / "mxbridge.py").write_text("raise SystemExit('a file of the current folder was imported')")
    monkeypatch.chdir(tmp_path)
    script = "import mxbridge.workspaces.qupath.paquo as p, sys; print(p.__name__, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=qupath_process.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["mxbridge.workspaces.qupath.paquo", "False"]


def test_only_the_program_beside_imports_paquo():
    """It is GPL, and starts a JVM when it is imported."""
    sources = Path(qupath_process.__file__).parents[2].rglob("*.py")
    imports = re.compile(r"^\s*(import|from) (paquo|jpype)\b", re.MULTILINE)
    guilty = {path.name for path in sources if imports.search(path.read_text(encoding="utf-8"))}
    assert guilty == {"paquo.py"}
