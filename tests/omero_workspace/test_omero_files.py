"""Files to a server and back: every byte, checked, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from mxbridge.errors import BrokenFile, InputError, OutputError, SourceError, UnknownName
from mxbridge.formats.labels import scan_labels
from mxbridge.image import Box
from mxbridge.workspaces.omero.attachments import files
from mxbridge.workspaces.omero.attachments.files import download_file, upload_file
from mxbridge.workspaces.omero.attachments.label_zip import write_labels
from mxbridge.workspaces.omero.attachments.labels import cells_from_attachment, find_labels
from mxbridge.workspaces.omero.image_info import ImageInfo, image_info
from tests.omero_workspace.toy_results import sessions_of

pytestmark = pytest.mark.omero

SHAPE = (30, 40)


@pytest.fixture
def slide(server: Any, session: Any) -> ImageInfo:
    return image_info(session, server.add_image("slide", np.zeros((1, *SHAPE), np.uint8)))


def _attach(session: Any, slide: ImageInfo, path: Path, name: str, ns: str | None = None) -> int:
    from omero.model import FileAnnotationI, ImageAnnotationLinkI, ImageI, OriginalFileI
    from omero.rtypes import rstring

    file_id = upload_file(session, path, group_id=slide.group_id, name=f"people/{name}", mimetype="application/zip")
    link, annotation = ImageAnnotationLinkI(), FileAnnotationI()
    annotation.setFile(OriginalFileI(file_id, False))
    annotation.setNs(None if ns is None else rstring(ns))
    link.setParent(ImageI(slide.id, False))
    link.setChild(annotation)
    session.save([link], slide.group_id)
    return file_id


@pytest.mark.parametrize("size", [0, 1, 1000, 2000, 5001])
def test_every_byte_arrives_and_comes_back(
    session: Any, slide: ImageInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(files, "PIECE", 1000)
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(data)
    file_id = upload_file(
        session, tmp_path / "a", group_id=slide.group_id, name="mxbridge/1/ab/ä b.bin", mimetype="x/y"
    )
    rows = session.rows(
        "select f.path, f.name, f.size, f.hash, f.mimetype from OriginalFile f where f.id = :f", f=file_id
    )
    assert rows == [("mxbridge/1/ab/", "ä b.bin", size, hashlib.sha1(data).hexdigest(), "x/y")]
    download_file(session, file_id, tmp_path / "b", limit=size)
    assert (tmp_path / "b").read_bytes() == data
    if size:
        with pytest.raises(BrokenFile, match="bytes are more than"):
            download_file(session, file_id, tmp_path / "c", limit=size - 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_what_is_not_there_or_not_what_its_hash_says_is_refused(session: Any, slide: ImageInfo, tmp_path: Path) -> None:
    from omero.rtypes import rstring

    with pytest.raises(SourceError, match="no file 999999"):
        download_file(session, 999999, tmp_path / "b", limit=10)
    (tmp_path / "a").write_bytes(b"12345")
    file_id = upload_file(session, tmp_path / "a", group_id=slide.group_id, name="m/a", mimetype="x/y")
    (file,) = session.objects("select f from OriginalFile f where f.id = :f", f=file_id)
    file.setHash(rstring("0" * 40))
    session.save_all([file], slide.group_id)
    with pytest.raises(BrokenFile, match="SHA-1"):
        download_file(session, file_id, tmp_path / "b", limit=10)
    assert not (tmp_path / "b").exists()


def test_a_server_that_holds_other_bytes_is_noticed(
    session: Any, slide: ImageInfo, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(session, "rows", lambda *_, **__: [(5, "f" * 40)])
    with pytest.raises(OutputError, match="5 bytes with SHA-1 ffff"):
        upload_file(session, tmp_path / "a", group_id=slide.group_id, name="m/a", mimetype="x/y")


def test_attached_labels_are_cells_fetched_once(
    session: Any, slide: ImageInfo, tmp_path: Path, monkeypatch: Any
) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[3:9, 4:20], labels[20:25, 30:40] = 2, 8
    cells = scan_labels(da.from_array(labels), SHAPE, where="here")
    archive = write_labels(tmp_path / "mine.ome.zarr.zip", cells, SHAPE, "cells", (0.5, 0.5))
    assert cells_from_attachment(session, slide, None, tmp_path / "cache") == (None, [])
    _attach(session, slide, archive, "ours.ome.zarr.zip", "mxbridge/labels")
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    _attach(session, slide, tmp_path / "report.pdf", "report.pdf")
    assert find_labels(session, slide) is None  # ours are no inputs, unless they are named
    assert (find_labels(session, slide, "ours.ome.zarr.zip") or slide).name == "ours.ome.zarr.zip"
    _attach(session, slide, archive, "theirs.ome.zarr.zip")
    found, notes = cells_from_attachment(session, slide, None, tmp_path / "cache")
    assert notes == ["cells are those of the attachment theirs.ome.zarr.zip"]
    assert found is not None and found.ids == ("1", "2")
    assert np.array_equal(found.raster(Box(0, 0, *SHAPE)) > 0, labels > 0)
    monkeypatch.setattr(session, "raw_file", None)  # what is there is not fetched again
    again, notes = cells_from_attachment(session, slide, "THEIRS.ome.zarr.zip", tmp_path / "cache")
    assert notes == [] and again is not None and again.geometry_hash() == found.geometry_hash()


def test_attachments_of_every_format_and_those_that_are_none(session: Any, slide: ImageInfo, tmp_path: Path) -> None:
    import tifffile

    labels = np.zeros(SHAPE, np.uint16)
    labels[3:9, 4:20] = 2
    tifffile.imwrite(tmp_path / "m.tif", labels)
    tifffile.imwrite(tmp_path / "small.tif", labels[:10])
    (tmp_path / "o.geojson").write_text(
        '{"type":"Feature","id":"x","geometry":{"type":"Polygon","coordinates":[[[4,3],[20,3],[20,9],[4,9],[4,3]]]},'
        '"properties":{"objectType":"detection"}}'
    )
    for name in ("m.tif", "small.tif", "o.geojson"):
        _attach(session, slide, tmp_path / name, name)
    for name, identity in (("m.tif", "2"), ("o.geojson", "x")):
        found, _ = cells_from_attachment(session, slide, name, tmp_path / "cache")
        assert found is not None and found.ids == (identity,)
        assert np.array_equal(found.raster(Box(0, 0, *SHAPE)) > 0, labels > 0)
    with pytest.raises(InputError, match="40 x 10 pixels"):
        cells_from_attachment(session, slide, "small.tif", tmp_path / "cache")
    with pytest.raises(UnknownName, match="no attachment 'cells'"):
        cells_from_attachment(session, slide, "cells", tmp_path / "cache")
    (tmp_path / "x.zarr.zip").write_bytes(b"no archive")
    _attach(session, slide, tmp_path / "x.zarr.zip", "x.zarr.zip")
    with pytest.raises(BrokenFile, match="no zip archive"):
        cells_from_attachment(session, slide, "x.zarr.zip", tmp_path / "cache")
    with pytest.raises(InputError, match=r"several attachments may hold its cells \(o.geojson, x.zarr.zip\)"):
        cells_from_attachment(session, slide, None, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.part*"))


@pytest.mark.parametrize("do", ["drop", "kill-connection-after", "expire"])
@pytest.mark.parametrize("operation", ["RawFileStore.write", "RawFileStore.save", "IUpdate.saveAndReturnIds"])
def test_a_session_lost_while_sending_is_another_attempt(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, do: str
) -> None:
    monkeypatch.setattr(files, "PIECE", 1000)
    data = np.random.default_rng(1).bytes(3500)
    (tmp_path / "a").write_bytes(data)
    sessions = sessions_of(server)
    server.fault(operation, nth=1, do=do)
    file_id = sessions.attempt(
        "sending", lambda s: upload_file(s, tmp_path / "a", group_id=3, name="mxbridge/1/ab/a", mimetype="x/y")
    )
    assert server.struck()
    server.fault("RawFileStore.read", nth=2, do=do)
    sessions.attempt("fetching", lambda s: download_file(s, file_id, tmp_path / "b", limit=9999))
    assert (tmp_path / "b").read_bytes() == data
    sessions.close()
