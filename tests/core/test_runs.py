"""Three names that are not to be mixed, run folders, and results that survive a trip to disk."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mxbridge.errors import BrokenFile, Locked, OutputError, SourceError, UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.results import ClassChanges, DerivedImage, ImageRef, Measurement, Results
from mxbridge.runs import ImageRecord, Run, all_runs, fingerprint, finished_images, folder_name, open_run, result_key

KEY = {"task": "score", "model": "Nimbus", "target": "CD3", "source": "1"}
PRINT = {
    "result_keys": ["k"],
    "options": {"tta": True, "quantile": 0.999},
    "weights_sha256": "w",
    "pixels": "p",
    "geometry": "g",
    "channels": {"CD3": 1},
    "normalization": 100.0,
    "algorithm": "1",
}


def test_the_result_key_says_what_a_rerun_replaces() -> None:
    assert result_key(**KEY) == result_key(**KEY)
    for name, other in {"task": "impute", "model": "NimbusDemo", "target": "CD8", "source": "2"}.items():
        assert result_key(**KEY | {name: other}) != result_key(**KEY)


@pytest.mark.parametrize("name", list(PRINT))
def test_the_fingerprint_changes_with_everything_that_can_change_a_number(name: str) -> None:
    other = {"result_keys": ["k2"], "options": {"tta": False, "quantile": 0.999}, "channels": {"CD3": 2}}
    assert fingerprint(**PRINT | {name: other.get(name, "other")}) != fingerprint(**PRINT)
    assert fingerprint(**PRINT | {"options": {"quantile": 0.999, "tta": True}}) == fingerprint(**PRINT)


def records(*prints: str) -> list[ImageRecord]:
    return [ImageRecord(f"id {p}", p, p, folder_name(i, p)) for i, p in enumerate(prints, start=1)]


def begin(home: Path, *prints: str, resume: bool = True, out: Path | None = None) -> tuple[Run, bool]:
    """Open a run and let go of it."""
    with open_run(home, out, records(*prints), resume=resume, task="score", address="files:x") as opened:
        return opened


def test_the_same_request_goes_on_and_another_starts_anew(tmp_path: Path) -> None:
    first, goes_on = begin(tmp_path, "a", "b")
    assert not goes_on
    again, goes_on = begin(tmp_path, "a", "b")
    assert goes_on
    assert again.path == first.path
    assert not begin(tmp_path, "a", "c")[1]
    assert not begin(tmp_path, "a", "b", resume=False)[1]


def test_a_folder_that_holds_another_run_is_not_taken(tmp_path: Path) -> None:
    begin(tmp_path, "a", out=tmp_path / "mine")
    with pytest.raises(UsageError, match="holds another run"):
        begin(tmp_path, "b", out=tmp_path / "mine")
    run, _ = begin(tmp_path, "b", out=tmp_path / "mine", resume=False)
    assert Run.load(run.path).images[0].name == "b"


def test_file_names_that_are_no_text_can_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mxbridge", "\udcff.tif"])
    run, _ = begin(tmp_path, "\udcff.tif")
    assert Run.load(run.path).command == ["mxbridge", "\udcff.tif"]


def test_two_at_once_in_one_run_folder_are_told(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, "a")
    with run.locked(), pytest.raises(Locked, match="another mxbridge"), Run.load(run.path).locked():
        pass


def test_finished_images_are_found_by_fingerprint_in_any_run(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, "a", "b")
    assert finished_images(tmp_path) == {}
    run.images[1].status = "published"
    run.save()
    assert finished_images(tmp_path) == {"b": run.folder_of(run.images[1])}


def test_a_folder_of_the_user_is_never_taken_for_a_run(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "images").mkdir(parents=True)
    (mine / "images/slide.tif").write_text("precious")
    for resume in (True, False):
        with pytest.raises(UsageError, match="holds no run"):
            begin(tmp_path, "a", out=mine, resume=resume)
    assert (mine / "images/slide.tif").read_text() == "precious"


def test_restart_removes_what_the_run_made_and_nothing_else(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, "a", out=tmp_path / "mine")
    run.folder_of(run.images[0]).mkdir(parents=True)
    (run.path / "images/notes.txt").write_text("mine")
    (run.path / "cells.csv").write_text("old")
    (run.path / "my own.txt").write_text("mine")
    with run.making():
        (run.path / "plots").mkdir()
        (run.path / "plots/one.png").write_text("old")
        (run.path / "table.csv").write_text("old")
    run.details["made"] += ["images", "../victim.txt", ".", ".."]
    run.save()
    (tmp_path / "victim.txt").write_text("precious")
    begin(tmp_path, "b", out=run.path, resume=False)
    assert {p.name for p in run.path.iterdir()} == {"images", "my own.txt", "run.json", ".lock"}
    assert (tmp_path / "victim.txt").exists()
    assert (run.path / "images/notes.txt").exists()
    assert not run.folder_of(run.images[0]).exists()
    assert not (run.path / "cells.csv").exists()


def test_restart_leaves_a_run_alone_that_is_being_worked_on(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, "a", out=tmp_path / "mine")
    (run.path / "cells.csv").write_text("wanted")
    with run.locked(), pytest.raises(Locked):
        begin(tmp_path, "b", out=run.path, resume=False)
    assert (run.path / "cells.csv").exists()
    assert Run.load(run.path).images[0].name == "a"


@pytest.mark.parametrize(
    "change",
    [
        {"images": [{"id": "1", "name": "a", "fingerprint": "a", "folder": "../../victim"}]},
        {"images": [{"id": "1", "name": "a", "fingerprint": "a", "folder": "/victim"}]},
        {"images": [{"id": "1", "name": "a", "fingerprint": "a", "folder": 5}]},
        {"images": [{"id": "1", "name": "a", "fingerprint": "a", "folder": "0001-a", "counts": None}]},
        {"images": 2 * [{"id": "1", "name": "a", "fingerprint": "a", "folder": "0001-a"}]},
        {"images": [{"id": "1", "name": "a", "fingerprint": "a", "folder": "0001-a", "status": "done?"}]},
        {"address": 5},
        {"strange": "field"},
        {"mxbridge": 2},
    ],
    ids=str,
)
def test_hostile_records_are_refused(tmp_path: Path, change: dict) -> None:
    run, _ = begin(tmp_path, "a")
    record = run.path / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    with pytest.raises(BrokenFile, match="is not the record of a run"):
        Run.load(run.path)


@pytest.mark.parametrize("text", ["null", '"x"', "[" * 100_000, "{", "\x00", "[]"])
def test_records_that_are_no_records_are_refused_and_passed_over(tmp_path: Path, text: str) -> None:
    run, _ = begin(tmp_path, "a")
    (run.path / "run.json").write_text(text)
    with pytest.raises(BrokenFile):
        Run.load(run.path)
    assert list(all_runs(tmp_path)) == []


def test_a_run_inside_a_project_belongs_to_it_wherever_both_move(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "p.qpproj").write_text("{}")
    with open_run(
        old / "mxbridge-runs", None, records("a"), resume=True, task="score", address=str(old / "p.qpproj")
    ) as (run, _):
        assert run.place == str(old / "p.qpproj")
    shutil.copytree(old, new)
    assert Run.load(new / "mxbridge-runs" / run.path.name).place == str(new / "p.qpproj")
    shutil.move(run.path, tmp_path / run.path.name)
    assert Run.load(tmp_path / run.path.name).place == str(old / "p.qpproj")


def test_broken_and_missing_records(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, "a")
    (run.path / "run.json").write_text("{")
    with pytest.raises(BrokenFile, match="record of a run"):
        Run.load(run.path)
    assert list(all_runs(tmp_path)) == []
    with pytest.raises(SourceError, match="no run at"):
        Run.load(tmp_path / "nothing")


def test_results_survive_the_trip_to_disk(tmp_path: Path) -> None:
    results = Results(
        image=ImageRef("1", "Bild Ä 名.tif"),
        run_id="r",
        cell_ids=("a", "b"),
        measurements=(Measurement("Nimbus: CD3", np.array([0.25, np.nan], np.float32), "k1"),),
        class_changes=ClassChanges(("Tumor: CD3", None), ("Tumor", None), "k2"),
        derived=(DerivedImage("x.zarr", ("CD3 (Nimbus)",), "k4"),),
        provenance={"task": "score"},
        fingerprint="f",
        summary={"counts": {"cells": 2}},
    )
    results.save(tmp_path / "r")
    loaded = Results.load(tmp_path / "r")
    assert loaded.image == results.image
    assert loaded.cell_ids == results.cell_ids
    np.testing.assert_array_equal(loaded.measurements[0].values, results.measurements[0].values)
    assert loaded.class_changes == results.class_changes
    assert loaded.derived == results.derived
    assert loaded.result_keys == ("k1", "k2", "k4")
    assert (loaded.fingerprint, loaded.summary) == ("f", {"counts": {"cells": 2}})
    whole = (tmp_path / "r/values.npz").read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "r/values.npz").write_bytes(damaged)
        with suppress(BrokenFile):  # never another value, never another error
            again = Results.load(tmp_path / "r")
            np.testing.assert_array_equal(again.measurements[0].values, results.measurements[0].values)
    for stub in (b"", b"PK\x03\x04 truncated", whole[:-30]):
        (tmp_path / "r/values.npz").write_bytes(stub)
        with pytest.raises(BrokenFile, match="not a saved result"):
            Results.load(tmp_path / "r")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), write_atomically(tmp_path / "x"):
        raise OSError(28, "No space left on device")
