"""The published program's images: read lazily, and refused in one line when they are not what they say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mxbridge.errors import BrokenFile, InputError, MxbridgeError, SourceError, Unsupported, UsageError
from mxbridge.formats.npy_panels import open_npy, read_npy_panels
from mxbridge.image import computed

NAMES = ("DAPI", "CD4", "CK")


def stack(dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (3, 70, 41)).astype(dtype)


def table(folder: Path, *rows: str) -> Path:
    file = folder / "images.csv"
    file.write_text("\n".join(("Image_Path,Split_Name", *rows)))
    return file


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "float64", "int32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pixels_are_what_was_saved(tmp_path: Path, dtype: str, order: str) -> None:
    saved = np.asarray(stack(dtype), order=order)
    np.save(tmp_path / "a.npy", saved)
    image = open_npy(tmp_path / "a.npy", NAMES, 0.25)
    assert image.channel_names == NAMES and image.pixel_size_um == (0.25, 0.25) and image.dtype.isnative
    assert np.array_equal(computed(image.levels[0]), saved)
    assert np.array_equal(computed(image.levels[0][1, 3:9, 40:]), saved[1, 3:9, 40:])


def test_a_table_and_its_splits(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a", "b", "deep/c", "d"):
        np.save(tmp_path / f"{name}.npy", stack())
    rows = read_npy_panels(
        table(tmp_path, "a.npy,train", "b.npy,Valid", "deep/c.npy,test", f"{tmp_path}/d.npy,other"), NAMES
    )
    assert [(r.path.name, r.side) for r in rows] == [
        ("a.npy", "train"),
        ("b.npy", "valid"),
        ("c.npy", "test"),
        ("d.npy", ""),
    ]
    assert len({r.image.identity for r in rows}) == 4 and rows[0].image.pixel_size_um is None


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        (("a.npy,train", "./a.npy,valid"), BrokenFile, "line 3: .*listed twice"),
        (("nowhere.npy,train",), SourceError, "no image at"),
        ((",train",), BrokenFile, "line 2: no path"),
        ((), BrokenFile, "lists no image"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, rows: tuple[str, ...], error: type[MxbridgeError], says: str) -> None:
    np.save(tmp_path / "a.npy", stack())
    with pytest.raises(error, match=says):
        read_npy_panels(table(tmp_path, *rows), NAMES)


def test_tables_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "images.csv"
    for content, says in (
        (b"path,split\na.npy,train\n", "no columns"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "no columns"),
    ):
        file.write_bytes(content)
        with pytest.raises(BrokenFile, match=says):
            read_npy_panels(file, NAMES)
    with pytest.raises(SourceError, match="no table"):
        read_npy_panels(tmp_path / "nowhere.csv", NAMES)
    for names in ((), ("A", ""), ("A", "A", "B")):
        with pytest.raises(UsageError, match="one name per plane"):
            read_npy_panels(file, names)


def header(text: str, version: int = 1) -> bytes:
    raw = text.encode("latin1").ljust(118) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes((version, 0)) + size + raw


GOOD = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 5), }"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not an array",
        b"\x80\x04\x95cposix\nsystem\n(S'true'\ntR.",
        header(GOOD),
        header(GOOD) + bytes(59),
        header(GOOD.replace("(3, 4, 5)", "(3, 99999999999, 99999999999)")) + bytes(60),
        header(GOOD.replace("(3, 4, 5)", "(3, -4, 5)")) + bytes(60),
        header(GOOD.replace("(3, 4, 5)", "(3, 2**70, 5)")) + bytes(60),
        header(GOOD.replace("'|u1'", "'|O'")) + bytes(480),
        header("__import__('os').system('true')") + bytes(60),
        header("(" * 100) + bytes(60),
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(64),
    ],
)
def test_hostile_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.npy"
    file.write_bytes(content)
    with pytest.raises(BrokenFile, match=r"a\.npy") as caught:
        open_npy(file, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "error", "says"),
    [
        (np.zeros((3, 4)), BrokenFile, "shape"),
        (np.zeros((3, 0, 5)), BrokenFile, "shape"),
        (np.zeros((2, 4, 5)), InputError, "has 2 planes, the panel 3 names"),
        (np.zeros((3, 4, 5), complex), Unsupported, "complex"),
        (np.zeros((3, 4, 5), "S3"), Unsupported, "not supported"),
        (np.zeros((3, 4, 5), [("a", "u1")]), Unsupported, "not supported"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, error: type[MxbridgeError], says: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(error, match=says):
        open_npy(tmp_path / "a.npy", NAMES)


def test_several_arrays_and_files_that_change(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", stack())
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(BrokenFile, match="several arrays"):
        open_npy(tmp_path / "a.npy", NAMES)
    np.save(tmp_path / "b.npy", stack())
    image = open_npy(tmp_path / "b.npy", NAMES)
    np.save(tmp_path / "b.npy", stack()[:, :10])
    with pytest.raises(BrokenFile, match="changed its shape"):
        computed(image.levels[0])
