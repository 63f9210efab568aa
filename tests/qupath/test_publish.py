"""Results into data.qpdata and out again: what changes, what must not, and who is told."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mxbridge.errors import BrokenFile, ChangedMeanwhile, InputError, OutputError
from mxbridge.formats import exchange
from mxbridge.results import ClassChanges, ImageRef, Measurement, Results
from mxbridge.workspaces.qupath.classes import ClassList
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, drawn, everything, files_of, fl, new_objects, reclassed, scores, square, truth_of

MARKERS = ("CD3", "CD8", "PanCK", "Ki67", "DAPI")
COLUMNS = tuple(f"NimbusDemo: {m}" for m in MARKERS)
KEYS = tuple(f"key-{m}" for m in MARKERS)


def test_five_measurements_in_every_version_and_nothing_else(golden, version):
    folder = golden(version)
    workspace = QuPathWorkspace(folder)
    path = data_file(workspace)
    original, before = path.read_bytes(), everything(path)
    untouched = {n: f for n, f in files_of(folder).items() if not n.startswith(("data/2/", "mxbridge/"))}
    results = scores(workspace)

    published = workspace.publish(results)
    assert published.changed
    assert published.where == str(path)
    assert any("Reload data" in note for note in published.notes)
    assert workspace.holds(results)
    assert everything(path, but=COLUMNS) == before
    assert path.with_name("data.qpdata.mxbridge-backup").read_bytes() == original
    assert {n: f for n, f in files_of(folder).items() if not n.startswith(("data/2/", "mxbridge/"))} == untouched

    tree = ImageDataFile.read(path)
    values = {m.name: m.values for m in results.measurements}
    for k, cell in enumerate(results.cell_ids):
        found = tree.get(cell).measurements
        for name in COLUMNS:
            assert np.array_equal(np.float32(found[name]), values[name][k], equal_nan=True)
    for o in truth_of(folder)["objects"]:
        if o["type"] != "PathRootObject":
            found = tree.get(o["id"]).measurements
            for name, value in o["measurements"].items():
                expected = np.nan if value is None else value
                assert np.array_equal(np.float32(found[name]), np.float32(expected), equal_nan=True)

    state = files_of(folder)
    again = workspace.publish(results)
    assert not again.changed
    assert not QuPathWorkspace(folder).publish(results).changed
    assert files_of(folder) == state

    assert workspace.retract(results.image, KEYS).changed
    assert everything(path) == before
    assert not workspace.holds(results)
    assert not list((folder / "mxbridge").rglob("*.json"))
    assert not list(folder.rglob("*.mxbridge-part"))


def test_a_rerun_with_other_values_replaces_and_a_recomputed_equal_one_changes_nothing(workspace):
    before = everything(data_file(workspace))
    workspace.publish(scores(workspace, seed=1))
    second = scores(workspace, seed=2, run="run-2")
    assert workspace.publish(second).changed
    assert workspace.holds(second)
    state = files_of(workspace.project.folder)
    assert not workspace.publish(scores(workspace, seed=2, run="run-3")).changed
    assert files_of(workspace.project.folder) == state
    workspace.retract(second.image, KEYS)
    assert everything(data_file(workspace)) == before


def test_a_column_that_was_there_before_comes_back_on_retract(workspace):
    path = data_file(workspace)
    before = everything(path)
    tree = ImageDataFile.read(path)
    name = next(iter(next(o for o in tree.objects() if o.kind == "cell" and o.measurements).measurements))
    cells = workspace.pull(fl(workspace)).cells.ids
    had = [c for c in cells if name in tree.get(c).measurements]
    assert len(had) > 0
    results = Results(fl(workspace), "r", cells, (Measurement(name, np.full(len(cells), 7, np.float32), "k"),))
    workspace.publish(results)
    assert all(o["measurements"][name] == "7.0" for i, o in everything(path).items() if i in cells)
    workspace.publish(results)
    assert workspace.retract(results.image, ["k"]).changed
    assert everything(path) == before


def test_a_result_key_that_dropped_a_column_or_a_cell_leaves_nothing_behind(workspace):
    path = data_file(workspace)
    cells = workspace.pull(fl(workspace)).cells.ids
    one = Measurement("a", np.ones(200, np.float32), "k")
    two = Measurement("b", np.ones(200, np.float32), "k")
    workspace.publish(Results(fl(workspace), "r1", cells, (one, two)))
    fewer = Results(fl(workspace), "r2", cells[:150], (Measurement("a", np.zeros(150, np.float32), "k"),))
    workspace.publish(fewer)
    now = everything(path)
    assert not any("b" in o["measurements"] for o in now.values())
    assert {i for i, o in now.items() if "a" in o["measurements"]} == set(cells[:150])
    assert workspace.holds(fewer)


def test_keys_are_retracted_one_by_one(workspace):
    results = scores(workspace)
    workspace.publish(results)
    workspace.retract(results.image, ["key-CD3"])
    names = {n for o in everything(data_file(workspace)).values() for n in o["measurements"] if n in COLUMNS}
    assert names == set(COLUMNS) - {"NimbusDemo: CD3"}
    assert set(workspace.published_keys(results.image)) == set(KEYS) - {"key-CD3"}
    state = files_of(workspace.project.folder)
    again = workspace.retract(results.image, ["key-CD3", "key of another run"])
    assert not again.changed
    assert "nothing of this result" in again.notes[0]
    assert files_of(workspace.project.folder) == state


def test_an_image_removed_meanwhile_is_not_published_to(workspace):
    results = scores(workspace)
    path = workspace.project.path
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["images"][1]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ChangedMeanwhile, match=r"fl_5ch\.ome\.tif \(2\) was removed"):
        workspace.publish(results)


def test_the_backup_is_the_state_before_us_until_somebody_else_writes(workspace):
    path = data_file(workspace)
    backup = path.with_name("data.qpdata.mxbridge-backup")
    original = path.read_bytes()
    workspace.publish(scores(workspace, seed=1))
    workspace.publish(scores(workspace, seed=2))
    assert backup.read_bytes() == original
    tree = ImageDataFile.read(path)
    tree.set_class([next(o for o in tree.objects() if o.kind == "cell")], "Stroma", {})
    foreign = tree.to_bytes()
    path.write_bytes(foreign)
    workspace.publish(scores(workspace, seed=3))
    assert backup.read_bytes() == foreign
    assert not path.with_name("data.qpdata.bkp").exists()


def test_summary_is_refreshed(workspace):
    path = data_file(workspace)
    old = json.loads(path.with_name("summary.json").read_text())
    workspace.publish(reclassed(workspace, workspace.pull(fl(workspace)).cells.ids, "All"))
    new = json.loads(path.with_name("summary.json").read_text())
    assert new["timestamp"] == path.stat().st_mtime_ns // 1_000_000
    assert new["server"] == old["server"]
    assert new["hierarchy"]["objectTypeCounts"] == old["hierarchy"]["objectTypeCounts"]
    assert new["hierarchy"]["detectionClassificationCounts"]["All"] == 200


def test_cells_that_are_gone_are_named(workspace):
    results = scores(workspace, cells=["00000000-0000-0000-0000-000000000000"], names=["CD3"])
    before = data_file(workspace).read_bytes()
    with pytest.raises(ChangedMeanwhile, match="00000000-0000-0000-0000-000000000000") as caught:
        workspace.publish(results)
    assert caught.value.exit_code == 7
    assert data_file(workspace).read_bytes() == before
    assert not workspace.holds(results)


def test_a_cell_named_twice_is_refused(workspace):
    cell = workspace.pull(fl(workspace)).cells.ids[0]
    with pytest.raises(InputError, match="twice"):
        workspace.publish(scores(workspace, cells=[cell, cell], names=["CD3"]))


def test_a_file_changed_while_we_worked_is_not_overwritten(workspace, monkeypatch):
    path = data_file(workspace)
    real = exchange.unchanged

    def meanwhile(target, seen):
        if target == path:
            path.write_bytes(b"QuPath was here")
        return real(target, seen)

    monkeypatch.setattr(exchange, "unchanged", meanwhile)
    with pytest.raises(ChangedMeanwhile, match="changed by another program"):
        workspace.publish(scores(workspace))
    assert path.read_bytes() == b"QuPath was here"
    assert not list(workspace.project.folder.rglob("*.mxbridge-part"))


def test_what_could_not_be_written_is_never_taken_for_published(workspace, monkeypatch):
    """A user's save that came between is theirs: nothing of it may be undone as if it were ours."""
    path = data_file(workspace)
    listed = workspace.project.folder / "classifiers" / "classes.json"
    classes = listed.read_bytes()
    cells = workspace.pull(fl(workspace)).cells.ids
    real = exchange.unchanged

    def meanwhile(target, seen):
        if target == path:
            tree = ImageDataFile.read(path)
            tree.set_class([tree.get(i) for i in cells], "Ours", {"Ours": -1})
            path.write_bytes(tree.to_bytes())
        return real(target, seen)

    monkeypatch.setattr(exchange, "unchanged", meanwhile)
    with pytest.raises(ChangedMeanwhile):
        workspace.publish(reclassed(workspace, cells, "Ours"))
    monkeypatch.undo()
    saved = path.read_bytes()
    assert listed.read_bytes() == classes
    assert workspace.published_keys(fl(workspace)) == ()
    assert set(workspace.pull(fl(workspace)).cells.classes) == {"Ours"}
    assert not workspace.retract(fl(workspace), ["key-class"]).changed
    assert path.read_bytes() == saved


def test_a_full_disk_changes_nothing_and_says_so(workspace, monkeypatch):
    import errno
    import os

    path = data_file(workspace)
    before = path.read_bytes()
    results = scores(workspace)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OutputError, match="disk is full"):
        workspace.publish(results)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert workspace.publish(results).changed


@pytest.mark.parametrize("free_after", [3, 1000])
def test_a_file_held_open_on_windows(workspace, monkeypatch, free_after):
    import os

    path, results, real, tries = data_file(workspace), scores(workspace), os.replace, []
    before = path.read_bytes()

    def held(part, target):
        if target == path:
            tries.append(part)
            if len(tries) < free_after:
                raise PermissionError(13, "held open")
        real(part, target)

    monkeypatch.setattr(exchange, "_WINDOWS", True)
    monkeypatch.setattr(exchange.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "replace", held)
    if free_after < 20:
        assert workspace.publish(results).changed
    else:
        with pytest.raises(OutputError, match="held open by another program"):
            workspace.publish(results)
        assert path.read_bytes() == before


def test_what_cannot_be_read_back_is_not_published(workspace, monkeypatch):
    path = data_file(workspace)
    before, results = path.read_bytes(), scores(workspace)
    monkeypatch.setattr(ImageDataFile, "to_bytes", lambda self: before[:-50])
    with pytest.raises(OutputError):
        workspace.publish(results)
    assert path.read_bytes() == before


def test_links_inside_data_are_not_written_through(workspace):
    path = data_file(workspace)
    results = scores(workspace)
    real = path.rename(workspace.project.folder / "real.qpdata")
    path.symlink_to(real)
    before = real.read_bytes()
    with pytest.raises(OutputError, match="symbolic link"):
        workspace.publish(results)
    assert real.read_bytes() == before


@pytest.mark.parametrize("folder", ["data", "data/2", "classifiers"])
def test_linked_folders_are_not_written_through(workspace, folder):
    place = workspace.project.folder / folder
    real = place.rename(workspace.project.folder / "elsewhere")
    place.symlink_to(real)
    before = files_of(real)
    results = reclassed(workspace, workspace.pull(fl(workspace)).cells.ids, "Ours")
    with pytest.raises(OutputError, match="symbolic link"):
        workspace.publish(results)
    assert files_of(real) == before
    assert workspace.published_keys(results.image) == ()


def test_a_damaged_record_is_reported_never_forgotten(workspace):
    results = scores(workspace)
    workspace.publish(results)
    record = workspace.project.folder / "mxbridge" / "published" / "2.json"
    good = record.read_text()
    for bad in ("", "{}", good[:-100], good.replace('"format": 1', '"format": 9')):
        record.write_text(bad)
        for act in (
            lambda: workspace.publish(results),
            lambda: workspace.pull(results.image),
            lambda: workspace.retract(results.image, KEYS),
        ):
            with pytest.raises(BrokenFile, match=r"2\.json"):
                act()
    record.write_text(good)
    arrays = next(record.parent.glob("*.npz"))
    arrays.write_bytes(arrays.read_bytes()[:-10])
    with pytest.raises(BrokenFile, match=r"2\.json"):
        workspace.retract(results.image, KEYS)


def test_a_lost_publication_is_noticed_and_can_be_repeated(workspace):
    path = data_file(workspace)
    before = path.read_bytes()
    results = scores(workspace)
    workspace.publish(results)
    path.write_bytes(before)  # what QuPath does when an open image is saved
    assert not workspace.holds(results)
    assert set(workspace.lost(results.image)) == set(COLUMNS)
    assert any("published earlier" in w for w in workspace.pull(results.image).warnings)
    assert workspace.publish(results).changed
    assert workspace.holds(results)
    assert workspace.lost(results.image) == ()


def test_a_project_in_a_read_only_place_fails_early(workspace, monkeypatch):
    from pathlib import Path

    results = scores(workspace)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="no permission"):
        workspace.publish(results)


# Classes


def test_classes_keep_their_base_and_come_back(workspace):
    path = data_file(workspace)
    before = everything(path)
    cells = workspace.pull(fl(workspace)).cells
    results = reclassed(workspace, cells.ids, lambda base: f"{base}: CD3: CD8x" if base else "CD3: CD8x")
    workspace.publish(results)
    now = everything(path)
    for cell, base in zip(cells.ids, cells.classes, strict=True):
        assert now[cell]["class"] == (f"{base}: CD3: CD8x" if base else "CD3: CD8x")
        assert now[cell]["class color"] is not None
    assert workspace.holds(results)
    state = files_of(workspace.project.folder)
    assert not workspace.publish(results).changed
    assert files_of(workspace.project.folder) == state

    listed = ClassList(workspace.project.folder / "classifiers" / "classes.json").colors
    assert {"CD3: CD8x", "Tumor: CD3", "Tumor: CD3: CD8x"} <= set(listed)
    assert None not in listed.values()

    seen = workspace.pull(fl(workspace)).cells
    assert seen.classes == cells.classes  # a second run starts from the same classes
    workspace.retract(results.image, ["key-class"])
    assert everything(path) == before
    assert "CD3: CD8x" not in ClassList(workspace.project.folder / "classifiers" / "classes.json").colors


def test_a_listed_class_stays_while_another_image_has_it(workspace):
    listed = workspace.project.folder / "classifiers" / "classes.json"
    before = listed.read_bytes()
    images = workspace.list()
    for ref in images:
        cells = workspace.pull(ref).cells
        changes = ClassChanges(("Ours: New",) * len(cells.ids), cells.classes, "k")
        assert workspace.publish(Results(ref, "r", cells.ids, class_changes=changes)).changed
    for ref in images:
        assert {"Ours", "Ours: New"} <= set(ClassList(listed).colors)
        workspace.retract(ref, ["k"])
    assert listed.read_bytes() == before
    assert not list((workspace.project.folder / "mxbridge").rglob("*.json"))


def test_a_class_a_user_gave_meanwhile_is_kept(workspace):
    path = data_file(workspace)
    cells = workspace.pull(fl(workspace)).cells
    results = reclassed(workspace, cells.ids, "Ours")
    tree = ImageDataFile.read(path)
    tree.set_class([tree.get(cells.ids[0])], "Necrosis", {})
    path.write_bytes(tree.to_bytes())
    published = workspace.publish(results)
    assert any("1 cells keep their class" in n for n in published.notes)
    assert everything(path)[cells.ids[0]]["class"] == "Necrosis"
    tree = ImageDataFile.read(path)
    tree.set_class([tree.get(cells.ids[1])], "Stroma", {})
    path.write_bytes(tree.to_bytes())
    workspace.retract(results.image, ["key-class"])
    now = everything(path)
    assert now[cells.ids[0]]["class"] == "Necrosis"
    assert now[cells.ids[1]]["class"] == "Stroma"
    assert now[cells.ids[2]]["class"] == cells.classes[2]


def test_classes_may_be_cleared_and_a_rerun_on_fewer_cells_restores_the_others(workspace):
    path = data_file(workspace)
    cells = workspace.pull(fl(workspace)).cells
    workspace.publish(reclassed(workspace, cells.ids, None))
    assert {o["class"] for i, o in everything(path).items() if i in cells.ids} == {None}
    workspace.publish(reclassed(workspace, cells.ids[:10], "Few"))
    now = everything(path)
    assert [now[i]["class"] for i in cells.ids] == ["Few"] * 10 + list(cells.classes[10:])


def test_two_results_on_the_same_cells_are_undone_one_after_the_other(workspace):
    path = data_file(workspace)
    before = everything(path)
    cells = workspace.pull(fl(workspace)).cells
    workspace.publish(reclassed(workspace, cells.ids, "One", key="k1"))
    workspace.publish(reclassed(workspace, cells.ids, "Two", key="k2"))
    assert workspace.pull(fl(workspace)).cells.classes == cells.classes
    workspace.retract(fl(workspace), ["k2"])
    assert everything(path)[cells.ids[0]]["class"] == "One"
    workspace.retract(fl(workspace), ["k1"])
    assert everything(path) == before


# Objects


def test_objects_are_added_replaced_and_taken_out(workspace):
    path = data_file(workspace)
    before = everything(path)
    first = drawn(workspace, {"a": (10, 10), "b": (40, 40)})
    workspace.publish(first)
    ours = {i: o for i, o in everything(path).items() if i not in before}
    assert len(ours) == 2
    assert {o["class"] for o in ours.values()} == {"Made: Up"}
    assert {o["metadata"]["_mxbridge.key"] for o in ours.values()} == {"key-objects"}
    assert workspace.holds(first)
    state = files_of(workspace.project.folder)
    assert not workspace.publish(first).changed
    assert files_of(workspace.project.folder) == state

    second = drawn(workspace, {"a": (10, 10), "b": (60, 40), "c": (80, 80)}, run="run-2")
    workspace.publish(second)
    now = {i: o for i, o in everything(path).items() if i not in before}
    assert len(now) == 3
    assert set(ours) < set(now)
    assert workspace.holds(second)
    assert not workspace.holds(first)
    workspace.retract(fl(workspace), ["key-objects"])
    assert everything(path) == before


def test_an_object_edited_by_a_user_is_kept_and_reported(workspace):
    path = data_file(workspace)
    before = everything(path)
    workspace.publish(drawn(workspace, {"a": (10, 10), "b": (40, 40)}))
    edited = next(i for i in everything(path) if i not in before)
    drawn_at = everything(path)[edited]["roi"]
    tree = ImageDataFile.read(path)
    roi = tree.get(edited).roi.node
    x = roi.get("x")
    x.values = x.values[:-4] + b"\x41\x10\x00\x00"
    path.write_bytes(tree.to_bytes())
    moved = everything(path)[edited]
    assert moved["roi"] != drawn_at

    published = workspace.publish(drawn(workspace, {"a": (11, 11), "b": (41, 41)}, run="run-2"))
    assert any("1 objects were kept" in n for n in published.notes)
    assert everything(path)[edited] == moved
    assert len(everything(path)) == len(before) + 2
    taken = workspace.retract(fl(workspace), ["key-objects"])
    assert any("1 objects were kept" in n for n in taken.notes)
    assert set(everything(path)) - set(before) == {edited}


def test_an_object_deleted_by_a_user_stays_deleted_until_it_is_computed_again(workspace):
    path = data_file(workspace)
    before = everything(path)
    results = drawn(workspace, {"a": (10, 10), "b": (40, 40)})
    workspace.publish(results)
    gone = next(i for i in everything(path) if i not in before)
    tree = ImageDataFile.read(path)
    tree.remove_objects([tree.get(gone)])
    path.write_bytes(tree.to_bytes())
    published = workspace.publish(results)
    assert any("stay deleted" in n for n in published.notes)
    assert gone not in everything(path)
    workspace.publish(drawn(workspace, {"a": (10, 10), "b": (40, 40)}, run="run-2"))
    assert gone in everything(path)


def test_a_copy_a_user_made_of_our_object_is_theirs(workspace):
    from mxbridge.workspaces.qupath.qpdata import NewPathObject, NewROI

    path = data_file(workspace)
    before = everything(path)
    workspace.publish(drawn(workspace, {"a": (10, 10)}))
    ours = next(i for i in everything(path) if i not in before)
    tree = ImageDataFile.read(path)
    copy = "12345678-1234-4234-8234-123456789abc"
    metadata = tree.get(ours).metadata
    tree.add_object(NewPathObject("annotation", copy, NewROI.of_rings([square(10, 10)]), metadata=metadata))
    path.write_bytes(tree.to_bytes())
    workspace.retract(fl(workspace), ["key-objects"])
    assert set(everything(path)) - set(before) == {copy}


def test_cells_with_nucleus_and_holes_survive(workspace):
    path = data_file(workspace)
    before = everything(path)
    ring, hole = square(100, 100, 40), square(110, 110, 10)
    nucleus, values = [square(125, 125, 5)], {"m": float("nan")}
    made = new_objects("cell", "k", {"c1": [ring, hole]}, nuclei=nucleus, measurements=values)
    results = Results(fl(workspace), "r", objects=(made,))
    workspace.publish(results)
    found = ImageDataFile.read(path).get(next(i for i in everything(path) if i not in before))
    assert found.roi.area() == 1500
    assert found.nucleus.area() == 25
    assert workspace.holds(results)
    assert not workspace.publish(results).changed
    assert len(workspace.pull(fl(workspace)).cells) == 201  # cells may be scored, whoever made them


def test_our_annotations_are_not_read_back_as_inputs(workspace):
    workspace.publish(drawn(workspace, {"a": (10, 10)}))
    assert len(workspace.pull(fl(workspace), "annotations").cells) == 5


def test_objects_on_an_image_that_has_no_data_yet(workspace):
    folder = data_file(workspace).parent
    shutil.rmtree(folder)
    results = drawn(workspace, {"a": (10, 10)})
    assert workspace.publish(results).changed
    assert workspace.holds(results)
    assert not (folder / "data.qpdata.mxbridge-backup").exists()
    assert ImageDataFile.read(folder / "data.qpdata").image_type == "FLUORESCENCE"
    shutil.rmtree(folder)
    nothing = Results(ImageRef("2", "x"), "r")
    assert not workspace.publish(nothing).changed
    assert not folder.exists()


def test_everything_at_once_is_one_write(workspace, monkeypatch):
    path = data_file(workspace)
    before = everything(path)
    cells = workspace.pull(fl(workspace)).cells
    both = Results(
        fl(workspace),
        "r",
        cells.ids,
        scores(workspace).measurements,
        reclassed(workspace, cells.ids, "X: Y").class_changes,
        drawn(workspace, {"a": (1, 1)}).objects,
    )
    writes = []
    real = exchange.replace_seen
    monkeypatch.setattr(
        "mxbridge.workspaces.qupath.publication.replace_seen", lambda *a, **k: (writes.append(a[0]), real(*a, **k))[1]
    )
    workspace.publish(both)
    assert writes == [path]
    assert workspace.holds(both)
    workspace.retract(both.image, both.result_keys)
    assert everything(path) == before
