"""Pixels through QuPath's own server: when it is asked, what comes out, and what a process that misbehaves does."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile

from mxbridge.errors import BrokenFile, InputError, SourceError, Unsupported
from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.workspaces.qupath import qupath_pixels, qupath_process
from mxbridge.workspaces.qupath.builders import files_of, uri_builder, with_files
from mxbridge.workspaces.qupath.new import open_new_image
from mxbridge.workspaces.qupath.pixels import open_pixels, open_stored
from mxbridge.workspaces.qupath.qupath_pixels import open_through_qupath
from mxbridge.workspaces.qupath.uris import path_of
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .fake_qupath import stand_in
from .scenes import arrays
from .test_judge import real


@pytest.fixture(autouse=True)
def fresh_server(request, monkeypatch):
    """Each test starts its own process."""
    if "qupath" not in request.keywords:
        monkeypatch.delenv("PAQUO_QUPATH_DIR", raising=False)
    qupath_pixels._SERVER.close()
    yield
    qupath_pixels._SERVER.close()


@pytest.fixture
def stored(tmp_path):
    """A pyramid of two channels, and the builder a project would have for it."""
    path, image = tmp_path / "µ 1.ome.tif", arrays((2, 700, 1100))
    write_ome_tiff(path, image.levels[0], image.channels, image.pixel_size_um)
    return uri_builder(path, open_new_image(path).image)


def locate(uri):
    return Path(path_of(uri))


def strange(builder):
    """A kind of builder that mxbridge does not read; the stand-in takes it for a plain file."""
    return {**builder, "builderType": "pyramidize"}


def test_without_qupath_the_error_says_how_to_get_it(stored, tmp_path):
    with pytest.raises(Unsupported, match="pyramidize") as caught:
        open_pixels(strange(stored), name="x", locate=locate)
    assert "export the image as OME-TIFF" in caught.value.hint
    assert "mxbridge[paquo]" in caught.value.hint
    assert "PAQUO_QUPATH_DIR" in caught.value.hint
    unknown = tmp_path / "a.nd2"
    unknown.write_bytes(b"\xda\xce\xbe\x0a" + bytes(600))
    builder = {**stored, "uri": unknown.as_uri(), "metadata": {}}
    with pytest.raises((Unsupported, SourceError), match=r"a\.nd2") as caught:
        open_pixels(builder, name="x", locate=locate)
    assert "mxbridge[paquo]" in caught.value.hint


def test_what_our_readers_open_never_asks_qupath(stored, monkeypatch, tmp_path):
    counter = stand_in(monkeypatch, tmp_path, "dies")
    assert open_pixels(stored, name="x", locate=locate).shape == (700, 1100)
    for uri, error in (
        ((tmp_path / "none.tif").as_uri(), SourceError),
        ((tmp_path / "broken.tif").as_uri(), BrokenFile),
    ):
        (tmp_path / "broken.tif").write_bytes(b"II*\0" + bytes(40))
        with pytest.raises(error):
            open_pixels({**stored, "uri": uri}, name="x", locate=locate)
    assert not counter.exists()


def test_levels_names_colours_and_size(stored, monkeypatch, tmp_path):
    counter = stand_in(monkeypatch, tmp_path, "honest")
    ours = open_stored(stored, name="n", locate=locate)
    image = open_pixels(strange(stored), name="n", locate=locate)
    assert image.name == "n"
    assert image.channels == ours.channels
    assert image.pixel_size_um == ours.pixel_size_um
    assert image.files == ours.files
    assert any("through QuPath" in w for w in image.warnings)
    assert [level.shape for level in image.levels] == [level.shape for level in ours.levels]
    for level, own in zip(image.levels, ours.levels, strict=True):
        assert level.dtype == own.dtype
        assert np.array_equal(np.asarray(level), np.asarray(own))
    window = (1, slice(503, 620, 2), slice(1000, None))
    assert np.array_equal(np.asarray(image.levels[0][window]), np.asarray(ours.levels[0][window]))
    again = pickle.loads(pickle.dumps(image.levels[1]))  # as dask sends it to another process
    assert np.array_equal(np.asarray(again), np.asarray(ours.levels[1]))
    assert counter.read_text() == "1"


def test_the_identity_follows_the_file_and_the_way_it_is_opened(stored, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "honest")
    first = open_through_qupath(strange(stored), name="n", locate=locate).identity
    assert open_through_qupath(strange(stored), name="other", locate=locate).identity == first
    assert open_through_qupath({**strange(stored), "rotation": 90}, name="n", locate=locate).identity != first
    locate(stored["uri"]).touch()
    assert open_through_qupath(strange(stored), name="n", locate=locate).identity != first


def test_names_of_the_entry_win(stored, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "honest")
    builder = with_files(strange(stored), {})
    builder["metadata"]["channels"][1] = {"name": "mine", "color": -1}
    image = open_pixels(builder, name="n", locate=locate)
    assert image.channels[1] == replace(image.channels[1], name="mine", color=0xFFFFFF)


@pytest.mark.parametrize(
    ("mode", "error", "what"),
    [
        ("dies", SourceError, "exit code 134): # A fatal error"),
        ("garbage", SourceError, "something that is no message"),
        ("bad-open", SourceError, "nobody understands"),
        ("no-start", SourceError, "no valid qupath installation found"),
        ("refuses", Unsupported, "no such format"),
    ],
)
def test_a_process_that_misbehaves_while_opening_is_an_error_message(stored, monkeypatch, tmp_path, mode, error, what):
    stand_in(monkeypatch, tmp_path, mode)
    with pytest.raises(error) as caught:
        open_pixels(strange(stored), name="slide 7", locate=locate)
    assert what in str(caught.value)
    assert "slide 7" in caught.value.message
    if error is Unsupported:
        assert "pyramidize" in caught.value.message  # what mxbridge said first


@pytest.mark.parametrize(("mode", "what"), [("short", "bytes"), ("long", "too long"), ("other-type", "of int32")])
def test_pixels_of_another_size_or_type_are_refused(stored, monkeypatch, tmp_path, mode, what):
    stand_in(monkeypatch, tmp_path, mode)
    image = open_through_qupath(strange(stored), name="slide 7", locate=locate)
    with pytest.raises(SourceError, match="slide 7") as caught:
        image.levels[-1].compute()
    assert what in caught.value.message


def test_after_a_crash_a_new_process_goes_on_where_the_image_was(stored, monkeypatch, tmp_path):
    counter = stand_in(monkeypatch, tmp_path, "honest")
    image = open_through_qupath(strange(stored), name="n", locate=locate)
    qupath_pixels._SERVER._process._process.kill()
    qupath_pixels._SERVER._process._process.wait()
    with pytest.raises(SourceError, match="has ended"):
        image.levels[-1].compute()
    ours = open_stored(stored, name="n", locate=locate)
    assert np.array_equal(image.levels[-1].compute(), ours.levels[-1].compute())
    assert counter.read_text() == "2"


def test_a_process_that_is_silent_is_ended(stored, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "hangs")
    monkeypatch.setattr(qupath_pixels, "PIXELS_SECONDS", 0.3)
    with pytest.raises(SourceError, match="slide 7: QuPath has not answered"):
        open_through_qupath(strange(stored), name="slide 7", locate=locate)


def test_an_interrupted_question_never_answers_the_next(stored, monkeypatch, tmp_path):
    counter = stand_in(monkeypatch, tmp_path, "honest")
    image = open_through_qupath(strange(stored), name="n", locate=locate)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(qupath_process.QuPathProcess, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            image.levels[0].compute(scheduler="synchronous")
    ours = open_stored(stored, name="n", locate=locate)
    assert np.array_equal(image.levels[-1].compute(), ours.levels[-1].compute())
    assert counter.read_text() == "2"


@pytest.mark.parametrize(
    "told",
    [
        {"channels": []},
        {"channels": [["a", 1]] * 10_001},
        {"levels": []},
        {"levels": [[10**9, 10**9]]},
        {"dtype": "complex64"},
        {"dtype": "object"},
        {"dtype": "anything"},
        {"um": [0.5]},
        {"um": [-1, 1]},
        {"stack": 7},
        {"tile": [0, "x"]},
    ],
)
def test_hostile_answers_end_in_one_line(told):
    answer = {
        "shape": [90, 120], "stack": [1, 1], "channels": [["a", 1]], "dtype": "uint8", "rgb": False, "um": None,
        "levels": [[90, 120]], "tile": [512, 512],
    }  # fmt: skip
    image = qupath_pixels.image_of_answer("x", answer, (), "id", {})
    assert image.levels[0].shape == (1, 90, 120)
    with pytest.raises((SourceError, InputError)):
        qupath_pixels.image_of_answer("x", {**answer, **told}, (), "id", {})


def test_uris_of_nested_builders():
    inner = {"builderType": "uri", "uri": "file:/a", "args": ["--series", "0"]}
    builder = {
        "builderType": "channels",
        "builder": inner,
        "channels": [inner, {**inner, "uri": "file:/b"}],
        "x": [[7]],
    }
    assert sorted(files_of(builder)) == ["file:/a", "file:/b"]
    moved = with_files(builder, {"file:/a": "file:/c"})
    assert sorted(files_of(moved)) == ["file:/b", "file:/c"]
    assert with_files(moved, {"file:/c": "file:/a"}) == builder
    assert builder["builder"] is inner


class TestRealQuPath:
    pytestmark = real

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
    def test_every_pixel_type_and_level(self, tmp_path, dtype):
        path = tmp_path / "µ &.ome.tif"
        limits = np.iinfo(dtype) if np.dtype(dtype).kind in "ui" else np.finfo(np.float32)
        values = np.random.default_rng(0).uniform(float(limits.min), float(limits.max), (3, 600, 1300)) / 1.001
        pixels = da.from_array(values.astype(dtype), chunks=(1, 512, 512))
        write_ome_tiff(path, pixels, arrays().channels, (0.5, 0.25))
        builder = uri_builder(path, open_new_image(path).image)
        ours = open_stored(builder, name="n", locate=locate)
        theirs = open_through_qupath(builder, name="n", locate=locate)
        assert theirs.dtype == ours.dtype == dtype
        assert theirs.channels == ours.channels
        assert theirs.pixel_size_um == ours.pixel_size_um == (0.5, 0.25)
        assert len(theirs.levels) == len(ours.levels) > 1
        for own, other in zip(ours.levels, theirs.levels, strict=True):
            assert np.array_equal(np.asarray(own), np.asarray(other))
        window = (slice(1, 3), slice(255, 300), slice(1000, 1300))
        assert np.array_equal(np.asarray(ours.levels[0][window]), np.asarray(theirs.levels[0][window]))

    def test_a_format_that_no_python_reader_opens(self, tmp_path):
        """Bio-Formats' own test format: pixels that a file of a few words describes."""
        path = tmp_path / "x&sizeX=300&sizeY=200&sizeC=2&sizeZ=3&pixelType=uint16.fake"
        path.write_text("what there is to see is said by the name of the file")
        builder = {
            "builderType": "uri",
            "providerClassName": "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder",
            "uri": path.as_uri(),
            "args": ["--series", "0"],
        }
        image = open_pixels(builder, name="fake", locate=locate)
        assert image.levels[0].shape == (2, 200, 300)
        assert image.dtype == np.uint16
        assert any("3 z-planes" in w for w in image.warnings)
        assert len(np.unique(np.asarray(image.levels[0]))) > 10

    def test_images_that_qupath_computes(self, project):
        workspace = QuPathWorkspace(project)
        plain = workspace.project.entry(2).builder
        ours = open_stored(plain, name="n", locate=workspace.project.locate)
        turned = {"builderType": "rotated", "builder": plain, "rotation": "ROTATE_90"}
        image = open_pixels(turned, name="turned", locate=workspace.project.locate)
        assert image.channel_names == ours.channel_names
        assert np.array_equal(np.asarray(image.levels[0]), np.rot90(np.asarray(ours.levels[0]), -1, axes=(1, 2)))

    def test_colour_pictures(self, tmp_path):
        picture = np.random.default_rng(0).integers(0, 255, (300, 700, 3), np.uint8)
        tifffile.imwrite(tmp_path / "he.tif", picture, photometric="rgb", tile=(256, 256))
        builder = uri_builder(tmp_path / "he.tif", open_new_image(tmp_path / "he.tif").image.with_pixel_size(0.25))
        image = open_through_qupath(builder, name="he", locate=locate)
        assert image.rgb
        assert np.array_equal(np.asarray(image.levels[0]), np.moveaxis(picture, -1, 0))

    def test_a_file_that_qupath_cannot_open_either(self, tmp_path):
        path = tmp_path / "a.nd2"
        path.write_bytes(b"\xda\xce\xbe\x0a" + bytes(600))
        builder = {
            "builderType": "uri",
            "providerClassName": "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder",
            "uri": path.as_uri(),
            "args": ["--series", "0"],
        }
        with pytest.raises(Unsupported, match=r"a\.nd2") as caught:
            open_pixels(builder, name="n", locate=locate)
        assert "QuPath cannot open it" in caught.value.hint
