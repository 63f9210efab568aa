"""Zipped label images: written so that everybody reads them, unpacked without trusting anybody."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import Rings
from mxbridge.errors import BrokenFile, InputError, Unsupported
from mxbridge.formats.labels import open_labels, scan_labels
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.results import NewObjects
from mxbridge.workspaces.omero.attachments import label_zip
from mxbridge.workspaces.omero.attachments.label_zip import unpack_zarr, write_labels
from mxbridge.workspaces.omero.attachments.labels import Attachment, cells_from_label_image


def _labels(shape: tuple[int, int] = (1100, 1300)) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    labels[5:15, 10:30] = 4
    labels[1000:1060, 1000:1100] = 9
    labels[1020:1030, 1020:1030] = 0
    labels[-1, -1] = 12
    return labels


def test_label_images_come_back_with_the_objects_numbered_in_order(tmp_path: Path) -> None:
    labels = _labels()
    cells = scan_labels(da.from_array(labels, chunks=512), labels.shape, where="here")
    archive = write_labels(tmp_path / "cells.ome.zarr.zip", cells, labels.shape, "cells", (0.5, 0.25))
    root = unpack_zarr(archive, tmp_path / "unpacked")
    read = open_labels(root, labels.shape)
    assert read.ids == ("1", "2", "3")
    assert np.array_equal(read.raster(Box(0, 0, *labels.shape)), np.searchsorted([0, 4, 9, 12], labels))
    assert list(tmp_path.glob("cells*")) == [archive]


def test_written_labels_are_valid_ome_zarr_with_a_pyramid(tmp_path: Path) -> None:
    import ome_zarr_models

    labels = _labels()
    cells = scan_labels(da.from_array(labels, chunks=512), labels.shape, where="here")
    archive = write_labels(tmp_path / "cells.ome.zarr.zip", cells, labels.shape, "my nuclei", (0.5, 0.25))
    root = unpack_zarr(archive, tmp_path / "unpacked")
    group = zarr.open_group(str(root), mode="r")
    assert group["labels"].attrs["ome"]["labels"] == ["my nuclei"]
    model = ome_zarr_models.open_ome_zarr(group["labels/my nuclei"])
    assert type(model).__name__ == "ImageLabel" and model.ome_zarr_version == "0.5"
    scales = [d.coordinateTransformations[0].scale for d in model.attributes.ome.multiscales[0].datasets]
    assert scales == [[0.5, 0.25], [1, 0.5], [2, 1], [4, 2]][: len(scales)] and len(scales) > 1
    numbered = np.searchsorted([0, 4, 9, 12], labels)
    for k in range(len(scales)):
        assert np.array_equal(group[f"labels/my nuclei/{k}"][:], numbered[:: 2**k, :: 2**k])


def test_new_objects_are_labels_too_and_equal_ones_give_equal_files(tmp_path: Path) -> None:
    square = np.array([[2.0, 2], [6, 2], [6, 6], [2, 6]])
    objects = NewObjects("detection", "key", ("a", "b", "c"), Rings.of([[square], [square + 100], [square + 1]]))
    first = write_labels(tmp_path / "1.ome.zarr.zip", objects, (20, 30), "nuclei", None)
    again = write_labels(tmp_path / "2.ome.zarr.zip", objects, (20, 30), "nuclei", None)
    assert first.read_bytes() == again.read_bytes()
    assert zipfile.ZipFile(first).namelist()[0] == "zarr.json"
    cells = open_labels(unpack_zarr(first, tmp_path / "unpacked"), (20, 30))
    assert cells.ids == ("1", "3")  # the second lies outside; numbers stay those of the order
    with pytest.raises(InputError, match="another size"):
        write_labels(tmp_path / "3.ome.zarr.zip", cells, (20, 31), "nuclei", None)


def test_an_image_zipped_in_its_folder_is_found(tmp_path: Path) -> None:
    labels = _labels((40, 50))
    written = write_labels(
        tmp_path / "w.zip", scan_labels(da.from_array(labels), (40, 50), where=""), (40, 50), "x", None
    )
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_DEFLATED) as sink:
        sink.writestr("__MACOSX/../../harmless", b"")  # what a Mac leaves is passed over
        for name in source.namelist():
            sink.writestr(f"slide 1.zarr/{name}", source.read(name))
    assert unpack_zarr(tmp_path / "f.zip", tmp_path / "u") == tmp_path / "u" / "slide 1.zarr"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:evil", "..\\evil", "a/b:c", "con?"])
def test_places_outside_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("zarr.json", "{}")
        archive.writestr(name, b"evil")
    with pytest.raises(BrokenFile, match="no plain place"):
        unpack_zarr(tmp_path / "z.zip", tmp_path / "in" / "u")
    assert not list(tmp_path.rglob("*evil*"))


def test_links_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("zarr.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BrokenFile, match="is a link"):
        unpack_zarr(tmp_path / "l.zip", tmp_path / "u")
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("zarr.json", "{}")
    data = bytearray((tmp_path / "e.zip").read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(data)
    with pytest.raises(BrokenFile, match="encrypted"):
        unpack_zarr(tmp_path / "e.zip", tmp_path / "u2")


def test_bombs_are_refused_by_what_they_say_and_by_what_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "b.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(20):
            archive.writestr(f"c/{k}", bytes(100_000))
    monkeypatch.setattr(label_zip, "UNPACKED_LIMIT", 1_000_000)
    with pytest.raises(BrokenFile, match="unpacks to more than"):
        unpack_zarr(bomb, tmp_path / "u1")
    monkeypatch.setattr(label_zip, "UNPACKED_LIMIT", 10**9)
    monkeypatch.setattr(label_zip, "MEMBER_LIMIT", 19)
    with pytest.raises(BrokenFile, match="unpacks to more than"):
        unpack_zarr(bomb, tmp_path / "u2")
    monkeypatch.setattr(label_zip, "DIRECTORY_LIMIT", 500)
    with pytest.raises(BrokenFile, match="list of files"):
        unpack_zarr(bomb, tmp_path / "u3")
    assert not list(tmp_path.glob("u*"))


def test_a_member_that_is_larger_than_it_says_stops_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c", bytes(3_000_000))
    data = bytearray((tmp_path / "z.zip").read_bytes())
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.find(mark) + offset
        data[at : at + 4] = (10).to_bytes(4, "little")
    (tmp_path / "z.zip").write_bytes(data)
    with pytest.raises(BrokenFile):
        unpack_zarr(tmp_path / "z.zip", tmp_path / "u")
    assert sum(p.stat().st_size for p in (tmp_path / "u").rglob("*") if p.is_file()) <= 10


def test_one_place_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("zarr.json", "{}")
        archive.writestr("zarr.json", "{ }")
    with pytest.raises(BrokenFile, match="twice"):
        unpack_zarr(tmp_path / "z.zip", tmp_path / "u")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_damaged_archives_are_broken_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    with zipfile.ZipFile(folder / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        archive.writestr("labels/zarr.json", "{}" * 40)
    raw = bytearray((folder / "z.zip").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "z.zip").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        root = unpack_zarr(folder / "z.zip", folder / "u")
    except BrokenFile:
        return
    assert root.is_relative_to(folder / "u")


def test_archives_without_an_image_or_with_two_are_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a/zarr.json", "{}")
        archive.writestr("b/zarr.json", "{}")
    for name, what in (("none", "holds no"), ("two", "holds 2")):
        with pytest.raises(BrokenFile, match=what):
            unpack_zarr(tmp_path / f"{name}.zip", tmp_path / name)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(BrokenFile, match="no zip archive"):
        unpack_zarr(tmp_path / "text.zip", tmp_path / "text")


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("Slide1.zarr.zip", True), ("cells.GEOJSON", True), ("slide_mask.tif", True), ("Nuclei.png", True),
        ("overview.png", False), ("report.pdf", False), ("labels.csv", False), ("raw.zip", False),
    ],
)  # fmt: skip
def test_attachments_that_may_hold_cells_are_known_by_name(name: str, fits: bool) -> None:
    assert Attachment(1, name, 5, "", own=False).may_be_labels is fits


def _label_image(pixels: np.ndarray) -> LocalImage:
    channels = tuple(Channel(f"c{k}") for k in range(len(pixels)))
    return LocalImage("masks", (da.from_array(pixels),), channels, None, "id")


def test_another_omero_image_gives_cells_by_its_numbers() -> None:
    labels = np.array([[[0, 7, 7], [300, 300, 0]]], np.uint16)
    cells = cells_from_label_image(_label_image(labels), (2, 3))
    assert cells.ids == ("7", "300") and cells.raster(Box(0, 0, 2, 3)).tolist() == [[0, 1, 1], [2, 2, 0]]
    with pytest.raises(InputError, match="3 x 2 pixels"):
        cells_from_label_image(_label_image(labels), (4, 6))
    with pytest.raises(Unsupported, match="one channel; this has 2"):
        cells_from_label_image(_label_image(np.repeat(labels, 2, axis=0)), (2, 3))
    with pytest.raises(InputError, match="no whole numbers"):
        cells_from_label_image(_label_image(labels + np.float32(0.5)), (2, 3))
