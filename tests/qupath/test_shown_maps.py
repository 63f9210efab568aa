"""Maps as channels of the image: their size, type and values in the joined entry, and what becomes of the files."""

from __future__ import annotations

import numpy as np
import pytest

from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.results import DerivedImage
from mxbridge.workspaces.qupath.joined import DerivedFile, add_joined_entry
from mxbridge.workspaces.qupath.new import NewImage, create_project
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.shown_maps import hide_maps, maps_are_shown, show_maps

from .conftest import files_of, fl, scores
from .scenes import arrays, derived_tiff
from .test_joined import JOINED, edit_entry, pull


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
    assert not maps_are_shown(Project.open(project), 2, derived)
    assert show_maps(project, 2, folder, derived).changed
    assert maps_are_shown(Project.open(project), 2, derived)
    shown = np.asarray(pull(project).image.levels[0])[5]
    assert shown.dtype == np.uint16
    assert np.array_equal(shown, np.repeat(np.repeat(values.astype(np.uint16) * 257, factor, 0), factor, 1))
    before = files_of(project)
    assert not show_maps(project, 2, folder, derived).changed
    assert files_of(project) == before
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
    assert maps_are_shown(Project.open(project), 1, [DerivedImage("m.ome.zarr", ("m",), "k")])  # as far as it can be


def test_maps_of_an_image_whose_pixel_size_was_given_by_hand(tmp_path):
    image = arrays((1, 90, 120))
    create_project(tmp_path / "p", [NewImage(image)])
    edit_entry(tmp_path / "p", lambda raw: raw["serverBuilder"]["metadata"].pop("pixelCalibration"), entry=1)
    write_ome_tiff(tmp_path / "p/images/Prüfung µ 𝄞.ome.tif", image.levels[0], image.channels, None)
    values = a_map(tmp_path / "p/maps", "m", image, 0.325)
    derived = [DerivedImage("m.ome.zarr", ("m",), "k")]
    assert "pixels" in show_maps(tmp_path / "p", 1, tmp_path / "p/maps", derived).notes[0]
    assert maps_are_shown(Project.open(tmp_path / "p"), 1, derived)
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
