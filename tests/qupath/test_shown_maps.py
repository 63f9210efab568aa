"""Maps as channels of the image: their size, type and values in the joined entry, and what becomes of the files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.results import DerivedImage
from mxbridge.tasks.derived import take_back
from mxbridge.workspaces.qupath import views
from mxbridge.workspaces.qupath import workspace as workspace_module
from mxbridge.workspaces.qupath.joined import DerivedFile, add_joined_entry
from mxbridge.workspaces.qupath.new import NewImage, create_project
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.shown_maps import hide_maps, maps_are_shown, show_maps
from mxbridge.workspaces.qupath.views import MARK
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import files_of, fl, reclassed, scores
from .scenes import arrays, derived_tiff
from .test_joined import JOINED, Killed, edit_entry, pull


@pytest.fixture
def base(workspace):
    return workspace.pull(fl(workspace)).image


def a_map(folder, name, base, um, seed=0):
    """A map of fractions at its own scale, as `score --maps` leaves it."""
    shape = tuple(max(1, round(n * b / um)) for n, b in zip(base.shape, base.pixel_size_um, strict=True))
    values = np.random.default_rng(seed).random(shape, np.float32)
    writer = OmeZarrWriter(folder / f"{name}.ome.zarr", (1, *shape), np.uint8, [Channel(name)], (um, um), version="0.4")
    writer.write(0, Box(0, 0, *shape), values * 255)
    writer.finish()
    return np.rint(values * 255).astype(np.uint8)


@pytest.mark.parametrize(("um", "factor"), [(1.0, 2), (0.5, 1), (2.0, 4)])
def test_maps_are_shown_at_full_size_in_the_type_of_the_image(project, base, um, factor):
    folder = project / "mxbridge" / "derived" / "2"
    values = a_map(folder, "CD3 (Nimbus)", base, um)
    derived = [DerivedImage("CD3 (Nimbus).ome.zarr", ("CD3 (Nimbus)",), "k")]
    assert not maps_are_shown(Project.open(project), 2, derived, folder)
    assert show_maps(project, 2, folder, derived).changed
    assert maps_are_shown(Project.open(project), 2, derived, folder)
    shown = np.asarray(pull(project).image.levels[0])[5]
    assert shown.dtype == np.uint16
    assert np.array_equal(shown, np.repeat(np.repeat(values.astype(np.uint16) * 257, factor, 0), factor, 1))
    before = files_of(project)
    assert not show_maps(project, 2, folder, derived).changed
    assert files_of(project) == before
    (folder / "CD3 (Nimbus).ome.tif").unlink()
    assert not maps_are_shown(Project.open(project), 2, derived, folder)
    show_maps(project, 2, folder, derived)
    assert maps_are_shown(Project.open(project), 2, derived, folder)
    assert np.array_equal(np.asarray(pull(project).image.levels[0])[5], shown)
    assert hide_maps(project, 2, folder, ["k"]).entry_id is None
    assert sorted(p.name for p in folder.iterdir()) == ["CD3 (Nimbus).ome.zarr"]


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("float32", 1.0)])
def test_maps_beside_other_types_and_uneven_scales(tmp_path, dtype, top):
    image = arrays((1, 301, 407), dtype, um=0.325)
    create_project(tmp_path / "p", [NewImage(image)])
    values = a_map(tmp_path / "p" / "maps", "m", image, 0.5)
    assert show_maps(tmp_path / "p", 1, tmp_path / "p" / "maps", [DerivedImage("m.ome.zarr", ("m",), "k")]).changed
    shown = np.asarray(pull(tmp_path / "p", 2).image.levels[0])[1]
    y, x = (
        np.minimum(((np.arange(n) + 0.5) * 0.65).astype(int), m - 1)
        for n, m in zip(image.shape, values.shape, strict=True)
    )
    wanted = values[np.ix_(y, x)]
    assert np.array_equal(shown, (wanted.astype(np.float64) * top / 255).astype(dtype))
    assert shown.max() == values.max() if dtype == "uint8" else shown.max() <= 1


def test_objects_follow_the_original_without_new_maps(project, workspace, base, tmp_path):
    assert not show_maps(project, 2, tmp_path, []).changed
    assert not add_joined_entry(project, 2, []).changed
    assert len(Project.open(project).entries) == 2
    add_joined_entry(project, 2, [DerivedFile(derived_tiff(project / "a.ome.tif", base), "a")])
    workspace.publish(scores(workspace))
    show_maps(project, 2, tmp_path, [])
    opened = Project.open(project)
    assert opened.data_path(JOINED).read_bytes() == opened.data_path(2).read_bytes()
    assert not show_maps(project, 2, tmp_path, []).changed


def test_a_map_that_was_made_again_is_shown_again(project, base):
    folder = project / "mxbridge" / "derived" / "2"
    derived = [DerivedImage("m.ome.zarr", ("m",), "k")]
    for seed in (0, 1):
        values = a_map(folder, "m", base, 0.5, seed)
        show_maps(project, 2, folder, derived)
        assert np.array_equal(np.asarray(pull(project).image.levels[0])[5], values.astype(np.uint16) * 257)


def test_maps_of_what_nothing_can_be_joined_to_stay_files(project, base):
    folder = project / "mxbridge" / "derived" / "1"
    a_map(folder, "m", base, 0.5)
    before = files_of(project)
    done = show_maps(project, 1, folder, [DerivedImage("m.ome.zarr", ("m",), "k")])
    assert (done.entry_id, done.changed) == (None, False)
    assert "colour picture" in done.notes[0]
    assert files_of(project) == before
    assert maps_are_shown(
        Project.open(project), 1, [DerivedImage("m.ome.zarr", ("m",), "k")], folder
    )  # as far as it can be


def test_maps_of_an_image_whose_pixel_size_was_given_by_hand(tmp_path):
    image = arrays((1, 90, 120))
    create_project(tmp_path / "p", [NewImage(image)])
    edit_entry(tmp_path / "p", lambda raw: raw["serverBuilder"]["metadata"].pop("pixelCalibration"), entry=1)
    write_ome_tiff(tmp_path / "p/images/Prüfung µ 𝄞.ome.tif", image.levels[0], image.channels, None)
    values = a_map(tmp_path / "p/maps", "m", image, 0.325)
    derived = [DerivedImage("m.ome.zarr", ("m",), "k")]
    assert "pixels" in show_maps(tmp_path / "p", 1, tmp_path / "p/maps", derived).notes[0]
    assert maps_are_shown(Project.open(tmp_path / "p"), 1, derived, tmp_path / "p/maps")
    assert show_maps(tmp_path / "p", 1, tmp_path / "p/maps", derived, um_per_px=0.325).changed
    assert np.array_equal(np.asarray(pull(tmp_path / "p", 2).image.levels[0])[1], values.astype(np.uint16) * 257)


def test_publishing_shows_maps_and_undo_takes_them_out(project, workspace, base):
    folder = workspace.derived_folder(fl(workspace))
    a_map(folder, "m", base, 1.0)
    results = scores(workspace, derived=(DerivedImage("m.ome.zarr", ("CD3 (Nimbus)",), "key-CD3"),))
    assert not workspace.holds(results)
    assert any("close and open it" in note for note in workspace.publish(results).notes)
    assert workspace.holds(results)
    assert not workspace.publish(results).changed
    pulled = pull(project)
    assert pulled.image.channel_names[-1] == "CD3 (Nimbus)"
    assert Project.open(project).data_path(JOINED).read_bytes() == Project.open(project).data_path(2).read_bytes()
    opened = Project.open(project)
    opened.document["images"].pop()  # as QuPath does when it had the project open
    opened.write()
    assert not workspace.holds(results)
    assert workspace.publish(results).changed
    assert workspace.holds(results)
    assert not workspace.retract(fl(workspace), results.result_keys, run_id="another run").changed
    assert workspace.retract(fl(workspace), results.result_keys, run_id="run-1").changed
    assert len(Project.open(project).entries) == 2
    assert not (folder / "m.ome.tif").exists()
    assert (folder / "m.ome.zarr").is_dir()


def test_an_older_map_replaces_a_newer_one(project, base):
    """A run that was computed first and reviewed before it is published comes after one that was computed later."""
    folder = project / "mxbridge" / "derived" / "2"
    derived = [DerivedImage("m.ome.zarr", ("m",), "k")]
    older = a_map(project / "a run", "m", base, 0.5, 0)
    a_map(folder, "m", base, 0.5, 1)
    show_maps(project, 2, folder, derived)
    shutil.rmtree(folder / "m.ome.zarr")
    (project / "a run" / "m.ome.zarr").rename(folder / "m.ome.zarr")
    show_maps(project, 2, folder, derived)
    assert np.array_equal(np.asarray(pull(project).image.levels[0])[5], older.astype(np.uint16) * 257)


@pytest.fixture
def with_map(workspace, base):
    """Scores with a map that are published."""
    a_map(workspace.derived_folder(fl(workspace)), "m", base, 1.0)
    results = scores(workspace, derived=(DerivedImage("m.ome.zarr", ("CD3 (Nimbus)",), "key-CD3"),))
    workspace.publish(results)
    return results


def objects_follow(project):
    opened = Project.open(project)
    return opened.data_path(JOINED).read_bytes() == opened.data_path(2).read_bytes()


def test_objects_follow_what_is_taken_out_without_maps(project, workspace, with_map):
    workspace.publish(reclassed(workspace, with_map.cell_ids, "Other"))
    assert workspace.retract(fl(workspace), ["key-class"]).changed
    assert objects_follow(project)
    before = files_of(project)
    assert not workspace.retract(fl(workspace), ["key-class"]).changed
    assert files_of(project) == before


def test_objects_saved_in_qupath_stay_when_other_results_are_taken_out(project, workspace, with_map):
    workspace.publish(reclassed(workspace, with_map.cell_ids, "Other"))
    path = Project.open(project).data_path(JOINED)
    path.write_bytes(saved := path.read_bytes().replace(b"Other", b"Mine!"))
    workspace.retract(fl(workspace), ["key-class"])
    assert path.read_bytes() == saved


@pytest.mark.parametrize("when", ["before the copy", "after the copy", "before the maps"])
def test_a_kill_while_the_objects_follow(project, workspace, with_map, monkeypatch, when):
    """The copy must not be taken for a user's, and the same run completes it."""
    real = views.replace_seen

    def killed(*arguments, **options):
        if when == "after the copy":
            real(*arguments, **options)
        raise Killed

    where, name = (workspace_module, "show_maps") if when == "before the maps" else (views, "replace_seen")
    monkeypatch.setattr(where, name, killed)
    again = scores(workspace, seed=5, run="run-2", derived=with_map.derived)
    with pytest.raises(Killed):
        workspace.publish(again)
    monkeypatch.undo()
    workspace = QuPathWorkspace(project)
    assert not workspace.holds(again)
    last = scores(workspace, seed=6, run="run-3", derived=with_map.derived)
    for results in (again, last):
        assert not [note for note in workspace.publish(results).notes if "keeps its objects" in note]
        assert objects_follow(project)
        assert workspace.holds(results)
        assert not list(project.rglob(MARK))
    workspace.retract(fl(workspace), last.result_keys)
    assert len(Project.open(project).entries) == 2


def test_results_without_maps_need_no_pixels(project, workspace, with_map):
    results = scores(workspace, seed=3, run="run-2")
    (project / "images").rename(project / "elsewhere")
    assert workspace.publish(results).changed
    assert objects_follow(project)


def test_a_map_that_is_gone_is_a_note(project, workspace, with_map):
    shutil.rmtree(workspace.derived_folder(fl(workspace)) / "m.ome.zarr")
    notes = workspace.publish(scores(workspace, seed=3, derived=with_map.derived)).notes
    assert "m.ome.zarr does not exist" in notes[0]
    assert objects_follow(project)


@pytest.mark.parametrize("channels", [None, 5, "absent"])
def test_an_original_that_does_not_say_its_channels(project, channels):
    path = project / "project.qpproj"
    document = json.loads(path.read_text(encoding="utf-8"))
    metadata = next(e for e in document["images"] if e["entryID"] == 2)["serverBuilder"]["metadata"]
    metadata["channels"] = channels
    if channels == "absent":
        del metadata["channels"]
    path.write_text(json.dumps(document), encoding="utf-8")
    workspace = QuPathWorkspace(project)
    base = workspace.pull(fl(workspace)).image
    a_map(workspace.derived_folder(fl(workspace)), "m", base, 1.0)
    results = scores(workspace, derived=(DerivedImage("m.ome.zarr", ("m",), "key-CD3"),))
    assert workspace.publish(results).changed
    assert pull(project).image.channel_names == (*base.channel_names, "m")


def test_undo_leaves_the_map_that_another_run_has_put_in_the_place_of_its_own(project, workspace, base, tmp_path):
    home = workspace.derived_folder(fl(workspace))
    maps = {n: DerivedImage(f"{n}.ome.zarr", (n,), f"key-{n}") for n in ("CD3", "CD8")}
    for name in maps:
        a_map(home, name, base, 1.0)
    first = scores(workspace, names=("CD3", "CD8"), derived=tuple(maps.values()))
    second = scores(workspace, names=("CD3",), seed=1, run="run-2", derived=(maps["CD3"],))
    for results in (first, second):
        workspace.publish(results)
    taken = workspace.retract(fl(workspace), first.result_keys, run_id="run-1")
    assert taken.keys == ("key-CD8",)
    take_back(first, tmp_path / "run", workspace, taken.keys)
    assert [p.name for p in home.iterdir() if p.suffix == ".zarr"] == ["CD3.ome.zarr"]
    assert [p.name for p in (tmp_path / "run" / "derived").iterdir()] == ["CD8.ome.zarr"]
    assert workspace.holds(second)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_images_of_the_same_size_and_type_keep_their_values(tmp_path, dtype):
    """What was imputed is shown as it is, not as a fraction: values, planes, name by name."""
    image = arrays((2, 301, 407), dtype, um=0.325)
    create_project(tmp_path / "p", [NewImage(image)])
    names = ("KI67 (MAXIM)", "KI67 spread (MAXIM)")
    values = (np.random.default_rng(3).random((2, 301, 407)) * (200 if dtype == "uint8" else 40000)).astype(dtype)
    writer = OmeZarrWriter(
        tmp_path / "p/maps/m.ome.zarr",
        values.shape,
        values.dtype,
        [Channel(n) for n in names],
        (0.325, 0.325),
        version="0.4",
    )
    for plane in range(2):
        writer.write(plane, Box(0, 0, 301, 407), values[plane])
    writer.finish()
    assert show_maps(tmp_path / "p", 1, tmp_path / "p/maps", [DerivedImage("m.ome.zarr", names, "k")]).changed
    shown = pull(tmp_path / "p", 2).image
    assert shown.channel_names[-2:] == names
    assert np.array_equal(np.asarray(shown.levels[0])[-2:], values)
