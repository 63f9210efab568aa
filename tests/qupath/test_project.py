"""project.qpproj: what is kept, what is refused, where images are found, and how it is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mxbridge.errors import BrokenFile, ChangedMeanwhile, OutputError, SourceError
from mxbridge.workspaces.qupath.classes import ClassList, class_colors, lineage
from mxbridge.workspaces.qupath.project import Project, dump_json

VERSIONS = ("v0.4.4", "v0.5.1", "v0.6.0", "v0.7.0")


def minimal(**changes):
    entry = {
        "serverBuilder": {"builderType": "uri", "uri": "file:/a.tif"},
        "entryID": 1,
        "imageName": "a",
        "metadata": {},
    }
    entry.update(changes.pop("entry", {}))
    document = {"version": "0.6.0", "createTimestamp": 1, "modifyTimestamp": 1, "uri": "file:/p/project.qpproj"}
    return {**document, "lastID": 1, "images": [entry], **changes}


def write(folder: Path, document) -> Path:
    path = folder / "project.qpproj"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_projects_are_written_back_byte_for_byte(data, version):
    path = data / "qupath" / version / "project.qpproj"
    project = Project.open(path)
    assert project.to_bytes() == path.read_bytes()
    assert [(e.id, e.name) for e in project.entries] == [(1, "bf_rgb.tif"), (2, "fl_5ch.ome.tif")]
    assert project.entry(2).metadata == {"Patient": "P-001", "Stain": "Fluorescence"}
    assert project.entry(2).description == "Description of fl_5ch.ome.tif"


@pytest.mark.shared
def test_projects_of_users_are_written_back_byte_for_byte(shared):
    found = sorted((shared / "data" / "qupath").rglob("*.qpproj"))
    assert len(found) >= 3
    for path in found:
        assert Project.open(path).to_bytes() == path.read_bytes()


def test_unknown_keys_and_special_characters_survive_an_added_entry(tmp_path):
    document = minimal(future={"a": [1, 2.5, None]}, entry={"strange": "<a&b='c'>", "imageName": "µ 𝄞 \ud800"})
    path = write(tmp_path, document)
    project = Project.open(path)
    entry = project.add_entry("new", {"builderType": "uri", "uri": "file:/b.tif"}, metadata={"_mxbridge.key": "k"})
    assert entry.id == 2
    assert entry.made_by_mxbridge
    assert project.write()
    again = json.loads(path.read_text(encoding="utf-8"))
    assert again["future"] == document["future"]
    assert again["images"][0] == document["images"][0]
    assert again["images"][1]["metadata"] == {"_mxbridge.key": "k"}
    assert again["lastID"] == 2
    assert "\\u003ca\\u0026b\\u003d\\u0027c\\u0027\\u003e" in path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "project.qpproj.mxbridge-backup").read_bytes()) == document


def test_writing_without_a_change_touches_nothing(tmp_path):
    path = write(tmp_path, minimal())
    project = Project.open(path)
    path.write_bytes(project.to_bytes())
    project = Project.open(path)
    before = path.stat().st_mtime_ns
    assert not project.write()
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["project.qpproj"]


def test_a_project_changed_meanwhile_is_not_overwritten(tmp_path):
    path = write(tmp_path, minimal())
    project = Project.open(path)
    project.add_entry("new", {"builderType": "uri", "uri": "file:/b.tif"})
    changed = minimal(lastID=7)
    write(tmp_path, changed)
    assert not project.current()
    with pytest.raises(ChangedMeanwhile) as caught:
        project.write()
    assert caught.value.exit_code == 7
    assert json.loads(path.read_text()) == changed
    assert not list(tmp_path.glob("*.mxbridge-part"))


def test_new_ids_are_never_reused(tmp_path):
    (tmp_path / "data" / "41").mkdir(parents=True)
    (tmp_path / "data" / "notes").mkdir()
    project = Project.open(write(tmp_path, minimal(lastID=3, entry={"entryID": 12})))
    assert project.new_id() == 42
    assert Project.open(write(tmp_path, minimal(lastID="x"))).new_id() == 42


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"images": {}}',
        '{"images": [3]}',
        '{"images": [{"entryID": 1}]}',
        '{"images": ' + "[" * 100_000,
        '{"images": [' + "9" * 10_000 + "]}",
        minimal(entry={"entryID": "../../etc"}),
        minimal(entry={"entryID": -1}),
        minimal(entry={"entryID": 1.5}),
        minimal(entry={"entryID": True}),
        minimal(entry={"entryID": None}),
        minimal(entry={"entryID": 10**30}),
        minimal(entry={"metadata": "x"}),
        minimal(entry={"serverBuilder": "x"}),
        {**minimal(), "images": minimal()["images"] * 2},
    ],
)
def test_what_is_no_project_is_refused_in_one_line(tmp_path, bad):
    with pytest.raises(BrokenFile) as caught:
        Project.open(write(tmp_path, bad))
    assert "\n" not in str(caught.value)
    assert "project.qpproj" in str(caught.value)


def test_a_project_file_of_absurd_size_is_not_read(tmp_path):
    path = tmp_path / "project.qpproj"
    with path.open("wb") as stream:
        stream.truncate(65 * 1024 * 1024)
    with pytest.raises(BrokenFile, match="more than"):
        Project.open(path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "project.qpproj").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BrokenFile, match="UTF-8"):
        Project.open(tmp_path)


def test_no_such_project_says_what_there_is(tmp_path):
    with pytest.raises(SourceError) as caught:
        Project.open(tmp_path / "none.qpproj")
    assert caught.value.exit_code == 4
    with pytest.raises(SourceError, match="there is none"):
        Project.open(tmp_path)
    write(tmp_path, minimal()).rename(tmp_path / "mine.qpproj")
    assert Project.open(tmp_path).path.name == "mine.qpproj"
    with pytest.raises(SourceError, match=r"mine\.qpproj"):
        Project.open(tmp_path / "project.qpproj")
    with pytest.raises(SourceError, match="no image with id 9"):
        Project.open(tmp_path).entry(9)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["deep/er", "with space ü µ", "a/b/c/d/e"])
def test_images_are_found_in_moved_copies(data, tmp_path, version, place):
    root = tmp_path / place
    root.mkdir(parents=True)
    shutil.copytree(data / "qupath" / version, root / version)
    own = root / version / "images"
    images = root / "images"
    if version == "v0.6.0":
        shutil.copytree(data / "qupath" / "images", own, dirs_exist_ok=True)
        images.mkdir()
        (images / "fl_5ch.ome.tif").write_bytes(b"a decoy of the same name, one folder off")
    else:
        shutil.copytree(data / "qupath" / "images", images)
    project = Project.open(root / version)
    assert project.moved
    found = project.locate(project.entry(2).builder["uri"])
    assert found == (own if version == "v0.6.0" else images) / "fl_5ch.ome.tif"
    shutil.rmtree(found.parent)
    with pytest.raises(SourceError) as caught:
        project.locate(project.entry(2).builder["uri"])
    assert str(found) in str(caught.value)
    assert "/srv/golden/" in str(caught.value)
    assert "--path-map" in str(caught.value)


def test_a_project_that_has_not_moved_uses_the_stored_path(tmp_path):
    folder, elsewhere = tmp_path / "p", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.tif").touch()
    path = write(folder, minimal(uri=(folder / "project.qpproj").as_uri()))
    project = Project.open(path)
    assert not project.moved
    assert project.locate((elsewhere / "a.tif").as_uri()) == elsewhere / "a.tif"


def test_a_copied_project_prefers_the_copy_of_the_images(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "images" / "a.tif").touch()
        path = write(tmp_path / name, minimal(uri=(tmp_path / "old" / "project.qpproj").as_uri()))
    project = Project.open(path)
    assert project.moved
    uri = (tmp_path / "old" / "images" / "a.tif").as_uri()
    assert project.locate(uri) == tmp_path / "new" / "images" / "a.tif"
    (tmp_path / "new" / "images" / "a.tif").unlink()
    assert project.locate(uri) == tmp_path / "old" / "images" / "a.tif"


def test_classes_are_read_and_extended(data, tmp_path):
    path = tmp_path / "classifiers" / "classes.json"
    path.parent.mkdir()
    shutil.copy(data / "qupath" / "v0.6.0" / "classifiers" / "classes.json", path)
    before = path.read_bytes()
    classes = ClassList(path)
    assert classes.colors["Tumor"] == -3670016
    assert classes.extend(["Tumor"]) == []
    assert path.read_bytes() == before
    assert classes.extend(["Tumor", "New: CD3"]) == ["New: CD3"]
    assert list(ClassList(path).colors)[7:] == ["CD3: CD8", "New: CD3"]
    assert ClassList(path).colors["New: CD3"] < 0
    classes.drop(["New: CD3"])
    assert path.read_bytes() == before
    assert path.with_name("classes.json.mxbridge-backup").exists()


def test_a_project_without_a_class_list_gets_one(tmp_path):
    classes = ClassList(tmp_path / "classifiers" / "classes.json")
    assert classes.colors == {}
    classes.extend(["A", "A: B"])
    assert list(ClassList(classes.path).colors) == ["A", "A: B"]


@pytest.mark.parametrize(
    "bad", ["", "[]", "{}", '{"pathClasses": 1}', '{"pathClasses": [1]}', '{"pathClasses": [{"name": 5}]}']
)
def test_a_broken_class_list_is_reported_and_left_alone(tmp_path, bad):
    path = tmp_path / "classes.json"
    path.write_text(bad)
    with pytest.raises(BrokenFile, match=r"classes\.json"):
        ClassList(path)
    assert path.read_text() == bad


def test_every_class_and_every_base_of_it_has_a_colour():
    colors = class_colors(["Tumor: CD3: CD8", "B"], {"Tumor": -5, "B": None})
    assert list(colors) == ["Tumor", "Tumor: CD3", "Tumor: CD3: CD8", "B"]
    assert colors["Tumor"] == -5
    assert all(-(1 << 24) <= c < 0 or c == -5 for c in colors.values())
    assert colors == class_colors(["Tumor: CD3: CD8", "B"], {"Tumor": -5})
    assert lineage("A") == ["A"]


def test_links_are_not_written_through(tmp_path):
    real = write(tmp_path, minimal())
    real = real.rename(tmp_path / "real.qpproj")
    (tmp_path / "p").mkdir()
    link = tmp_path / "p" / "project.qpproj"
    link.symlink_to(real)
    project = Project.open(link)
    project.add_entry("new", {"builderType": "uri", "uri": "file:/b.tif"})
    with pytest.raises(OutputError, match="symbolic link"):
        project.write()
    assert len(json.loads(real.read_text())["images"]) == 1


def test_json_is_laid_out_as_qupath_does():
    assert dump_json({"a": [], "b": {}, "c": ["x"]}) == b'{\n  "a": [],\n  "b": {},\n  "c": [\n    "x"\n  ]\n}'
