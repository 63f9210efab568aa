"""Publishing that is cut off or killed at any of its calls: people see the state before or the state after, never half, never two.

Every call to the server is one place where it can end; in each test a sample of them is tried, all of them with
``MXBRIDGE_EVERY_CALL=1``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from mxbridge.errors import MxbridgeError
from mxbridge.results import Results
from tests.omero_server.running import ROOT, RunningServer
from tests.omero_workspace.toy_results import add_slide, everything, open_omero, scores, sessions_of

pytestmark = pytest.mark.omero

EVERY = os.environ.get("MXBRIDGE_EVERY_CALL") == "1"
CALLS = 170
"""More calls than one publication makes."""


class Twice:
    """Two results that replace each other, the second of them published, and (asked once) what the server looks like with either."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.ref = add_slide(server)
        self.results = [everything(self.ref, folder / f"r{k}", value=k + 1.0, run_id=f"run-{k}") for k in range(2)]
        self.publish(1)

    @cached_property
    def states(self) -> list[dict[str, Any]]:
        found = []
        for which in (0, 1):
            self.publish(which)
            found.append(self.server.state())
        return found

    @cached_property
    def looks(self) -> list[list[Any]]:
        return [seen(state) for state in self.states]

    def publish(self, which: int, **options: Any) -> None:
        workspace = open_omero(
            self.server, self.folder, f"image:{self.ref.id}", rois=10, sessions=sessions_of(self.server, **options)
        )
        try:
            workspace.publish(self.results[which])
        finally:
            workspace._sessions.close()


@pytest.fixture
def twice(server: RunningServer, tmp_path: Path) -> Twice:
    return Twice(server, tmp_path)


def seen(state: dict[str, Any]) -> list[Any]:
    """What people see: images that are in a dataset, with all that is attached to them."""
    return [image for image in state["images"] if image["datasets"]] + state["datasets"]


def places(start: int, step: int) -> Iterator[int]:
    return iter(range(1, CALLS) if EVERY else range(start, CALLS, step))


def test_a_lost_session_at_any_call_is_made_good(twice: Twice) -> None:
    assert twice.states
    now = 1
    for fault, start in (("drop", 2), ("kill-connection-after", 9), ("expire", 16)):
        for nth in places(start, 43):
            twice.server.fault("*", nth=nth, do=fault)
            now = 1 - now
            twice.publish(now)
            twice.server.clear_faults()
            assert twice.server.state() == twice.states[now], f"{fault} at call {nth}"


def test_an_end_at_any_call_leaves_old_or_new(twice: Twice) -> None:
    """attempts=1: what a killed process would leave at that call, its connection gone and nobody to tidy up."""
    assert twice.looks
    now, whole = 1, 0
    for fault, start in (("drop", 5), ("kill-connection-after", 18)):
        for nth in places(start, 26):
            twice.server.fault("*", nth=nth, do=fault)
            with suppress(MxbridgeError):
                twice.publish(1 - now, attempts=1)
            twice.server.clear_faults()
            look = seen(twice.server.state())
            assert look in twice.looks, f"{fault} at call {nth} shows something between old and new"
            whole += look == twice.looks[1 - now]
            now = 1 - now
            twice.publish(now)
            assert twice.server.state() == twice.states[now], f"after {fault} at call {nth}"
    assert whole, "some of these calls come after the commit"


@pytest.mark.parametrize("fault", ["drop", "kill-connection-after"] if EVERY else ["kill-connection-after"])
def test_a_first_publication_that_ends_at_any_call(server: RunningServer, tmp_path: Path, fault: str) -> None:
    ref = add_slide(server)
    results = everything(ref, tmp_path / "r")

    def publish(**options: Any) -> None:
        workspace = open_omero(server, tmp_path, f"image:{ref.id}", rois=10, sessions=sessions_of(server, **options))
        with suppress(MxbridgeError):
            workspace.publish(results)
        workspace._sessions.close()

    nothing = server.state()
    publish()
    whole = server.state()
    for nth in places(3, 29):
        _retract(server, tmp_path, results)
        assert server.state() == nothing
        server.fault("*", nth=nth, do=fault)
        publish(attempts=1)
        server.clear_faults()
        assert seen(server.state()) in (seen(nothing), seen(whole)), f"{fault} at call {nth}"
        publish()
        assert server.state() == whole, f"after {fault} at call {nth}"


@pytest.mark.parametrize("fault", ["drop", "kill-connection-after"] if EVERY else ["drop"])
def test_an_undo_that_ends_at_any_call_is_finished_by_the_next(
    server: RunningServer, tmp_path: Path, fault: str
) -> None:
    ref = add_slide(server)
    results = everything(ref, tmp_path / "r")
    nothing = server.state()
    for nth in places(4, 23):
        if nth > 110:
            break
        workspace = open_omero(server, tmp_path, f"image:{ref.id}", rois=10)
        workspace.publish(results)
        workspace._sessions.close()
        server.fault("*", nth=nth, do=fault)
        with suppress(MxbridgeError):
            _retract(server, tmp_path, results, attempts=1)
        server.clear_faults()
        _retract(server, tmp_path, results)
        assert server.state() == nothing, f"{fault} at call {nth}"


@pytest.mark.parametrize("moment", ["_rebuild", "add_derived", "commit"])
def test_two_that_meet_on_one_image_both_get_there(twice: Twice, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Another machine publishes something else on the image before this one sends its parts, while it does, or before it commits."""
    from mxbridge.workspaces.omero.publishing import parts, planned, publication

    monkeypatch.setattr("mxbridge.workspaces.omero.workspace.alone", lambda *args: nullcontext())
    kinds = {"_rebuild": publication.Publication, "add_derived": parts.Parts, "commit": planned.Plan}
    kind: Any = kinds[moment]
    usual, met = getattr(kind, moment), []
    other = scores(twice.ref, ["CD20"], value=5.0)
    workspace = open_omero(twice.server, twice.folder, f"image:{twice.ref.id}", rois=10)

    def meeting(self: Any, *args: Any) -> Any:
        if not met:
            met.append(True)
            workspace.publish(other)
        return usual(self, *args)

    monkeypatch.setattr(kind, moment, meeting)
    twice.publish(0)
    workspace._sessions.rest()
    assert met
    assert workspace.holds(twice.results[0])
    assert workspace.holds(other)
    state = twice.server.state()
    assert state["loose annotations"] == state["loose rois"] == []
    assert len([a for i in state["images"] for a in i["annotations"] if a["ns"] == "mxbridge/result"]) == 2, (
        "one marker, on the image and on the derived one"
    )
    workspace._sessions.close()


def test_two_machines_at_once_both_get_there(server: RunningServer, tmp_path: Path) -> None:
    """Neither waits for the other (their caches are not shared), each sweeps and deletes while the other sends."""
    ref = add_slide(server)
    others = replace(everything(ref, tmp_path / "b"), provenance={"task": "qc", "name": "B"}, measurements=())
    others = replace(others, class_changes=None, objects=(), image_values=())
    others = replace(others, derived=tuple(replace(d, result_key="b") for d in others.derived))
    turns = {"a": [everything(ref, tmp_path / f"a{k}", value=k + 1.0) for k in range(3)]}
    turns["b"] = [replace(others, fingerprint=f"work-b{k}") for k in range(3)]
    spaces = {who: open_omero(server, tmp_path / who, f"image:{ref.id}", rois=10) for who in turns}
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(lambda who=who: [spaces[who].publish(r) for r in turns[who]]) for who in turns]
        for future in done:
            future.result()
    for who, space in spaces.items():
        assert space.holds(turns[who][-1])
        space._sessions.close()
    state = server.state()
    assert state["loose annotations"] == state["loose rois"] == []
    assert len(state["images"]) == 3


def test_a_full_disk_at_the_server_leaves_the_old_state(twice: Twice) -> None:
    assert twice.looks
    twice.server.set(disk_full=True)
    with pytest.raises(MxbridgeError):
        twice.publish(0)
    twice.server.set(disk_full=False)
    assert seen(twice.server.state()) == twice.looks[1]
    twice.publish(0)
    assert twice.server.state() == twice.states[0]


@pytest.mark.slow
def test_killed_processes(twice: Twice) -> None:
    """kill -9 of a process that publishes the two results in turn, at random moments."""
    seed = random.Random(20261121)
    script = (
        "import sys; from pathlib import Path\n"
        "from mxbridge.results import Results\n"
        "from mxbridge.workspaces.omero.workspace import OmeroWorkspace\n"
        "workspace = OmeroWorkspace(sys.argv[1])\n"
        "both = [Results.load(Path(folder)) for folder in sys.argv[2:]]\n"
        "print('ready', flush=True)\n"
        "for turn in range(1000):\n"
        "    workspace.publish(both[turn % 2])\n"
    )
    for results in twice.results:
        assert results.folder is not None
        results.save(results.folder)
    address = f"{twice.server.address(f'image:{twice.ref.id}')}?rois=10"
    assert twice.looks
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", script, address, *(str(r.folder) for r in twice.results)],
            cwd=ROOT,
            env={**os.environ, "OMERO_PASSWORD": "secret"},
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.3 + 0.7 * seed.random())
        child.send_signal(signal.SIGKILL)
        child.wait(20)
        child.stdout.close()
        assert seen(twice.server.state()) in twice.looks
    for which in (0, 1):
        twice.publish(which)
        assert twice.server.state() == twice.states[which]


def _retract(server: RunningServer, folder: Path, results: Results, **options: Any) -> None:
    workspace = open_omero(server, folder, f"image:{results.image.id}", sessions=sessions_of(server, **options))
    try:
        workspace.retract(results.image, results.result_keys)
    finally:
        workspace._sessions.close()
