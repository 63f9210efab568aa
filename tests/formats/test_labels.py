"""Every way to store label masks, and their outlines."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from mxbridge.cells import LabelCells
from mxbridge.errors import InputError, MxbridgeError, SourceError, Unsupported
from mxbridge.formats import labels as labels_module
from mxbridge.formats.label_outlines import labels_to_outlines
from mxbridge.formats.labels import looks_stretched, open_labels, open_nuclei, scan_labels, unstretched
from mxbridge.image import Box
from tests.outlines import areas

SHAPE = (60, 80)
WHOLE = Box(0, 0, *SHAPE)


def mask(dtype: str = "u2", shape: tuple[int, int] = SHAPE, largest: int = 40) -> np.ndarray:
    """Square cells of 5 x 6 pixels with one pixel between them; numbers are shuffled."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    number = (y // 6) * (shape[1] // 7 + 1) + x // 7
    shuffled = np.random.default_rng(1).permutation(number.max() + 1) + 1
    return np.where((y % 6 < 5) & (x % 7 < 6), shuffled[number] % (largest + 1), 0).astype(dtype)


def check(cells: LabelCells, truth: np.ndarray) -> None:
    """Ids are the numbers of ``truth`` and every cell owns exactly its pixels."""
    assert cells.ids == tuple(str(v) for v in np.unique(truth[truth > 0]))
    raster = cells.raster(Box(0, 0, *truth.shape))
    np.testing.assert_array_equal(np.r_[0, cells.values][raster], truth)
    for k, found in enumerate(ndimage.find_objects(raster)):
        assert tuple(cells.boxes[k]) == (found[0].start, found[1].start, found[0].stop, found[1].stop)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", ">u2", ">f4"])
def test_integers_and_whole_floats_of_any_width(tmp_path: Path, dtype: str) -> None:
    truth = mask()
    tifffile.imwrite(tmp_path / "m.tif", truth.astype(dtype), byteorder=">" if dtype[0] == ">" else "<")
    cells = open_labels(tmp_path / "m.tif", SHAPE)
    assert isinstance(cells, LabelCells)
    check(cells, truth)


def test_numbers_beyond_32_bits(tmp_path: Path) -> None:
    truth = mask("i8") * (1 << 40)
    tifffile.imwrite(tmp_path / "m.tif", truth)
    check(open_labels(tmp_path / "m.tif", SHAPE), truth)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colour_ids_of_24_bits(tmp_path: Path, suffix: str, alpha: bool) -> None:
    truth = mask("i8") * 70_001 % (1 << 24)
    colours = np.stack([truth >> 16, truth >> 8 & 255, truth & 255] + [np.full(SHAPE, 128)] * alpha, -1).astype("u1")
    if suffix == "png":
        Image.fromarray(colours).save(tmp_path / "m.png")
    else:
        tifffile.imwrite(tmp_path / "m.tif", colours, photometric="rgb", extrasamples=["unassalpha"] * alpha)
    check(open_labels(tmp_path / f"m.{suffix}", SHAPE), truth)


def test_grey_and_palette_png(tmp_path: Path) -> None:
    truth = mask("u1")
    Image.fromarray(truth).save(tmp_path / "grey.png")
    Image.fromarray(mask("u2") * 300).save(tmp_path / "grey16.png")
    palette = Image.fromarray(truth, mode=None)
    palette = palette.convert("P")
    palette.putpalette([v for k in range(256) for v in (255 - k, k // 2, 7)])
    palette.save(tmp_path / "palette.png")
    check(open_labels(tmp_path / "grey.png", SHAPE), truth)
    check(open_labels(tmp_path / "grey16.png", SHAPE), mask("i8") * 300)
    check(open_labels(tmp_path / "palette.png", SHAPE), truth)


def test_two_planes_are_cells_and_nuclei(tmp_path: Path) -> None:
    truth = mask()
    nuclei = np.where(ndimage.binary_erosion(truth > 0), truth, 0).astype("u2")
    tifffile.imwrite(tmp_path / "m.tif", np.stack([truth, nuclei]), photometric="minisblack")
    check(open_labels(tmp_path / "m.tif", SHAPE), truth)
    check(open_nuclei(tmp_path / "m.tif", SHAPE), nuclei)
    tifffile.imwrite(tmp_path / "one.tif", truth)
    assert open_nuclei(tmp_path / "one.tif", SHAPE) is None
    tifffile.imwrite(tmp_path / "five.tif", np.stack([truth] * 5), photometric="minisblack")
    with pytest.raises(Unsupported, match="5"):
        open_labels(tmp_path / "five.tif", SHAPE)


@given(n=st.integers(1, 65535), data=st.data())
def test_stretching_of_cellprofiler_is_undone(n: int, data: st.DataObject) -> None:
    k = np.array(data.draw(st.lists(st.integers(0, n), min_size=1, max_size=50)))
    np.testing.assert_array_equal(unstretched(np.round(k * 65535 / n).astype("u2"), n), k)


def test_stretched_file_and_one_that_is_not(tmp_path: Path) -> None:
    truth = mask("i8")
    n = len(np.unique(truth)) - 1
    truth = np.searchsorted(np.unique(truth), truth)
    tifffile.imwrite(tmp_path / "s.tif", np.round(truth * 65535 / n).astype("u2"))
    raw, decoded = (open_labels(tmp_path / "s.tif", SHAPE, stretched=s) for s in (False, True))
    check(decoded, truth)
    assert looks_stretched(raw) and not looks_stretched(decoded)
    tifffile.imwrite(tmp_path / "n.tif", truth.astype("u2"))
    with pytest.raises(InputError, match="not labels stretched"):
        open_labels(tmp_path / "n.tif", SHAPE, stretched=True)


@pytest.mark.parametrize("version", [2, 3])
def test_labels_inside_an_ome_zarr(tmp_path: Path, version: int) -> None:
    truth = mask("u4")
    root = zarr.open_group(str(tmp_path / "i.zarr"), mode="w", zarr_format=version)
    for name in ("cells", "nuclei"):
        group = root.create_group(f"labels/{name}")
        array = group.create_array("0", shape=SHAPE, chunks=(32, 32), dtype="u4")
        array[:] = truth if name == "cells" else truth // 2
        ome = {
            "version": "0.4" if version == 2 else "0.5",
            "multiscales": [{"axes": [{"name": a, "type": "space"} for a in "yx"], "datasets": [{"path": "0"}]}],
            "image-label": {"source": {"image": "../../"}},
        }
        group.attrs.update(ome if version == 2 else {"ome": ome})
    listed = {"labels": ["cells"]}
    root["labels"].attrs.update(listed if version == 2 else {"ome": listed})
    root.attrs.update({} if version == 2 else {"ome": {"version": "0.5"}})
    check(open_labels(tmp_path / "i.zarr", SHAPE), truth)
    check(open_labels(tmp_path / "i.zarr/labels", SHAPE), truth)
    check(open_labels(tmp_path / "i.zarr/labels/nuclei", SHAPE), truth // 2)
    listed = {"labels": ["cells", "nuclei"]}
    root["labels"].attrs.update(listed if version == 2 else {"ome": listed})
    with pytest.raises(InputError, match="labels/nuclei"):
        open_labels(tmp_path / "i.zarr", SHAPE)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(SHAPE, 1.5), "whole numbers"),
        (np.where(mask() == 3, np.nan, mask()), "whole numbers"),
        (np.where(mask() == 3, np.inf, mask()), "whole numbers"),
        (mask("i2") * -5, "negative value"),
        (mask("u8") * np.uint64(1 << 63), "beyond int64"),
        (mask(shape=(60, 81)), "81 x 60 pixels.*80 x 60"),
        (np.zeros((2, 3, 30, 20), "u2"), "20 x 30"),
    ],
)
def test_what_is_no_mask_of_this_image(tmp_path: Path, values: np.ndarray, message: str) -> None:
    tifffile.imwrite(tmp_path / "m.tif", values, photometric="minisblack")
    with pytest.raises(InputError, match=message):
        open_labels(tmp_path / "m.tif", SHAPE)


def test_lossy_and_missing_masks(tmp_path: Path) -> None:
    Image.fromarray(mask("u1")).save(tmp_path / "m.jpg")
    with pytest.raises(Unsupported, match="JPEG"):
        open_labels(tmp_path / "m.jpg", SHAPE)
    with pytest.raises(SourceError):
        open_labels(tmp_path / "gone.tif", SHAPE)
    with pytest.raises(MxbridgeError, match="folder"):
        open_labels(tmp_path, SHAPE)


def test_an_empty_mask_has_no_cells() -> None:
    cells = scan_labels(da.zeros(SHAPE, dtype="u2"), SHAPE, where="t")
    assert len(cells) == 0 and not cells.any_in(WHOLE) and not cells.raster(WHOLE).any()
    assert len(labels_to_outlines(cells)) == 0


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    block=st.integers(9, 50),
    chunk=st.integers(5, 60),
    wide=st.booleans(),
    tile=st.integers(3, 60),
)
def test_scan_and_outlines_do_not_depend_on_blocks(seed: int, block: int, chunk: int, wide: bool, tile: int) -> None:
    rng = np.random.default_rng(seed)
    truth = ndimage.zoom(rng.integers(0, 6, (8, 9)), 5, order=0) * (rng.random((40, 45)) < 0.9)
    truth = truth * (1 << 35 if wide else 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "BLOCK", block)
        patch.setattr("mxbridge.formats.label_outlines.TILE", tile)
        cells = scan_labels(da.from_array(truth, chunks=chunk), truth.shape, where="t")
        check(cells, truth)
        outlines = labels_to_outlines(cells)
    box = Box(0, 0, *truth.shape)
    np.testing.assert_array_equal(outlines.raster(box), cells.raster(box))
    expected = np.array([np.count_nonzero(truth == v) for v in cells.values])
    np.testing.assert_array_equal(areas(outlines.outlines), expected)


def test_the_hash_follows_the_pixels() -> None:
    truth = mask()
    moved = truth.copy()
    moved[0, 6] = moved[0, 5]
    cells = [
        scan_labels(da.from_array(m, chunks=c), SHAPE, where="t") for m, c in ((truth, 7), (truth, 60), (moved, 7))
    ]
    assert cells[0].geometry_hash() == cells[1].geometry_hash() != cells[2].geometry_hash()


def test_nuclei_go_to_the_cell_they_share_most_pixels_with() -> None:
    cells, nuclei = np.zeros(SHAPE, "i8"), np.zeros(SHAPE, "i8")
    cells[2:12, 2:12], cells[2:12, 12:22], cells[30:40, 30:40] = 5, 9, 7
    nuclei[4:8, 4:8] = 77  # whole in 5
    nuclei[4:8, 10:20] = 3  # 2 columns in 5, 8 in 9
    nuclei[50:55, 50:55] = 8  # in no cell
    both = [scan_labels(da.from_array(m), SHAPE, where="t") for m in (cells, nuclei)]
    found = labels_to_outlines(*both)
    assert found.ids == ("5", "7", "9") and found.nuclei is not None
    np.testing.assert_array_equal(areas(found.nuclei), [16, 0, 32])
    np.testing.assert_array_equal(found.nuclei.bounds()[2], [4, 12, 8, 20])  # cut at the cell's border


@pytest.mark.shared
def test_real_masks(shared: Path) -> None:
    fov8 = open_labels(shared / "data/mibi_ark_fov8/fov8_whole_cell.tif", (1024, 1024))
    assert len(fov8) == 272
    outlines = labels_to_outlines(fov8)
    box = Box(0, 0, 1024, 1024)
    np.testing.assert_array_equal(outlines.raster(box), fov8.raster(box))
    spectre = shared / "data/imc_spectre/masks_simple"
    for region, shape, count in (("ROI002", (501, 500), 2749), ("ROI008", (500, 501), 1684)):
        cells = open_labels(spectre / f"{region}_Cell_mask.tiff", shape, stretched=True)
        assert cells.ids == tuple(map(str, range(1, count + 1)))
        nuclei = open_labels(spectre / f"{region}_Nuclei_mask.tiff", shape, stretched=True)
        with_nuclei = labels_to_outlines(cells, nuclei)
        assert with_nuclei.nuclei is not None and np.all(areas(with_nuclei.nuclei) > 0)
    with pytest.raises(InputError):
        open_labels(
            shared / "data/imc_spectre/masks/ROI002_ilastik_s2_Object_Identities.tif", (501, 500), stretched=True
        )


@pytest.mark.parametrize(
    "values", [(2**63 - 1,), (2**63 - 3, 2**63 - 1), (1, 2**63 - 1), (2**31 - 1, 2**31, 2**31 + 1)]
)
def test_the_largest_labels_are_cells_like_others(values: tuple[int, ...]) -> None:
    labels = np.zeros((6, 8), np.int64)
    for k, value in enumerate(values):
        labels[2 * k, k] = value
    cells = scan_labels(da.from_array(labels), labels.shape, where="mask")
    assert cells.ids == tuple(map(str, values))
    np.testing.assert_array_equal(cells.raster(Box(0, 0, 6, 8)), np.searchsorted((0, *values), labels))
