"""OME-Zarr: read in every version and order of axes, written so that others accept it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, InputError, MxbridgeError, OutputError, SourceError, Unsupported
from mxbridge.formats.ome_tiff import halve
from mxbridge.formats.ome_zarr import is_derived
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.formats.open_image import open_image
from mxbridge.image import Box, Channel

SIZES = {"t": 2, "c": 3, "z": 4, "y": 21, "x": 34}
UNITS = {"y": "nanometer", "x": "micrometer"}


def noise(shape: tuple[int, ...], dtype: str = "u2") -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 200).astype(dtype)


def write(path: Path, axes: str, pixels: np.ndarray, *, version: int = 3, chunks: int = 8, **more: object) -> Path:
    """A minimal OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3), written by zarr itself."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    array = group.create_array("a", shape=pixels.shape, chunks=(chunks,) * pixels.ndim, dtype=pixels.dtype)
    array[...] = pixels
    scale = [{"t": 1.0, "c": 1.0, "z": 2.0, "y": 250.0, "x": 0.5}[a] for a in axes]
    dataset = {"path": "a", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    listed = [{"name": a, "type": "space", **({"unit": UNITS[a]} if a in UNITS else {})} for a in axes]
    ome = {"multiscales": [{"version": "0.4", "axes": listed, "datasets": [dataset]}], **more}
    group.attrs.update(ome if version == 2 else {"ome": {"version": "0.5", **ome}})
    return path


@settings(max_examples=30, deadline=None)
@given(
    order=st.permutations("tczyx"), keep=st.sets(st.sampled_from("tcz")), version=st.sampled_from([2, 3]),
    dtype=st.sampled_from(["u1", "i2", ">u2", "u4", "f4", "f8", "?"]),
)  # fmt: skip
def test_every_order_of_axes(tmp_path_factory, order, keep, version, dtype) -> None:
    axes = "".join(a for a in order if a in keep or a in "yx")
    pixels = noise(tuple(SIZES[a] for a in axes), dtype)
    if dtype == ">u2" and version == 3:
        pixels = pixels.astype("u2")
    path = write(tmp_path_factory.mktemp("z") / "i.zarr", axes, pixels, version=version)
    z, t = SIZES["z"] - 1 if "z" in axes else 0, SIZES["t"] - 1 if "t" in axes else 0
    image = open_image(path, plane=(z, t))
    plane = pixels[tuple({"z": z, "t": t}.get(a, slice(None)) for a in axes)]
    kept = [a for a in axes if a in "cyx"]
    expected = plane.transpose([kept.index(a) for a in "cyx" if a in kept])
    expected = expected if "c" in axes else expected[None]
    read = image.levels[0].compute()
    np.testing.assert_array_equal(read, expected)
    assert read.dtype.isnative and image.pixel_size_um == (0.25, 0.5) and image.name == "i"
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(image.levels[0]))[:, 3:9, 5:].compute(), expected[:, 3:9, 5:]
    )
    assert bool(open_image(path).warnings) == bool(set(axes) & set("zt"))


def test_names_and_colours(tmp_path: Path) -> None:
    omero = {"channels": [{"label": "DAPI", "color": "0000FF"}, {"label": 7}, {"color": "not a colour"}]}
    image = open_image(write(tmp_path / "n.ome.zarr", "cyx", noise((3, 9, 9)), omero=omero))
    assert image.channels == (Channel("DAPI", 0x0000FF), Channel("7"), Channel("Channel 3"))
    assert image.name == "n"


def test_units_decide_whether_a_scale_is_micrometres(tmp_path: Path) -> None:
    path = write(tmp_path / "u.zarr", "yx", noise((9, 9)), version=2)
    attributes = json.loads((path / ".zattrs").read_text())
    for axis in attributes["multiscales"][0]["axes"]:
        axis.pop("unit")
    (path / ".zattrs").write_text(json.dumps(attributes))
    image = open_image(path)
    assert image.pixel_size_um is None and "no unit" in image.warnings[0]
    attributes["multiscales"][0]["axes"] = ["y", "x"]  # version 0.3
    (path / ".zattrs").write_text(json.dumps(attributes))
    assert open_image(path).shape == (9, 9)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_written_maps_are_valid_and_read_back(tmp_path: Path, version, dtype) -> None:
    import ome_zarr_models

    values = np.random.default_rng(0).random((2, 530, 1100)).astype("f4") * (1 if dtype == "f4" else 255)
    channels = (Channel("CD3 (µ)", 0xFF00FF), Channel("Ki67", 0x00FF00))
    path = tmp_path / "map.ome.zarr"
    writer = OmeZarrWriter(path, values.shape, np.dtype(dtype), channels, (0.5, 0.25), version=version)
    for c in range(2):
        for y in range(0, 530, 170):
            for x in range(0, 1100, 333):
                box = Box(y, x, min(y + 170, 530), min(x + 333, 1100))
                writer.write(c, box, values[c, box.y0 : box.y1, box.x0 : box.x1])
    with pytest.raises(Unsupported, match="without an OME image"):
        open_image(path)  # not an image before it is finished
    assert writer.finish() == path
    image = open_image(path)
    expected = values if dtype == "f4" else np.rint(values).astype("u1")
    np.testing.assert_array_equal(image.levels[0].compute(), expected)
    np.testing.assert_array_equal(image.levels[1].compute(), np.stack([halve(p) for p in expected]))
    assert [level.shape for level in image.levels] == [(2, 530, 1100), (2, 265, 550), (2, 133, 275)]
    assert image.channels == channels and image.pixel_size_um == (0.5, 0.25) and not image.warnings
    model = ome_zarr_models.open_ome_zarr(zarr.open_group(str(path), mode="r"))
    assert model.ome_zarr_version == version
    scales = [d.coordinateTransformations[0].scale for d in _multiscales(model).datasets]
    assert scales == [[1, 0.5, 0.25], [1, 1, 0.5], [1, 2, 1]]
    assert is_derived(path)


def _multiscales(model):
    attributes = model.attributes
    return (attributes.ome if hasattr(attributes, "ome") else attributes).multiscales[0]


def test_an_interrupted_map_goes_on(tmp_path: Path) -> None:
    path, values = tmp_path / "m.zarr", noise((1, 700, 600), "u1")
    options = {
        "path": path,
        "shape": values.shape,
        "dtype": np.uint8,
        "channels": [Channel("A")],
        "pixel_size_um": None,
    }
    OmeZarrWriter(**options).write(0, Box(0, 0, 512, 512), values[0, :512, :512])
    again = OmeZarrWriter(**options, resume=True)
    for box in (Box(512, 0, 700, 600), Box(0, 512, 512, 600)):
        again.write(0, box, values[0, box.y0 : box.y1, box.x0 : box.x1])
    again.finish()
    np.testing.assert_array_equal(open_image(path).levels[0].compute(), values)
    with pytest.raises(OutputError, match="another image"):
        OmeZarrWriter(**{**options, "dtype": np.float32}, resume=True)
    OmeZarrWriter(**options).finish()
    assert not open_image(path).levels[0].compute().any()


def test_a_stranger_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.zarr", "yx", noise((9, 9)))
    with pytest.raises(OutputError, match="not made by mxbridge"):
        OmeZarrWriter(path, (1, 9, 9), np.uint8, [Channel("A")], None)
    assert open_image(path).shape == (9, 9)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        OmeZarrWriter(tmp_path / "file/m.zarr", (1, 9, 9), np.uint8, [Channel("A")], None)
    writer = OmeZarrWriter(tmp_path / "m.zarr", (1, 9, 9), np.uint8, [Channel("A")], None)
    with pytest.raises(InputError):
        writer.write(0, Box(0, 0, 9, 10), np.zeros((9, 10)))


@pytest.mark.parametrize("codec", [{"id": "pickle"}, {"id": "json2"}, {"id": "msgpack2"}, {"id": "vlen-utf8"}])
@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_codecs_that_do_more_than_unpack_numbers_are_refused_unread(tmp_path: Path, codec, place) -> None:
    path = write(tmp_path / "evil.zarr", "yx", noise((9, 9)), version=2)
    described = json.loads((path / "a/.zarray").read_text())
    described[place] = [codec] if place == "filters" else codec
    (path / "a/.zarray").write_text(json.dumps(described))
    witness = tmp_path / "ran"
    command = f"import pathlib; pathlib.Path({str(witness)!r}).touch()"
    for chunk in (path / "a").rglob("[0-9]*"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(_Runs(command)))
    with pytest.raises(Unsupported, match="codec"):
        open_image(path)
    assert not witness.exists()


class _Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return exec, (self.command,)


def test_codecs_of_version_3_are_checked_inside_shards(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="w")
    array = group.create_array("a", shape=(32, 32), shards=(16, 16), chunks=(8, 8), dtype="u2")
    array[:] = noise((32, 32))
    multiscale = {"axes": [{"name": a, "type": "space"} for a in "yx"], "datasets": [{"path": "a"}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    np.testing.assert_array_equal(open_image(tmp_path / "s.zarr").levels[0][0].compute(), noise((32, 32)))
    described = json.loads((tmp_path / "s.zarr/a/zarr.json").read_text())
    described["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"})
    (tmp_path / "s.zarr/a/zarr.json").write_text(json.dumps(described))
    with pytest.raises(Unsupported, match="pickle"):
        open_image(tmp_path / "s.zarr")


@settings(max_examples=40, deadline=None)
@given(version=st.sampled_from([2, 3]), data=st.data())
def test_damage_is_one_line(tmp_path_factory, version, data) -> None:
    path = write(tmp_path_factory.mktemp("z") / "d.zarr", "cyx", noise((2, 21, 34)), version=version, chunks=16)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    victim = data.draw(st.sampled_from(files))
    content = victim.read_bytes()
    match data.draw(st.sampled_from(["cut", "flip", "gone"])):
        case "cut":
            victim.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        case "flip":
            at = data.draw(st.integers(0, len(content) - 1))
            victim.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        case _:
            victim.unlink()
    try:
        open_image(path).levels[0].compute(scheduler="synchronous")
    except MxbridgeError as error:
        assert "d.zarr" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m["datasets"].append({"path": "../../../etc"}), BrokenFile),
        (lambda m: m["datasets"].append({"path": "/etc"}), BrokenFile),
        (lambda m: m["datasets"].append({"path": "b"}), BrokenFile),
        (lambda m: m["datasets"].clear(), BrokenFile),
        (lambda m: m.update(datasets="a"), BrokenFile),
        (lambda m: m.update(axes=1.5), BrokenFile),
        (lambda m: m.update(version="0.6"), Unsupported),
        (lambda m: m.update(axes=[{"name": "z"}, {"name": "c"}]), Unsupported),
        (lambda m: m.update(axes=[{"name": a} for a in "cyx"]), BrokenFile),
    ],
)
def test_metadata_that_make_no_sense(tmp_path: Path, change, error) -> None:
    path = write(tmp_path / "m.zarr", "yx", noise((9, 9)), version=2)
    attributes = json.loads((path / ".zattrs").read_text())
    change(attributes["multiscales"][0])
    (path / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(error, match=r"m\.zarr"):
        open_image(path)


def test_a_chunk_that_claims_terabytes(tmp_path: Path) -> None:
    path = write(tmp_path / "b.zarr", "yx", noise((9, 9)), version=2)
    described = json.loads((path / "a/.zarray").read_text())
    described.update(shape=[1_000_000, 1_000_000], chunks=[1_000_000, 1_000_000])
    (path / "a/.zarray").write_text(json.dumps(described))
    with pytest.raises(Unsupported, match="one chunk"):
        open_image(path)


@pytest.mark.parametrize(
    "shape", [[10**30, 9, 9], [1, 10**30, 9], [1, 9, 10**7 + 1], [20_000, 9, 9], [-1, 9, 9], [0, 9, 9]]
)
def test_sizes_that_no_slide_has(tmp_path: Path, shape: list[int]) -> None:
    path = write(tmp_path / "b.zarr", "cyx", noise((1, 9, 9)), version=2, chunks=1)
    described = json.loads((path / "a/.zarray").read_text())
    described["shape"] = shape
    (path / "a/.zarray").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"b\.zarr"):
        open_image(path)


def test_chunks_of_no_size(tmp_path: Path) -> None:
    path = write(tmp_path / "b.zarr", "cyx", noise((1, 9, 9)), version=2)
    described = json.loads((path / "a/.zarray").read_text())
    described["chunks"] = [1, 0, 9]
    (path / "a/.zarray").write_text(json.dumps(described))
    with pytest.raises(BrokenFile, match=r"b\.zarr|/a"):
        open_image(path)


def test_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        open_image(tmp_path / "gone.zarr")
    zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    with pytest.raises(Unsupported, match="without an OME image"):
        open_image(tmp_path / "g.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unsupported, match="neither"):
        open_image(tmp_path / "folder")


def test_threads_read_the_same(tmp_path: Path) -> None:
    pixels = noise((2, 700, 600))
    level = open_image(write(tmp_path / "t.zarr", "cyx", pixels, chunks=128)).levels[0]
    np.testing.assert_array_equal(level.compute(scheduler="threads", num_workers=4), pixels)


def test_identity_follows_the_chunks(tmp_path: Path) -> None:
    path = write(tmp_path / "i.zarr", "yx", noise((9, 9)))
    before = open_image(path).identity
    assert open_image(path).identity == before
    path.rename(tmp_path / "j.zarr")
    assert open_image(tmp_path / "j.zarr").identity == before
    zarr.open_array(str(tmp_path / "j.zarr/a"))[0, 0] = 201
    assert open_image(tmp_path / "j.zarr").identity != before


@pytest.mark.shared
def test_real_images_of_all_versions(shared: Path) -> None:
    data = shared / "data/omezarr"
    for path in sorted((data / "ngio_v04/images").glob("*.zarr")):
        image = open_image(path)
        assert image.shape == (64, 64) and len(image.levels) == 2 and image.pixel_size_um == (0.5, 0.5)
        assert image.channel_names in (("channel1", "channel2"), ("channel_0",))
    for old in ("v1", "v2"):
        assert open_image(data / "ome_zarr_py" / old).levels[0].shape == (2, 16, 16)
    four, five = (open_image(data / f"viv_omezarr/blobs_image_v0{v}.ome.zarr") for v in (4, 5))
    np.testing.assert_array_equal(four.levels[0].compute(), five.levels[0].compute())
    assert five.channel_names == ("0", "1", "2")
    plate = open_image(data / "ozm_v04/hcs_example.ome.zarr/B/03/0")
    assert plate.channel_names == ("DAPI",) and plate.pixel_size_um == (0.1625, 0.1625) and len(plate.levels) == 5
    several = open_image(data / "ngff_challenge/bf2raw.zarr")
    assert "holds 2 images" in several.warnings[0]
    assert open_image(data / "ngff_challenge/bf2raw.zarr", series=1).levels[0].compute().mean() == 1
    for refused in ("ngff_challenge/hcs.zarr", "ozm_v04/hcs_example.ome.zarr"):
        with pytest.raises(Unsupported, match=r"Name the image, e\.g\."):
            open_image(data / refused)
    assert open_image(data / "mobie_mri-stack.ome.zarr").shape == (226, 186)


@pytest.mark.parametrize(("dtype", "top"), [("u1", 255.0), ("u2", 65535.0), ("f4", 1.0)])
def test_what_a_viewer_shows_first(tmp_path: Path, dtype: str, top: float) -> None:
    """The whole type, or nearly all of the values, of each channel by itself; without any, the type again."""
    values = (np.random.default_rng(0).random((3, 700, 40)) * 100).astype(dtype)
    values[1, 0, 0], values[2] = 120, 0
    values[1, 300:] = 0
    for window in ("type", "values"):
        path = tmp_path / f"{window}.ome.zarr"
        writer = OmeZarrWriter(
            path, values.shape, np.dtype(dtype), [Channel("A"), Channel("B"), Channel("C")], None, window=window
        )
        for c in range(3):
            writer.write(c, Box(0, 0, 700, 40), values[c])
        writer.finish()
        channels = zarr.open_group(str(path), mode="r").attrs["ome"]["omero"]["channels"]
        ends = [c["window"]["end"] for c in channels]
        assert [c["window"]["start"] for c in channels] == [0.0] * 3
        assert all(c["window"]["end"] <= c["window"]["max"] for c in channels)
        expected = [np.quantile(v, 0.999) for v in values[:2]] + [top] if window == "values" else [top] * 3
        assert ends == pytest.approx(expected)
