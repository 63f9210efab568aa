"""Kill a publication before and after every step that reaches the disk: nothing is lost, and the next run completes it.

The child process really dies (``os._exit``), so no clean-up code runs, as with kill -9.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxbridge.formats import exchange
from mxbridge.results import Results
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.classes import ClassList
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, drawn, everything, files_of, fl, reclassed, scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="forking with threads is not safe there"),
]

STEPS = ("fsync", "replace", "unlink")
KILLED = 9


def dies(act: Callable[[], object], step: int, when: str) -> bool:
    """Run ``act`` in a child that dies before or after its ``step``-th step; False when it ended before that."""
    child = os.fork()
    if child == 0:
        done = 0

        def hooked(real):
            def call(*args, **kwargs):
                nonlocal done
                done += 1
                if done == step and when == "before":
                    os._exit(KILLED)
                try:
                    return real(*args, **kwargs)
                finally:  # removing what is not there counts as well
                    if done == step:
                        os._exit(KILLED)

            return call

        for name in STEPS:
            setattr(os, name, hooked(getattr(os, name)))
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED)
    return code == KILLED


def whole_result(workspace: QuPathWorkspace, run: str, seed: int) -> Results:
    cells = workspace.pull(fl(workspace)).cells.ids
    return Results(
        fl(workspace),
        run,
        cells,
        scores(workspace, seed=seed).measurements,
        reclassed(workspace, cells, f"Seed: {seed}").class_changes,
        drawn(workspace, {"a": (seed, 10), "b": (40, 40)}).objects,
    )


def sound(folder: Path) -> None:
    Project.open(folder)
    ClassList(folder / "classifiers" / "classes.json")
    for entry in Project.open(folder).entries:
        ImageDataFile.read(Project.open(folder).data_path(entry.id))


@pytest.mark.parametrize(
    ("earlier", "when"), [(False, "before"), (False, "after"), (True, "before")], ids=["first", "first, after", "rerun"]
)
def test_killed_while_publishing(project, tmp_path, when, earlier):
    original = everything(data_file(QuPathWorkspace(project)))
    if earlier:
        workspace = QuPathWorkspace(project)
        workspace.publish(whole_result(workspace, "run-0", 1))
    old = data_file(QuPathWorkspace(project)).read_bytes()
    pristine = tmp_path / "pristine"
    shutil.copytree(project, pristine)
    results = whole_result(QuPathWorkspace(project), "run-1", 2)
    workspace = QuPathWorkspace(project)
    workspace.publish(results)
    new = data_file(workspace).read_bytes()
    step = 0
    while True:
        step += 1
        shutil.rmtree(project)
        shutil.copytree(pristine, project)
        if not dies(lambda: QuPathWorkspace(project).publish(results), step, when):
            break
        sound(project)
        again = QuPathWorkspace(project)
        assert data_file(again).read_bytes() in (old, new), f"step {step}"
        again.publish(results)
        assert again.holds(results), f"step {step}"
        assert data_file(again).read_bytes() == new
        assert not list(project.rglob("*.mxbridge-part"))
        assert data_file(again).with_name("data.qpdata.mxbridge-backup").exists()
        if step % 5 == 0:
            state = files_of(project)
            assert not again.publish(results).changed
            assert files_of(project) == state
            check = check_project(project)
            assert check.sound, check
        again.retract(results.image, results.result_keys)
        assert everything(data_file(again)) == original, f"step {step}"
    assert step > 12


def test_killed_while_retracting(project, tmp_path):
    workspace = QuPathWorkspace(project)
    original = everything(data_file(workspace))
    results = whole_result(workspace, "run-1", 2)
    workspace.publish(results)
    published = data_file(workspace).read_bytes()
    pristine = tmp_path / "pristine"
    shutil.copytree(project, pristine)
    step = 0
    while True:
        step += 1
        shutil.rmtree(project)
        shutil.copytree(pristine, project)
        if not dies(lambda: QuPathWorkspace(project).retract(results.image, results.result_keys), step, "before"):
            break
        sound(project)
        again = QuPathWorkspace(project)
        now = data_file(again).read_bytes()
        assert now == published or everything(data_file(again)) == original
        if again.published_keys(results.image):
            again.retract(results.image, results.result_keys)
        assert everything(data_file(again)) == original, f"step {step}"
        again.publish(results)
        assert again.holds(results)
        assert not list(project.rglob("*.mxbridge-part"))
    assert step > 10


def test_killed_after_which_the_user_saved_in_qupath(project, tmp_path):
    """The journal is open, and neither the old nor the new file is there: what is ours is still found and undone."""
    workspace = QuPathWorkspace(project)
    original = everything(data_file(workspace))
    tile = next(i for i, o in original.items() if o["kind"] == "tile")
    pristine = tmp_path / "pristine"
    shutil.copytree(project, pristine)
    results = whole_result(workspace, "run-1", 2)
    step = 0
    while True:
        step += 1
        shutil.rmtree(project)
        shutil.copytree(pristine, project)
        if not dies(lambda: QuPathWorkspace(project).publish(results), step, "after"):
            break
        path = data_file(QuPathWorkspace(project))
        tree = ImageDataFile.read(path)
        tree.set_measurements([tree.get(tile)], {"user": np.ones(1, np.float32)})
        path.write_bytes(tree.to_bytes())
        again = QuPathWorkspace(project)
        if again.published_keys(results.image):
            again.retract(results.image, results.result_keys)
        now = everything(path, but=("user",))
        now[tile]["list"] = original[tile]["list"]
        assert now == original, f"step {step}"


def test_the_lock_of_a_killed_run_is_free(project):
    assert exchange.sweep(project) == []

    def hold():
        with QuPathWorkspace(project).locked():
            os._exit(KILLED)

    assert dies(hold, 10_000, "before")
    assert (project / "mxbridge" / ".lock-owner.json").exists()
    with QuPathWorkspace(project).locked():
        pass
