"""Nuclei by the hundred, published, replaced, edited by people and taken out; values on annotations and on the image."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mxbridge.cells import Rings
from mxbridge.errors import InputError
from mxbridge.results import ImageValue, Measurement, NewObjects, Results
from mxbridge.workspaces.qupath.ledger import Ledger
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.publication import read_data
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.classes import default_class_color
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, drawn, everything, fl, scores
from .test_many_objects import many

KEY = "key-nuclei"


def nuclei(
    workspace, n=150, *, run="run-1", without=(), positive=lambda k: k % 3 == 0, marker="Ki67", **more
) -> Results:
    made, keep = many(n), np.array([k for k in range(n) if k not in without], np.int64)
    objects = NewObjects(
        "detection", KEY, tuple(f"{k}" for k in keep), made.outlines.take(keep), None,
        tuple("Tumor: Positive" if positive(k) else "Tumor: Negative" for k in keep.tolist()),
        measurements={"DeepLIIF: Area µm^2": made.measurements["area µ"][keep], f"DeepLIIF: {marker} mean": made.measurements["b"][keep]},
    )  # fmt: skip
    return Results(fl(workspace), run, objects=(objects,), **more)


def ours(workspace) -> dict[str, dict]:
    return {
        o["metadata"]["_mxbridge.object"]: o
        for o in everything(data_file(workspace)).values()
        if "_mxbridge.key" in o["metadata"]
    }


def edited(workspace, change) -> None:
    path = data_file(workspace)
    tree = ImageDataFile.read(path)
    change(tree)
    path.write_bytes(tree.to_bytes())


def of_key(tree, key):
    return next(o for o in tree.objects() if o.metadata.get("_mxbridge.object") == key)


def test_published_twice_replaced_and_taken_out(workspace):
    path = data_file(workspace)
    original, before = path.read_bytes(), everything(path)
    first = nuclei(workspace)
    assert workspace.publish(first).changed
    raw = path.read_bytes()
    assert workspace.holds(first)
    assert not workspace.publish(replace(first, run_id="run-2")).changed
    assert path.read_bytes() == raw
    found = ours(workspace)
    assert len(found) == 150
    ids = workspace.object_ids(first.image, KEY, first.objects[0].keys)
    there = everything(path)
    assert [there[i]["metadata"]["_mxbridge.object"] for i in ids] == list(first.objects[0].keys)
    assert found["3"]["class"] == "Tumor: Positive"
    second = nuclei(workspace, run="run-3", without=range(0, 150, 10), positive=lambda k: k % 2 == 0)
    assert not workspace.holds(second)
    workspace.publish(second)
    assert workspace.holds(second)
    assert not workspace.holds(first)
    now = ours(workspace)
    assert set(now) == {str(k) for k in range(150) if k % 10}
    assert now["4"] == {**found["4"], "class": "Tumor: Positive", "class color": -377282}
    assert now["7"] == found["7"]
    kept = everything(path)
    assert {i: kept[i] for i in before} == before
    workspace.publish(first)
    assert ours(workspace) == found
    assert workspace.retract(fl(workspace), [KEY]).changed
    assert path.read_bytes() == original
    assert not workspace.retract(fl(workspace), [KEY]).changed


def test_classes_have_the_colours_that_qupath_gives_them(workspace):
    workspace.publish(nuclei(workspace))
    text = (Project.open(workspace.address).folder / "classifiers/classes.json").read_text(encoding="utf-8")
    listed = {c["name"]: c["color"] for c in json.loads(text)["pathClasses"]}
    for name in ("Tumor: Positive", "Tumor: Negative"):  # QuPath wrote these into its own project
        assert default_class_color(name) == listed[name]
    assert default_class_color("Negative") == (0xFF5A5AB4 - (1 << 32))
    assert default_class_color("Nonsense: Positive") == listed["Tumor: Positive"]
    assert default_class_color("Positive: Nonsense") not in (listed["Tumor: Positive"], default_class_color("Positive"))


def test_a_class_given_by_hand_stays_when_other_thresholds_lose_or_reshape_the_nucleus(workspace):
    first = nuclei(workspace)
    workspace.publish(first)
    edited(workspace, lambda tree: tree.set_class([of_key(tree, "10"), of_key(tree, "11")], "Stroma", {}))
    hand = ours(workspace)
    few = nuclei(workspace, run="run-2", without=(10, 12))
    (objects,) = few.objects
    xy = objects.outlines.xy.copy()
    starts = objects.outlines.ring_starts
    xy[starts[10] : starts[11]] += 1  # that of "11", as "10" is left out
    other = replace(few, objects=(replace(objects, outlines=Rings(xy, starts, objects.outlines.object_starts)),))
    for results in (other, replace(other, run_id="run-3"), nuclei(workspace, run="run-4", without=(10, 12, 20))):
        notes = " ".join(workspace.publish(results).notes)
        now = ours(workspace)
        assert (now["10"], now["11"]) == (hand["10"], hand["11"])
        assert "12" not in now
        assert "were kept because they were edited" in notes
    assert "20" not in now
    workspace.publish(first)
    assert {k: o["class"] for k, o in ours(workspace).items() if k in ("10", "11")} == {"10": "Stroma", "11": "Stroma"}


def test_what_people_did_to_nuclei_stays(workspace):
    workspace.publish(nuclei(workspace))

    def by_hand(tree):
        moved = of_key(tree, "10")
        x = moved.roi.node.get("x")
        x.values = (np.frombuffer(x.values, ">f4") + np.float32(3)).tobytes()
        tree.set_class([of_key(tree, "11"), of_key(tree, "12")], "Stroma", {})
        tree.remove_objects([of_key(tree, "13")])

    edited(workspace, by_hand)
    hand = ours(workspace)
    assert not workspace.holds(nuclei(workspace))
    notes = " ".join(workspace.publish(nuclei(workspace)).notes)
    assert "1 objects were kept because they were edited" in notes
    assert "2 objects keep the class they were given in QuPath" in notes
    assert "1 objects stay deleted" in notes
    assert ours(workspace) == hand
    done = workspace.publish(nuclei(workspace, run="run-2", positive=lambda k: True))
    assert "2 objects keep the class" in " ".join(done.notes)
    now = ours(workspace)
    assert (now["10"]["roi"], now["10"]["class"]) == (hand["10"]["roi"], hand["10"]["class"])
    assert {now[k]["class"] for k in ("11", "12")} == {"Stroma"}
    assert {o["class"] for k, o in now.items() if k not in ("10", "11", "12")} == {"Tumor: Positive"}
    assert "13" in now  # another run finds it again
    notes = " ".join(workspace.retract(fl(workspace), [KEY]).notes)
    assert "2 of the objects taken out had been given another class" in notes
    assert set(ours(workspace)) == {"10"}


def test_values_of_others_on_our_nuclei_stay_and_our_earlier_names_go(workspace):
    workspace.publish(nuclei(workspace))
    ids = [i for i, o in everything(data_file(workspace)).items() if "_mxbridge.key" in o["metadata"]]
    others = scores(workspace, names=("CD3",), cells=ids)
    workspace.publish(others)
    assert workspace.holds(nuclei(workspace))
    workspace.publish(nuclei(workspace, run="run-2", marker="CD8", positive=lambda k: True))
    names = {tuple(o["measurements"]) for o in ours(workspace).values()}
    assert names == {("DeepLIIF: Area µm^2", "NimbusDemo: CD3", "DeepLIIF: CD8 mean")}
    assert workspace.holds(others)


def test_two_objects_of_one_key_are_refused(workspace):
    objects = nuclei(workspace, 3).objects
    with pytest.raises(InputError, match="share a key"):
        workspace.publish(Results(fl(workspace), "r", objects=objects * 2))


def test_results_of_several_parts_and_kinds(workspace):
    more = drawn(workspace, {"a": (5, 5)}, name="Field")
    results = replace(nuclei(workspace, 80), objects=(*nuclei(workspace, 80).objects, *more.objects))
    workspace.publish(results)
    assert workspace.holds(results)
    assert len(ours(workspace)) == 81
    workspace.publish(more)  # which replaces its own key only
    assert workspace.holds(results)
    assert workspace.retract(fl(workspace), ["key-objects"]).changed
    assert len(ours(workspace)) == 80


def test_a_record_of_an_earlier_version_is_read(workspace):
    workspace.publish(nuclei(workspace))
    path = next(workspace.own_folder.glob("published/*.json"))
    document = json.loads(path.read_text())
    made = document["state"]["objects"][KEY]
    ids = [i for i, o in everything(data_file(workspace)).items() if "_mxbridge.key" in o["metadata"]]
    document["state"]["objects"][KEY] = {"run": made["run"], "ids": ids}
    del document["state"]["image_values"]
    path.write_text(json.dumps(document))
    tree, seen = read_data(data_file(workspace))
    assert Ledger.open(path.parent, 2, seen.sha256, lambda: tree).state.objects[KEY].ids == tuple(ids)
    workspace.publish(nuclei(workspace, run="run-2", positive=lambda k: True))
    assert {o["class"] for o in ours(workspace).values()} == {"Tumor: Positive"}


def on_annotations(workspace, names, run="run-1") -> Results:
    found = workspace.pull(fl(workspace), "annotations").cells
    values = np.arange(len(found) * len(names), dtype=np.float32).reshape(len(names), -1)
    columns = tuple(Measurement(n, v, "key-score") for n, v in zip(names, values, strict=True))
    value = ImageValue(names[-1], float(len(names)), "key-score")
    return Results(
        fl(workspace), run, found.ids, columns, image_values=(value, ImageValue("DeepLIIF: n", np.nan, "key-score"))
    )


def image_values(workspace) -> dict[str, float]:
    return ImageDataFile.read(data_file(workspace)).image_values


def test_values_of_annotations_and_of_the_image(workspace):
    path = data_file(workspace)
    original = path.read_bytes()
    first = on_annotations(workspace, ("DeepLIIF: Num detections", "DeepLIIF: Positive % (run 1)"))
    assert workspace.publish(first).changed
    assert workspace.holds(first)
    assert not workspace.publish(first).changed
    values = image_values(workspace)
    assert values.pop("DeepLIIF: Positive % (run 1)") == 2
    assert np.isnan(values.pop("DeepLIIF: n"))
    assert not values
    second = on_annotations(workspace, ("DeepLIIF: Num detections", "x", "DeepLIIF: Positive % (run 2)"), "run-2")
    workspace.publish(second)
    assert workspace.holds(second)
    assert not workspace.holds(first)
    annotations = [o for o in everything(path).values() if "DeepLIIF: Num detections" in o["measurements"]]
    assert len(annotations) == len(second.cell_ids)
    assert not [n for o in annotations for n in o["measurements"] if "run 1" in n]
    assert set(image_values(workspace)) == {"DeepLIIF: Positive % (run 2)", "DeepLIIF: n"}
    assert workspace.published_keys(fl(workspace)) == ("key-score",)
    assert not workspace.retract(fl(workspace), ["key-score"], run_id="run-1").changed
    assert workspace.retract(fl(workspace), ["key-score"], run_id="run-2").changed
    assert path.read_bytes() == original


def test_values_of_the_image_that_were_there_come_back_and_lost_ones_are_missed(workspace):
    edited(workspace, lambda tree: tree.set_image_values({"theirs": 7, "DeepLIIF: n": 3}))
    before = data_file(workspace).read_bytes()
    results = Results(fl(workspace), "r", image_values=(ImageValue("DeepLIIF: n", 4.5, "k"), ImageValue("new", 1, "k")))
    workspace.publish(results)
    assert image_values(workspace) == {"theirs": 7, "DeepLIIF: n": 4.5, "new": 1}
    published = data_file(workspace).read_bytes()
    edited(workspace, lambda tree: tree.remove_image_values(["new"]))
    assert workspace.lost(fl(workspace)) == ("new",)
    assert not workspace.holds(results)
    workspace.publish(results)
    assert data_file(workspace).read_bytes() == published
    workspace.retract(fl(workspace), ["k"])
    assert data_file(workspace).read_bytes() == before
    twice = replace(results, image_values=results.image_values * 2)
    assert not workspace.holds(twice)
    with pytest.raises(InputError, match="twice"):
        workspace.publish(twice)


def test_a_value_alone_on_an_image_without_data(workspace):
    path = data_file(workspace)
    path.unlink()
    results = Results(fl(workspace), "r", image_values=(ImageValue("n", 4.5, "k"),))
    assert workspace.publish(results).changed
    assert workspace.holds(results)
    assert QuPathWorkspace(workspace.address).published_keys(fl(workspace)) == ("k",)


def test_the_type_of_a_colour_picture_is_left_to_its_user(workspace):
    path = data_file(workspace, "1")
    results = Results(workspace.list(["1"])[0], "r", image_values=(ImageValue("n", 4.5, "k"),))
    workspace.publish(results)
    assert ImageDataFile.read(path).image_type == "BRIGHTFIELD_H_E"
    path.unlink()
    workspace.publish(results)
    assert ImageDataFile.read(path).image_type == "UNSET"  # QuPath asks when the image is opened
