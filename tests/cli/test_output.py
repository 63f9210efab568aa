"""What comes out: in any encoding, with readers that go away, and from an installation that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mxbridge.cli import console
from mxbridge.tasks import doctor, inspect

Call = Callable[..., tuple[int, str, str]]
COMMAND = [sys.executable, "-m", "mxbridge"]
WIDE = "日本 😀 µ"


def a_file(path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["CD3", "µ"]}}
    with path.open("wb") as stream:
        tifffile.imwrite(stream, np.zeros((2, 40, 40), np.uint8), photometric="minisblack", ome=True, metadata=metadata)


def run(*arguments: object, encoding: str | None = None, **more: object) -> subprocess.CompletedProcess[bytes]:
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    surroundings |= {"PYTHONIOENCODING": encoding} if encoding else {}
    return subprocess.run([*COMMAND, *arguments], env=surroundings, check=False, **({"capture_output": True} | more))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_names_the_output_cannot_encode(tmp_path: Path, encoding: str) -> None:
    a_file(tmp_path / f"{WIDE}.ome.tif")
    text = run("inspect", "--files", tmp_path, encoding=encoding)
    assert (text.returncode, b"Traceback" in text.stderr) == (0, False), text.stderr
    shown = text.stdout.decode(encoding)
    assert (WIDE if encoding == "utf-8" else "\\u65e5\\u672c \\U0001f600") in shown
    document = run("inspect", "--files", tmp_path, "--json", encoding=encoding)
    assert [one["name"] for one in json.loads(document.stdout.decode(encoding))] == [WIDE]
    wrong = run("inspect", "--files", tmp_path, "--image", "本", encoding=encoding)
    assert (wrong.returncode, wrong.stderr.count(b"error:"), b"Traceback" in wrong.stderr) == (2, 1, False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.tif")
    a_file(path)
    for files in (path, tmp_path):
        text = run("inspect", "--files", files)
        assert (text.returncode, text.stdout.startswith(b"\\xff  (id ")) == (0, True), text.stderr
    (seen,) = json.loads(run("inspect", "--files", path, "--json").stdout)
    assert seen["name"] == "\\xff"
    again = run("inspect", "--files", seen["id"], "--image", b"\xff", "--json")
    assert json.loads(again.stdout)[0]["channels"] == seen["channels"]


def test_json_progress_is_ascii(capfd: pytest.CaptureFixture[str]) -> None:
    console.JsonProgress().note(WIDE)
    line = capfd.readouterr().err
    assert line.isascii() and json.loads(line) == {"event": "note", "text": WIDE}


def test_json_has_no_numbers_that_json_lacks(capfd: pytest.CaptureFixture[str]) -> None:
    console.print_json([float("nan"), float("inf"), -float("inf"), 1.5])
    assert json.loads(capfd.readouterr().out, parse_constant=pytest.fail) == [None, None, None, 1.5]


@pytest.fixture
def nobody_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """stdout and stderr are pipes without a reader."""
    streams = []
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        streams.append(os.fdopen(writer, "w", encoding="utf-8"))
        monkeypatch.setattr(sys, name, streams[-1])
    yield
    monkeypatch.undo()
    for stream in streams:
        stream.close()  # raises where something is still waiting to be written


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_reader_of_the_progress_may_go_away(nobody_reads: None, kind: str) -> None:
    teller = console.make_progress(kind, quiet=False, verbose=True)
    for k in range(3):
        teller.image(k, 3, "north")
        teller.step("tiles", 3, 3)
        teller.note("a note")
        teller.warning("x" * 100_000)


def test_a_reader_of_the_live_counter_may_go_away(nobody_reads: None) -> None:
    teller = console.TextProgress()
    teller._live = True
    teller.step("tiles", 3, 3)
    teller.note("a note")


def test_names_do_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    teller = console.make_progress("text", quiet=False, verbose=True)
    teller.image(1, 1, "two\nlines\x1b[31m")
    teller.warning("two\nlines\x1b[2J")
    console.print_table(("image",), [("two\nlines\x1b[2J",)])
    out, err = capsys.readouterr()
    assert "\x1b[31m" not in err and "\x1b[2J" not in err + out
    assert (err.count("two lines"), out.count("two lines"), err.count("\n")) == (2, 1, 2)


def test_a_reader_of_the_result_may_go_away(nobody_reads: None) -> None:
    for _ in range(3):
        console.print_json({"a": ["x" * 100_000]})
        console.print_table(("a",), [("x" * 100_000,)])
        console.out.print("x" * 100_000)


def into_nowhere() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("words", [("models", "list"), ("models", "list", "--json"), ("--help",), ("--version",)])
def test_no_complaint_when_the_reader_goes_away(words: tuple[str, ...]) -> None:
    pipe = into_nowhere()
    done = run(*words, capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, b"")


def test_failure_is_told_by_the_code_when_nobody_reads(tmp_path: Path) -> None:
    pipe = into_nowhere()
    done = run("inspect", "--files", tmp_path / "nothing.tif", capture_output=False, stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert done.returncode == 4


def test_a_run_is_finished_when_nobody_reads(fields: Path, tmp_path: Path) -> None:
    files = ("--files", fields / "north.ome.tif", "--labels", fields / "north_mask.tif", "--out", tmp_path / "run")
    pipe = into_nowhere()
    done = run(
        "score", *files, "--model", "demo", "--no-tta", "--progress", "json",
        capture_output=False, stdout=pipe, stderr=pipe,
    )  # fmt: skip
    os.close(pipe)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["finished"]


def test_a_broken_pipe_within_the_work_is_not_taken_for_success(
    mxbridge: Call, fields: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(inspect, "look", fail)
    code, _, err = mxbridge("inspect", "--files", fields / "north.ome.tif")
    assert (code, "BrokenPipeError" in err) == (1, True)


def test_the_doctor_says_in_one_line_what_is_broken(mxbridge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> doctor.Finding:
        raise RuntimeError("libcuda is of another age")

    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no_such_library"))
    monkeypatch.setattr(doctor, "_device", explode)
    code, out, err = mxbridge("doctor")
    lines = [line for line in err.splitlines() if line]
    assert (code, len(lines)) == (6, 1), err
    assert lines[0].startswith("error: this installation is not whole: no_such_library, explode. ")
    assert "!!  no_such_library: does not import" in out and "ok  numpy" in out
    assert "RuntimeError: libcuda is of another age" in out
    code, out, _ = mxbridge("doctor", "--json")
    states = {f["subject"]: f["state"] for f in json.loads(out)}
    assert (code, states["no_such_library"], states["numpy"]) == (6, "broken", "ok")


def test_the_doctor_finds_this_installation_whole(mxbridge: Call) -> None:
    code, out, err = mxbridge("doctor")
    assert (code, "!!" in out, err) == (0, False, "")


def test_names_neither_move_the_cursor_nor_become_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    console.out.print("a\x1b[31m:b:\tc", markup=False)
    console.make_progress("text", quiet=False, verbose=False)
    console.note("x\x1b[2J:smile: [red]y[/red]")
    console.make_progress("json", quiet=False, verbose=False)
    console.note("lost")
    out, err = capsys.readouterr()
    assert out == "a [31m:b: c\n"
    assert err == '  x [2J:smile: [red]y[/red]\n{"event": "note", "text": "lost"}\n'
