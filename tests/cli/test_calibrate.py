"""Users' hand on thresholds: ``score --classifiers``, ``calibrate``, and runs that use what it found."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mxbridge.cli.app import run
from mxbridge.runs import Run
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI

Call = Callable[..., tuple[int, str, str]]
FAST = ("--model", "demo", "--no-tta", "--tile", "128")
CD3 = "NimbusDemo: CD3"


@pytest.fixture(scope="session")
def pristine_scores(pristine_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, scored and published."""
    folder = Path(shutil.copytree(pristine_project, tmp_path_factory.mktemp("scored") / "scored µ"))
    assert run(["score", "--project", str(folder / "project.qpproj"), *FAST, "--quiet"]) == 0
    return folder


@pytest.fixture
def scored(pristine_scores: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_scores, tmp_path / "scored µ")) / "project.qpproj"


def data_file(project: Path, entry: int) -> Path:
    return project.parent / "data" / str(entry) / "data.qpdata"


def cells_of(project: Path, entry: int) -> list[Any]:
    return [o for o in ImageDataFile.read(data_file(project, entry)).objects() if o.kind == "cell"]


def set_classes(project: Path, entry: int, classes: Mapping[str, str | None]) -> None:
    """As a user would in QuPath: by cell id."""
    tree = ImageDataFile.read(data_file(project, entry))
    for cell in tree.objects():
        if cell.id in classes:
            tree.set_class([cell], classes[cell.id], {})
    data_file(project, entry).write_bytes(tree.to_bytes())


def draw(project: Path, entry: int, boxes: Mapping[str, tuple[float, float, float, float]]) -> None:
    """Rectangles with a class."""
    tree = ImageDataFile.read(data_file(project, entry))
    for k, (name, box) in enumerate(boxes.items()):
        tree.add_object(NewPathObject("annotation", f"{k:08x}-0000-4000-8000-{entry:012x}", NewROI.rectangle(*box), class_name=name))  # fmt: skip
    data_file(project, entry).write_bytes(tree.to_bytes())


def class_by_score(
    project: Path, cut: float, *, entries: tuple[int, ...] = (1, 2), names: tuple = ("CD3", "CD3-")
) -> None:
    for entry in entries:
        cells = cells_of(project, entry)
        set_classes(project, entry, {c.id: names[c.measurements[CD3] < cut] for c in cells})


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def the_run(project: Path) -> Path:
    return sorted((project.parent / "mxbridge-runs").iterdir())[0]


def classifier(project: Path, name: str) -> dict[str, Any]:
    path = project.parent / f"classifiers/object_classifiers/{name}.json"
    return dict(json.loads(path.read_text("utf-8")))


# -------------------------------------------------------------------------------------------------------- score --classifiers


def test_classifiers_of_a_golden_project(mxbridge: Call, data: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(data / "qupath", tmp_path / "golden")) / "v0.7.0/project.qpproj"
    folder = project.parent / "classifiers/object_classifiers"
    listed = (project.parent / "classifiers/classes.json").read_bytes()
    command = (
        "score",
        "--project",
        project,
        *FAST,
        "--classifiers",
        "--threshold",
        "0.3",
        "--markers",
        "Ki67,CD8 µ test",
    )
    code, out, err = mxbridge(*command, "--dry-run")
    assert code == 0, err
    assert "object classifier: NimbusDemo: Ki67 >= 0.3" in out
    assert not folder.exists()
    code, _, err = mxbridge(*command)
    assert code == 0, err
    assert "Load object classifier" in err
    assert {p.name for p in folder.iterdir()} == {
        "NimbusDemo Ki67.json",
        "NimbusDemo CD8 µ test.json",
        "NimbusDemo (all markers).json",
    }
    one = classifier(project, "NimbusDemo CD8 µ test")
    assert one["function"]["measurement"] == "NimbusDemo: CD8 µ test"
    assert one["function"]["measurement"] in cells_of(project, 2)[0].measurements
    assert one["function"]["threshold"] == np.float32(0.3)
    assert one["filter"] == "CELLS"
    every = classifier(project, "NimbusDemo (all markers)")  # in the order of the channels, as classes are joined
    assert [c["pathClasses"][0]["name"] for c in every["classifiers"]] == ["CD8 µ test", "Ki67"]
    record = json.loads((the_run(project) / "run.json").read_text("utf-8"))["details"]["classifiers"]
    assert set(record["files"]) == {p.name for p in folder.iterdir()}
    before = files_of(project.parent)
    code, out, err = mxbridge(*command)
    assert "Nothing to do" in out
    assert files_of(project.parent) == before
    code, out, _ = mxbridge("undo", the_run(project))
    assert (code, "object classifiers: taken out" in out) == (0, True)
    assert list(folder.iterdir()) == []
    assert json.loads((project.parent / "classifiers/classes.json").read_bytes()) == json.loads(listed)
    assert mxbridge("publish", the_run(project))[0] == 0
    assert len(list(folder.iterdir())) == 3


def test_plain_detections_have_their_own_filter(mxbridge: Call, data: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(data / "qupath", tmp_path / "golden")) / "v0.5.1/project.qpproj"
    code, _, err = mxbridge(
        "score", "--project", project, *FAST, "--markers", "CD3", "--cells", "detections", "--classifiers"
    )
    assert code == 0, err
    assert classifier(project, "NimbusDemo CD3")["filter"] == "DETECTIONS"


def test_a_threshold_moved_in_qupath_is_kept_and_told(mxbridge: Call, scored: Path) -> None:
    command = ("score", "--project", scored, *FAST, "--classifiers")
    assert mxbridge(*command)[0] == 0
    path = scored.parent / "classifiers/object_classifiers/NimbusDemo CD3.json"
    moved = json.loads(path.read_text("utf-8"))
    moved["function"]["threshold"] = 0.8125
    path.write_text(json.dumps(moved), encoding="utf-8")
    code, _, err = mxbridge(*command, "--threshold", "0.25")
    assert code == 0
    assert "NimbusDemo CD3.json was made or changed by somebody else; it stays" in err
    assert json.loads(path.read_text("utf-8")) == moved
    assert classifier(scored, "NimbusDemo Ki67")["function"]["threshold"] == 0.25
    cuts = [c["function"]["threshold"] for c in classifier(scored, "NimbusDemo (all markers)")["classifiers"]]
    assert cuts == [0.8125, 0.25]
    code, out, _ = mxbridge("undo", the_run(scored))
    assert code == 0
    assert "was changed by somebody since; it stays" in out
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_unpublished_runs_write_no_classifiers_yet(mxbridge: Call, project: Path, tmp_path: Path) -> None:
    before = files_of(project.parent)
    code, _, err = mxbridge(
        "score", "--project", project, *FAST, "--classifiers", "--no-publish", "--out", tmp_path / "run"
    )
    assert code == 0
    assert "written when the run is published" in err
    assert files_of(project.parent) == before
    code, out, _ = mxbridge("publish", tmp_path / "run")
    assert (code, "object classifiers: published" in out) == (0, True)
    assert len(list((project.parent / "classifiers/object_classifiers").iterdir())) == 3


@pytest.mark.parametrize(
    "change", [{"markers": 3}, {"cells": "all"}, {"markers": [{"marker": "CD3"}]}, {"model": None}]
)
def test_a_record_that_makes_no_sense_is_named(mxbridge: Call, project: Path, tmp_path: Path, change: dict) -> None:
    run_folder = tmp_path / "run"
    command = ("score", "--project", project, *FAST, "--markers", "CD3", "--classifiers", "--no-publish")
    assert mxbridge(*command, "--out", run_folder)[0] == 0
    record = json.loads((run_folder / "run.json").read_text("utf-8"))
    record["details"]["classifiers"] |= change
    (run_folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    code, _, err = mxbridge("publish", run_folder)
    assert (code, "does not say what its classifiers are" in err) == (6, True)
    assert not (project.parent / "classifiers/object_classifiers").exists()


def test_classifiers_need_a_project(mxbridge: Call, fields: Path, tmp_path: Path) -> None:
    code, _, err = mxbridge("score", "--files", fields / "north.ome.tif", "--labels", fields, *FAST, "--classifiers")
    assert code == 2
    assert "QuPath projects only" in err
    assert not (tmp_path / "mxbridge-runs").exists()


# ------------------------------------------------------------------------------------------------------------------ calibrate


def answer(mxbridge: Call, *arguments: object) -> dict[str, Any]:
    code, out, err = mxbridge("calibrate", *arguments, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def a_cut(project: Path) -> float:
    """A threshold in the midst of the scores, away from 0.5."""
    values = np.sort([c.measurements[CD3] for entry in (1, 2) for c in cells_of(project, entry)])
    return float(values[80] + values[81]) / 2


def test_a_known_threshold_comes_back_and_is_used(mxbridge: Call, scored: Path) -> None:
    cut = a_cut(scored)
    class_by_score(scored, cut)
    by_hand = files_of(scored.parent)
    dry = answer(mxbridge, "--project", scored, "--dry-run", "--out", scored.parent / "report.csv")
    assert files_of(scored.parent) == by_hand
    got = answer(mxbridge, "--project", scored, "--out", scored.parent / "report.csv")
    assert got["fitted"][0] | {"made": 0} == dry["fitted"][0] | {"made": 0}
    (one,) = got["fitted"]
    assert one["marker"] == "CD3"
    assert one["threshold"] == pytest.approx(cut, abs=1e-6)
    assert one["interval"][0] <= cut <= one["interval"][1]
    assert (one["auroc"], one["f1_after"], one["balanced_accuracy"]) == (1, 1, 1)
    assert one["f1_before"] < 1
    assert one["positive"] + one["negative"] == 128
    assert one["images"] == ["north.ome.tif", "south.ome.tif"]
    assert any("if a classifier did that" in note for note in got["notes"])
    report = pd.read_csv(scored.parent / "report.csv")
    assert report["threshold"].tolist() == pytest.approx([cut], abs=1e-6)
    assert {k: v for k, v in files_of(scored.parent).items() if k in by_hand} == by_hand
    stored = json.loads((scored.parent / "mxbridge/thresholds.json").read_text("utf-8"))
    assert stored["thresholds"][0]["rule"]["quantile"] == 0.999

    code, out, err = mxbridge("score", "--project", scored, *FAST, "--set-class", "--classifiers", "--json")
    assert code == 0, err
    assert "calibrated thresholds: CD3" in err
    thresholds = json.loads(out)["thresholds"]
    assert thresholds[CD3] == pytest.approx(cut, abs=1e-6)
    assert thresholds["NimbusDemo: Ki67"] == 0.5
    assert classifier(scored, "NimbusDemo CD3")["function"]["threshold"] == thresholds[CD3]
    for entry in (1, 2):
        for cell in cells_of(scored, entry):
            assert ("CD3" in (cell.class_name or "").split(": ")) == (cell.measurements[CD3] >= cut)

    code, out, err = mxbridge("score", "--project", scored, *FAST, "--threshold", "0.25", "--json")
    assert json.loads(out)["thresholds"][CD3] == 0.25
    assert "calibrated" not in err


def test_thresholds_for_other_scores_are_not_used(mxbridge: Call, scored: Path) -> None:
    class_by_score(scored, a_cut(scored))
    answer(mxbridge, "--project", scored)
    code, out, _ = mxbridge("score", "--project", scored, *FAST, "--quantile", "0.99", "--json", "--dry-run")
    assert code == 0
    (note,) = {n for image in json.loads(out)["images"] for n in image["notes"] if "calibrated" in n}
    assert "is not used: it was made for another normalisation quantile" in note


def test_classifiers_are_renewed(mxbridge: Call, scored: Path) -> None:
    assert mxbridge("score", "--project", scored, *FAST, "--classifiers")[0] == 0
    cut = a_cut(scored)
    class_by_score(scored, cut)
    answer(mxbridge, "--project", scored, "--classifiers")
    assert classifier(scored, "NimbusDemo CD3")["function"]["threshold"] == pytest.approx(cut, abs=1e-6)
    assert classifier(scored, "NimbusDemo Ki67")["function"]["threshold"] == 0.5
    mxbridge("undo", the_run(scored))
    assert list((scored.parent / "classifiers/object_classifiers").iterdir()) == []


def test_too_few_cells_are_refused_with_their_numbers(mxbridge: Call, scored: Path) -> None:
    cells = sorted(cells_of(scored, 1), key=lambda c: c.measurements[CD3])
    classes = {c.id: "CD3-" for c in cells[:7]} | {c.id: "CD3" for c in cells[-4:]}
    set_classes(scored, 1, classes)
    before = files_of(scored.parent)
    code, out, _ = mxbridge("calibrate", "--project", scored)
    assert code == 6
    assert "CD3: no threshold: 4 positive and 7 negative cells; 5 of each are needed" in out
    assert files_of(scored.parent) == before
    got = answer(mxbridge, "--project", scored, "--min-cells", "4")
    assert any("all classed cells lie in one image (north.ome.tif)" in note for note in got["notes"])
    assert any("class more cells that score in between" in note for note in got["notes"])


def test_conflicting_calls_are_left_out_and_told(mxbridge: Call, scored: Path) -> None:
    """Areas and classes of cells count alike; cells that are called both are nobody's."""
    cut = a_cut(scored)
    class_by_score(scored, cut, entries=(1,))
    draw(scored, 1, {"CD3-": (0, 0, 192, 24), "Tumor": (0, 0, 192, 192)})
    (one,) = answer(mxbridge, "--project", scored)["fitted"]
    above = sum(c.measurements[CD3] >= cut for c in cells_of(scored, 1)[:8])
    assert 0 < above == one["conflicts"]
    assert one["positive"] + one["negative"] == 64 - above


def test_cells_inside_annotations_count_as_classed(mxbridge: Call, scored: Path) -> None:
    draw(scored, 1, {"CD3: Positive": (0, 0, 192, 48), "Tumor: CD3: Negative": (0, 48, 192, 96)})
    draw(scored, 2, {"CD3+": (0, 0, 192, 24)})
    _, out, _ = mxbridge("calibrate", "--project", scored, "--json")
    got = json.loads(out)
    one = (got["fitted"] + got["refused"])[0]
    assert (one["positive"], one["negative"]) == (24, 16)


def test_classes_that_a_run_gave_are_not_hand_made(mxbridge: Call, scored: Path) -> None:
    assert mxbridge("score", "--project", scored, *FAST, "--set-class")[0] == 0
    assert any(c.class_name for c in cells_of(scored, 1))
    code, _, err = mxbridge("calibrate", "--project", scored)
    assert code == 6
    assert "no cell is classed by hand" in err
    cells = sorted(cells_of(scored, 1), key=lambda c: c.measurements[CD3])
    set_classes(scored, 1, {c.id: "CD3-" for c in cells[:30]} | {c.id: "Tumor: CD3" for c in cells[-6:]})
    (one,) = answer(mxbridge, "--project", scored)["fitted"]
    assert (one["positive"], one["negative"]) == (6, 30)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("Tumor: Positive", "Negative"), ()),
        (("T cell", "Stroma"), ("--positive", "T cell", "--negative", "Stroma")),
    ],
)
def test_any_classes_can_be_named(mxbridge: Call, scored: Path, names: tuple, options: tuple) -> None:
    cut = a_cut(scored)
    class_by_score(scored, cut, names=names)
    assert mxbridge("calibrate", "--project", scored, "--dry-run")[0] == 6  # of no marker in particular
    (one,) = answer(mxbridge, "--project", scored, "--marker", "cd3", *options)["fitted"]
    assert one["threshold"] == pytest.approx(cut, abs=1e-6)


def test_a_class_that_nothing_has_is_most_likely_misspelt(mxbridge: Call, scored: Path) -> None:
    class_by_score(scored, 0.5, names=("Positive", "CD3-"))
    code, _, err = mxbridge("calibrate", "--project", scored, "--marker", "CD3", "--positive", "Positve")
    assert code == 2
    assert "no class 'Positve'" in err
    assert "Did you mean 'Positive'?" in err


def test_an_unpublished_run(mxbridge: Call, project: Path, scored: Path, tmp_path: Path) -> None:
    code, _, _ = mxbridge("score", "--project", project, *FAST, "--no-publish", "--out", tmp_path / "run")
    assert code == 0
    cut = a_cut(scored)
    for entry in (1, 2):
        twins = zip(cells_of(project, entry), cells_of(scored, entry), strict=True)
        set_classes(project, entry, {p.id: ("CD3", "CD3-")[s.measurements[CD3] < cut] for p, s in twins})
    code, _, err = mxbridge("calibrate", "--project", project)
    assert code == 6
    assert "no scores are published" in err
    got = answer(mxbridge, "--run", tmp_path / "run", "--classifiers")
    assert got["source"].startswith("run ")
    assert got["fitted"][0]["threshold"] == pytest.approx(cut, abs=1e-6)
    assert any("written when the run is published" in note for note in got["notes"])
    assert mxbridge("publish", tmp_path / "run")[0] == 0
    assert classifier(project, "NimbusDemo CD3")["function"]["threshold"] == pytest.approx(cut, abs=1e-6)


def test_image_files_with_a_table(mxbridge: Call, fields: Path, scored: Path, tmp_path: Path) -> None:
    command = ("score", "--files", fields / "*.ome.tif", "--labels", fields / "*_mask.tif", *FAST)
    _, out, _ = mxbridge(*command, "--json")
    folder = Path(json.loads(out)["folder"])
    scores = pd.read_parquet(folder / "cells.parquet")
    cut = float(np.float32(0.31))
    calls = pd.DataFrame(
        {"image": scores["image"], "cell": scores["cell"], "marker": "CD3", "class": (scores[CD3] >= cut).astype(int)}
    )
    calls.iloc[::2].to_csv(tmp_path / "calls.csv", index=False)
    code, _, err = mxbridge("calibrate", "--run", folder)
    assert code == 2
    assert "--classes" in err
    code, _, err = mxbridge("calibrate", "--run", folder, "--project", scored, "--classes", tmp_path / "calls.csv")
    assert (code, "not of a project" in err) == (2, True)
    got = answer(mxbridge, "--run", folder, "--classes", tmp_path / "calls.csv", "--out", tmp_path / "cuts.json")
    (one,) = got["fitted"]
    assert one["interval"][0] <= cut <= one["interval"][1]
    assert got["kept"] == [str(tmp_path / "cuts.json")]
    code, out, err = mxbridge(*command, "--thresholds", tmp_path / "cuts.json", "--json")
    assert code == 0, err
    assert json.loads(out)["thresholds"][CD3] == one["threshold"]
    assert json.loads(out)["computed"] == 0
    code, _, err = mxbridge(*command, "--thresholds", tmp_path / "cuts.json", "--threshold", "0.5")
    assert code == 2
    (tmp_path / "calls.csv").write_text(f"image,cell,marker,class\n{scores['image'][0]},999,CD3,1\n")
    code, _, err = mxbridge("calibrate", "--run", folder, "--classes", tmp_path / "calls.csv")
    assert code == 6
    assert "no scored cell '999'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--project"),
        (("--project", "PROJECT", "--positive", "X"), 2, "--marker"),
        (("--project", "PROJECT", "--marker", "CD99"), 2, "CD99"),
        (("--project", "PROJECT", "--model", "Other"), 2, "Other"),
        (("--project", "PROJECT", "--image", "none"), 2, "none"),
        (("--project", "PROJECT", "--out", "report.xlsx"), 2, "report.xlsx"),
        (("--project", "PROJECT", "--classes", "none.csv"), 4, "none.csv"),
        (("--run", "nowhere"), 4, "nowhere"),
        (("--project", "PROJECT", "--min-cells", "1"), 2, "--min-cells"),
        (("--project", "PROJECT", "--cells", "detections"), 6, "no cell is classed"),
        (("--run", "RUN", "--model", "Other"), 2, "Other"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    mxbridge: Call, pristine_scores: Path, arguments: tuple, code: int, words: str
) -> None:
    known = {"PROJECT": pristine_scores, "RUN": the_run(pristine_scores / "project.qpproj")}
    given = [known.get(a, a) for a in arguments]
    got, out, err = mxbridge("calibrate", *given)
    assert (got, out) == (code, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_classifiers_of_markers_that_are_not_calibrated_keep_their_thresholds(mxbridge: Call, scored: Path) -> None:
    """Another threshold makes no new run, so run.json still tells the first one."""
    code, _, err = mxbridge("score", "--project", scored, *FAST, "--classifiers", "--threshold", "0.3")
    assert code == 0, err
    assert len(list((scored.parent / "mxbridge-runs").iterdir())) == 1
    class_by_score(scored, a_cut(scored))
    got = answer(mxbridge, "--project", scored, "--marker", "CD3", "--classifiers")
    assert got["fitted"][0]["before"] == np.float32(0.3)
    assert classifier(scored, "NimbusDemo Ki67")["function"]["threshold"] == np.float32(0.3)
    assert classifier(scored, "NimbusDemo CD3")["function"]["threshold"] == got["fitted"][0]["threshold"]


def test_a_channel_that_was_not_scored_is_not_taken_for_the_one_that_was(mxbridge: Call, project: Path) -> None:
    assert mxbridge("score", "--project", project, *FAST, "--markers", "CD3")[0] == 0
    class_by_score(project, a_cut(project), names=("Ki67: Negative", "Ki67: Positive"))
    code, _, err = mxbridge("calibrate", "--project", project)
    assert (code, "no cell is classed" in err) == (6, True)


def test_a_report_never_replaces_something_else(mxbridge: Call, scored: Path, tmp_path: Path) -> None:
    class_by_score(scored, a_cut(scored))
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    code, _, err = mxbridge("calibrate", "--project", scored, "--out", tmp_path / "mine.csv")
    assert (code, "no report of calibrate" in err) == (2, True)
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    assert not (scored.parent / "mxbridge/thresholds.json").exists()
    (tmp_path / "mine.json").write_text("{}")
    assert mxbridge("calibrate", "--project", scored, "--out", tmp_path / "mine.json")[0] == 6
    assert not (scored.parent / "mxbridge/thresholds.json").exists()
    (tmp_path / "taken").touch()
    code, _, err = mxbridge("calibrate", "--project", scored, "--out", tmp_path / "taken/report.csv")
    assert (code, "taken" in err) == (7, True)
    (tmp_path / "folder.csv").mkdir()
    code, _, err = mxbridge("calibrate", "--project", scored, "--out", tmp_path / "folder.csv")
    assert (code, "folder.csv" in err) == (7, True)
    assert not (scored.parent / "mxbridge/thresholds.json").exists()
    for _ in range(2):
        answer(mxbridge, "--project", scored, "--out", tmp_path / "new folder/report.csv")
    assert (tmp_path / "new folder/report.csv").is_file()


def test_a_report_that_fails_loses_no_thresholds(
    mxbridge: Call, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_by_score(scored, a_cut(scored))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    code, _, err = mxbridge("calibrate", "--project", scored, "--out", tmp_path / "a.csv", "--out", tmp_path / "a.json")
    assert (code, "a.csv: the disk is full" in err) == (7, True)
    for path in (scored.parent / "mxbridge/thresholds.json", tmp_path / "a.json"):
        assert [one["marker"] for one in json.loads(path.read_text("utf-8"))["thresholds"]] == ["CD3"]


def test_the_project_of_a_run_is_opened_once(mxbridge: Call, scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_by_score(scored, a_cut(scored))
    loaded, load = [], Run.load

    def listen(path: Path) -> Run:
        loaded.append(path)
        return load(path)

    monkeypatch.setattr(Run, "load", listen)
    assert answer(mxbridge, "--run", the_run(scored))["fitted"]
    assert loaded == [the_run(scored)]
    assert (scored.parent / "mxbridge/thresholds.json").is_file()


def test_broken_thresholds_stop_a_run_before_it_begins(mxbridge: Call, scored: Path) -> None:
    path = scored.parent / "mxbridge/thresholds.json"
    path.write_text('{"mxbridge_thresholds": 1, "thresholds": [1]}')
    code, _, err = mxbridge("score", "--project", scored, *FAST)
    assert (code, "thresholds.json" in err) == (6, True)
    assert mxbridge("score", "--project", scored, *FAST, "--threshold", "0.5")[0] == 0
    code, _, err = mxbridge("calibrate", "--project", scored)
    assert (code, "thresholds.json" in err) == (6, True)


def test_a_run_that_is_gone_is_named(mxbridge: Call, scored: Path) -> None:
    class_by_score(scored, a_cut(scored))
    moved = the_run(scored).rename(scored.parent / "elsewhere")
    code, _, err = mxbridge("calibrate", "--project", scored)
    assert (code, "--run" in err) == (6, True)
    assert answer(mxbridge, "--project", scored, "--run", moved)["fitted"]
