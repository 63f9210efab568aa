"""Channels that an earlier task made, behind those of the image itself."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from mxbridge.errors import SourceError
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel, LocalImage, computed
from mxbridge.results import DerivedImage, ImageRef, Measurement, Results
from mxbridge.workspaces.base import Workspace
from mxbridge.workspaces.memory import MemoryWorkspace
from mxbridge.workspaces.with_derived import MadeImage, WithDerived, made_images, with_made

SIDE = 40
NAMES = ("CD8 (MAXIM)", "CD8 uncertainty (MAXIM)")


def write(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    """A derived image ``(c, y, x)``."""
    writer = OmeZarrWriter(path, values.shape, values.dtype, [Channel(n) for n in names], (0.5, 0.5))
    for plane, part in enumerate(values):
        writer.write(plane, Box(0, 0, *part.shape), part)
    writer.finish()
    return path


def pixels(dtype: str, planes: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (planes, SIDE, SIDE)).astype(dtype)


def image(dtype: str, rgb: bool = False) -> LocalImage:
    values = pixels(dtype)
    level = da.from_array(values, chunks=(1, 16, 16))
    return LocalImage("x", (level, level[:, ::2, ::2]), (Channel("DAPI"), Channel("CD3")), (0.5, 0.5), "id", rgb=rgb)


@pytest.mark.parametrize(
    ("own", "made"), [("uint8", "uint8"), ("uint16", "float32"), ("uint16", "uint8"), ("int16", "uint16")]
)
def test_numbers_stay_what_they_are(tmp_path: Path, own: str, made: str) -> None:
    derived = pixels(made)
    joined = with_made(image(own), [MadeImage(write(tmp_path / "d.ome.zarr", derived), NAMES, "work")])
    assert joined.channel_names == ("DAPI", "CD3", "CD8 (MAXIM)")  # how sure it is, is no marker
    assert joined.dtype == np.promote_types(own, made)
    everything = computed(joined.levels[0])
    assert np.array_equal(everything[:2], pixels(own))
    assert np.array_equal(everything[2], derived[0])
    assert [level.shape[1:] for level in joined.levels] == [(SIDE, SIDE)]  # only sizes that both have


def test_the_identity_is_that_of_the_image_and_of_the_work(tmp_path: Path) -> None:
    path = write(tmp_path / "d.ome.zarr", pixels("uint16"))
    found = {with_made(image("uint16"), [MadeImage(path, NAMES, work)]).identity for work in ("one", "two", "one")}
    assert len(found) == 2
    assert image("uint16").identity not in found


def test_colour_pictures_and_other_sizes_stay_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "d.ome.zarr", pixels("uint16")[:, :20])
    made = [MadeImage(path, NAMES, "work")]
    other = with_made(image("uint16"), made)
    assert (other.channel_names, other.identity, len(other.warnings)) == (("DAPI", "CD3"), "id", 1)
    picture = image("uint16", rgb=True)
    assert with_made(picture, made) is picture


def test_results_go_to_the_original(tmp_path: Path) -> None:
    labels = np.zeros((SIDE, SIDE), np.uint16)
    labels[4:9, 4:9] = 1
    memory = MemoryWorkspace({"x": (pixels("uint16"), ("DAPI", "CD3"), 0.5)}, {"x": labels})
    path = write(tmp_path / "d.ome.zarr", pixels("uint16"))
    place = WithDerived(memory, {"x": [MadeImage(path, NAMES, "work")]}, tmp_path / "runs")
    (ref,) = place.list()
    pulled = place.pull(ref)
    assert pulled.image.channel_names[-1] == "CD8 (MAXIM)"
    assert pulled.cells is not None
    assert pulled.cells.ids == ("1",)
    assert (place.runs_home, place.address) == (tmp_path / "runs", memory.address)
    score = Measurement("Nimbus: CD8 (MAXIM)", np.ones(1, np.float32), "key")
    results = Results(ref, "run", ("1",), (score,))
    assert place.publish(results).changed
    assert memory.published["x"] == [results]
    assert place.holds(results)
    assert place.retract(ref, ["key"]).changed
    assert not memory.published["x"]


def test_where_derived_images_are_looked_for(tmp_path: Path) -> None:
    one = DerivedImage("d.ome.zarr", NAMES, "key")
    apart = DerivedImage("e.ome.zarr", ("Hema",), "key", show="apart")
    results = Results(ImageRef("1", "x"), "run", derived=(one, apart), fingerprint="work")
    with pytest.raises(SourceError, match=r"d\.ome\.zarr is gone"):
        made_images(results, tmp_path / "run", tmp_path / "home")
    (tmp_path / "run" / "derived" / "d.ome.zarr").mkdir(parents=True)
    assert made_images(results, tmp_path / "run", None)[0].path == tmp_path / "run" / "derived" / "d.ome.zarr"
    (tmp_path / "home" / "d.ome.zarr").mkdir(parents=True)
    (found,) = made_images(results, tmp_path / "run", tmp_path / "home")
    assert found == MadeImage(tmp_path / "home" / "d.ome.zarr", NAMES, "work")


def test_nothing_that_a_workspace_can_is_forgotten() -> None:
    """What the original answers itself must not be answered by the base class in its place."""
    public = {name for name in vars(Workspace) if not name.startswith("_")}
    assert public <= set(vars(WithDerived))
