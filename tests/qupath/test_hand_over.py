"""Results handed over to an image that is open in QuPath: what it saves then is what publishing would have written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxbridge.cells import Rings
from mxbridge.errors import ChangedMeanwhile
from mxbridge.results import ImageValue, NewObjects, Results
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.handover.exchange_file import read
from mxbridge.workspaces.qupath.handover.hand_over import HandedOver
from mxbridge.workspaces.qupath.last_read import LastRead
from mxbridge.workspaces.qupath.publication import Publication
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, drawn, everything, files_of, fl, new_objects, reclassed, scores, square
from .playing_qupath import OpenProject

KEYS = tuple(f"key-{m}" for m in ("CD3", "CD8", "PanCK", "Ki67", "DAPI"))
COLUMNS = tuple(k.replace("key-", "NimbusDemo: ") for k in KEYS)


@pytest.fixture
def twin(project: Path, tmp_path: Path) -> QuPathWorkspace:
    """The same project elsewhere, to publish to natively."""
    folder = tmp_path / "twin ü"
    shutil.copytree(project, folder / project.name)
    return QuPathWorkspace(folder / project.name)


def handed(workspace: QuPathWorkspace, results: Results, folder: Path) -> HandedOver:
    folder.mkdir(exist_ok=True, parents=True)
    return workspace.hand_over(results, folder, task="score", model="NimbusDemo")


def facts(path: Path) -> dict[str, Any]:
    """What a file says, whatever the order of objects that were added, and where they hang."""
    tree = ImageDataFile.read(path)
    objects = everything(path)
    for one in objects.values():
        one["children"] = sorted(map(str, one["children"]))
        one["measurements"] = dict(sorted(one["measurements"].items()))
    return {"objects": objects, "image": {n: repr(v) for n, v in tree.image_values.items()}}


def not_ours(folder: Path) -> dict[str, Any]:
    """Time and content of all that QuPath reads in a project."""
    return {name: told for name, told in files_of(folder).items() if not name.startswith("mxbridge/")}


def score_classes_and_more(
    workspace: QuPathWorkspace, seed: int = 0, run: str = "run-1", threshold: float = 0.5
) -> Results:
    """Values on cells and on the image, classes, an annotation of several parts and some nuclei: all that results can be."""
    ours = workspace.object_ids(fl(workspace), "key-nuclei", ["a", "b", "c"])
    known = workspace.pull(fl(workspace)).cells
    base = {i: name for i, name in zip(known.ids, known.classes, strict=True) if i not in ours}
    measured = scores(workspace, seed=seed, run=run, cells=base)
    positive = measured.measurements[0].values > threshold
    names = tuple(
        (f"{name}: CD3" if name else "CD3") if p else name for name, p in zip(base.values(), positive, strict=True)
    )
    classed = reclassed(workspace, list(base), None).class_changes
    region = new_objects(
        "annotation", "key-region", {"in parts": [square(5, 5, 60), square(10, 10, 3), square(100.25, 100, 7)]},
        class_name="Region: µ", name="Prüfung µ 𝄞",
    )  # fmt: skip
    corners = np.array([(0, 0), (10.1, 0), (9, 11 + threshold)])
    nuclei = NewObjects(
        "cell", "key-nuclei", ("a", "b", "c"), Rings.of([[corners + 20], [corners + 40], [corners + 60]]),
        Rings.of([[corners / 2 + 22], [], [corners / 2 + 63]]), ("Positive", "Negative", None), (),
        {"Nimbus: score": np.float32([threshold, np.nan, np.inf])},
    )  # fmt: skip
    values = (
        ImageValue("NimbusDemo: CD3 %", 100 * float(positive.mean()), "key-CD3"),
        ImageValue("n", np.nan, "key-CD8"),
    )
    return replace(measured, class_changes=replace(classed, names=names), objects=(region, nuclei), image_values=values)


def test_what_qupath_saves_is_what_publishing_writes(workspace, twin, tmp_path):
    results = score_classes_and_more(workspace)
    before = not_ours(workspace.project.folder)
    image = OpenProject(workspace.project.folder).open(2)
    done = handed(workspace, results, tmp_path / "run" / "images")
    assert done.cells_gone == 0
    assert not_ours(workspace.project.folder) == before

    applied = image.apply(done.file)
    assert applied.values == len(results.cell_ids)
    assert not applied.gone
    image.save()
    twin.publish(replace(results, image=fl(twin)))
    assert facts(data_file(workspace)) == facts(data_file(twin))
    assert QuPathWorkspace(workspace.project.folder).holds(results)
    assert check_project(workspace.project.path, ask_qupath=False).sound


def test_objects_that_are_gone_from_the_disk_altogether(workspace, tmp_path):
    """Somebody removed the image's data after a hand-over: what was handed over is not there, and publishing begins anew."""
    results = drawn(workspace, {"a": (10, 10)})
    handed(workspace, results, tmp_path / "run")
    shutil.rmtree(data_file(workspace).parent)
    workspace = QuPathWorkspace(workspace.project.folder)
    assert not workspace.holds(results)
    assert workspace.publish(results).changed
    assert workspace.holds(results)
    assert workspace.retract(results.image, ["key-objects"]).changed


def test_a_rerun_replaces_what_was_handed_over_before_and_undo_takes_all_out(workspace, twin, tmp_path):
    pristine = facts(data_file(workspace))
    image = OpenProject(workspace.project.folder).open(2)
    for k, threshold in enumerate((0.5, 0.25)):
        results = score_classes_and_more(workspace, seed=k, run=f"run-{k}", threshold=threshold)
        image.apply(handed(workspace, results, tmp_path / "run").file)
        image.save()
        assert QuPathWorkspace(workspace.project.folder).holds(results)
        twin.publish(replace(score_classes_and_more(twin, k, f"run-{k}", threshold), image=fl(twin)))
        assert facts(data_file(workspace)) == facts(data_file(twin))
    found = workspace.pull(fl(workspace))
    assert found.warnings == twin.pull(fl(twin)).warnings
    assert found.cells.classes == twin.pull(fl(twin)).cells.classes  # as they were before any run

    assert not workspace.publish(results).changed
    assert workspace.retract(results.image, results.result_keys, run_id="run-1").changed
    assert facts(data_file(workspace)) == pristine
    assert not list((workspace.project.folder / "mxbridge").rglob("*.json"))


def test_a_native_result_is_replaced_by_one_that_is_handed_over_and_the_other_way_round(workspace, twin, tmp_path):
    pristine = facts(data_file(workspace))
    first, second, third = (score_classes_and_more(workspace, k, f"run-{k}", 0.3 + k / 10) for k in range(3))
    workspace.publish(first)
    image = OpenProject(workspace.project.folder).open(2)
    image.apply(handed(workspace, second, tmp_path / "run").file)
    image.save()
    assert workspace.holds(second)
    assert workspace.publish(third).changed
    twin.publish(replace(third, image=fl(twin)))
    assert facts(data_file(workspace)) == facts(data_file(twin))
    workspace.retract(third.image, third.result_keys)
    assert facts(data_file(workspace)) == pristine


def test_the_same_results_again_are_nothing_and_say_so(workspace, tmp_path):
    results = score_classes_and_more(workspace)
    image = OpenProject(workspace.project.folder).open(2)
    image.apply(handed(workspace, results, tmp_path / "run").file)
    image.save()
    ledger = files_of(workspace.project.folder / "mxbridge")
    again = handed(workspace, results, tmp_path / "run")
    assert any("Reload data" in note for note in again.notes)
    assert read(again.file).header.counts.lines == 2
    assert files_of(workspace.project.folder / "mxbridge") == ledger


def test_without_saving_nothing_has_happened_and_undo_calls_it_back(workspace, tmp_path):
    results = score_classes_and_more(workspace)
    folder = workspace.project.folder
    before = everything(data_file(workspace))
    handed(workspace, results, tmp_path / "run")
    assert not workspace.holds(results)
    assert not workspace.lost(results.image)
    assert not [w for w in workspace.pull(results.image).warnings if "published earlier" in w]
    undone = workspace.retract(results.image, results.result_keys, run_id="run-1")
    assert undone.changed
    assert any("not been saved there" in note for note in undone.notes)
    assert everything(data_file(workspace)) == before
    assert not list((folder / "mxbridge").rglob("*.json"))
    assert not workspace.retract(results.image, results.result_keys, run_id="run-1").changed


def test_qupath_saves_something_else_and_nobody_takes_it_for_the_results(workspace, twin, tmp_path):
    """Two runs that share objects: the second is never applied, then handed over once more."""
    first = score_classes_and_more(workspace, 0, "run-0", 0.3)
    second = score_classes_and_more(workspace, 1, "run-1", 0.7)
    workspace.publish(first)
    image = OpenProject(workspace.project.folder).open(2)
    handed(workspace, second, tmp_path / "run")
    user = next(i for i in first.cell_ids)
    image.set_class([user], "User's")
    image.save()

    assert not [w for w in workspace.pull(first.image).warnings if "published earlier" in w]
    assert not workspace.lost(first.image)
    image = OpenProject(workspace.project.folder).open(2)
    done = handed(workspace, second, tmp_path / "run")
    image.apply(done.file)
    image.save()
    twin.publish(replace(first, image=fl(twin)))
    other = OpenProject(twin.project.folder).open(2)
    other.set_class([user], "User's")
    other.save()
    twin.publish(replace(second, image=fl(twin)))
    assert facts(data_file(workspace)) == facts(data_file(twin))
    assert everything(data_file(workspace))[user]["class"] == "User's"


def part_of(workspace: QuPathWorkspace, what: str, k: int) -> Results:
    """Results of one kind only; another ``k`` is another run."""
    run, ref = f"run-{k}", fl(workspace)
    if what == "values":
        return scores(workspace, names=("CD3",), seed=k, run=run)
    if what == "classes":
        return replace(reclassed(workspace, workspace.pull(ref).cells.ids, f"New: {k}"), run_id=run)
    if what == "objects":
        return drawn(workspace, {"both": (5, 5), f"only {k}": (40, 40 + k)}, run=run)
    return Results(ref, run, image_values=(ImageValue(f"value {k}", 1.5, "key-image"),))


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "never applied"])
@pytest.mark.parametrize(
    ("what", "earlier"),
    [("values", False), ("values", True), ("classes", True), ("objects", True), ("image values", False)],
)
def test_the_ledger_finds_out_what_qupath_has_saved(workspace, tmp_path, what, earlier, applied):
    if earlier:
        workspace.publish(part_of(workspace, what, 0))
    results = part_of(workspace, what, 1)
    image = OpenProject(workspace.project.folder).open(2)
    done = handed(workspace, results, tmp_path / "run")
    if applied:
        image.apply(done.file)
    first = next(i for i, o in image.by_id.items() if o.kind == "cell")
    image.set_class([first], "User's")  # so that what is saved is another file in any case
    image.save()
    ledger = Publication(workspace.project, workspace.project.entry(2), workspace.own_folder, LastRead()).ledger
    assert ledger.state.keys_of_run("run-1") == (set(results.result_keys) if applied else set())
    assert ledger.state.keys_of_run("run-0") == (set(results.result_keys) if earlier and not applied else set())
    assert (ledger.waiting is None) == applied
    assert not [w for w in workspace.pull(results.image).warnings if "published earlier" in w]


@pytest.mark.parametrize("reloaded", [False, True], ids=["saved over it", "reloaded"])
def test_a_command_publishes_while_what_was_handed_over_is_on_the_screen(workspace, tmp_path, reloaded):
    """Whichever of the two QuPath saves, all of it is known as ours, and what is lost is told."""
    pristine = facts(data_file(workspace))
    handed_over, native = part_of(workspace, "values", 1), part_of(workspace, "image values", 2)
    image = OpenProject(workspace.project.folder).open(2)
    image.apply(handed(workspace, handed_over, tmp_path / "run").file)
    workspace.publish(native)
    image = OpenProject(workspace.project.folder).open(2) if reloaded else image
    first = next(i for i, o in image.by_id.items() if o.kind == "cell")
    was = image.by_id[first].class_name
    image.set_class([first], "User's")
    image.save()
    assert workspace.holds(native) == reloaded
    assert workspace.holds(handed_over) != reloaded
    assert workspace.lost(native.image) == (() if reloaded else ("value 2",))
    undone = workspace.retract(native.image, native.result_keys, run_id="run-2")
    assert not [note for note in undone.notes if "handed over" in note]
    workspace.retract(native.image, handed_over.result_keys, run_id="run-1")
    image = OpenProject(workspace.project.folder).open(2)
    image.set_class([first], was)
    image.save()
    assert facts(data_file(workspace)) == pristine


def test_a_few_values_are_told_by_which_a_script_knows_an_older_state(workspace, tmp_path):
    published = workspace.own_folder / "published" / "2.json"
    first, second = (score_classes_and_more(workspace, k, f"run-{k}", 0.4 + k / 5) for k in range(2))
    workspace.publish(first)
    told = json.loads(published.read_text(encoding="utf-8"))["samples"]
    now = everything(data_file(workspace))
    assert told["values"].keys() == {*COLUMNS}
    for name, values in told["values"].items():
        assert 10 < len(values) < 30
        shown = {i: float(now[i]["measurements"][name]) for i in values}
        assert values == {i: None if np.isnan(value) else value for i, value in shown.items()}
    assert told["classes"]
    assert told["classes"] == {i: now[i]["class"] for i in told["classes"]}
    assert set(told["objects"]) == {*new_ids(workspace)}
    image = OpenProject(workspace.project.folder).open(2)
    image.apply(handed(workspace, second, tmp_path / "run").file)
    document = json.loads(published.read_text(encoding="utf-8"))
    assert document["samples"] == told
    values = document["journal"]["samples"]["values"]
    assert values != told["values"]
    there = image.by_id
    shown = {i: there[i].measurements[COLUMNS[1]] for i in values[COLUMNS[1]]}
    assert values[COLUMNS[1]] == {i: None if np.isnan(value) else value for i, value in shown.items()}


def new_ids(workspace: QuPathWorkspace) -> list[str]:
    return [
        *workspace.object_ids(fl(workspace), "key-nuclei", ["a", "b", "c"]),
        *workspace.object_ids(fl(workspace), "key-region", ["in parts"]),
    ]


def test_results_that_are_older_than_those_they_replace_say_so(workspace, tmp_path):
    first, second = (
        scores(workspace, names=("CD3",), seed=k, run=f"2026010{k}-120000-aaaaaa") for k in (1, 2)
    )  # fmt: skip
    workspace.publish(second)
    told = "these results are older than those they replace, which are of 20260102-120000-aaaaaa"
    assert told in handed(workspace, first, tmp_path / "run").notes
    workspace.retract(second.image, second.result_keys)
    workspace.publish(first)
    assert not [note for note in handed(workspace, second, tmp_path / "run").notes if "older" in note]


def test_the_same_values_on_fewer_cells_are_not_there_already(workspace, twin, tmp_path):
    """A region after the whole image: its cells have these values, and the others must not keep theirs."""
    whole = scores(workspace)
    part = replace(
        whole,
        run_id="run-2",
        cell_ids=whole.cell_ids[:60],
        measurements=tuple(replace(m, values=m.values[:60]) for m in whole.measurements),
    )
    for place in (workspace, twin):
        place.publish(replace(whole, image=fl(place)))
        assert place.holds(replace(whole, image=fl(place)))
        assert not place.holds(replace(part, image=fl(place)))
    image = OpenProject(workspace.project.folder).open(2)
    image.apply(handed(workspace, part, tmp_path / "run").file)
    image.save()
    assert twin.publish(replace(part, image=fl(twin))).changed
    assert facts(data_file(workspace)) == facts(data_file(twin))
    assert workspace.holds(part)
    assert twin.holds(replace(part, image=fl(twin)))


def test_cells_that_are_gone_are_told_and_the_rest_is_applied(workspace, tmp_path):
    results = scores(workspace)
    gone = results.cell_ids[:5]
    image = OpenProject(workspace.project.folder).open(2)
    image.delete(gone)
    image.save()
    with pytest.raises(ChangedMeanwhile):
        workspace.publish(results)
    done = handed(workspace, results, tmp_path / "run")
    assert done.cells_gone == 5
    assert any("5 of 200 cells are not in the project any more" in note for note in done.notes)
    late = results.cell_ids[10:12]  # deleted on the screen while the file was written
    image.delete(late)
    applied = image.apply(done.file)
    assert set(applied.gone) == set(late)
    image.save()
    now = everything(data_file(workspace))
    assert all(COLUMNS[0] in now[i]["measurements"] for i in results.cell_ids if i not in {*gone, *late})
    workspace.retract(results.image, KEYS)
    assert not any(set(COLUMNS) & set(o["measurements"]) for o in everything(data_file(workspace)).values())

    image = OpenProject(workspace.project.folder).open(2)
    there = image.by_id
    image.delete([i for i in results.cell_ids if i in there])
    image.save()
    with pytest.raises(ChangedMeanwhile, match="none of the 200 cells"):
        handed(workspace, results, tmp_path / "run")


def test_a_users_class_and_outline_stay(workspace, twin, tmp_path):
    first, second = (score_classes_and_more(workspace, k, f"run-{k}", 0.4 + k / 5) for k in range(2))
    kept: dict[str, Any] = {}
    for place, publish in ((workspace, False), (twin, True)):
        image = OpenProject(place.project.folder).open(2)
        image.apply(handed(place, replace(first, image=fl(place)), tmp_path / "run").file)
        image.save()
        nucleus = place.object_ids(fl(place), "key-nuclei", ["a", "b"])
        image.redraw(nucleus[0], square(300, 300, 33))
        image.set_class([nucleus[1], *first.cell_ids[:3]], "User's")
        image.save()
        again = replace(second, image=fl(place))
        if publish:
            kept["notes"] = place.publish(again).notes
            continue
        done = handed(place, again, tmp_path / "run")
        image.apply(done.file)
        image.save()
        assert any("kept because they were edited in QuPath" in note for note in done.notes)
        kept["handed"] = done.notes
    assert set(kept["handed"]) <= set(kept["notes"])
    assert facts(data_file(workspace)) == facts(data_file(twin))
    assert everything(data_file(workspace))[first.cell_ids[0]]["class"] == "User's"


def test_an_image_that_was_never_saved_gets_new_objects(golden, tmp_path):
    folder = golden("v0.6.0")
    (folder / "data" / "2" / "data.qpdata").unlink()
    workspace = QuPathWorkspace(folder)
    done = handed(workspace, drawn(workspace, {"a": (3, 4), "b": (50, 60)}), tmp_path / "run")
    found = read(done.file)
    assert found.header.data_sha256 is None
    assert len(found.objects) == 2
    assert not (folder / "data" / "2" / "data.qpdata").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forking with threads is not safe")
def test_killed_at_any_step_the_next_one_works(golden, tmp_path):
    from .test_publish_kill import dies

    folder = golden("v0.6.0")
    workspace = QuPathWorkspace(folder)
    results = scores(workspace, names=("CD3",))
    state = not_ours(folder)
    for step in range(1, 60):
        run = tmp_path / str(step)
        run.mkdir()
        if not dies(lambda run=run: handed(QuPathWorkspace(folder), results, run), step, "before"):
            break
        assert not_ours(folder) == state
        place = QuPathWorkspace(folder)
        place.check_writable()
        assert read(handed(place, results, run).file).header.counts.cells == 200
        assert [p.name for p in run.iterdir()] == ["exchange.jsonl.gz"]
        assert len(list((folder / "mxbridge" / "published").glob("*.npz"))) == 1
        place.retract(results.image, ["key-CD3"])
    assert step > 4
