"""Images derived from a colour picture, as entries of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mxbridge.errors import InputError
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.results import DerivedImage, ImageRef, ImageValue, Results
from mxbridge.workspaces.qupath import views
from mxbridge.workspaces.qupath.apart import apart_files
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.shown_maps import maps_are_shown
from mxbridge.workspaces.qupath.views import MARK
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import files_of
from .test_joined import Killed, edit_entry

BF, FIRST, SECOND = "1", 3, 4
"""Id of the colour picture in every golden project, and of the first new entries."""

DEEPLIIF = DerivedImage(
    "DeepLIIF.ome.zarr", ("DAPI (DeepLIIF)", "Ki67 (DeepLIIF)"), "key-fl", "apart", title="DeepLIIF"
)
HEMATOXYLIN = DerivedImage(
    "H.ome.zarr", ("red", "green", "blue"), "key-h", "apart", rgb=True, title="Hematoxylin, DeepLIIF"
)


def derive(workspace, image: DerivedImage, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Write it where the workspace keeps such images. scale: its pixels are so much larger than those of the picture."""
    ref = ImageRef(BF, "bf")
    base = workspace.pull(ref).image
    shape = tuple(round(n / scale) for n in base.shape)
    values = np.random.default_rng(seed).integers(0, 256, (len(image.channels), *shape), np.uint8)
    channels = [
        Channel(name, color) for name, color in zip(image.channels, (0x0000FF, 0xFFFF00, 0x00FF00), strict=False)
    ]
    path = workspace.derived_folder(ref) / image.file
    size = tuple(side * scale for side in base.require_pixel_size())
    writer = OmeZarrWriter(path, values.shape, np.uint8, channels, size, version="0.4")
    for number, plane in enumerate(values):
        writer.write(number, Box(0, 0, *shape), plane)
    writer.finish()
    return values


def results(workspace, *derived, run="run-1", value=1.0) -> Results:
    ref = workspace.list([BF])[0]
    return Results(ref, run, derived=derived, image_values=(ImageValue("DeepLIIF: n", value, "key-score"),))


def pulled(workspace, entry):
    again = QuPathWorkspace(workspace.address)
    return again.pull(again.list([str(entry)])[0])


def pixels(image):
    return np.asarray(image.levels[0])


def test_shown_replaced_and_taken_out(workspace, project):
    before = files_of(project)
    values, picture = derive(workspace, DEEPLIIF), derive(workspace, HEMATOXYLIN, 1)
    first = results(workspace, DEEPLIIF, HEMATOXYLIN)
    done = workspace.publish(first)
    assert done.changed
    assert workspace.holds(first)
    assert not workspace.publish(first).changed
    opened = Project.open(project)
    source = opened.entry(1).name
    assert [(e.name, e.made_by_mxbridge) for e in opened.entries[2:]] == [
        (f"{source} (DeepLIIF)", True),
        (f"{source} (Hematoxylin, DeepLIIF)", True),
    ]
    assert [r.id for r in QuPathWorkspace(project).list()] == ["1", "2"]
    assert apart_files(opened, 1) == {"key-fl": "DeepLIIF.ome.tif", "key-h": "H.ome.tif"}
    base, fluorescence, brightfield = (pulled(workspace, e) for e in (1, FIRST, SECOND))
    assert np.array_equal(pixels(fluorescence.image), values)
    assert [(c.name, c.color) for c in fluorescence.image.channels] == [
        ("DAPI (DeepLIIF)", 0x0000FF), ("Ki67 (DeepLIIF)", 0xFFFF00),
    ]  # fmt: skip
    assert brightfield.image.rgb
    assert not fluorescence.image.rgb
    assert np.array_equal(pixels(brightfield.image), picture)
    assert fluorescence.image.pixel_size_um == brightfield.image.pixel_size_um == base.image.pixel_size_um
    assert fluorescence.cells.ids == brightfield.cells.ids == base.cells.ids
    original, view, other = (ImageDataFile.read(opened.data_path(e)) for e in (1, FIRST, SECOND))
    assert (original.image_type, view.image_type, other.image_type) == (
        "BRIGHTFIELD_H_E",
        "FLUORESCENCE",
        "BRIGHTFIELD_H_E",
    )
    assert view.stains is None
    assert other.stains == original.stains is not None
    assert check_project(project, ask_qupath=False).sound
    again = derive(workspace, DEEPLIIF, 5)
    workspace.publish(results(workspace, DEEPLIIF, run="run-2"))
    assert np.array_equal(pixels(pulled(workspace, FIRST).image), again)
    assert [e.id for e in Project.open(project).entries] == [1, 2, FIRST, SECOND]
    workspace.retract(first.image, ["key-fl"])
    assert [e.id for e in Project.open(project).entries] == [1, 2, SECOND]
    assert not opened.data_folder(FIRST).exists()
    workspace.retract(first.image, first.result_keys)
    for entry in ("DeepLIIF", "H"):
        assert not (workspace.derived_folder(first.image) / f"{entry}.ome.tif").exists()
    left = {n: f for n, f in files_of(project).items() if not n.startswith("mxbridge/") and "backup" not in n}
    same = {n: f for n, f in before.items() if not n.startswith("mxbridge/")}
    assert set(left) == set(same)
    assert left["data/1/data.qpdata"][1] == same["data/1/data.qpdata"][1]


def test_a_coarser_image_gets_the_size_of_the_picture(workspace):
    values = derive(workspace, DEEPLIIF, scale=2)
    workspace.publish(results(workspace, DEEPLIIF))
    shown, base = pulled(workspace, FIRST).image, workspace.pull(ImageRef(BF, "bf")).image
    assert shown.shape == base.shape
    assert np.array_equal(pixels(shown)[:, ::2, ::2], values)
    assert np.array_equal(pixels(shown)[:, 1::2, 1::2], values)


def test_objects_follow_until_someone_saves_them(workspace, project):
    derive(workspace, DEEPLIIF)
    workspace.publish(results(workspace, DEEPLIIF))
    workspace.publish(results(workspace, value=5))
    assert ImageDataFile.read(Project.open(project).data_path(FIRST)).image_values == {"DeepLIIF: n": 5}
    path = Project.open(project).data_path(FIRST)
    tree = ImageDataFile.read(path)
    tree.set_image_values({"by hand": 1})
    path.write_bytes(tree.to_bytes())
    theirs = path.read_bytes()
    notes = " ".join(workspace.publish(results(workspace, DEEPLIIF, value=6)).notes)
    assert "keeps its objects" in notes
    assert path.read_bytes() == theirs
    done = workspace.retract(ImageRef(BF, "bf"), ["key-fl", "key-score"])
    assert "stays" in " ".join(done.notes)
    assert path.read_bytes() == theirs
    assert (workspace.derived_folder(ImageRef(BF, "bf")) / "DeepLIIF.ome.tif").exists()
    assert pulled(workspace, FIRST).image.shape


def test_names_and_colours_that_a_user_gave_stay(workspace, project):
    derive(workspace, DEEPLIIF)
    workspace.publish(results(workspace, DEEPLIIF))

    def renamed(raw):
        raw["imageName"] = "mine"
        raw["serverBuilder"]["metadata"]["channels"][0] = {"name": "nuclei", "color": -1}

    edit_entry(project, renamed, entry=FIRST)
    derive(workspace, DEEPLIIF, 3)
    workspace.publish(results(workspace, DEEPLIIF, run="run-2"))
    shown = pulled(workspace, FIRST)
    assert (shown.ref.name, shown.image.channels[0]) == ("mine", Channel("nuclei", 0xFFFFFF))


def test_lost_entries_and_files_are_missed(workspace, project):
    derive(workspace, DEEPLIIF)
    wanted = results(workspace, DEEPLIIF)
    workspace.publish(wanted)
    path = project / "project.qpproj"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["images"] = [raw for raw in document["images"] if raw["entryID"] != FIRST]
    path.write_text(json.dumps(document), encoding="utf-8")
    again = QuPathWorkspace(project)
    assert not again.holds(wanted)
    assert again.publish(wanted).changed
    assert again.holds(wanted)
    (again.derived_folder(wanted.image) / "DeepLIIF.ome.tif").unlink()
    assert not again.holds(wanted)


def test_what_is_no_picture_is_refused(workspace):
    wrong = DerivedImage("w.ome.zarr", ("a", "b"), "key-w", "apart", rgb=True, title="w")
    derive(workspace, wrong)
    with pytest.raises(InputError, match="no colour picture"):
        workspace.publish(results(workspace, wrong))
    assert len(Project.open(workspace.address).entries) == 2


@pytest.mark.parametrize("step", range(6))
def test_a_kill_leaves_something_that_the_next_run_completes(workspace, project, monkeypatch, step):
    derive(workspace, DEEPLIIF)
    derive(workspace, HEMATOXYLIN, 1)
    wanted = results(workspace, DEEPLIIF, HEMATOXYLIN)
    calls = 0

    def killed(name):
        real = getattr(views, name)

        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise Killed
            return real(*arguments, **options)

        return call

    for name in ("replace_seen", "write_atomically", "_remove_mark"):
        monkeypatch.setattr(views, name, killed(name))
    with pytest.raises(Killed):
        workspace.publish(wanted)
    monkeypatch.undo()
    again = QuPathWorkspace(project)
    assert not again.holds(wanted)
    again.publish(wanted)
    assert again.holds(wanted)
    opened = Project.open(project)
    assert [e.name.partition(" (")[2] for e in opened.entries[2:]] == ["DeepLIIF)", "Hematoxylin, DeepLIIF)"]
    folders = {p.name for p in (project / "data").iterdir() if p.is_dir()}
    assert folders == {str(e.id) for e in opened.entries}
    assert not list(project.rglob(MARK))
    assert maps_are_shown(opened, 1, wanted.derived, again.derived_folder(wanted.image))
    assert check_project(project, ask_qupath=False).sound
