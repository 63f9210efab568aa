"""File URIs of every form QuPath writes, and where a moved project's images are. No file is touched."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, UsageError
from mxbridge.workspaces.qupath.uris import PathMap, candidates, local, path_of, relocated, uri_of


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/x/y.tif", PurePosixPath("/x/y.tif")),
        ("file:///x/y.tif", PurePosixPath("/x/y.tif")),
        ("FILE:/x", PurePosixPath("/x")),
        ("file://localhost/x/y.tif", PurePosixPath("/x/y.tif")),
        ("file:/a%20b/c%C3%BC%2B.tif", PurePosixPath("/a b/cü+.tif")),
        ("file:/a/ü µ.tif", PurePosixPath("/a/ü µ.tif")),
        ("file:/a/100%25.tif", PurePosixPath("/a/100%.tif")),
        ("file:/a/b.ome.zarr/", PurePosixPath("/a/b.ome.zarr")),
        ("file:/C:/slides/a%20b.svs", PureWindowsPath("C:/slides/a b.svs")),
        ("file:///D:/a.svs", PureWindowsPath("D:/a.svs")),
        ("file:/c:/", PureWindowsPath("c:/")),
        ("file://server/share/a.svs", PureWindowsPath("//server/share/a.svs")),
        ("file:////server/share/a.svs", PureWindowsPath("//server/share/a.svs")),
    ],
)
def test_every_form_of_a_file_uri(uri, path):
    found = path_of(uri)
    assert found == path
    assert type(found) is type(path)


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/a.tif",
        "omero://server/image/1",
        "/a/b.tif",
        "relative.tif",
        "file:relative.tif",
        "file:/a?b=1",
        "file:/a#b",
        "file:/a%00b",
        "file:/a%FFb",
        "file:/a\nb",
        "",
        "C:/a.tif",
    ],
)
def test_what_is_no_local_file_is_refused(uri):
    with pytest.raises(InputError):
        path_of(uri)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (PurePosixPath("/a b/ü.tif"), "file:/a%20b/%C3%BC.tif"),
        (PureWindowsPath("C:/a b/x.svs"), "file:/C:/a%20b/x.svs"),
        (PureWindowsPath("//server/share/x.svs"), "file://server/share/x.svs"),
    ],
)
def test_uris_are_written_as_java_does(path, uri):
    assert uri_of(path) == uri


SEGMENTS = st.lists(
    st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\:"), min_size=1).filter(
        lambda s: s not in {".", ".."}
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(SEGMENTS)
def test_posix_paths_survive_the_round_trip(segments):
    path = PurePosixPath("/", *segments)
    assert path_of(uri_of(path)) == path


def test_a_moved_project_is_relativised_folder_to_folder():
    new = Path("/new/place/v1")
    assert relocated(PurePosixPath("/srv/g/images/a.tif"), PurePosixPath("/srv/g/v1"), new) == Path(
        "/new/place/images/a.tif"
    )
    assert relocated(PurePosixPath("/srv/g/v1/images/a.tif"), PurePosixPath("/srv/g/v1"), new) == new / "images/a.tif"
    assert relocated(PurePosixPath("/a.tif"), PurePosixPath("/x/y/z/w/v"), Path("/q")) == Path("/a.tif")


def test_a_windows_project_moved_to_this_machine():
    stored = PureWindowsPath("d:/Project X/Images/a.svs")
    assert relocated(stored, PureWindowsPath("D:/project x"), Path("/data/p")) == Path("/data/p/Images/a.svs")
    assert relocated(PureWindowsPath("E:/a.svs"), PureWindowsPath("D:/p"), Path("/data/p")) is None
    share = PureWindowsPath("//srv/share/i/a.svs")
    assert relocated(share, PureWindowsPath("//SRV/share/p"), Path("/data/p")) == Path("/data/i/a.svs")
    assert relocated(PurePosixPath("/a"), PureWindowsPath("D:/p"), Path("/data/p")) is None


def test_order_of_places():
    stored = PurePosixPath("/old/images/a.tif")
    maps = [PathMap.parse("/old/images=/mapped"), PathMap.parse("file:/nowhere=/x")]
    where = {"project_folder": Path("/new/p"), "stored_project_folder": PurePosixPath("/old/p"), "path_maps": maps}
    assert candidates(stored, moved=True, **where) == [
        Path("/mapped/a.tif"),
        Path("/new/images/a.tif"),
        PurePosixPath("/old/images/a.tif"),
    ]
    assert candidates(stored, moved=False, **where) == [Path("/mapped/a.tif"), PurePosixPath("/old/images/a.tif")]


@pytest.mark.parametrize(
    ("text", "stored", "place"),
    [
        ("D:/slides=/data", PureWindowsPath("d:/Slides/x/a.svs"), Path("/data/x/a.svs")),
        ("D:\\slides=/data", PureWindowsPath("D:/slides/a.svs"), Path("/data/a.svs")),
        ("file:/D:/my%20slides=/data", PureWindowsPath("D:/my slides/a.svs"), Path("/data/a.svs")),
        ("//server/share=/mnt/share", PureWindowsPath("//server/share/a.svs"), Path("/mnt/share/a.svs")),
        ("/old=/new", PurePosixPath("/old/a.tif"), Path("/new/a.tif")),
        ("/old=/new", PurePosixPath("/older/a.tif"), None),
        ("/Old=/new", PurePosixPath("/old/a.tif"), None),
        ("/old/a.tif=/new/b.tif", PurePosixPath("/old/a.tif"), Path("/new/b.tif")),
        ("/old=/new", PureWindowsPath("C:/old/a.tif"), None),
    ],
)
def test_path_maps(text, stored, place):
    assert PathMap.parse(text).apply(stored) == place


@pytest.mark.parametrize("text", ["", "abc", "=x", "x=", " = "])
def test_a_path_map_that_is_none(text):
    with pytest.raises(UsageError, match="OLD=NEW"):
        PathMap.parse(text)


@pytest.mark.skipif(os.name == "nt", reason="drive letters are local there")
def test_paths_of_another_system_are_not_local():
    assert local(PureWindowsPath("C:/a")) is None
    assert local(PurePosixPath("/a")) == Path("/a")
