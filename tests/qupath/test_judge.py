"""Everything mxbridge writes, before three judges: our own reader, a stand-in for QuPath's process, and a real QuPath."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mxbridge.image import Channel
from mxbridge.tasks.positivity import class_part, derived_classes
from mxbridge.workspaces.qupath import qupath_process
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.compare import FactsOf, ObjectFacts, differences
from mxbridge.workspaces.qupath.joined import DerivedFile, add_joined_entry, joined_keys, remove_joined_channels
from mxbridge.workspaces.qupath.object_classifiers import MarkerClassifier, object_classifiers
from mxbridge.workspaces.qupath.pixels import open_stored
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qupath_pixels import open_through_qupath
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import scores
from .fake_qupath import stand_in
from .scenes import (
    FIELD,
    SCENES,
    classes,
    golden,
    joined_again,
    joined_channels,
    measurements_of_every_kind,
    new_brightfield,
    nuclei_and_images_apart,
    objects_in,
    objects_of_every_kind,
)

OBJECTS = {
    "new_fluorescence": (3, 2, 0, 0),
    "new_brightfield": (1, 0, 0),
    "new_entry": (268, 262, 1),
    "joined_channels": (3, 2, 0, 0, 3, 2, 0),
    "joined_again": (268, 262, 262),
    "objects_of_every_kind": (268, 302),
    "replaced_objects": (268, 267),
    "measurements_of_every_kind": (268, 262),
    "classes": (268, 262),
    "everything_undone": (268, 262),
    "nuclei_and_images_apart": (115, 262, 115, 115),
}

real = [
    pytest.mark.qupath,
    pytest.mark.skipif(bool(qupath_process.why_not()), reason=f"no real QuPath: {qupath_process.why_not()}"),
]


def facts(project: Path) -> dict[int, dict[str, ObjectFacts]]:
    opened = Project.open(project)
    return {
        e.id: dict(FactsOf(ImageDataFile.read(opened.data_path(e.id))))
        for e in opened.entries
        if opened.data_path(e.id).exists()
    }


def beside_qupath(name: str, project: Path, *arguments: str) -> str:
    """Run a script of this folder that starts a real QuPath; what it prints."""
    script = Path(__file__).with_name(f"{name}.py")
    done = subprocess.run(
        [*qupath_process.command()[:-2], str(script), str(Project.open(project).path), *arguments],
        env=qupath_process.environment(), cwd=script.parent, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def colors(objects: dict[str, ObjectFacts]) -> dict[str | None, int | None]:
    return {o.class_name: o.class_color for o in objects.values()}


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: s.__name__)
def test_our_own_reader_finds_every_scene_sound(scene, tmp_path, data):
    project = scene(tmp_path, data)
    assert objects_in(project) == OBJECTS[scene.__name__]
    check = check_project(project, ask_qupath=False)
    assert check.sound, check


@pytest.mark.parametrize("scene", [new_brightfield, joined_again, objects_of_every_kind], ids=lambda s: s.__name__)
def test_a_stand_in_for_qupath_agrees(scene, tmp_path, data, monkeypatch):
    stand_in(monkeypatch, tmp_path, "honest")
    check = check_project(scene(tmp_path, data))
    assert check.sound, check
    assert check.compared
    assert not [n for e in check.entries for n in e.notes if "colour" in n]


def test_the_scenes_hold_what_they_promise(tmp_path, data):
    measured = facts(measurements_of_every_kind(tmp_path / "m", data))[2].values()
    lists = {o.kind for o in measured if "NimbusDemo: CD3" in o.measurements}
    assert lists == {"cell", "detection", "tile", "annotation"}
    tree = ImageDataFile.read(tmp_path / "m/Projekt µ/v0.4.4/data/2/data.qpdata")
    kinds = {o.measurement_list.name.rsplit(".", 1)[-1] for o in tree.objects() if o.measurement_list is not None}
    assert kinds >= {"NumericMeasurementList$FloatList", "NumericMeasurementList$DoubleList", "DefaultMeasurementList"}
    names = {o.class_name for o in facts(classes(tmp_path / "c", data))[2].values()}
    assert {"Tumor: CD3: CD8", "Prüfung µ 𝄞: Kind", None} <= names


@pytest.fixture(params=SCENES, ids=lambda s: s.__name__)
def scene(request, tmp_path, data) -> Path:
    return request.param(tmp_path, data)


class TestRealQuPath:
    pytestmark = real

    def test_reads_the_same_saves_it_and_we_read_that(self, scene):
        check = check_project(scene, ask_qupath=True)
        assert check.compared
        assert check.sound, check
        assert not [n for e in check.entries for n in e.notes if "colour" in n], check
        before, entries = facts(scene), Project.open(scene).entries
        beside_qupath("qupath_saves", scene)
        after = facts(scene)
        for number in after:
            assert differences(before.get(number, {}), after[number].values()) == []
            assert colors(after[number]) == colors(before.get(number, {}))
        again = Project.open(scene).entries
        assert [(e.id, e.name, e.metadata) for e in again] == [(e.id, e.name, e.metadata) for e in entries]
        assert check_project(scene, ask_qupath=False).sound

    @pytest.mark.parametrize("make", [joined_channels, joined_again], ids=lambda s: s.__name__)
    def test_joined_channels_have_our_names_colours_and_pixels(self, make, tmp_path, data):
        project = Project.open(make(tmp_path, data))
        joined = [e for e in project.entries if e.made_by_mxbridge]
        assert joined
        for entry in joined:
            ours = open_stored(entry.builder, name=entry.name, locate=project.locate)
            theirs = open_through_qupath(entry.builder, name=entry.name, locate=project.locate)
            assert theirs.channels == ours.channels
            assert theirs.dtype == ours.dtype
            assert theirs.pixel_size_um == ours.pixel_size_um
            assert [level.shape for level in theirs.levels] == [level.shape for level in ours.levels]
            for level, other in zip(ours.levels, theirs.levels, strict=True):
                assert np.array_equal(np.asarray(level), np.asarray(other))

    def test_a_joined_entry_that_qupath_saved_is_found_again(self, tmp_path, data):
        folder = joined_again(tmp_path, data)
        joined = Project.open(folder).entries[-1]
        before = open_stored(joined.builder, name="n", locate=Project.open(folder).locate)
        beside_qupath("qupath_saves", folder)
        theirs = Project.open(folder).data_path(joined.id).read_bytes()
        channels = (Channel("new name"),)
        done = add_joined_entry(folder, 2, [DerivedFile(folder / "a.ome.tif", "a", channels)])
        assert done.entry_id == joined.id
        assert [n for n in done.notes if "keeps its objects" in n]
        assert not [n for n in done.notes if "channel names" in n]
        again = Project.open(folder)
        image = open_stored(again.entry(joined.id).builder, name="n", locate=again.locate)
        assert image.channels == before.channels
        assert again.data_path(joined.id).read_bytes() == theirs
        assert joined_keys(again, 2) == ("a", "c")
        assert remove_joined_channels(folder, 2, ["a"]).entry_id == joined.id
        assert check_project(folder, ask_qupath=True).sound

    @pytest.mark.parametrize(
        "broken", ["03-truncated-half", "09-deep-nesting", "12-child-count-2e9", "17-wrong-class", "19-classdesc-cycle"]
    )
    def test_broken_files_end_in_a_report(self, broken, tmp_path, data):
        folder = golden(tmp_path, data)
        (folder / "data/1/data.qpdata").write_bytes((data / "qupath/broken" / f"{broken}.qpdata").read_bytes())
        first, second = check_project(folder, ask_qupath=True).entries
        assert first.problems
        assert second.problems == ()

    def test_counts_our_nuclei_and_shows_our_values(self, tmp_path, data):
        folder = nuclei_and_images_apart(tmp_path, data)
        told = json.loads(beside_qupath("qupath_counts", folder, "1"))
        assert told["image"]["values"] == {"DeepLIIF: Positive % (run 1)": 40}
        assert "H&E" in told["image"]["type"]
        field = told["annotations"][FIELD]
        assert field["values"] == {"DeepLIIF: Num detections": 100}
        assert (field["all"], field["positive"], field["negative"]) == (100, 40, 60)
        assert field["bases"] == ["Tumor"]
        for entry, kind in (("3", "Fluorescence"), ("4", "Brightfield (H&E)")):
            view = json.loads(beside_qupath("qupath_counts", folder, entry))
            assert view == {**told, "image": {**told["image"], "type": kind}}

    @pytest.mark.parametrize("entry", [3, 4])
    def test_images_apart_have_our_names_colours_and_pixels(self, entry, tmp_path, data):
        project = Project.open(nuclei_and_images_apart(tmp_path, data))
        shown = project.entry(entry)
        ours = open_stored(shown.builder, name=shown.name, locate=project.locate)
        theirs = open_through_qupath(shown.builder, name=shown.name, locate=project.locate)
        assert (theirs.channels, theirs.dtype, theirs.rgb) == (ours.channels, ours.dtype, ours.rgb)
        assert theirs.pixel_size_um == ours.pixel_size_um
        for level, other in zip(ours.levels, theirs.levels, strict=True):
            assert np.array_equal(np.asarray(level), np.asarray(other))

    def test_classifiers_give_the_classes_that_we_give(self, tmp_path, data):
        folder = golden(tmp_path, data)
        workspace = QuPathWorkspace(folder)
        names = ("CD3", "CD8 µ test", "Ki67")
        results = scores(workspace, names=names)  # every 17th value is NaN
        workspace.publish(results)
        values = np.stack([m.values for m in results.measurements])
        cuts = np.array([values[0, 1], 0.5, 0.25], np.float32)  # the first is exactly the value of a cell
        markers = [
            MarkerClassifier(n, m.name, float(cut), class_part(n))
            for n, m, cut in zip(names, results.measurements, cuts, strict=True)
        ]
        written = object_classifiers(workspace).put("run", "NimbusDemo", markers, kind="CELLS", timestamp_ms=1)
        told = json.loads(beside_qupath("qupath_classifies", folder, "2", Path(written.files[-1]).stem))
        positive = values >= cuts[:, None]
        wanted = derived_classes([None] * len(results.cell_ids), positive, names, names)
        assert [told[i] for i in results.cell_ids] == wanted
        assert len(set(wanted)) == 8


@pytest.mark.parametrize("name", ["qupath_saves", "qupath_classifies", "qupath_counts"])
def test_scripts_that_run_beside_qupath_compile(name) -> None:
    script = Path(__file__).with_name(f"{name}.py")
    compile(script.read_text(encoding="utf-8"), str(script), "exec")
