"""Slides to maps: the same as the whole image in one piece, whatever the windows; blank ones skipped; stopped runs go on."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from toy_translator import FILLS, Stopped, ToyTranslator, glass, picture, quiet, rule, tissue

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import OutputError
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.metrics.seams import seam_score
from mxbridge.stream.engine import Engine
from mxbridge.stream.resample import Field, resample
from mxbridge.stream.windows import WindowGrid
from mxbridge.tasks.mapping import assemble, windows_run
from mxbridge.tasks.mapping.maps import Maps, MapSettings
from mxbridge.tasks.mapping.windows_run import MadeMaps, make_maps

IMAGES = ("Hematoxylin", "Marker", "Seg")


def made(
    image: LocalImage,
    folder: Path,
    translator: ToyTranslator | None = None,
    *,
    inside: Any = None,
    batch: int = 1,
    **settings: Any,
) -> MadeMaps:
    settings.setdefault("images", IMAGES)
    engine = Engine(device="cpu", workers=2, batch=batch)
    return make_maps(
        image,
        translator or ToyTranslator(),
        engine,
        MapSettings(**settings),
        folder / "work",
        folder / "maps.zarr",
        inside,
        quiet,
    )


def pixels_of(maps: Maps) -> dict[str, NDArray[np.uint8]]:
    return {name: maps.read(name, Box(0, 0, *maps.shape)) for name in maps.images}


def assert_same(found: Maps, expected: dict[str, NDArray[np.uint8]]) -> None:
    for name, pixels in pixels_of(found).items():
        np.testing.assert_array_equal(pixels, expected[name], err_msg=name)


@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (333, 130), (20, 300), (1, 7)])
@pytest.mark.parametrize("compat", [False, True])
def test_windows_leave_no_trace_on_a_rule_of_single_pixels(
    tmp_path: Path, shape: tuple[int, int], compat: bool
) -> None:
    pixels = tissue(shape)
    image = picture(pixels, None if compat else 0.25)
    found = made(image, tmp_path, compat=compat, tile_size=64 if compat else None, skip_blank=False)
    assert found.maps.shape == shape
    assert found.maps.um_per_px == (None if compat else (0.25, 0.25))
    assert_same(found.maps, rule(pixels))
    assert found.run == found.windows
    assert found.networks == ("rule",)
    assert not (tmp_path / "work" / "maps.zarr").exists()
    assert not list((tmp_path / "work" / "windows").iterdir())


@pytest.mark.parametrize("um", [0.5, 0.17, 0.4])
def test_any_pixel_size_is_brought_to_the_scale_of_the_model(tmp_path: Path, um: float) -> None:
    pixels = tissue((150, 170))
    found = made(picture(pixels, um), tmp_path)
    seen = Field.of((150, 170), (um, um), 0.25)
    rows, columns = seen.y.taps(0, seen.shape[0], 150), seen.x.taps(0, seen.shape[1], 170)
    whole = resample(torch.from_numpy(pixels.astype(np.float32)), rows, columns).numpy()
    assert found.maps.field == seen
    assert found.maps.um_per_px == (0.25, 0.25)
    assert_same(found.maps, rule(np.rint(whole)))


def test_a_tile_of_another_size_is_resized_as_pillow_does(tmp_path: Path) -> None:
    from PIL import Image

    pixels = tissue((32, 32))
    found = made(picture(pixels, None), tmp_path, compat=True, tile_size=32, images=("Hematoxylin",))
    picture_of = Image.fromarray(np.moveaxis(pixels, 0, -1))
    there = picture_of.resize((64, 64), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
    assert_same(found.maps, {"Hematoxylin": np.moveaxis(np.asarray(there), -1, 0)})


def test_windows_that_disagree_are_blended_by_their_shares(tmp_path: Path) -> None:
    """Against the same written down for the whole image at once."""
    pixels = tissue((130, 150))
    found = made(picture(pixels), tmp_path, ToyTranslator(statistics=True), images=("Hematoxylin",))
    grid = WindowGrid.of((130, 150), side=64, overlap=16)
    passes = ToyTranslator(statistics=True).passes(("Hematoxylin",), None)
    total = np.zeros((3, 130, 150))
    for window in grid:
        box = window.box
        seen = windows_run.network_input(pixels[None, :, box.y0 : box.y1, box.x0 : box.x1], torch.device("cpu"))
        shown = windows_run.stored(passes(seen)["Hematoxylin"])[0]
        (y0, y1), (x0, x1) = grid.y.support(window.row), grid.x.support(window.column)
        share = np.outer(grid.y.weights(window.row, y0, y1), grid.x.weights(window.column, x0, x1))
        total[:, y0:y1, x0:x1] += share * shown[:, y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0]
    whole = found.maps.read("Hematoxylin", Box(0, 0, 130, 150))
    assert np.mean(whole != np.rint(total)) < 0.001  # ties may fall either way


def half_empty(shape: tuple[int, int] = (256, 512)) -> NDArray[np.uint8]:
    pixels = glass(shape)
    pixels[:, :, : shape[1] // 2] = tissue((shape[0], shape[1] // 2))
    return pixels


def test_blank_windows_are_skipped_and_have_the_colours_of_blank_ones(tmp_path: Path) -> None:
    pixels = half_empty()
    found = made(picture(pixels), tmp_path)
    assert 0 < found.skipped["blank"] == found.windows - found.run
    right = Box(0, 340, 256, 512)
    for name, colour in FILLS.items():
        assert (found.maps.read(name, right) == np.array(colour)[:, None, None]).all()
    left = Box(0, 0, 256, 256)  # skipped neighbours have no share in what was run
    for name, expected in rule(pixels).items():
        np.testing.assert_array_equal(found.maps.read(name, left), expected[:, :, :256])
    shown = found.maps.read(
        "Hematoxylin", Box(0, 0, 256, 512)
    )  # a pixel is what was run there, or blank, nothing between
    blank = (shown == np.array(FILLS["Hematoxylin"])[:, None, None]).all(axis=0)
    assert (blank | (shown == pixels).all(axis=0)).all()
    everything = made(picture(pixels), tmp_path / "all", skip_blank=False)
    assert everything.run == everything.windows and not everything.skipped


def test_an_empty_slide_needs_no_networks(tmp_path: Path) -> None:
    translator = ToyTranslator()
    found = made(picture(glass((200, 200))), tmp_path, translator, statistics="slide")
    assert (found.run, found.networks, found.sample, translator.loaded) == (0, (), None, [])


def test_the_low_level_spares_reading(tmp_path: Path) -> None:
    pixels = half_empty()
    with_levels = made(picture(pixels, levels=2), tmp_path / "a")
    assert with_levels.skipped["blank in the low level"] > 0
    assert with_levels.maps.made["low_level"] == 1
    assert_same(with_levels.maps, pixels_of(made(picture(pixels), tmp_path / "b").maps))


def annotation(box: Box, shape: tuple[int, int]) -> OutlineCells:
    ring = np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)], float)
    return OutlineCells(("a",), (None,), shape, Rings.of([[ring]]))


def test_the_sample_is_of_the_slide_wherever_annotations_are(tmp_path: Path) -> None:
    pixels = tissue((256, 320))
    pixels[:, :, 160:] //= 2
    toy = ToyTranslator(statistics=True)
    whole = made(picture(pixels), tmp_path / "whole", toy, statistics="slide").maps
    where = annotation(Box(10, 20, 60, 90), (256, 320))
    part = made(picture(pixels), tmp_path / "part", toy, statistics="slide", inside=where)
    assert part.skipped["outside"] > 0
    assert part.sample == whole.made["sample"] and max(part.sample["windows"]) > 20
    near = Box(0, 0, 100, 130)
    np.testing.assert_array_equal(part.maps.read("Seg", near), whole.read("Seg", near))


@pytest.mark.parametrize("batch", [1, 3])
def test_pixels_that_no_network_saw_are_counted(tmp_path: Path, batch: int) -> None:
    found = made(picture(half_empty()), tmp_path, batch=batch).maps
    shown = found.read("Hematoxylin", Box(0, 0, 256, 512))
    blank = (shown == np.array(FILLS["Hematoxylin"])[:, None, None]).all(axis=0)
    assert found.blank("Hematoxylin") == (int(blank.sum()), FILLS["Hematoxylin"])
    assert found.blank("Marker")[1] == FILLS["Marker"]
    stopped = ToyTranslator(stop_after=9)
    with suppress(Stopped):
        made(picture(half_empty()), tmp_path / "again", stopped, batch=batch)
    assert made(picture(half_empty()), tmp_path / "again", batch=batch).maps.blank("Marker")[0] == blank.sum()


@pytest.mark.parametrize("um", [0.25, 0.5])
def test_only_windows_near_annotations_are_run(tmp_path: Path, um: float) -> None:
    pixels = tissue((200, 260))
    where = Box(10, 20, 60, 90)
    found = made(picture(pixels, um), tmp_path, inside=annotation(where, (200, 260)))
    assert 0 < found.run < found.windows == found.run + found.skipped["outside"]
    whole = made(picture(pixels, um), tmp_path / "whole")
    assert whole.run == whole.windows
    ratio = um / 0.25
    near = Box(0, 0, round((60 * ratio) + 64), round((90 * ratio) + 64))
    for name in IMAGES:
        np.testing.assert_array_equal(found.maps.read(name, near), whole.maps.read(name, near))
    beyond = annotation(Box(10_000, 10_000, 10_100, 10_100), (200, 260))
    assert made(picture(pixels, um), tmp_path / "beyond", inside=beyond).run == 0


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_batches_change_nothing(tmp_path: Path, batch: int) -> None:
    pixels = half_empty((200, 500))
    translator = ToyTranslator(statistics=True)
    found = made(picture(pixels), tmp_path / "a", translator, batch=batch)
    assert_same(found.maps, pixels_of(made(picture(pixels), tmp_path / "b", ToyTranslator(statistics=True)).maps))
    assert 1 < max(translator.loaded[0].seen) <= batch


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    pixels = tissue((70, 700))
    engine = Engine(device="cpu", batch=8)
    settings = MapSettings(IMAGES)
    found = make_maps(
        picture(pixels), ToyTranslator(fits=3), engine, settings, tmp_path / "work", tmp_path / "maps", None, quiet
    )
    assert engine.steps_back == ["batch 8 -> 4", "batch 4 -> 2"]
    assert_same(found.maps, rule(pixels))


# --- stopped runs ---


def test_a_run_stopped_anywhere_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    pixels = tissue((150, 150))
    pixels[:, :64, 80:] = glass((64, 70))
    image = picture(pixels)
    settings: dict[str, Any] = {"statistics": "slide"}
    whole = made(image, tmp_path / "whole", ToyTranslator(statistics=True), **settings)
    expected = pixels_of(whole.maps)
    for stop in range(whole.run):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            made(image, folder, ToyTranslator(statistics=True, stop_after=stop), **settings)
        assert not (folder / "maps.zarr").exists()
        again = ToyTranslator(statistics=True)
        found = made(image, folder, again, **settings)
        assert_same(found.maps, expected)
        assert sum(again.loaded[0].seen) == whole.run - stop  # nothing is run twice
        assert (found.run, found.skipped, found.sample) == (whole.run, whole.skipped, whole.sample)
        assert found.networks == ("rule",)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_stopped_while_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """At every step of the writer: before and after windows are kept, bands are written, rows are thrown away."""
    pixels = tissue((150, 70))
    image, expected = picture(pixels), rule(pixels)
    steps = [(assemble.GrowingMaps, "write"), (windows_run.RecordFile, "append"), (windows_run, "row_path")]
    for number, (owner, name) in enumerate(steps):
        real = getattr(owner, name)
        for moment in (0, 1, 4, 8):
            for after in (False, True):
                folder = tmp_path / f"{number}-{moment}-{after}"
                calls = 0

                def torn(*args: Any, _real: Any = real, _moment: int = moment, _after: bool = after) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls > _moment and not _after:
                        raise Stopped
                    found = _real(*args)
                    if calls > _moment:
                        raise Stopped
                    return found

                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, torn)
                    with suppress(Stopped):
                        made(image, folder, batch=batch)
                assert_same(made(image, folder, batch=batch).maps, expected)


def test_a_row_that_the_disk_has_lost_is_run_again(tmp_path: Path) -> None:
    """A machine that stops may lose the end of any file."""
    pixels = tissue((200, 100))
    whole = made(picture(pixels), tmp_path / "whole", ToyTranslator(statistics=True))
    for lost in (0, 5000, 13000, 40000):
        folder = tmp_path / str(lost)
        with pytest.raises(Stopped):
            made(picture(pixels), folder, ToyTranslator(statistics=True, stop_after=5))
        rows = sorted((folder / "work" / "windows").glob("row-*"))
        assert [path.name for path in rows] == ["row-1.records", "row-2.records"]
        rows[0].write_bytes(rows[0].read_bytes()[:lost])
        found = made(picture(pixels), folder, ToyTranslator(statistics=True))
        assert_same(found.maps, pixels_of(whole.maps))


def test_finished_maps_are_taken_as_they_are(tmp_path: Path) -> None:
    image, translator = picture(tissue((100, 100))), ToyTranslator()
    made(image, tmp_path, translator)
    again = made(image, tmp_path, translator)
    assert len(translator.loaded) == 1
    assert again.run == 4 and again.networks == ("rule",)
    assert Maps.open(tmp_path / "maps.zarr").fingerprint == again.maps.fingerprint
    other = made(picture(tissue((100, 100), seed=5)), tmp_path, translator)
    assert_same(other.maps, rule(tissue((100, 100), seed=5)))


def test_finished_maps_stay_until_others_are_finished(tmp_path: Path) -> None:
    first, second = tissue((100, 100)), tissue((100, 100), seed=5)
    made(picture(first), tmp_path)
    with pytest.raises(Stopped):
        made(picture(second), tmp_path, ToyTranslator(stop_after=3))
    assert_same(Maps.open(tmp_path / "maps.zarr"), rule(first))
    # what was left half finished of another image is not taken over
    third = tissue((90, 130), seed=6)
    assert_same(made(picture(third), tmp_path).maps, rule(third))


def test_a_run_whose_maps_were_complete_but_not_moved_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(tissue((100, 100)))

    def stop(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(windows_run, "put", stop)
        with pytest.raises(Stopped):
            made(image, tmp_path)
    translator = ToyTranslator()
    assert_same(made(image, tmp_path, translator).maps, rule(tissue((100, 100))))
    assert not translator.loaded


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(OutputError, match="the disk is full"):
        made(picture(tissue((100, 100))), tmp_path)


# --- memory, statistics of the slide ---


def endless(height: int, width: int = 300) -> LocalImage:
    """A slide that exists only block by block."""
    block = tissue((256, 256))

    def at(block_info: Any = None) -> NDArray[np.uint8]:
        (_, _), (y0, y1), (x0, x1) = block_info[None]["array-location"]
        return block[:, : y1 - y0, : x1 - x0]

    chunks = ((3,), (256,) * (height // 256), (256,) * (width // 256) + ((width % 256,) if width % 256 else ()))
    lazy = da.map_blocks(at, dtype=np.uint8, chunks=chunks, meta=np.zeros((0, 0, 0), np.uint8))
    return LocalImage("endless", (lazy,), tuple(Channel(c) for c in "RGB"), (0.25, 0.25), f"endless-{height}", rgb=True)


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    def peak(height: int) -> tuple[int, int]:
        tracemalloc.start()
        found = made(endless(height), tmp_path / str(height), ToyTranslator(window=128, overlap=32), images=("Seg",))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, found.run

    peak(512)  # what is imported and cached once
    small, few = peak(512)
    large, many = peak(3072)
    assert many > 5 * few
    assert large < small + 2**20  # the image is 2.3 MB larger, and its maps as well


def test_frozen_statistics_have_fewer_seams_than_blended_ones_than_pasted_ones(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :300]
    pixels = np.clip(tissue((300, 300)) * 0.4 + 80 + 60 * np.sin(y / 60) * np.sin(x / 50), 1, 254).astype(np.uint8)
    image = picture(pixels)

    apart = {}

    def score(folder: str, reach: int, **settings: Any) -> float:
        found = made(image, tmp_path / folder, ToyTranslator(statistics=True), images=("Hematoxylin",), **settings)
        rows, columns = found.maps.made["seams"]
        apart[folder] = found.disagreement.get("Hematoxylin")

        def read(*box: int) -> NDArray[np.uint8]:
            return found.maps.read("Hematoxylin", Box(*box))

        return seam_score(read, found.maps.shape, rows, columns, reach=reach, beside=(16, 24)).score

    pasted, blended, frozen = (
        score("pasted", 1, overlap=0),
        score("blended", 16),
        score("frozen", 16, statistics="slide"),
    )
    assert pasted > 2 > 1.3 > blended > frozen + 0.08
    assert frozen == pytest.approx(1, abs=0.06)
    assert apart["pasted"] is not None and apart["pasted"] > 5
    assert apart["blended"] is not None and apart["blended"] > 5
    assert apart["frozen"] == 0


def test_the_sample_of_a_slide_is_recorded_and_always_the_same(tmp_path: Path) -> None:
    pixels = glass((460, 460))
    pixels[:, 100:400, 60:420] = tissue((300, 360))
    one = made(picture(pixels), tmp_path / "1", statistics="slide")
    two = made(picture(pixels), tmp_path / "2", ToyTranslator(samples_slide=True))
    assert one.sample is not None and two.sample is not None
    assert len(one.sample["windows"]) == 8
    assert len(two.sample["windows"]) == 12
    assert set(one.sample["windows"]) < set(two.sample["windows"])
    assert made(picture(pixels), tmp_path / "again", statistics="slide").sample == one.sample
    assert min(two.sample["tissue"]) == 1.0  # all are full of tissue, though most of the slide is empty
    assert one.maps.made["passes"]["mean"] is not None
    other = made(picture(pixels.swapaxes(1, 2).copy()), tmp_path / "3", statistics="slide")
    assert other.sample is not None and other.sample["sha256"] != one.sample["sha256"]
