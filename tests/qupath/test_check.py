"""``qupath check``: sound projects pass, each kind of damage is named, and differences to QuPath are listed."""

from __future__ import annotations

import math
import os
import shutil

import pytest

from mxbridge.errors import SourceError
from mxbridge.workspaces.qupath import paquo
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.compare import ObjectFacts, differences, facts_of
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, files_of, scores


@pytest.fixture(autouse=True)
def no_qupath(monkeypatch, request):
    if "qupath" not in request.keywords:
        monkeypatch.delenv("PAQUO_QUPATH_DIR", raising=False)


def test_golden_projects_are_sound_and_not_touched(golden, version):
    folder = golden(version)
    before = files_of(folder)
    check = check_project(folder)
    assert check.sound
    assert [(e.name, e.objects, e.cells) for e in check.entries] == [
        ("bf_rgb.tif", 268, 200),
        ("fl_5ch.ome.tif", 262, 200),
    ]
    assert not check.compared
    assert "PAQUO_QUPATH_DIR" in check.judge
    assert files_of(folder) == before


def test_each_kind_of_damage_is_named(project, data):
    workspace = QuPathWorkspace(project)
    workspace.publish(scores(workspace))
    shutil.copy(project / "data/2/data.qpdata.mxbridge-backup", data_file(workspace))
    shutil.copy(data / "qupath" / "broken" / "03-truncated-half.qpdata", data_file(workspace, "1"))
    (project / "images" / "bf_rgb.tif").unlink()
    (project / "classifiers" / "classes.json").write_text("{")
    (project / "data" / "2" / "data.qpdata.mxbridge-part").touch()
    check = check_project(project)
    assert not check.sound
    first, second = check.entries
    assert "not found" in first.problems[0]
    assert "data.qpdata" in first.problems[1]
    assert "published earlier" in second.problems[0]
    assert any("classes.json" in p for p in check.problems)
    assert any("killed run" in p for p in check.problems)


def test_a_base_class_without_colour_is_found(project):
    path = project / "data/2/data.qpdata"
    tree = ImageDataFile.read(path)
    cell = next(o for o in tree.objects() if o.class_name and ": " in o.class_name)
    cell.path_class.get("parentClass").put("colorRGB", None)
    path.write_bytes(tree.to_bytes())
    (problem,) = check_project(project).entries[1].problems
    assert "without a colour" in problem
    assert cell.class_name in problem


def test_asking_for_qupath_where_there_is_none_says_how_to_get_it(project, monkeypatch, tmp_path):
    with pytest.raises(SourceError, match="paquo"):
        check_project(project, ask_qupath=True)
    monkeypatch.setattr(paquo, "find_spec", lambda name: object())
    assert "is not set" in paquo.why_not()
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path / "none"))
    assert "no folder" in paquo.why_not()
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path))
    assert paquo.why_not() == ""


def test_a_comparison_with_qupath_ends_up_in_the_report(project, monkeypatch):
    ours = [facts_of(o) for o in ImageDataFile.read(project / "data/2/data.qpdata").objects()]
    answers = iter([(1, "QuPath cannot read it: made up"), (2, ours[1:])])
    monkeypatch.setattr(paquo, "read_with_qupath", lambda path: ("9.9.9", answers))
    check = check_project(project, ask_qupath=True)
    assert check.compared
    assert check.judge == "9.9.9"
    assert check.entries[0].problems == ("QuPath cannot read it: made up",)
    assert check.entries[1].problems == (f"{ours[0].id}: only mxbridge reads it",)


def test_differences_of_objects():
    a = ObjectFacts("1", "n", "A: B", {"m": 0.1, "x": math.nan}, (0, 0, 10, 10))
    same = ObjectFacts("1", "n", "A: B", {"m": 0.10000000149, "x": math.nan}, (0, 0.001, 10, 10))
    assert differences([a], [same]) == []
    for change, what in (
        ({"name": None}, "name"),
        ({"class_name": "A"}, "class"),
        ({"measurements": {"m": 0.1}}, "measurements"),
        ({"measurements": {"m": 0.2, "x": math.nan}}, "m is"),
        ({"measurements": {"m": 0.1, "x": 1.0}}, "x is"),
        ({"bounds": None}, "region"),
        ({"bounds": (0, 0, 10, 10.5)}, "bounds"),
    ):
        (line,) = differences([a], [ObjectFacts(**{**vars(same), **change})])
        assert line.startswith("1: ")
        assert what in line
    assert differences([a], []) == ["1: only mxbridge reads it"]
    assert differences([], [a]) == ["1: only QuPath reads it"]


@pytest.mark.qupath
@pytest.mark.skipif(bool(paquo.why_not()), reason=f"no real QuPath: {paquo.why_not()}")
def test_real_qupath_reads_the_same(golden):
    folder = golden("v0.6.0")
    workspace = QuPathWorkspace(folder)
    workspace.publish(scores(workspace))
    check = check_project(folder, ask_qupath=True)
    assert check.compared, os.environ.get("PAQUO_QUPATH_DIR")
    assert check.sound, check
