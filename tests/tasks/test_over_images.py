"""The loop every task shares, driven by a task that only counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from mxbridge.errors import InputError, Locked, SomeImagesFailed, SourceError
from mxbridge.image import Channel, LocalImage
from mxbridge.progress import Progress
from mxbridge.results import ImageRef, Measurement, Results
from mxbridge.runs import Run, digest
from mxbridge.tasks.over_images import Outcome, Plan, run_over_images
from mxbridge.workspaces.base import Published, Pulled, Workspace


@dataclass
class Shelf(Workspace):
    """Images that are one number each; results are kept in a dict."""

    home: Path
    numbers: dict[str, int]
    address: str = "shelf:"
    held: dict[str, Results] = field(default_factory=dict)
    locked: bool = False

    @property
    def runs_home(self) -> Path:
        return self.home

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        return [ImageRef(n, n) for n in (names or self.numbers)]

    def pull(self, ref: ImageRef, cells: str = "cells") -> Pulled:
        if self.numbers[ref.id] < 0:
            raise InputError(f"{ref.name} is broken")
        pixels = da.full((1, 2, 2), self.numbers[ref.id])
        return Pulled(ref, LocalImage(ref.name, (pixels,), (Channel("A"),), None, str(self.numbers[ref.id])), None)

    def publish(self, results: Results) -> Published:
        if self.locked:
            raise Locked("the shelf is locked")
        self.held[results.image.id] = results
        return Published(results.image, True, self.address)

    def holds(self, results: Results) -> bool:
        held = self.held.get(results.image.id)
        return held is not None and np.array_equal(held.measurements[0].values, results.measurements[0].values)

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        return Published(ref, self.held.pop(ref.id, None) is not None, self.address)

    def check_writable(self) -> None:
        pass


@dataclass
class Doubling:
    """Doubles the number of an image; can be told to die at one."""

    die_at: str = ""
    warning: str = ""
    computed: list[str] = field(default_factory=list)
    prepared: int = 0
    name: str = "double"
    cell_kind: str = "cells"
    inside: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        return {"model": {}, "options": {}}

    def plan(self, pulled: Pulled) -> Plan:
        return Plan(
            pulled.ref,
            {"pixels": pulled.image.identity},
            notes=("a note",),
            warnings=(self.warning,) if self.warning else (),
        )

    def fingerprint(self, plan: Plan, plans: Sequence[Plan]) -> str:
        return digest([plan.ref.id, plan.basis])

    def prepare(self, run: Run, workspace: Workspace, plans: Sequence[Plan], progress: Progress) -> None:
        self.prepared += 1

    def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
        if pulled.ref.id == self.die_at:
            raise KeyboardInterrupt
        self.computed.append(pulled.ref.id)
        value = np.array([2 * pulled.image.levels[0][0, 0, 0].compute()], np.float32)
        results = Results(pulled.ref, run.run_id, ("c",), (Measurement("m", value, "k"),))
        return Outcome(results, {"cells": 1}, warnings=plan.warnings)

    def finish(self, run: Run) -> None:
        (run.path / "table.txt").write_text(" ".join(i.name for i in run.images if i.status != "failed"))

    def is_finished(self, run: Run) -> bool:
        return (run.path / "table.txt").exists()


class Heard(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def go(shelf: Shelf, task: Doubling, **options: Any) -> Any:
    return run_over_images(shelf, shelf.list(), task, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_image_is_computed_published_and_tabled(tmp_path: Path) -> None:
    shelf, heard = Shelf(tmp_path, {"a": 1, "b": 2}), Heard()
    finished = go(shelf, Doubling(), progress=heard)
    finished.raise_for_errors()
    assert [float(shelf.held[k].measurements[0].values[0]) for k in "ab"] == [2, 4]
    assert (finished.run.path / "table.txt").read_text() == "a b"
    assert heard.notes.count("a note") == 1
    assert finished.run.finished


def test_a_rerun_changes_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1, "b": 2})
    go(shelf, Doubling())
    before = files_of(tmp_path)
    again = Doubling()
    finished = go(shelf, again)
    assert (again.computed, again.prepared, finished.computed, finished.published) == ([], 0, 0, 0)
    assert files_of(tmp_path) == before
    assert go(shelf, again, resume=False).computed == 2


def test_restart_in_the_same_folder_takes_over_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "home", {"a": 1})
    go(shelf, Doubling(), out=tmp_path / "mine")
    shelf.numbers["a"] = 7
    task = Doubling()
    finished = go(shelf, task, out=tmp_path / "mine", resume=False)
    assert task.computed == ["a"]
    assert float(shelf.held["a"].measurements[0].values[0]) == 14
    assert finished.run.images[0].counts == {"cells": 1}


def test_a_bad_image_does_not_stop_the_others(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1, "bad": -1, "c": 3})
    finished = go(shelf, Doubling())
    assert set(shelf.held) == {"a", "c"}
    with pytest.raises(SomeImagesFailed, match=r"1 of 3 images failed \(bad\).*bad is broken"):
        finished.raise_for_errors()
    stored = Run.load(finished.run.path)
    assert (stored.images[1].status, stored.images[1].error_code) == ("failed", 6)


def test_the_error_of_a_single_image_is_told_once(tmp_path: Path) -> None:
    """By what the run ends with; of several images each is told when it fails."""
    shelf, heard = Shelf(tmp_path, {"a": 1}, locked=True), Heard()
    finished = go(shelf, Doubling(), progress=heard)
    with pytest.raises(Locked, match="the shelf is locked"):
        finished.raise_for_errors()
    assert heard.warnings == []
    shelf.numbers["bad"] = -1
    go(shelf, Doubling(), progress=heard)
    assert len(heard.warnings) == 2


@pytest.mark.parametrize(("warning", "told"), [("dark", "a: dark"), ("a: dark", "a: dark")])
def test_a_warning_is_told_once_with_the_name_of_its_image(tmp_path: Path, warning: str, told: str) -> None:
    heard, shelf = Heard(), Shelf(tmp_path, {"a": 1, "b": 2})
    run_over_images(shelf, shelf.list()[:1], Doubling(warning=warning), progress=heard)
    assert heard.warnings == [told]


def test_the_workspace_rests_while_an_image_is_computed(tmp_path: Path) -> None:
    held: list[str] = []

    class Lending(Shelf):
        def pull(self, ref: ImageRef, cells: str = "cells") -> Pulled:
            held.append(ref.id)
            return super().pull(ref, cells)

        def rest(self) -> None:
            held.clear()

    class Watching(Doubling):
        def compute(self, run: Run, pulled: Pulled, plan: Plan, folder: Path, progress: Progress) -> Outcome:
            assert held == []
            return super().compute(run, pulled, plan, folder, progress)

    task = Watching()
    go(Lending(tmp_path, {"a": 1, "b": 2}), task).raise_for_errors()
    assert task.computed == ["a", "b"]


def test_results_know_where_they_lie(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1})
    finished = go(shelf, Doubling())
    folder = finished.run.folder_of(finished.run.images[0])
    assert shelf.held["a"].folder == folder
    assert Results.load(folder).folder == folder
    assert replace(Results.load(folder), folder=None) == Results.load(folder)


def test_a_server_that_went_away_while_publishing_keeps_the_results(tmp_path: Path) -> None:
    class Far(Shelf):
        def publish(self, results: Results) -> Published:
            raise SourceError("the server went away", hint="Try later")

    finished = go(Far(tmp_path, {"a": 1}), Doubling())
    with pytest.raises(SourceError, match=r"Try later\. The results are kept: mxbridge publish"):
        finished.raise_for_errors()
    assert finished.run.images[0].status == "computed"
    go(Shelf(tmp_path, {"a": 1}), Doubling()).raise_for_errors()


def test_when_all_fail_their_own_error_decides(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad is broken"):
        go(Shelf(tmp_path, {"bad": -1}), Doubling())
    assert not any(tmp_path.iterdir())


def test_once_the_bad_image_is_mended_only_it_is_computed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1, "bad": -1})
    go(shelf, Doubling())
    shelf.numbers["bad"] = 5
    task = Doubling()
    finished = go(shelf, task)
    finished.raise_for_errors()
    assert task.computed == ["bad"]
    assert (finished.run.path / "table.txt").read_text() == "a bad"


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1, "b": 2, "c": 3})
    with pytest.raises(KeyboardInterrupt):
        go(shelf, Doubling(die_at="b"))
    assert set(shelf.held) == {"a"}
    task = Doubling()
    finished = go(shelf, task)
    assert task.computed == ["b", "c"]
    assert len(list(tmp_path.iterdir())) == 1
    assert finished.run.finished


def test_results_that_cannot_be_published_are_kept_for_later(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1}, locked=True)
    finished = go(shelf, Doubling())
    with pytest.raises(Locked, match=r"the shelf is locked.*mxbridge publish"):
        finished.raise_for_errors()
    shelf.locked, task = False, Doubling()
    go(shelf, task).raise_for_errors()
    assert task.computed == []
    assert set(shelf.held) == {"a"}


def test_a_kill_after_the_results_are_saved_loses_no_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path, {"a": 1})

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mxbridge.tasks.over_images._remember", killed)
    with pytest.raises(KeyboardInterrupt):
        go(shelf, Doubling())
    monkeypatch.undo()
    task = Doubling()
    finished = go(shelf, task)
    assert task.computed == []
    assert finished.run.images[0].counts == {"cells": 1}


@pytest.mark.parametrize("file", ["results.json", "values.npz"])
def test_damaged_results_are_computed_again(tmp_path: Path, file: str) -> None:
    shelf, heard = Shelf(tmp_path, {"a": 1}), Heard()
    run = go(shelf, Doubling()).run
    (run.folder_of(run.images[0]) / file).write_bytes(b"damaged")
    task = Doubling()
    go(shelf, task, progress=heard).raise_for_errors()
    assert task.computed == ["a"]
    assert "computed again" in heard.warnings[0]


def test_results_of_other_work_in_the_folder_are_not_believed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": 1})
    run = go(shelf, Doubling()).run
    folder = run.folder_of(run.images[0])
    replace(Results.load(folder), fingerprint="of something else").save(folder)
    task = Doubling()
    go(shelf, task)
    assert task.computed == ["a"]


def test_a_lost_publication_is_noticed_and_put_back(tmp_path: Path) -> None:
    shelf, heard = Shelf(tmp_path, {"a": 1}), Heard()
    go(shelf, Doubling())
    shelf.held.clear()
    task = Doubling()
    assert go(shelf, task, progress=heard).published == 1
    assert task.computed == []
    assert "no longer there" in heard.warnings[0]
    assert "put there again" in heard.warnings[0]


def test_nothing_is_published_when_not_wanted_and_all_of_it_later(tmp_path: Path) -> None:
    shelf, heard = Shelf(tmp_path, {"a": 1}), Heard()
    go(shelf, Doubling(), publish=False)
    assert not shelf.held
    task = Doubling()
    go(shelf, task, progress=heard)
    assert (set(shelf.held), task.computed, heard.warnings) == ({"a"}, [], [])
