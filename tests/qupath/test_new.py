"""Projects from images and masks: what QuPath would find in them, and what is left when it does not work."""

from __future__ import annotations

import json
import uuid

import dask.array as da
import numpy as np
import pytest
import tifffile
from PIL import Image

from mxbridge.cells import LabelCells, OutlineCells, Rings
from mxbridge.errors import InputError, NoPixelSize, OutputError, UsageError
from mxbridge.formats.labels import scan_labels
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.results import Measurement, Results
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.new import NewImage, create_project, open_new_image
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace
from tests.outlines import areas

from .conftest import square

SHAPE = (90, 120)


def labels(*, holes: bool = True) -> np.ndarray:
    out = np.zeros(SHAPE, np.int32)
    out[5:25, 5:25] = 7
    if holes:
        out[10:15, 10:15] = 0
    out[30:50, 40:60] = 3
    out[70:72, 100:102] = 3  # a second part
    out[60:61, 10:11] = 90  # one pixel
    return out


def picture(channels=3, dtype=np.uint16) -> np.ndarray:
    return (np.random.default_rng(1).random((channels, *SHAPE)) * 200).astype(dtype)


def ome_tiff(path, array, names=("DAPI", "CD3", "µ"), um=0.5, **more):
    size = (
        {"PhysicalSizeX": um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": um, "PhysicalSizeYUnit": "µm"} if um else {}
    )
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}, **size}
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata, **more)
    return path


def local(array, name="made up", um=0.5) -> LocalImage:
    return LocalImage(
        name,
        (da.from_array(array),),
        tuple(Channel(f"c{k}") for k in range(len(array))),
        None if um is None else (um, um),
        "identity",
    )


@pytest.fixture
def mask(tmp_path):
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, labels())
    return path


def only(folder):
    workspace = QuPathWorkspace(folder)
    (ref,) = workspace.list()
    return workspace, workspace.pull(ref)


def test_an_ome_tiff_stays_where_it_is(tmp_path, mask):
    path = ome_tiff(tmp_path / "my image.ome.tif", picture())
    made = create_project(tmp_path / "Projekt ü", [open_new_image(path, mask)])
    assert made.cells == (3,)
    assert made.warnings == ()
    workspace, pulled = only(tmp_path / "Projekt ü")
    assert pulled.ref.name == "my image.ome.tif"
    assert pulled.image.files == (path,)
    assert pulled.image.channel_names == ("DAPI", "CD3", "µ")
    assert pulled.image.pixel_size_um == (0.5, 0.5)
    assert np.array_equal(pulled.image.levels[0].compute(), picture())
    box = Box(0, 0, *SHAPE)
    values = np.array([0, *(3, 7, 90)])
    assert np.array_equal(values[pulled.cells.raster(box)], labels())
    assert areas(pulled.cells.outlines).tolist() == [404, 375, 1]
    assert check_project(tmp_path / "Projekt ü").sound
    builder = workspace.project.entry(1).builder
    assert builder["uri"].startswith("file:/")
    assert "my%20image.ome.tif" in builder["uri"]
    assert not (tmp_path / "Projekt ü" / "images").exists()


def test_everything_qupath_looks_for_is_there(tmp_path, mask):
    folder = tmp_path / "p"
    create_project(folder, [open_new_image(ome_tiff(tmp_path / "a.ome.tif", picture()), mask)])
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {
        "project.qpproj",
        *(f"data/1/{n}" for n in ("data.qpdata", "server.json", "summary.json", "thumbnail.jpg")),
    }
    document = json.loads((folder / "project.qpproj").read_text(encoding="utf-8"))
    assert list(document) == ["version", "createTimestamp", "modifyTimestamp", "uri", "lastID", "images"]
    assert document["uri"] == (folder / "project.qpproj").as_uri().replace("file:///", "file:/")
    entry = document["images"][0]
    assert entry["metadata"] == {}
    metadata = entry["serverBuilder"]["metadata"]
    assert (metadata["width"], metadata["height"], metadata["pixelType"], metadata["isRGB"]) == (
        120,
        90,
        "UINT16",
        False,
    )
    assert metadata["levels"] == [{"downsample": 1.0, "width": 120, "height": 90}]
    assert [c["color"] for c in metadata["channels"]] == [-65536, -16711936, -16776961]
    summary = json.loads((folder / "data/1/summary.json").read_text())
    assert summary["hierarchy"]["objectTypeCounts"] == {"Root objects": 1, "Cells": 3}
    assert summary["server"]["sizeC"] == 3
    assert json.loads((folder / "data/1/server.json").read_text(encoding="utf-8")) == entry["serverBuilder"]
    with Image.open(folder / "data/1/thumbnail.jpg") as thumbnail:
        assert max(thumbnail.size) <= 256
    assert not Project.open(folder).moved


def test_a_folder_of_channels_becomes_one_ome_tiff(tmp_path, mask):
    folder = tmp_path / "fov8"
    folder.mkdir()
    for name, plane in zip(("CD3", "CD8", "µ x"), picture(), strict=True):
        tifffile.imwrite(folder / f"{name}.tif", plane)
    made = create_project(tmp_path / "p", [open_new_image(folder, mask)], um_per_px=0.39)
    assert any("copied into the project" in w for w in made.warnings)
    _, pulled = only(tmp_path / "p")
    assert pulled.image.files == (tmp_path / "p" / "images" / "fov8.ome.tif",)
    assert pulled.image.channel_names == ("CD3", "CD8", "µ x")
    assert pulled.image.pixel_size_um == (0.39, 0.39)
    assert np.array_equal(pulled.image.levels[0].compute(), picture())
    with tifffile.TiffFile(pulled.image.files[0]) as tiff:
        assert tiff.is_ome
    assert check_project(tmp_path / "p").sound


def test_a_project_may_be_moved_with_the_images_it_holds(tmp_path):
    create_project(tmp_path / "p", [NewImage(local(picture()))])
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "p").rename(tmp_path / "elsewhere" / "q")
    _, pulled = only(moved)
    assert np.array_equal(pulled.image.levels[0].compute(), picture())


def test_arrays_with_nuclei_classes_and_pyramid(tmp_path):
    big = np.random.default_rng(0).integers(0, 9000, (2, 700, 1100)).astype(np.uint16)
    cells, nuclei = np.zeros(big.shape[1:], np.int32), np.zeros(big.shape[1:], np.int32)
    cells[10:40, 10:40], nuclei[20:30, 20:30] = 1, 5
    cells[100:140, 10:40] = 2
    both = [scan_labels(da.from_array(a, chunks=256), a.shape, where="made up") for a in (cells, nuclei)]
    made = create_project(
        tmp_path / "p", [NewImage(local(big), cells=both[0], nuclei=both[1], metadata=(("Patient", "1"),))]
    )
    assert made.cells == (2,)
    workspace, pulled = only(tmp_path / "p")
    assert len(pulled.image.levels) == 3
    assert areas(pulled.cells.nuclei).tolist() == [100, 0]
    assert workspace.project.entry(1).metadata == {"Patient": "1"}
    levels = workspace.project.entry(1).builder["metadata"]["levels"]
    assert [level["downsample"] for level in levels] == [1.0, 2.0, 4.0]
    assert (levels[1]["width"], levels[1]["height"]) == (550, 350)


def test_two_plane_masks_give_nuclei(tmp_path):
    cells, nuclei = labels(holes=False), np.zeros(SHAPE, np.int32)
    nuclei[8:12, 8:12] = 7
    tifffile.imwrite(tmp_path / "m.tif", np.stack([cells, nuclei]), photometric="minisblack")
    image = ome_tiff(tmp_path / "a.ome.tif", picture())
    create_project(tmp_path / "p", [open_new_image(image, tmp_path / "m.tif")])
    _, pulled = only(tmp_path / "p")
    assert areas(pulled.cells.nuclei).tolist() == [0, 16, 0]


def test_classes_of_outlines_are_kept_with_colours(tmp_path):
    ids = (str(uuid.UUID(int=5)), "second")
    rings = Rings.of([[np.array(square(10, 10))], [np.array(square(30, 30))]])
    cells = OutlineCells(ids, ("Tumor: CD3", None), SHAPE, rings)
    create_project(tmp_path / "p", [NewImage(local(picture()), cells=cells)])
    _, pulled = only(tmp_path / "p")
    assert pulled.cells.classes == ("Tumor: CD3", None)
    assert pulled.cells.ids[0] == ids[0]
    uuid.UUID(pulled.cells.ids[1])
    listed = json.loads((tmp_path / "p/classifiers/classes.json").read_text())["pathClasses"]
    assert [c["name"] for c in listed] == ["Tumor", "Tumor: CD3"]
    assert check_project(tmp_path / "p").sound


def test_the_same_project_twice_has_the_same_cells(tmp_path, mask):
    image = ome_tiff(tmp_path / "a.ome.tif", picture())
    for name in ("p", "q"):
        create_project(tmp_path / name, [open_new_image(image, mask)])
    assert only(tmp_path / "p")[1].cells.ids == only(tmp_path / "q")[1].cells.ids


def test_several_images_of_one_name(tmp_path):
    made = create_project(tmp_path / "p", [NewImage(local(picture(), "a/b:*")), NewImage(local(picture(), "a/b:*"))])
    assert made.cells == (0, 0)
    workspace = QuPathWorkspace(tmp_path / "p")
    files = [workspace.pull(r).image.files[0].name for r in workspace.list()]
    assert files == ["a_b__.ome.tif", "a_b__-2.ome.tif"]
    assert [workspace.pull(r).cells for r in workspace.list()] == [None, None]


def test_rgb_pictures(tmp_path):
    array = np.moveaxis(picture(3, np.uint8), 0, -1)
    Image.fromarray(array).save(tmp_path / "he.png")
    tifffile.imwrite(tmp_path / "he.tif", array, photometric="rgb")
    create_project(tmp_path / "p", [open_new_image(tmp_path / n) for n in ("he.png", "he.tif")], um_per_px=0.25)
    workspace = QuPathWorkspace(tmp_path / "p")
    for ref in workspace.list():
        pulled = workspace.pull(ref)
        assert pulled.image.rgb
        assert pulled.image.files[0].parent == tmp_path
        assert np.array_equal(pulled.image.levels[0].compute(), np.moveaxis(array, -1, 0))
    assert ImageDataFile.read(tmp_path / "p/data/1/data.qpdata").image_type == "UNSET"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("zstd.ome.tif", lambda p: ome_tiff(p, picture(), compression="zstd")),
        ("pages.tif", lambda p: tifffile.imwrite(p, picture(), photometric="minisblack", metadata=None)),
        ("float16.tif", lambda p: tifffile.imwrite(p, picture(1, np.float16)[0])),
    ],
)
def test_what_leaves_doubt_is_copied(tmp_path, name, write):
    write(tmp_path / name)
    create_project(tmp_path / "p", [open_new_image(tmp_path / name)], um_per_px=1)
    _, pulled = only(tmp_path / "p")
    assert pulled.image.files[0].parent == tmp_path / "p" / "images"
    assert pulled.image.levels[0].shape[1:] == SHAPE


@pytest.mark.parametrize(("dtype", "stored"), [("int8", "int16"), ("uint32", "float64")])
def test_types_that_qupath_cannot_read_are_stored_in_one_that_holds_them(tmp_path, dtype, stored):
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 2 * 90 * 120).astype(dtype).reshape(2, 90, 120)
    image = ome_tiff(tmp_path / "a.ome.tif", values, names=("a", "b"))
    made = create_project(tmp_path / "p", [open_new_image(image)])
    assert any("copied into the project" in w for w in made.warnings)
    _, pulled = only(tmp_path / "p")
    assert pulled.image.dtype == stored
    assert np.array_equal(np.asarray(pulled.image.levels[0]), values)


def test_no_pixel_size_and_nothing_is_left(tmp_path):
    with pytest.raises(NoPixelSize, match="--um-per-px") as caught:
        create_project(tmp_path / "p", [NewImage(local(picture(), um=None))])
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "p").mkdir()
    create_project(tmp_path / "p", [NewImage(local(picture()))])
    before = (tmp_path / "p" / "project.qpproj").read_bytes()
    with pytest.raises(OutputError, match="not empty"):
        create_project(tmp_path / "p", [NewImage(local(picture()))])
    assert (tmp_path / "p" / "project.qpproj").read_bytes() == before
    with pytest.raises(OutputError, match="does not exist"):
        create_project(tmp_path / "a" / "b", [NewImage(local(picture()))])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="in the way"):
        create_project(tmp_path / "file", [NewImage(local(picture()))])
    with pytest.raises(UsageError, match="at least one image"):
        create_project(tmp_path / "q", [])


def test_a_failure_half_way_leaves_nothing(tmp_path):
    def broken(block):
        raise OutputError("made up")

    image = local(picture())
    broken_levels = (image.levels[0].map_blocks(broken, dtype=np.uint16, meta=np.zeros((0, 0, 0), np.uint16)),)
    bad = LocalImage("b", broken_levels, image.channels, image.pixel_size_um, "x")
    with pytest.raises(OutputError, match="made up"):
        create_project(tmp_path / "p", [NewImage(image), NewImage(bad)])
    assert list(tmp_path.iterdir()) == []


def test_cells_of_another_image_are_refused(tmp_path):
    other = scan_labels(da.zeros((5, 5), dtype=np.int32), (5, 5), where="x")
    assert isinstance(other, LabelCells)
    with pytest.raises(InputError, match="5 x 5"):
        create_project(tmp_path / "p", [NewImage(local(picture()), cells=other)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
def test_a_real_field_with_its_mask(shared, tmp_path):
    folder = shared / "data" / "mibi_ark_fov8"
    new = open_new_image(folder / "fov8", folder / "fov8_whole_cell.tif")
    made = create_project(tmp_path / "p", [new], um_per_px=0.5)
    assert made.cells == (272,)
    workspace, pulled = only(tmp_path / "p")
    assert len(pulled.image.channels) == 21
    box = Box(0, 0, 1024, 1024)
    assert np.array_equal(pulled.cells.raster(box), new.cells.raster(box))
    assert check_project(tmp_path / "p").sound
    values = np.linspace(0, 1, 272, dtype=np.float32)
    results = Results(pulled.ref, "r", pulled.cells.ids, (Measurement("Nimbus: CD3", values, "k"),))
    assert workspace.publish(results).changed
    assert QuPathWorkspace(tmp_path / "p").holds(results)
