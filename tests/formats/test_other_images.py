"""PNG, JPEG, folders with one TIFF per channel, and slides through openslide."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mxbridge.errors import BrokenFile, InputError, SourceError, Unsupported
from mxbridge.formats import pictures
from mxbridge.formats.channel_folder import is_channel_folder, natural, open_channel_folder
from mxbridge.formats.open_image import open_image


def noise(shape: tuple[int, ...], dtype: str = "u1", seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype", "count"),
    [((40, 50, 3), "u1", 3), ((40, 50, 4), "u1", 3), ((40, 50), "u1", 1), ((40, 50), "u2", 1)],
)
def test_png(tmp_path: Path, shape, dtype, count) -> None:
    pixels = noise(shape, dtype)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    expected = pixels[None] if len(shape) == 2 else np.moveaxis(pixels, -1, 0)[:3]
    np.testing.assert_array_equal(image.levels[0].compute(), expected)
    assert image.dtype == dtype and image.rgb is (count == 3) and image.pixel_size_um is None
    assert bool(image.warnings) == (shape[-1] == 4)


def test_jpeg_and_palette_are_colours(tmp_path: Path) -> None:
    Image.fromarray(noise((40, 50, 3))).save(tmp_path / "a.jpg")
    Image.fromarray(noise((40, 50, 3))).quantize(16).save(tmp_path / "p.png")
    for name in ("a.jpg", "p.png"):
        assert open_image(tmp_path / name).rgb


def test_pictures_have_a_limit_and_can_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise((40, 50))).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenFile, match=r"a\.png"):
        open_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(whole)
    monkeypatch.setattr(pictures, "PIXEL_LIMIT", 1999)
    with pytest.raises(Unsupported, match="too many"):
        open_image(tmp_path / "a.png")


def test_one_tiff_per_channel(tmp_path: Path) -> None:
    folder = tmp_path / "ROI 1"
    folder.mkdir()
    for k, name in enumerate(("c10.tif", "c2.tiff", "CD3_Er170.tiff", "Ki67.ome.tif")):
        tifffile.imwrite(
            folder / name, noise((40, 50), "u2", k), metadata=None if "ome" not in name else {"axes": "YX"}
        )
    (folder / "notes.txt").write_text("x")
    assert is_channel_folder(folder)
    image = open_image(folder)
    assert image.name == "ROI 1" and len(image.files) == 4
    assert image.channel_names == ("c2", "c10", "CD3_Er170", "Ki67")
    assert open_channel_folder(folder, cut_at="_").channel_names[2] == "CD3"
    for c, seed in enumerate((1, 0, 2, 3)):
        np.testing.assert_array_equal(image.levels[0][c].compute(), noise((40, 50), "u2", seed))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image.levels[0]))[1].compute(), noise((40, 50), "u2", 0))


def test_pyramids_types_and_sizes_of_channel_files(tmp_path: Path) -> None:
    for name, dtype, size in (("A.tif", "u1", 0.5), ("B.tif", "u2", 0.25)):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            options = {
                "tile": (64, 64),
                "resolution": (1e4 / size, 1e4 / size),
                "resolutionunit": "CENTIMETER",
                "metadata": None,
            }
            writer.write(noise((256, 256), dtype), subifds=1, **options)
            writer.write(noise((128, 128), dtype), subfiletype=1, **options)
    image = open_image(tmp_path)
    assert [level.shape for level in image.levels] == [(2, 256, 256), (2, 128, 128)] and image.dtype == "u2"
    assert image.pixel_size_um is None and len(image.warnings) == 2


def test_folders_that_are_no_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "A.tif", noise((40, 50)))
    assert not is_channel_folder(tmp_path)  # one file alone is an image
    tifffile.imwrite(tmp_path / "B.tif", noise((40, 51)))
    assert not is_channel_folder(tmp_path)
    with pytest.raises(InputError, match=r"51 x 40.*50 x 40"):
        open_image(tmp_path)
    tifffile.imwrite(tmp_path / "B.tif", noise((40, 50, 3)), photometric="rgb")
    assert not is_channel_folder(tmp_path)
    with pytest.raises(InputError, match="3 channels"):
        open_image(tmp_path)


def test_natural_order() -> None:
    assert sorted(["c10", "C2", "b", "c1a"], key=natural) == ["b", "c1a", "C2", "c10"]


def test_slides_through_openslide(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    from mxbridge.formats.slides import open_slide

    pixels = noise((600, 700, 3))
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        options = {
            "photometric": "rgb",
            "tile": (256, 256),
            "resolution": (20000, 40000),
            "resolutionunit": "CENTIMETER",
        }
        writer.write(pixels, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **options)
    image = open_slide(tmp_path / "s.tif")
    np.testing.assert_array_equal(image.levels[0].compute(), np.moveaxis(pixels, -1, 0))
    np.testing.assert_array_equal(image.levels[1].compute(), np.moveaxis(pixels[::2, ::2], -1, 0))
    window = pickle.loads(pickle.dumps(image.levels[1]))[1, 10:300:2, 7:]
    np.testing.assert_array_equal(window.compute(), pixels[::2, ::2][10:300:2, 7:, 1])
    assert image.rgb and image.pixel_size_um == pytest.approx((0.25, 0.5))
    (tmp_path / "x.mrxs").write_bytes(b"no slide")
    with pytest.raises(Unsupported, match="not an image format"):
        open_image(tmp_path / "x.mrxs")


def test_slides_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "x.mrxs").write_bytes(b"slide")
    with pytest.raises(SourceError, match=r"mxbridge\[slides\]"):
        open_image(tmp_path / "x.mrxs")


@pytest.mark.shared
def test_real_folders(shared: Path) -> None:
    fov8 = open_image(shared / "data/mibi_ark_fov8/fov8")
    assert len(fov8.channels) == 21 and fov8.find_channel("NaK_ATPase") == fov8.channel_names.index("NaK_ATPase")
    region = open_channel_folder(shared / "data/imc_spectre/ROI006", cut_at="_")
    assert region.shape == (500, 500) and region.channel_names[:3] == ("alphaSMA", "CD3", "CD4")
    assert not is_channel_folder(shared / "data/imc_spectre/masks_simple")
