"""Arrays as a workspace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError, UnknownName
from mxbridge.image import Box
from mxbridge.results import ImageValue, Measurement, NewObjects, Results
from mxbridge.workspaces.memory import MemoryWorkspace

PIXELS = np.arange(2 * 20 * 30, dtype=">u2").reshape(2, 20, 30)
LABELS = np.zeros((20, 30), "i4")
LABELS[2:9, 3:8], LABELS[12:18, 20:28] = 7, 3


def workspace(**more) -> MemoryWorkspace:
    images = {"a": (PIXELS, ["CD3", "CD8"], 0.5), "b": (PIXELS + 1, ["CD3", "CD3"], None)}
    return MemoryWorkspace(images, {"a": LABELS}, **more)


def results(place: MemoryWorkspace, values: list[float], key: str = "k") -> Results:
    measurement = Measurement("Nimbus: CD3", np.array(values, np.float32), key)
    return Results(place.list(["a"])[0], "run", ("3", "7"), (measurement,))


def test_pull() -> None:
    place = workspace()
    a, b = (place.pull(ref) for ref in place.list())
    np.testing.assert_array_equal(a.image.levels[0].compute(), PIXELS)
    assert a.image.dtype.isnative and a.image.pixel_size_um == (0.5, 0.5) and a.image.channel_names == ("CD3", "CD8")
    assert a.cells is not None and a.cells.ids == ("3", "7")
    np.testing.assert_array_equal(np.array([0, 3, 7])[a.cells.raster(Box(0, 0, 20, 30))], LABELS)
    assert b.cells is None and b.image.pixel_size_um is None and b.image.channel_names == ("CD3", "CD3#2")
    assert a.image.identity == workspace().pull(place.list()[0]).image.identity != b.image.identity
    assert place.pull(place.list()[0], "annotations").cells is None


def test_cells_may_be_outlines() -> None:
    outlines = OutlineCells(("u",), (None,), (20, 30), Rings.of([[np.array([[1.0, 1], [9, 1], [9, 9]])]]))
    place = MemoryWorkspace({"a": (PIXELS, ["x", "y"], 1.0)}, {"a": outlines})
    assert place.pull(place.list()[0]).cells is outlines


def test_publish_replaces_and_retract_removes() -> None:
    place = workspace()
    first = results(place, [0.1, np.nan])
    assert place.publish(first).changed and place.holds(first)
    assert not place.publish(results(place, [0.1, np.nan])).changed
    second = results(place, [0.2, 0.3])
    assert place.publish(second).changed and not place.holds(first) and place.published["a"] == [second]
    other = results(place, [1.0, 1.0], "other")
    place.publish(other)
    assert place.retract(place.list()[0], ["k"]).changed and place.published["a"] == [other]
    assert not place.retract(place.list()[0], ["k"]).changed


def test_refused() -> None:
    place = workspace()
    with pytest.raises(UnknownName, match="There is: a, b"):
        place.list(["c"])
    with pytest.raises(UnknownName):
        MemoryWorkspace({"a": (PIXELS, ["x", "y"], 1.0)}, {"b": LABELS})
    wrong = MemoryWorkspace({"a": (PIXELS, ["x", "y"], 1.0)}, {"a": LABELS[1:]})
    with pytest.raises(InputError, match=r"\(19, 30\)"):
        wrong.pull(wrong.list()[0])
    with pytest.raises(InputError, match="axes"):
        flat = MemoryWorkspace({"a": (PIXELS[0], ["x"], 1.0)})
        flat.pull(flat.list()[0])


def test_objects_and_values_of_the_image_are_published_and_compared() -> None:
    place = workspace()
    ref = place.list()[0]
    ring = np.array([(1.0, 1.0), (9.0, 1.0), (9.0, 9.0)])
    made = NewObjects("detection", "key", ("a",), Rings.of([[ring]]), class_names=("Positive",))
    value = ImageValue("DeepLIIF: Positive %", float("nan"), "key")
    results = Results(ref, "run", objects=(made,), image_values=(value,))
    assert place.publish(results).changed
    again = replace(results, run_id="other", objects=(replace(made, outlines=Rings.of([[ring.copy()]])),))
    assert place.holds(again)
    assert not place.publish(again).changed
    for other in (
        replace(results, objects=(replace(made, class_names=("Negative",)),)),
        replace(results, objects=(made, replace(made, result_key="k2"))),
        replace(results, image_values=(replace(value, value=1.0),)),
        replace(results, image_values=()),
    ):
        assert not place.holds(other)
        assert place.publish(other).changed
        assert len(place.published[ref.id]) == 1
        place.publish(results)
    assert place.retract(ref, ["key"]).changed
    assert not place.holds(results)
    assert place.stain_vectors(ref) is None
