"""Joined entries: what is shown, what a rerun and an undo leave, and that a user's edits and files survive."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest

from mxbridge.errors import ChangedMeanwhile, InputError, NotApplicable, OutputError, SourceError, Unsupported
from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.image import Channel
from mxbridge.workspaces.qupath import views
from mxbridge.workspaces.qupath.joined import (
    DerivedFile,
    add_joined_entry,
    joined_files,
    joined_keys,
    remove_joined_channels,
)
from mxbridge.workspaces.qupath.new import NewImage, create_project
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.views import MARK
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import files_of, fl, scores
from .scenes import arrays, derived_tiff

JOINED = 3
"""Id of the first new entry of a golden project."""


@pytest.fixture
def base(workspace):
    return workspace.pull(fl(workspace)).image


@pytest.fixture
def files(project, base):
    """Derived files under the keys a, b (two channels) and c."""
    folder = project / "mxbridge" / "derived" / "2"
    folder.mkdir(parents=True)
    return {
        key: DerivedFile(derived_tiff(folder / f"{key} µ.ome.tif", base, n, n), key, tuple(Channel(f"{key}{k} µ") for k in range(n)))
        for key, n in (("a", 1), ("b", 2), ("c", 1))
    }  # fmt: skip


def pull(project, entry=JOINED):
    workspace = QuPathWorkspace(project)
    return workspace.pull(workspace.list([str(entry)])[0])


def edit_entry(project, change, entry=JOINED):
    """What a user does in QuPath, which then writes the whole file."""
    opened = Project.open(project)
    change(opened.entry(entry).raw)
    opened.write()


def test_all_channels_in_their_order_with_names_colours_and_objects(project, workspace, base, files):
    original = dict(Project.open(project).entry(2).raw)
    done = add_joined_entry(project, 2, [files["b"], files["a"]], "with maps")
    assert (done.entry_id, done.changed) == (JOINED, True)
    assert [note for note in done.notes if "close and open it" not in note] == []
    pulled = pull(project)
    assert pulled.ref.name == "with maps"
    assert pulled.image.channel_names == (*base.channel_names, "b0 µ", "b1 µ", "a0 µ")
    assert [c.color for c in pulled.image.channels[:5]] == [c.color for c in base.channels]
    assert pulled.image.pixel_size_um == base.pixel_size_um
    parts = [base.levels[0], *(open_tiff(files[k].path) for k in "ba")]
    assert np.array_equal(np.asarray(pulled.image.levels[0]), np.concatenate([np.asarray(p) for p in parts]))
    assert pulled.cells.ids == workspace.pull(fl(workspace)).cells.ids
    opened = Project.open(project)
    assert opened.entry(2).raw == original
    assert opened.entry(JOINED).made_by_mxbridge
    assert [r.id for r in QuPathWorkspace(project).list()] == ["1", "2"]  # never an input unless it is named
    assert joined_keys(opened, 2) == ("b", "a")
    assert joined_files(opened, 2) == {"b": "b µ.ome.tif", "a": "a µ.ome.tif"}
    assert {p.name for p in opened.data_folder(JOINED).iterdir()} >= {"data.qpdata", "server.json"}
    assert not (opened.data_folder(JOINED) / MARK).exists()


def open_tiff(path):
    from mxbridge.formats.open_image import open_image

    return open_image(path).levels[0]


def test_the_builder_is_the_one_that_qupath_writes(project, data, files):
    add_joined_entry(project, 2, [files["a"]])
    ours = Project.open(project).entry(JOINED).builder
    example = json.loads((data / "qupath/examples/serverBuilder-channels.json").read_text(encoding="utf-8"))

    def shape(value):
        if isinstance(value, dict):
            return {k: shape(v) for k, v in value.items() if k not in ("levels", "magnification")}
        return "list" if isinstance(value, list) and value and not isinstance(value[0], dict) else type(value).__name__

    assert shape(ours) == shape(example)
    assert [shape(c) for c in ours["channels"]] == [shape(c) for c in example["channels"]]


def test_twice_the_same_changes_nothing(project, files):
    add_joined_entry(project, 2, [files["a"]])
    before = files_of(project)
    done = add_joined_entry(project, 2, [files["a"]], "another name")
    assert (done.entry_id, done.changed, done.notes) == (JOINED, False, ())
    assert files_of(project) == before


def test_a_rerun_replaces_its_own_channels_and_refreshes_the_objects(project, workspace, base, files):
    add_joined_entry(project, 2, [files["a"], files["b"]])
    workspace.publish(scores(workspace))
    again = replace(files["a"], channels=(Channel("new", 0x010203),))
    assert add_joined_entry(project, 2, [again, files["c"]]).entry_id == JOINED
    pulled = pull(project)
    assert pulled.image.channel_names[5:] == ("new", "b0 µ", "b1 µ", "c0 µ")
    assert pulled.image.channels[5].color == 0x010203
    opened = Project.open(project)
    assert opened.data_path(JOINED).read_bytes() == opened.data_path(2).read_bytes()
    assert len(opened.entries) == 3


def test_undo_takes_channels_and_with_the_last_the_entry(project, files):
    before = files_of(project)
    add_joined_entry(project, 2, [files["a"], files["b"]])
    assert not remove_joined_channels(project, 2, ["unknown"]).changed
    assert remove_joined_channels(project, 2, ["a", "unknown"]).entry_id == JOINED
    assert pull(project).image.channel_names[5:] == ("b0 µ", "b1 µ")
    done = remove_joined_channels(project, 2, ["b"])
    assert (done.entry_id, done.changed) == (None, True)
    after = files_of(project)
    assert {k: v[1] for k, v in after.items() if "backup" not in k and "qpproj" not in k} == {
        k: v[1] for k, v in before.items() if "qpproj" not in k
    }
    assert Project.open(project).document["images"] == json.loads(before["project.qpproj"][1])["images"]
    assert not remove_joined_channels(project, 2, ["b"]).changed
    assert add_joined_entry(project, 2, [files["a"]]).entry_id == JOINED + 1 or JOINED


def test_objects_that_qupath_saved_are_kept(project, workspace, files):
    add_joined_entry(project, 2, [files["a"]])
    path = Project.open(project).data_path(JOINED)
    path.write_bytes(path.read_bytes().replace(b"Nucleus", b"nucleus"))
    theirs = path.read_bytes()
    workspace.publish(scores(workspace))
    done = add_joined_entry(project, 2, [files["a"], files["b"]])
    assert done.changed
    assert "keeps its objects" in done.notes[0]
    assert path.read_bytes() == theirs
    done = remove_joined_channels(project, 2, ["a", "b"])
    assert done.entry_id == JOINED
    assert "stays without derived channels" in done.notes[-2] + done.notes[-1]
    assert path.read_bytes() == theirs
    assert len(pull(project).image.channels) == 5
    assert add_joined_entry(project, 2, [files["c"]]).entry_id == JOINED
    assert pull(project).image.channel_names[5:] == ("c0 µ",)
    assert path.read_bytes() == theirs


def test_names_colours_and_texts_a_user_gave_are_kept(project, files):
    add_joined_entry(project, 2, [files["a"], files["b"]])

    def change(raw):
        raw["imageName"], raw["description"] = "mine", "my words"
        raw["metadata"]["Patient"] = "P"
        channels = raw["serverBuilder"]["metadata"]["channels"]
        channels[0]["name"], channels[5]["name"], channels[6]["color"] = "nuclei", "map", -1

    edit_entry(project, change)
    done = add_joined_entry(project, 2, [files["a"], files["c"]], "not this")
    assert "keeps the channel names" in done.notes[0]
    pulled = pull(project)
    assert pulled.image.channel_names == ("nuclei", *base_names(project)[1:], "map", "b0 µ", "b1 µ", "c0 µ")
    assert pulled.image.channels[6].color == 0xFFFFFF
    entry = Project.open(project).entry(JOINED)
    assert (entry.name, entry.description, entry.metadata["Patient"]) == ("mine", "my words", "P")
    assert not add_joined_entry(project, 2, [files["a"], files["c"]]).changed


def base_names(project):
    return [c["name"] for c in Project.open(project).entry(2).builder["metadata"]["channels"]]


def test_what_the_original_is_given_reaches_the_joined_entry(project, files):
    add_joined_entry(project, 2, [files["a"]])

    def change(raw):
        metadata = raw["serverBuilder"]["metadata"]
        metadata["channels"][1]["name"] = "renamed"
        for side in ("pixelWidth", "pixelHeight"):
            metadata["pixelCalibration"][side]["value"] = 0.25

    edit_entry(project, change, entry=2)
    assert add_joined_entry(project, 2, [files["a"]]).changed
    pulled = pull(project)
    assert pulled.image.channel_names[1] == "renamed"
    assert pulled.image.pixel_size_um == (0.25, 0.25)


def test_a_file_that_is_gone_is_no_longer_shown(project, files):
    add_joined_entry(project, 2, [files["a"], files["b"]])
    files["a"].path.unlink()
    done = add_joined_entry(project, 2, [files["c"]])
    assert "no longer shows a0 µ" in done.notes[0]
    assert pull(project).image.channel_names[5:] == ("b0 µ", "b1 µ", "c0 µ")


def test_an_entry_that_the_user_removed_is_made_again(project, files):
    add_joined_entry(project, 2, [files["a"]])
    opened = Project.open(project)
    opened.document["images"].pop()
    opened.write()
    assert joined_keys(Project.open(project), 2) == ()
    done = add_joined_entry(project, 2, [files["a"]])
    assert done.entry_id == JOINED + 1  # what lies in the folder of the old one is left alone
    assert opened.data_path(JOINED).exists()


def test_a_project_moves_with_its_joined_entries(project, files):
    add_joined_entry(project, 2, [files["a"]])
    (project.parent / "elsewhere").mkdir()
    moved = project.rename(project.parent / "elsewhere" / "q")
    pulled = pull(moved)
    assert len(pulled.image.channels) == 6
    assert str(moved) in str(pulled.image.files[-1])
    assert not add_joined_entry(
        moved, 2, [replace(files["a"], path=moved / files["a"].path.relative_to(project))]
    ).changed


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"shape": (256, 512)}, "512 x 256"),
        ({"dtype": np.uint8}, "uint8"),
        ({"dtype": np.float32}, "float32"),
    ],
)
def test_files_qupath_would_show_wrongly_are_refused(project, base, change, what):
    shape, dtype = change.get("shape", base.shape), change.get("dtype", base.dtype)
    path = project / "x.ome.tif"
    write_ome_tiff(path, da.zeros((1, *shape), dtype=dtype, chunks=256), [Channel("x")], (0.5, 0.5))
    before = files_of(project)
    with pytest.raises(InputError, match=what):
        add_joined_entry(project, 2, [DerivedFile(path, "k")])
    assert files_of(project) == before


def test_other_mistakes_are_refused_and_nothing_is_changed(project, files):
    add_joined_entry(project, 2, [files["a"]])
    before = files_of(project)
    for entry, derived, error, what in (
        (1, [files["a"]], NotApplicable, "colour picture"),
        (JOINED, [files["a"]], NotApplicable, "made by mxbridge"),
        (99, [files["a"]], SourceError, "99"),
        (2, [files["a"], files["a"]], InputError, "same result key"),
        (2, [replace(files["a"], result_key="a b")], InputError, "no result key"),
        (2, [replace(files["a"], channels=())], InputError, "1 planes"),
        (2, [replace(files["a"], path=project / "none.ome.tif")], SourceError, "none.ome.tif"),
    ):
        with pytest.raises(error, match=what):
            add_joined_entry(project, entry, derived)
    assert files_of(project) == before


def test_a_builder_that_others_changed_is_left_alone(project, files):
    add_joined_entry(project, 2, [files["a"], files["b"]])
    edit_entry(project, lambda raw: raw["serverBuilder"]["channels"].pop())
    before = files_of(project)
    with pytest.raises(InputError, match="put together otherwise"):
        add_joined_entry(project, 2, [files["c"]])
    with pytest.raises(InputError, match="put together otherwise"):
        remove_joined_channels(project, 2, ["a"])
    assert files_of(project) == before


def test_types_that_qupath_would_change(tmp_path):
    create_project(tmp_path / "p", [NewImage(arrays(dtype="int32"))])
    path = derived_tiff(tmp_path / "x.ome.tif", arrays(dtype="int32"))
    with pytest.raises(Unsupported, match="int32"):
        add_joined_entry(tmp_path / "p", 1, [DerivedFile(path, "k")])


def test_an_entry_without_recorded_metadata_or_pixel_size(tmp_path):
    """As other programs add them: QuPath itself finds out the rest."""
    image = arrays((2, 90, 120))
    write_ome_tiff(tmp_path / "a.ome.tif", image.levels[0], image.channels, None)
    create_project(tmp_path / "p", [NewImage(image)])
    edit = Project.open(tmp_path / "p")
    edit.document["images"][0]["serverBuilder"] = {
        "builderType": "uri",
        "providerClassName": "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder",
        "uri": (tmp_path / "a.ome.tif").as_uri(),
        "args": ["--series", "0"],
    }
    edit.write()
    path = derived_tiff(tmp_path / "x.ome.tif", replace(image, pixel_size_um=None))
    assert add_joined_entry(tmp_path / "p", 1, [DerivedFile(path, "k")]).entry_id == 2
    pulled = pull(tmp_path / "p", 2)
    assert pulled.image.channel_names == ("DAPI", "Prüfung µ 𝄞", "x0", "x1")
    assert pulled.image.pixel_size_um is None
    calibration = Project.open(tmp_path / "p").entry(2).builder["metadata"]["pixelCalibration"]
    assert calibration["pixelWidth"] == {"value": 1.0, "unit": "px"}


def test_a_project_changed_meanwhile_is_not_overwritten(project, files, monkeypatch):
    def meanwhile(*arguments, **options):
        edit_entry(project, lambda raw: raw.update(imageName="by QuPath"), entry=1)
        return {}, False

    monkeypatch.setattr(views, "_copy_objects", meanwhile)
    with pytest.raises(ChangedMeanwhile):
        add_joined_entry(project, 2, [files["a"]])
    monkeypatch.undo()
    opened = Project.open(project)
    assert opened.entry(1).name == "by QuPath"
    assert len(opened.entries) == 2
    assert add_joined_entry(project, 2, [files["a"]]).entry_id == JOINED  # its folder was swept, so the id is free
    assert {p.name for p in opened.data_folder(JOINED).iterdir()} >= {"data.qpdata"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("work", "step"),  # the steps between are removals of parts that are not there
    [("add", n) for n in (0, 2, 4, 6, 8, 9)]
    + [("rerun", n) for n in (0, 2, 4, 6, 7)]
    + [("remove", n) for n in (0, 2, 4, 6, 7, 8)],
)
def test_a_kill_at_any_step_loses_nothing_and_the_next_run_completes_it(project, files, monkeypatch, work, step):
    """Killed before the n-th change of a name on disk: then the project opens, and the same call ends as it should."""
    if work != "add":
        add_joined_entry(project, 2, [files["a"]])
    if work == "rerun":
        workspace = QuPathWorkspace(project)
        workspace.publish(scores(workspace))
    original = Project.open(project).data_path(2).read_bytes()
    count = iter(range(1000))
    for name in ("replace", "rmdir", "unlink"):
        real = getattr(os, name)

        def change(*arguments, real=real, **options):
            if next(count) == step:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, change)

    def run():
        if work == "remove":
            return remove_joined_channels(project, 2, ["a"])
        return add_joined_entry(project, 2, [files["a"], files["b"]])

    with suppress(Killed):
        run()
    monkeypatch.undo()
    opened = Project.open(project)
    for entry in opened.entries:
        assert len(pull(project, entry.id).image.channels) in (3, 5, 6, 8)
    run()
    opened = Project.open(project)
    assert opened.data_path(2).read_bytes() == original
    folders = {p.name for p in (project / "data").iterdir() if p.is_dir()}
    assert folders == {str(e.id) for e in opened.entries}
    assert not list(project.rglob(MARK))
    if work == "remove":
        assert [e.id for e in opened.entries] == [1, 2]
    else:
        (entry,) = [e for e in opened.entries if e.made_by_mxbridge]
        assert opened.data_path(entry.id).read_bytes() == original
        assert len(pull(project, entry.id).image.channels) == 8


def test_a_marked_folder_with_something_of_others_is_left_alone(project, files):
    folder = Project.open(project).data_folder(7)
    folder.mkdir()
    (folder / MARK).write_text('{"objects": null}')
    (folder / "data.qpdata").write_bytes(b"a user's")
    add_joined_entry(project, 2, [files["a"]])
    assert (folder / "data.qpdata").read_bytes() == b"a user's"
    (folder / "data.qpdata").unlink()
    add_joined_entry(project, 2, [files["b"]])
    assert not folder.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_not_followed(project, files, tmp_path):
    opened = Project.open(project)
    (tmp_path / "real").mkdir()
    opened.data_path(2).rename(tmp_path / "real" / "data.qpdata")
    opened.data_path(2).symlink_to(tmp_path / "real" / "data.qpdata")
    with pytest.raises(OutputError, match="symbolic link"):
        add_joined_entry(project, 2, [files["a"]])
