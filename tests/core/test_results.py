"""What a task yields, and its way to disk and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxbridge.cells import Rings
from mxbridge.errors import BrokenFile, InputError
from mxbridge.results import DerivedImage, ImageRef, ImageValue, NewObjects, Results

TRIANGLE = np.array([(0.0, 1.0), (2.0, 3.0), (4.0, 0.5)])
HOLED = [TRIANGLE * 9, TRIANGLE + 3]


def nuclei(**more) -> NewObjects:
    told = {
        "kind": "cell",
        "result_key": "k1",
        "keys": ("12,7", "é"),
        "outlines": Rings.of([[TRIANGLE], HOLED]),
        "nuclei": Rings.of([[], [TRIANGLE]]),
        "class_names": ("Tumor: Positive", None),
        "measurements": {"area": np.array([1.5, np.nan], np.float32)},
    }
    return NewObjects(**{**told, **more})


def some_results() -> Results:
    bare = NewObjects("annotation", "k2", ("a",), Rings.of([[TRIANGLE]]), names=("Field",))
    return Results(
        ImageRef("1", "a"),
        "run",
        objects=(nuclei(), bare, replace(bare, keys=(), outlines=Rings.of([]), names=(), class_names=())),
        derived=(
            DerivedImage("x.zarr", ("CD3 (Nimbus)",), "k3"),
            DerivedImage("y.zarr", ("r", "g", "b"), "k4", show="apart", rgb=True, title="Hematoxylin, DeepLIIF"),
        ),
        image_values=(ImageValue("DeepLIIF: Positive %", 12.5, "k5"), ImageValue("none", float("nan"), "k5")),
    )


def test_objects_and_image_values_survive_the_trip_to_disk(tmp_path: Path) -> None:
    results = some_results()
    results.save(tmp_path / "r")
    loaded = Results.load(tmp_path / "r")
    assert all(a.same_as(b) for a, b in zip(loaded.objects, results.objects, strict=True))
    assert loaded.objects[0].outlines.rings_of(1)[1].tolist() == HOLED[1].tolist()
    assert loaded.objects[0].class_names == ("Tumor: Positive", None)
    assert loaded.objects[1].names == ("Field",)
    assert loaded.derived == results.derived
    assert [(v.name, v.result_key) for v in loaded.image_values] == [("DeepLIIF: Positive %", "k5"), ("none", "k5")]
    assert loaded.image_values[0].value == 12.5
    assert np.isnan(loaded.image_values[1].value)
    assert loaded.result_keys == results.result_keys == ("k1", "k2", "k3", "k4", "k5")
    results.save(tmp_path / "again")
    for name in ("values.npz", "results.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "r" / name).read_bytes()


def test_results_of_earlier_versions_are_read(tmp_path: Path) -> None:
    results = Results(ImageRef("1", "a"), "run", derived=(DerivedImage("x.zarr", ("CD3 (Nimbus)",), "k3"),))
    results.save(tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    del document["image_values"]
    document["derived"] = [{"file": "x.zarr", "channels": ["CD3 (Nimbus)"], "result_key": "k3"}]
    (tmp_path / "results.json").write_text(json.dumps(document))
    loaded = Results.load(tmp_path)
    assert loaded.derived == results.derived
    assert loaded.image_values == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda d, a: d["objects"][0].update(kind="root"),
        lambda d, a: d["objects"][0].update(keys=["one"]),
        lambda d, a: d["objects"][0].update(keys=["same", "same"]),
        lambda d, a: d["objects"][0].update(classes=[]),
        lambda d, a: d["objects"][0].update(measurements=["a", "b"]),
        lambda d, a: d["objects"].append(d["objects"][0]),
        lambda d, a: d["derived"][0].update(show="twice"),
        lambda d, a: a.update({"objects0.outlines.ring_starts": np.array([0, 3, 900, 9])}),
        lambda d, a: a.update({"objects0.outlines.ring_starts": np.array([0, 6, 3, 9])}),
        lambda d, a: a.update({"objects0.outlines.object_starts": np.array([0, 0, 3])}),
        lambda d, a: a.update({"objects0.outlines.xy": np.full((9, 2), np.nan)}),
        lambda d, a: a.update({"objects0.outlines.xy": a["objects0.outlines.xy"].astype(">i4")}),
        lambda d, a: a.update({"objects0.classes": np.array([0, -1], np.int32)}),
        lambda d, a: a.update({"objects0.values": np.zeros((1, 2))}),
    ],
)  # fmt: skip
def test_damaged_objects_are_refused(tmp_path: Path, change) -> None:
    some_results().save(tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    with np.load(tmp_path / "values.npz") as stored:
        arrays = dict(stored)
    change(document, arrays)
    (tmp_path / "results.json").write_text(json.dumps(document))
    np.savez(tmp_path / "values.npz", **arrays)
    with pytest.raises(BrokenFile, match="not a saved result"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        {"keys": ("one",)},
        {"keys": ("same", "same")},
        {"class_names": ("Tumor",)},
        {"nuclei": Rings.of([[TRIANGLE]])},
        {"kind": "detection"},
        {"outlines": Rings.of([[TRIANGLE], []])},
        {"measurements": {"area": np.array([1.0, 2.0])}},
        {"measurements": {"area": np.array([1.0], np.float32)}},
    ],
)
def test_objects_that_do_not_fit_together_are_refused(more) -> None:
    with pytest.raises(InputError):
        nuclei(**more)


def test_objects_are_the_same_only_with_the_same_values() -> None:
    assert nuclei().same_as(nuclei())
    for more in (
        {"class_names": ("Tumor: Positive", "Tumor")},
        {"keys": ("12,7", "e")},
        {"nuclei": None},
        {"nuclei": Rings.of([[TRIANGLE], []])},
        {"names": ("n", None)},
        {"measurements": {}},
        {"measurements": {"area": np.array([1.5, 0], np.float32)}},
        {"outlines": Rings.of([[TRIANGLE], [*HOLED[:1], TRIANGLE + 4]])},
    ):
        assert not nuclei().same_as(nuclei(**more))
