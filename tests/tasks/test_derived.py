"""Derived images on their way: stopped at any step, also between two disks, they arrive whole at the next attempt."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxbridge.results import DerivedImage, ImageRef, Results
from mxbridge.tasks.derived import FOLDER, is_placed, lost, place, put, replaced, sign, take_back
from mxbridge.workspaces.memory import MemoryWorkspace

RESULTS = Results(ImageRef("a", "a"), "run", derived=(DerivedImage("map.zarr", ("CD3",), "key"),))


class Home(MemoryWorkspace):
    def __init__(self, folder: Path) -> None:
        super().__init__({})
        self.folder = folder

    def derived_folder(self, ref: ImageRef) -> Path:
        return self.folder


def image(folder: Path, content: str) -> Path:
    (folder / "0").mkdir(parents=True)
    for name in ("0/chunk", ".zattrs"):
        (folder / name).write_text(content)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


class Stops:
    """Stands for a kill at the n-th of all renames, copies and removals; ``disks`` makes renames out of a run fail."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int, disks: bool) -> None:
        self.left, self.disks = step, disks
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (shutil, "copytree")):
            patch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            leaves = self.disks and real.__name__ == "rename" and Path(first).parents[1].name == "run"
            if leaves and Path(rest[0]).parent != Path(first).parent:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return real(first, *rest, **options)

        return call


@pytest.mark.parametrize("disks", [False, True], ids=["one disk", "two disks"])
@pytest.mark.parametrize("earlier", [False, True], ids=["first", "replacing"])
def test_a_placing_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool, disks: bool
) -> None:
    step, stopped = 0, True
    while stopped:
        step += 1
        home = Home(tmp_path / str(step) / "home")
        folder = tmp_path / str(step) / "run"
        image(folder / FOLDER / "map.zarr", "new")
        if earlier:
            image(home.folder / "map.zarr", "old")
        with monkeypatch.context() as patch:
            Stops(patch, step, disks)
            try:
                place(RESULTS, folder, home)
                stopped = False
            except KeyboardInterrupt:
                assert not is_placed(RESULTS, home) or content(home.folder / "map.zarr")[".zattrs"] == "old"
        place(RESULTS, folder, home)
        assert is_placed(RESULTS, home)
        assert content(home.folder) == {"map.zarr/.zattrs": "new", "map.zarr/0/chunk": "new"}, f"step {step}"
        assert not any((folder / FOLDER).iterdir()), f"step {step}"
    assert step > (2 if not disks else 4)


def test_taking_back_that_was_stopped_goes_on_with_placing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``undo`` killed half-way, then ``publish``: the image had already left the project, under a name of the move."""
    home, folder = Home(tmp_path / "home"), tmp_path / "run"
    image(home.folder / "map.zarr", "new")
    with monkeypatch.context() as patch:
        Stops(patch, 2, disks=False)
        with pytest.raises(KeyboardInterrupt):
            take_back(RESULTS, folder, home)
    assert not (home.folder / "map.zarr").exists()
    place(RESULTS, folder, home)
    assert content(home.folder) == {"map.zarr/.zattrs": "new", "map.zarr/0/chunk": "new"}


def test_nothing_to_move_changes_nothing(tmp_path: Path) -> None:
    target = image(tmp_path / "there" / "map.zarr", "kept")
    put(tmp_path / "not there", target)
    put(tmp_path / "not there", tmp_path / "neither" / "map.zarr")
    assert content(tmp_path) == {"there/map.zarr/.zattrs": "kept", "there/map.zarr/0/chunk": "kept"}
    assert not (tmp_path / "neither").exists()


@pytest.mark.parametrize("attributes", [".zattrs", "zarr.json"])
def test_an_image_that_another_run_has_put_in_its_place_is_not_taken_for_it(tmp_path: Path, attributes: str) -> None:
    """Both runs name the image alike; each signs its own."""
    home = Home(tmp_path / "home")
    runs = {name: replace(RESULTS, run_id=name, fingerprint=f"work of {name}") for name in ("first", "second")}
    for name, results in runs.items():
        path = tmp_path / name / FOLDER / "map.zarr"
        path.mkdir(parents=True)
        (path / attributes).write_text(
            json.dumps({"attributes": {}} if attributes == "zarr.json" else {"mxbridge": {}})
        )
        assert not lost(results, tmp_path / name, home)
        sign(results, tmp_path / name)
        place(results, tmp_path / name, home)
        assert is_placed(results, home)
        assert not lost(results, tmp_path / name, home)
        assert not replaced(results, home)
    assert not is_placed(runs["first"], home)
    assert lost(runs["first"], tmp_path / "first", home) == ("key",)
    assert replaced(runs["first"], home) == ("key",)
    shutil.rmtree(home.folder / "map.zarr")
    assert lost(runs["second"], tmp_path / "second", home) == ("key",)
    assert not replaced(runs["second"], home)


def test_an_image_that_nobody_signed_belongs_to_whoever_names_it(tmp_path: Path) -> None:
    """As of versions before images were signed, and images whose attributes cannot be read."""
    home = Home(tmp_path / "home")
    image(home.folder / "map.zarr", "no JSON")
    assert is_placed(RESULTS, home)
    assert not replaced(RESULTS, home)
    image(tmp_path / "run" / FOLDER / "map.zarr", "no JSON")
    sign(RESULTS, tmp_path / "run")
    assert not lost(RESULTS, tmp_path / "run", home)
