"""``qupath check``: sound projects pass, each kind of damage is named, and differences to QuPath are listed."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest

from mxbridge.errors import SourceError
from mxbridge.workspaces.qupath import check, judge, qupath_process
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.compare import (
    ImageFacts,
    ObjectFacts,
    RegionFacts,
    differences,
    facts_of,
    image_differences,
)
from mxbridge.workspaces.qupath.judge import EntryFacts
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, files_of, scores
from .fake_qupath import stand_in


@pytest.fixture(autouse=True)
def no_qupath(monkeypatch, request):
    if "qupath" not in request.keywords:
        monkeypatch.delenv("PAQUO_QUPATH_DIR", raising=False)


def test_golden_projects_are_sound_and_not_touched(golden, version):
    folder = golden(version)
    before = files_of(folder)
    report = check_project(folder)
    assert report.sound
    assert [(e.name, e.objects, e.cells) for e in report.entries] == [
        ("bf_rgb.tif", 268, 200),
        ("fl_5ch.ome.tif", 262, 200),
    ]
    assert not report.compared
    assert "PAQUO_QUPATH_DIR" in report.judge
    assert files_of(folder) == before


def test_each_kind_of_damage_is_named(project, data):
    workspace = QuPathWorkspace(project)
    workspace.publish(scores(workspace))
    shutil.copy(project / "data/2/data.qpdata.mxbridge-backup", data_file(workspace))
    shutil.copy(data / "qupath" / "broken" / "03-truncated-half.qpdata", data_file(workspace, "1"))
    (project / "images" / "bf_rgb.tif").unlink()
    (project / "classifiers" / "classes.json").write_text("{")
    (project / "data" / "2" / "data.qpdata.mxbridge-part").touch()
    report = check_project(project)
    assert not report.sound
    first, second = report.entries
    assert "not found" in first.problems[0]
    assert "data.qpdata" in first.problems[1]
    assert "published earlier" in second.problems[0]
    assert any("classes.json" in p for p in report.problems)
    assert any("killed run" in p for p in report.problems)


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
    monkeypatch.setattr(qupath_process, "find_spec", lambda name: object())
    assert "is not set" in qupath_process.why_not()
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path / "none"))
    assert "no folder" in qupath_process.why_not()
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path))
    assert qupath_process.why_not() == ""


def test_the_program_beside_says_why_it_cannot_start(project, monkeypatch, tmp_path):
    """The real program, with nothing that looks like a QuPath: paquo is missing, or refuses the folder."""
    monkeypatch.setattr(qupath_process, "why_not", lambda: "")
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path))
    with pytest.raises(SourceError, match="cannot be started") as caught:
        check_project(project, ask_qupath=True)
    assert "mxbridge[paquo]" in caught.value.hint


def test_what_qupath_reads_otherwise_ends_up_in_the_report(project, monkeypatch, tmp_path):
    before = files_of(project)
    stand_in(monkeypatch, tmp_path, "lies")
    report = check_project(project)
    assert report.compared
    assert report.judge == "compared with QuPath 9.9.9 (fake)"
    for entry in report.entries:
        (problem,) = entry.problems
        assert "measurements" in problem
        assert "made up" in problem
        assert any("in a colour that is not stored for it" in note for note in entry.notes)
    assert files_of(project) == before
    stand_in(monkeypatch, tmp_path, "no-image")
    assert all(e.problems == ("QuPath cannot open the image: made up",) for e in check_project(project).entries)


def test_nothing_is_fetched_because_a_project_says_so(project, monkeypatch, tmp_path):
    opened = Project.open(project)
    opened.document["images"][0]["serverBuilder"]["uri"] = "https://example.org/a.tif"
    opened.write()
    stand_in(monkeypatch, tmp_path, "honest")
    first, second = check_project(project).entries
    assert any("not shown to QuPath" in note and "example.org" in note for note in first.notes)
    assert second.problems == ()
    asked = (tmp_path / "requests.jsonl").read_text()
    assert '"id": 2' in asked
    assert '"id": 1' not in asked


@pytest.mark.parametrize("mode", ["dies", "dies-midway", "nonsense"])
def test_a_crash_of_qupath_on_one_image_leaves_the_others_compared(project, monkeypatch, tmp_path, mode):
    counter = stand_in(monkeypatch, tmp_path, f"{mode}:first")
    report = check_project(project)
    assert report.compared
    (problem,) = report.entries[0].problems
    expected = {
        "dies": "exit code 134): # A fatal error has been detected",
        "dies-midway": "exit code 7): a complaint of the JVM",
        "nonsense": "nobody understands",
    }
    assert expected[mode] in problem
    assert report.entries[1].problems == ()
    assert counter.read_text() == "2"


def test_a_hang_of_qupath_ends_after_its_time(project, monkeypatch, tmp_path):
    counter = stand_in(monkeypatch, tmp_path, "hangs:first")
    monkeypatch.setattr(qupath_process, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(judge, "BYTES_PER_SECOND", 1 << 30)
    first, second = check_project(project).entries
    assert "has not answered for 0.5" in first.problems[0]
    monkeypatch.setattr(qupath_process, "ANSWER_SECONDS", 60.0)
    assert counter.read_text() == "2"
    assert len(second.problems) <= 1  # the honest one may be slower than half a second on a busy machine


def test_a_qupath_that_fails_again_and_again_is_left_alone(project, monkeypatch, tmp_path):
    monkeypatch.setattr(judge, "FAILURES", 1)
    counter = stand_in(monkeypatch, tmp_path, "dies")
    first, second = check_project(project).entries
    assert "has ended" in first.problems[0]
    assert second.problems == ("not compared: QuPath failed on 1 images before it",)
    assert counter.read_text() == "1"


@pytest.mark.parametrize(("mode", "what"), [("no-start", "no valid qupath"), ("silent-start", "has not answered")])
def test_a_qupath_that_does_not_start(project, monkeypatch, tmp_path, mode, what):
    stand_in(monkeypatch, tmp_path, mode)
    monkeypatch.setattr(qupath_process, "START_SECONDS", 0.5 if mode == "silent-start" else 60.0)
    with pytest.raises(SourceError, match=what):
        check_project(project)


REGION = RegionFacts((0, 0, 10, 10), 100.0)


def test_differences_of_objects():
    a = ObjectFacts("1", "cell", "n", "A: B", 5, {"m": 0.1, "x": math.nan}, REGION, None, "p")
    same = replace(a, measurements={"m": 0.10000000149, "x": math.nan}, roi=RegionFacts((0, 0.001, 10, 10), 100.005))
    assert differences({"1": a}, [same]) == []
    for change, what in (
        ({"kind": "tile"}, "kind"),
        ({"name": None}, "name"),
        ({"class_name": "A"}, "class"),
        ({"parent": None}, "parent"),
        ({"measurements": {"m": 0.1}}, "measurements"),
        ({"measurements": {"x": math.nan, "m": 0.1}}, "measurements"),
        ({"measurements": {"m": 0.2, "x": math.nan}}, "m is"),
        ({"measurements": {"m": 0.1, "x": 1.0}}, "x is"),
        ({"roi": None}, "region"),
        ({"roi": RegionFacts((0, 0, 10, 10.5), 100.0)}, "bounds"),
        ({"roi": RegionFacts((0, 0, 10, 10), 99.0)}, "area"),
        ({"roi": RegionFacts((0, 0, 10, 10), 100.0, (0, 0, 0))}, "plane"),
        ({"nucleus": REGION}, "nucleus"),
    ):
        (line,) = differences({"1": a}, [replace(same, **change)])
        assert line.startswith("1: ")
        assert what in line
    assert differences({"1": a}, []) == ["1: only mxbridge reads it"]
    assert differences({}, [a]) == ["1: only QuPath reads it"]
    assert differences({"1": a}, [a, a]) == ["1: QuPath reads it twice"]


def test_differences_of_images():
    ours = ImageFacts((90, 120), (("DAPI", 0xFF), ("CD3", None)), (0.5, 0.5), False)
    same = replace(ours, channels=(("DAPI", 0xFF), ("CD3", 0x123456)))
    assert image_differences(ours, same) == []
    for change, what in (
        ({"shape": (90, 121)}, "121 x 90"),
        ({"rgb": True}, "colour picture"),
        ({"channels": (("DAPI", 0xFF),)}, "2 channels"),
        ({"channels": (("DAPI", 0xFF), ("CD8", 1))}, "'CD8'"),
        ({"channels": (("DAPI", 0xFE), ("CD3", 1))}, "0000fe"),
        ({"um": None}, "µm per pixel"),
        ({"um": (0.5, 0.51)}, "µm per pixel"),
    ):
        (line,) = image_differences(ours, replace(same, **change))
        assert what in line


def test_files_without_ids_are_compared_by_number(project, monkeypatch):
    """QuPath makes up ids that it does not find, so they cannot be compared."""
    tree = ImageDataFile.read(project / "data/2/data.qpdata")
    facts = [facts_of(o) for o in tree.objects()]

    class WithoutIds:
        writable, image_type, objects = False, "FLUORESCENCE", tree.objects

    monkeypatch.setattr(check.ImageDataFile, "read", lambda path: WithoutIds)
    assert check._object_lines(tree.path, EntryFacts("n", "FLUORESCENCE", None), iter(facts)) == []
    assert check._object_lines(tree.path, EntryFacts("n", "OTHER", None), iter(facts[1:])) == [
        "type FLUORESCENCE, in QuPath OTHER",
        "262 objects, in QuPath 261",
    ]
