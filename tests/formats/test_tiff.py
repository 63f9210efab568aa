"""TIFF in all its dialects: pixels, names and sizes as written, and one line for what is damaged."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, InputError, MxbridgeError, SourceError, Unsupported
from mxbridge.formats.open_image import open_image

SIZES = {"T": 2, "Z": 3, "C": 4, "Y": 37, "X": 53}
ORDERS = ["".join(p) + "YX" for n in range(4) for p in itertools.permutations("TZC", n)]


def noise(shape: tuple[int, ...], dtype: str = "u2", seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiff")


@settings(max_examples=60, deadline=None)
@given(
    axes=st.sampled_from(ORDERS),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]),
    byteorder=st.sampled_from("<>"),
    options=st.sampled_from([{}, {"tile": (16, 32)}, {"compression": "zlib"}, {"tile": (32, 16), "compression": "lzw"}, {"rowsperstrip": 5}]),
    bigtiff=st.booleans(),
    data=st.data(),
)  # fmt: skip
def test_every_order_of_axes_gives_the_plane_asked_for(folder, axes, dtype, byteorder, options, bigtiff, data) -> None:
    sizes = {a: SIZES[a] for a in axes}
    pixels = noise(tuple(sizes.values()), dtype)
    path = folder / "orders.ome.tif"
    tifffile.imwrite(
        path, pixels, ome=True, byteorder=byteorder, bigtiff=bigtiff, photometric="minisblack", metadata={"axes": axes}, **options
    )  # fmt: skip
    z, t = data.draw(st.tuples(st.integers(0, sizes.get("Z", 1) - 1), st.integers(0, sizes.get("T", 1) - 1)))
    image = open_image(path, plane=(z, t))
    at = {"Z": z, "T": t}
    expected = pixels[tuple(at.get(a, slice(None)) for a in axes)]
    expected = expected if "C" in axes else expected[None]
    read = image.levels[0].compute()
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative
    np.testing.assert_array_equal(read, expected)
    y0, x0 = data.draw(st.tuples(st.integers(0, 36), st.integers(0, 52)))
    np.testing.assert_array_equal(image.levels[0][:, y0:, x0 : x0 + 9 : 2].compute(), expected[:, y0:, x0 : x0 + 9 : 2])
    first = open_image(path)
    assert bool(first.warnings) == (max(sizes.get("Z", 1), sizes.get("T", 1)) > 1)
    with pytest.raises(InputError, match="no plane"):
        open_image(path, plane=(sizes.get("Z", 1), 0))


def test_pyramid_in_sub_ifds_is_found_and_a_misfit_level_is_left_out(tmp_path: Path) -> None:
    levels = [noise((2, 256, 512), seed=0), noise((2, 128, 256), seed=1), noise((2, 64, 200), seed=2)]
    path = tmp_path / "p.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=2, tile=(64, 64), photometric="minisblack", metadata={"axes": "CYX"})
        for level in levels[1:]:
            writer.write(level, subfiletype=1, tile=(64, 64), photometric="minisblack")
    image = open_image(path)
    assert [level.shape for level in image.levels] == [(2, 256, 512), (2, 128, 256)]
    assert any("200 x 64" in w for w in image.warnings)
    for read, written in zip(image.levels, levels, strict=False):
        np.testing.assert_array_equal(read.compute(), written)
    assert image.downsample(1) == (2.0, 2.0)


def test_names_colours_and_size_of_ome(tmp_path: Path) -> None:
    path = tmp_path / "named.ome.tif"
    metadata = {
        "axes": "CYX", "Channel": {"Name": ["DAPI", "CD8 µ", ""], "Color": [65535, -16776961, 16711935]},
        "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm",
    }  # fmt: skip
    tifffile.imwrite(path, noise((3, 20, 30)), ome=True, photometric="minisblack", metadata=metadata)
    image = open_image(path)
    assert [c.name for c in image.channels] == ["DAPI", "CD8 µ", "Channel 3"]
    assert [c.color for c in image.channels] == [0x0000FF, 0xFF0000, 0x00FF00]
    assert image.pixel_size_um == (0.25, 0.5)
    assert image.name == "named" and not image.rgb
    assert open_image(path, name="Slide 1").name == "Slide 1"


@pytest.mark.parametrize(
    ("shape", "options", "count", "rgb"),
    [
        ((20, 30, 3), {"photometric": "rgb"}, 3, True),
        ((3, 20, 30), {"photometric": "rgb", "planarconfig": "separate"}, 3, True),
        ((20, 30, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, 3, True),
        ((20, 30, 7), {"photometric": "minisblack", "planarconfig": "contig"}, 7, False),
        ((5, 20, 30), {"photometric": "minisblack", "planarconfig": "separate"}, 5, False),
        ((3, 20, 30), {"photometric": "minisblack"}, 3, False),
        ((20, 30), {}, 1, False),
    ],
)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_metadata_not_sizes_decide_what_is_a_channel(tmp_path, shape, options, count, rgb, tile) -> None:
    pixels = noise(shape, "u1")
    tifffile.imwrite(tmp_path / "c.tif", pixels, tile=tile, **options)
    image = open_image(tmp_path / "c.tif")
    read = image.levels[0].compute()
    expected = pixels[None] if pixels.ndim == 2 else pixels
    expected = np.moveaxis(expected, -1, 0) if len(shape) == 3 and shape[0] == 20 else expected
    np.testing.assert_array_equal(read, expected[:count])
    assert image.rgb is rgb and len(image.channels) == count
    assert bool(image.warnings) == (shape[-1] == 4)


def test_float_samples_of_one_page_are_channels_even_if_tagged_as_colour(tmp_path: Path) -> None:
    pixels = noise((20, 30, 4), "f4")
    tifffile.imwrite(tmp_path / "c.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    image = open_image(tmp_path / "c.tif")
    assert not image.rgb and len(image.channels) == 4
    np.testing.assert_array_equal(image.levels[0].compute(), np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize(("resolution", "unit", "size"), [((20000, 40000), "CENTIMETER", (0.25, 0.5)), ((300, 300), "INCH", None), ((72, 72), "INCH", None), ((2, 2), "NONE", None), ((1e7, 1e7), "CENTIMETER", None)])  # fmt: skip
def test_resolution_tags_are_believed_when_a_microscope_could_have_made_them(tmp_path, resolution, unit, size) -> None:
    tifffile.imwrite(tmp_path / "r.tif", noise((20, 30)), resolution=resolution, resolutionunit=unit)
    found = open_image(tmp_path / "r.tif").pixel_size_um
    assert found == (None if size is None else pytest.approx(size))


def test_imagej_stack(tmp_path: Path) -> None:
    pixels = noise((3, 20, 30))
    metadata = {"axes": "CYX", "unit": "um", "Labels": ["CD3", "CD8", "DNA"]}
    tifffile.imwrite(tmp_path / "i.tif", pixels, imagej=True, resolution=(2, 4), metadata=metadata)
    image = open_image(tmp_path / "i.tif")
    np.testing.assert_array_equal(image.levels[0].compute(), pixels)
    assert image.pixel_size_um == (0.25, 0.5)
    assert [c.name for c in image.channels] == ["CD3", "CD8", "DNA"]


def test_aperio_slide(tmp_path: Path) -> None:
    pixels = noise((300, 400, 3), "u1")
    text = "Aperio Image Library v11.2.1 \r\n400x300 [0,0 400x300] (240x240) JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990|Left = 25"
    with tifffile.TiffWriter(tmp_path / "s.svs") as writer:
        options = {"photometric": "rgb", "metadata": None, "contiguous": False}
        writer.write(pixels, tile=(64, 64), description=text, **options)
        writer.write(pixels[::4, ::4], description=text, **options)  # the thumbnail
        writer.write(pixels[::2, ::2], tile=(64, 64), description=text, **options)
    image = open_image(tmp_path / "s.svs")
    assert [level.shape for level in image.levels] == [(3, 300, 400), (3, 150, 200)] and image.rgb
    assert image.pixel_size_um == (0.499, 0.499) and not image.warnings
    np.testing.assert_array_equal(image.levels[0].compute(), np.moveaxis(pixels, -1, 0))


def test_qptiff_pyramid(tmp_path: Path) -> None:
    names = ("DAPI", "Opal 520 (CD8)")
    with tifffile.TiffWriter(tmp_path / "s.qptiff") as writer:
        for step in (1, None, 2):
            for k, name in enumerate(names):
                if step is None:  # between full size and the pyramid QPTIFF keeps a colour thumbnail
                    if k == 0:
                        writer.write(
                            noise((30, 40, 3), "u1"),
                            photometric="rgb",
                            metadata=None,
                            software="PerkinElmer-QPI",
                            contiguous=False,
                        )
                    continue
                xml = f"<PerkinElmer-QPI-ImageDescription><Name>{name}</Name><Color>{k},128,255</Color><ImageType>FullResolution</ImageType></PerkinElmer-QPI-ImageDescription>"
                writer.write(
                    noise((300, 400), "u1", k)[::step, ::step], tile=(64, 64), description=xml, software="PerkinElmer-QPI",
                    metadata=None, contiguous=False, photometric="minisblack", resolution=(20000 / step, 20000 / step), resolutionunit="CENTIMETER",
                )  # fmt: skip
    image = open_image(tmp_path / "s.qptiff")
    assert [level.shape for level in image.levels] == [(2, 300, 400), (2, 150, 200)]
    assert image.channel_names == names and image.channels[1].color == 0x0180FF
    assert image.pixel_size_um == pytest.approx((0.5, 0.5))


def test_metadata_that_do_not_fit_are_not_dropped_silently(tmp_path: Path) -> None:
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, noise((3, 20, 30)), ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    path.write_bytes(path.read_bytes().replace(b"<Pixels", b"<Pixelz").replace(b"</Pixels", b"</Pixelz"))
    assert any("OME-XML" in w for w in open_image(path).warnings)


def test_several_images_in_a_file(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as writer:
        for seed, size in enumerate((40, 64)):
            writer.write(
                noise((2, size, size), seed=seed),
                photometric="minisblack",
                metadata={"axes": "CYX", "Name": f"n{seed}"},
            )
    first = open_image(tmp_path / "s.ome.tif")
    assert first.shape == (40, 40) and "holds 2 images" in first.warnings[0]
    second = open_image(tmp_path / "s.ome.tif", series=1)
    assert second.name == "s - n1" and not second.warnings
    np.testing.assert_array_equal(second.levels[0].compute(), noise((2, 64, 64), seed=1))
    with pytest.raises(InputError, match="no image 2"):
        open_image(tmp_path / "s.ome.tif", series=2)


def test_a_page_of_another_size_is_no_channel(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "t.tif") as writer:
        for k in range(5):
            writer.write(noise((26, 34), "f4", k), contiguous=False, metadata=None)
        writer.write(noise((7, 9, 3), "u1"), photometric="rgb", metadata=None)
    assert open_image(tmp_path / "t.tif").levels[0].shape == (5, 26, 34)


def test_identity_follows_pixels_not_names(tmp_path: Path) -> None:
    import os

    tifffile.imwrite(tmp_path / "a.tif", noise((20, 30)))
    os.utime(tmp_path / "a.tif", ns=(5, 5))
    before = open_image(tmp_path / "a.tif").identity
    (tmp_path / "a.tif").rename(tmp_path / "b.tif")
    assert open_image(tmp_path / "b.tif").identity == before
    tifffile.imwrite(tmp_path / "b.tif", noise((20, 30), seed=1))
    os.utime(tmp_path / "b.tif", ns=(5, 5))
    assert open_image(tmp_path / "b.tif").identity != before


def test_levels_survive_pickling_for_other_processes(tmp_path: Path) -> None:
    pixels = noise((2, 90, 70))
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), compression="zlib", photometric="minisblack")
    image = open_image(tmp_path / "a.tif")
    image.levels[0].compute()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image.levels[0])).compute(), pixels)


def test_threads_read_the_same(tmp_path: Path) -> None:
    pixels = noise((2, 3000, 2500))
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), compression="zlib", photometric="minisblack")
    level = open_image(tmp_path / "a.tif").levels[0]
    assert max(c * y * x * 2 for c, y, x in itertools.product(*map(set, level.chunks))) <= 1 << 20
    np.testing.assert_array_equal(level.compute(scheduler="threads", num_workers=4), pixels)


@settings(max_examples=60, deadline=None)
@given(
    options=st.sampled_from(
        [{}, {"tile": (32, 32)}, {"compression": "zlib", "tile": (32, 32)}, {"compression": "lzw"}]
    ),
    cut=st.floats(0, 1, exclude_max=True),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    ome=st.booleans(),
)
def test_damage_is_one_line_about_the_file(folder, options, cut, flips, ome) -> None:
    path = folder / ("d.ome.tif" if ome else "d.tif")
    tifffile.imwrite(path, noise((3, 100, 80)), ome=ome, photometric="minisblack", **options)
    whole = bytearray(path.read_bytes())
    for place, value in flips:
        whole[int(place * len(whole))] = value
    path.write_bytes(whole[: int(cut * len(whole))] if not flips else whole)
    try:
        image = open_image(path)
        for level in image.levels:
            level.compute(scheduler="synchronous")
    except MxbridgeError as error:
        assert "d." in str(error) and "\n" not in str(error) and error.exit_code in (4, 6)
    else:
        assert flips, "a truncated file was read without an error"


def test_damage_met_while_reading_pixels(tmp_path: Path) -> None:
    path = tmp_path / "late.tif"
    tifffile.imwrite(path, noise((2000, 500)), tile=(256, 256), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[15], tiff.pages[0].databytecounts[15]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\xff" * count
    path.write_bytes(data)
    image = open_image(path)
    image.levels[0][:, :512].compute()
    with pytest.raises(BrokenFile, match=r"late\.tif"):
        image.levels[0][:, 1500:].compute()


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (65536, 65536), (256, 256)])
def test_a_lying_header_costs_neither_time_nor_memory(tmp_path: Path, compression, tile) -> None:
    import struct
    import tracemalloc

    side = 1_000_000
    code = 8 if compression else 1
    tags = [(256, 4, side), (257, 4, side), (258, 3, 16), (259, 3, code), (262, 3, 1), (277, 3, 1)]
    tags += (
        [(278, 4, side), (273, 4, 8), (279, 4, 8)]
        if tile is None
        else [(322, 4, tile[1]), (323, 4, tile[0]), (324, 4, 8), (325, 4, 8)]
    )
    entries = b"".join(struct.pack("<HHI", t, kind, 1) + struct.pack("<I", value) for t, kind, value in sorted(tags))
    path = tmp_path / "lie.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 16) + b"\0" * 8 + struct.pack("<H", len(tags)) + entries + b"\0" * 4)
    assert path.stat().st_size < 200
    tracemalloc.start()
    with pytest.raises((BrokenFile, Unsupported), match=r"lie\.tif"):
        open_image(path)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file") as error:
        open_image(tmp_path / "gone" / "a.tif")
    assert "'gone'" in str(error.value) and error.value.exit_code == 4
    for name, content in (
        ("empty.tif", b""),
        ("text.tif", b"hello, world"),
        ("note.txt", b"hello"),
        ("x.png", b"\x89PNG\r\n\x1a\n123"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((BrokenFile, Unsupported), match=name.replace(".", r"\.")):
            open_image(tmp_path / name)


def test_companion_file_and_its_missing_part(shared: Path, tmp_path: Path) -> None:
    import shutil

    source = shared / "data/ometiff_small/viv"
    for file in source.glob("multifile*"):
        shutil.copy(file, tmp_path)
    companion = tmp_path / "multifile.companion.ome"
    planes = [open_image(companion, plane=(z, 0)).levels[0].compute() for z in range(5)]
    for z, plane in enumerate(planes):
        np.testing.assert_array_equal(
            plane[0], tifffile.imread(tmp_path / f"multifile-Z{z + 1}.ome.tiff", is_ome=False)
        )
    from_part = open_image(tmp_path / "multifile-Z2.ome.tiff", plane=(3, 0))
    np.testing.assert_array_equal(from_part.levels[0].compute(), planes[3])
    assert len(open_image(companion).files) == 6
    (tmp_path / "multifile-Z4.ome.tiff").unlink()
    with pytest.raises(SourceError, match="multifile-Z4"):
        open_image(companion)


@pytest.mark.shared
def test_real_files_read_as_tifffile_reads_them(shared: Path) -> None:
    data = shared / "data"
    files = [
        *data.glob("ometiff_small/**/*.tif*"),
        *data.glob("mif_breast_csm/*.tif"),
        *data.glob("imc_mock_steinbock/img*/*.tiff"),
    ]
    files += [*data.glob("vectra*/**/*.tif"), *data.glob("qupath/**/*.tif"), *shared.glob("golden/qupath/images/*")]
    assert len(files) > 25
    for path in files:
        image = open_image(path)
        read = image.levels[0].compute()
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            if (
                any(n > 1 for a, n in zip(series.axes, series.shape, strict=True) if a not in "CSQIYX")
                or "multifile" in path.name
            ):
                continue
            truth = np.squeeze(series.asarray())
        truth = truth[None] if truth.ndim == 2 else truth
        truth = truth if truth.shape == read.shape else np.moveaxis(truth, -1, 0)
        np.testing.assert_array_equal(read, truth, err_msg=str(path))


@pytest.mark.shared
def test_what_real_files_say_of_themselves(shared: Path) -> None:
    data = shared / "data"
    vectra = open_image(data / "vectra_phenoptr/FIHC4__0929309_HP_IM3_2_component_data.tif")
    assert [c.name for c in vectra.channels] == ["Alexa 594", "Cy3", "Cy5", "DAPI", "FITC"]
    assert vectra.channels[4].color == 0x00FF00 and vectra.pixel_size_um == pytest.approx((0.497, 0.497), abs=1e-3)
    golden = open_image(shared / "golden/qupath/images/fl_5ch.ome.tif")
    assert [c.name for c in golden.channels] == ["DAPI", "CD3", "CD8 µ test", "PanCK", "Ki67"]
    assert golden.levels[0][:, 0, 0].compute().tolist() == [1000, 1500, 2000, 2500, 3000]
    assert golden.pixel_size_um == (0.5, 0.5)
    assert open_image(shared / "golden/qupath/images/bf_rgb.tif").rgb
    crop = open_image(data / "imc_hpap_crops/HPAP002/Head/ROI1/stacked.tiff")
    assert crop.levels[0].shape == (4, 100, 100) and not crop.rgb
    assert open_image(data / "ometiff_small/pathml/small_HE_levels.tiff").pixel_size_um is None
