"""A whole slide is imputed as one forward pass over it would, whatever the tiles, the scale and what is hidden."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maxim_models import MARKERS, SCALINGS, Whole, image_of, model_of, noise, predict
from nimbus_fields import cells_of, labels_of

from mxbridge.errors import InputError
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.maxim import Maxim, MaximStream, Request, hidden_of, load_checkpoint, map_stored
from mxbridge.models.maxim_input import ScaledReader
from mxbridge.stream.engine import Engine
from mxbridge.stream.grid import round_up
from mxbridge.stream.views import IDENTITY, SIX_VIEWS, Views

PANEL = ("DAPI", "FOXP3", "CD4", "CD8", "PDL1", "KI67", "CK")


def one_pass(model: Maxim, image: LocalImage, request: Request, views: Views) -> np.ndarray:
    """``(view, target, y, x)`` by a plain reading of the definition: the whole image at once, through the published layout."""
    index = [image.channel_names.index(marker) for marker in model.inputs]
    reader = ScaledReader(image, index, [SCALINGS[marker] for marker in model.inputs], model.um_per_px)
    height, width = reader.shape
    unit = reader.read(Box(0, 0, height, width))
    pad = [round_up(length, 16) - length for length in (height, width)]
    unit = np.pad(unit, ((0, 0), (0, pad[0]), (0, 0)), mode="reflect" if height > 1 else "edge")
    unit = np.pad(unit, ((0, 0), (0, 0), (0, pad[1])), mode="reflect" if width > 1 else "edge")
    planes, hidden = torch.from_numpy(unit), hidden_of(model, request)
    start = None
    if model.start is not None:
        everything = torch.zeros(len(model.planes), *planes.shape[1:])
        everything[: len(planes)] = planes
        start = model.start.estimate(everything, hidden)
    if model.any_marker:
        there = torch.ones_like(planes)
        for k, marker in enumerate(hidden):
            at = model.inputs.index(marker)
            planes[at], there[at] = 0 if start is None else start[k], 0
        planes = torch.cat([planes, there])
    out = []
    for view in views:
        with torch.inference_mode():
            found = view.invert(model.plain(view.apply(planes)[None].contiguous()))[0]
        found = found[[model.outputs.index(target) for target in request.targets]]
        if start is not None:
            found = (start[[hidden.index(target) for target in request.targets]] + 2 * found - 1).clamp(0, 1)
        out.append(found[:, :height, :width].numpy())
    return np.stack(out)


@pytest.mark.slow
@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    um=st.sampled_from([(0.5, 0.5), (0.505, 0.5), (0.6, 1.0), (1.3, 0.9), (0.25, 0.3)]),
    any_marker=st.booleans(),
    start=st.booleans(),
    tile=st.integers(240, 330),
    workers=st.integers(1, 3),
    batch=st.integers(1, 3),
    six=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_any_tiling_is_one_pass_over_the_whole(
    shape: tuple[int, int],
    um: tuple[float, float],
    any_marker: bool,
    start: bool,
    tile: int,
    workers: int,
    batch: int,
    six: bool,
    seed: int,
) -> None:
    inputs = MARKERS if any_marker else MARKERS[:3]
    model = model_of(inputs, any_marker=any_marker, start=start, seed=seed % 5)
    image, views = image_of(noise(4, *shape, seed), um=um), SIX_VIEWS[:3] if six else (IDENTITY,)
    requests = [Request(("KI67",))]
    if any_marker:
        requests += [Request(("DAPI", "CD8")), Request(("KI67",), frozenset({"CD3"}))]
    found = predict(model, image, requests=requests, views=views, tile=tile, workers=workers, batch=batch)
    assert (found.hits == 1).all()
    expected = np.concatenate([one_pass(model, image, request, views) for request in requests], axis=1)
    np.testing.assert_allclose(found.unit, expected, atol=1e-5)


@pytest.mark.parametrize("any_marker", [False, True])
def test_tiles_workers_and_batches_do_not_show(any_marker: bool) -> None:
    """Cores of 32 and 64 against one tile, with the linear start, on an image of several tiles."""
    model = model_of(MARKERS if any_marker else MARKERS[:3], any_marker=any_marker, start=True)
    image = image_of(noise(4, 245, 270, 1))
    whole = predict(model, image, measured=MARKERS)
    assert whole.unit.std() > 0.05
    assert len(whole.tiles) == 1
    for options in ({"tile": 224, "workers": 3}, {"tile": 256, "workers": 1, "batch": 4}):
        cut = predict(model, image, measured=MARKERS, **options)
        assert len(cut.tiles) > 1
        np.testing.assert_allclose(cut.unit, whole.unit, atol=1e-5)
        np.testing.assert_array_equal(cut.measured, whole.measured)
        np.testing.assert_allclose(cut.sums, whole.sums)


@pytest.mark.parametrize("tile", [None, 208, 240])
def test_oracle_of_the_published_program(data: Path, tile: int | None) -> None:
    """Its own checkpoint, its own padding to 96 x 96; the panel's names in another case."""
    folder = data / "maxim"
    model = load_checkpoint(folder / "checkpoint.pt", [m for m in PANEL if m != "KI67"], ["KI67"], 0.25)
    for name in ("roi_1", "roi_2"):
        image = image_of(np.load(folder / f"{name}.npy"), [m.lower() for m in PANEL], None)
        found = predict(model, image, "KI67", measured=["KI67"], compat_pad=96, tile=tile)
        real, generated = np.load(folder / f"eval_96_{name}_real_generated.npy")
        np.testing.assert_allclose(found.unit[0, 0], generated, atol=1e-5)
        np.testing.assert_allclose(found.measured[0], real, atol=1e-7)


def test_padding_of_the_published_program_is_not_computed_where_it_cannot_matter(data: Path) -> None:
    folder = data / "maxim"
    model = load_checkpoint(folder / "checkpoint.pt", [m for m in PANEL if m != "KI67"], ["KI67"], 0.25)
    image, seen = image_of(np.load(folder / "roi_1.npy"), PANEL, (0.25, 0.25)), []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    found = predict(model, image, "KI67", compat_pad=1024)
    hook.remove()
    assert seen == [(64 + 96, 80 + 96)]
    padded = torch.zeros(1, 6, 512, 512)
    padded[0, :, :64, :80] = torch.from_numpy(np.load(folder / "roi_1.npy")[[0, 1, 2, 3, 4, 6]] / np.float32(255))
    with torch.inference_mode():
        np.testing.assert_allclose(found.unit[0, 0], model.plain(padded)[0, 0, :64, :80], atol=1e-5)


def test_nothing_is_clipped_in_compat(data: Path) -> None:
    """16-bit numbers reach 257 there; the image says that it knows."""
    folder = data / "maxim"
    model = load_checkpoint(folder / "checkpoint.pt", [m for m in PANEL if m != "KI67"], ["KI67"], 0.25)
    raw = np.load(folder / "roi_1.npy").astype(np.uint16) * 5
    found = predict(model, image_of(raw, PANEL), "KI67", measured=["CK"], compat_pad=96, value_scale=1.0)
    np.testing.assert_allclose(found.measured[0], raw[6] / 255, rtol=1e-6)
    assert found.measured.max() > 1


def test_several_outputs_and_orders() -> None:
    model = model_of(MARKERS[:2], ("KI67", "CD8"))
    image = image_of(noise(4, 40, 50, 2))
    both = predict(model, image, requests=[Request(("CD8", "KI67")), Request(("KI67",))])
    np.testing.assert_array_equal(both.unit[:, 1], both.unit[:, 2])
    np.testing.assert_allclose(both.unit[:, :1], predict(model, image, "CD8").unit, atol=1e-6)
    np.testing.assert_allclose(both.unit[:, 1:2], predict(model, image, "ki67").unit, atol=1e-6)


def test_the_image_need_not_have_what_is_hidden() -> None:
    model = model_of(MARKERS, any_marker=True, start=True)
    raw = noise(4, 40, 50, 2)
    full, lacking = image_of(raw), image_of(raw[[0, 2]], ("DAPI", "CD8"))
    asked = [Request(("KI67",), frozenset({"CD3"}))]
    found = predict(model, lacking, requests=asked)
    np.testing.assert_array_equal(found.unit, predict(model, full, requests=asked).unit)
    np.testing.assert_array_equal(np.isnan(found.sums), [False, True, False, True])


def test_input_sums_are_those_of_what_the_model_sees() -> None:
    model, raw = model_of(MARKERS, any_marker=True), noise(4, 270, 50, 2)
    image = image_of(raw)
    reader = ScaledReader(image, range(4), [SCALINGS[m] for m in MARKERS], 0.5)
    expected = reader.read(Box(0, 0, 270, 50)).sum((1, 2), dtype=np.float64)
    for requests, hidden in ([Request((m,)) for m in MARKERS], []), ([Request(("CD3",)), Request(("CD3", "CD8"))], [1]):
        found = predict(model, image, requests=requests, tile=256)
        expected_now = np.where(np.isin(range(4), hidden), np.nan, expected)
        np.testing.assert_allclose(found.sums, expected_now, rtol=1e-9)


def test_gradients_go_through_the_same_function() -> None:
    for any_marker, start in ((False, False), (False, True), (True, False), (True, True)):
        model = model_of(MARKERS if any_marker else MARKERS[:3], any_marker=any_marker, start=start)
        image, request = image_of(noise(4, 32, 48, 3)), Request(("KI67",))
        index = range(len(model.inputs))
        unit = ScaledReader(image, index, [SCALINGS[m] for m in model.inputs], 0.5).read(Box(0, 0, 32, 48))
        planes = torch.from_numpy(unit)[None].requires_grad_()
        found = model.predict(planes, request)
        np.testing.assert_allclose(found.detach().clamp(0, 1)[0], predict(model, image, "KI67").unit[0], atol=1e-5)
        found.sum().backward()
        touched = [bool(plane.any()) for plane in planes.grad[0]]
        assert touched == [marker != "KI67" for marker in model.inputs]


def test_cells_measure_the_unrounded_map() -> None:
    model, labels = model_of(), labels_of(230, 60, seed=4)
    image = image_of(noise(4, 230, 60, 4))
    whole = predict(model, image, cells=cells_of(labels), tile=224)
    total = np.zeros(labels.max())
    for tile in whole.tiles:
        total[tile.pixels.cells] += tile.pixels.map_weights @ tile.unit[0, 0].ravel().astype(np.float64)
    expected = np.bincount(labels.ravel(), whole.unit[0, 0].ravel())[1:]
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert all(tile.pixels is None for tile in predict(model, image, tile=224).tiles)


def test_pixels_that_are_no_numbers_are_zero_to_the_model_and_missing_from_the_truth() -> None:
    model, raw = model_of(start=True), noise(4, 60, 70, 5, np.float32)
    broken = raw.copy()
    broken[1, 20, 30], broken[3, 40, 50], broken[3, 41, 50] = np.nan, np.inf, np.nan
    replaced = np.where(np.isfinite(broken), broken, 0)
    found = predict(model, image_of(broken), measured=("CD3", "KI67"))
    expected = predict(model, image_of(replaced), measured=("CD3", "KI67"))
    np.testing.assert_array_equal(found.unit, expected.unit)
    assert np.isfinite(found.sums).all()
    missing = np.isnan(found.measured)
    assert sorted(map(tuple, np.argwhere(missing))) == [(0, 20, 30), (1, 40, 50), (1, 41, 50)]
    np.testing.assert_array_equal(found.measured[~missing], expected.measured[~missing])


def test_missing_pixels_spread_to_whatever_they_have_a_part_in() -> None:
    raw = noise(4, 60, 70, 5, np.float32)
    raw[3, 21, 31] = np.nan
    found = predict(model_of(), image_of(raw, um=(0.2, 0.2)), measured=("KI67",))
    assert found.unit.shape[2:] == (24, 28)
    assert list(map(tuple, np.argwhere(np.isnan(found.measured[0])))) == [(8, 12)]


def test_finished_tiles_are_left_out_and_counted() -> None:
    model, image, told = model_of(), image_of(noise(4, 300, 100, 1)), []
    stream = MaximStream(model, image, Engine(device="cpu", tile=256), [Request(("KI67",))])
    assert len(stream.grid) == 10
    found = [
        tile.tile.index for tile in stream.tiles({0, 3, 9, *range(5, 8)}, lambda done, of: told.append((done, of)))
    ]
    assert found == [1, 2, 4, 8]
    assert told == [(k, 10) for k in range(6, 11)]
    assert list(stream.tiles(range(10))) == []


def test_closing_ends_the_threads() -> None:
    stream = MaximStream(
        model_of(), image_of(noise(4, 400, 60, 1)), Engine(device="cpu", tile=240), [Request(("KI67",))]
    )
    tiles = stream.tiles()
    next(tiles)
    tiles.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("mxbridge-read")]


def test_blank_tiles_are_computed_once() -> None:
    model = model_of(start=True)
    raw = noise(4, 64, 64, 1)
    slide = np.zeros((4, 260, 900), np.uint16)
    slide[:, 100:164, 40:104] = raw
    slide[3] = 77  # what is not an input does not count
    passes = []
    hook = model.network.register_forward_pre_hook(lambda *_: passes.append(1))
    whole = predict(model, image_of(slide, chunk=128), tile=256)
    hook.remove()
    assert (len(whole.tiles), len(passes)) == (75, 40)
    plain = predict(model, image_of(slide, chunk=128), tile=2048)
    np.testing.assert_allclose(whole.unit, plain.unit, atol=1e-5)


def test_stored_numbers_come_back() -> None:
    model, raw = model_of(), noise(4, 40, 50, 6)
    for marker in ("KI67", "CD3"):
        clipped = predict(model, image_of(raw), measured=(marker,)).measured[0]
        stored = map_stored(model, marker, clipped)
        assert stored.dtype == np.float32
        kept = (clipped > 0) & (clipped < 1)
        np.testing.assert_allclose(stored[kept], raw[MARKERS.index(marker)][kept], rtol=1e-4)


def test_another_depth_by_its_factor() -> None:
    """The same image at 8 bits and, times 257, at 16."""
    eight = (noise(4, 40, 50, 6) // 12).astype(np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    model = model_of(dtype="uint8")
    plain = predict(model, image_of(eight))
    scaled = predict(model, image_of(sixteen), value_scale=1 / 257)
    np.testing.assert_allclose(scaled.unit, plain.unit, atol=1e-5)
    back = map_stored(model, "KI67", scaled.unit, 1 / 257)
    np.testing.assert_allclose(back, map_stored(model, "KI67", plain.unit) * 257, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("largest", "asked"), [(240 * 112, 3), (208 * 112, 1)])
def test_a_lack_of_memory_makes_smaller_steps_and_the_same_numbers(largest: int, asked: int) -> None:
    model, image = model_of(MARKERS, any_marker=True, start=True), image_of(noise(4, 240, 112, 7))
    requests = [Request((m,)) for m in MARKERS[:asked]]
    expected = Whole(MaximStream(model, image, Engine(device="cpu", batch=3), requests))

    def check(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] * inputs[0].shape[-1] * inputs[0].shape[-2] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = model.network.register_forward_pre_hook(check)
    engine = Engine(device="cpu", batch=3)
    found = Whole(MaximStream(model, image, engine, requests))
    assert bool(engine.steps_back)
    np.testing.assert_allclose(found.unit, expected.unit, atol=1e-5)
    largest = 100**2
    with pytest.raises(InputError, match="smallest size does not fit"):
        Whole(MaximStream(model, image, Engine(device="cpu"), requests))
    hook.remove()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of numpy's memory for one and for six times the area, generated on the fly; the network is torch's business."""
    model = model_of(width=1)

    def nothing(_: Engine, __: object, inputs: torch.Tensor, core: Box, views: Views) -> torch.Tensor:
        time.sleep(0.03)  # the reader gets as far ahead as it may, whatever the machine's load
        return torch.zeros(len(inputs), len(views), 1, *core.shape)

    monkeypatch.setattr(Engine, "predict", nothing)

    def peak(side: int) -> int:
        raw = da.random.default_rng(0).integers(0, 3000, (4, side, side), dtype=np.uint16, chunks=(4, 256, 256))
        image = LocalImage("slide", (raw,), tuple(Channel(m) for m in MARKERS), (0.5, 0.5), "id")
        tracemalloc.start()
        for _ in MaximStream(model, image, Engine(device="cpu", tile=448, workers=1), [Request(("KI67",))]).tiles():
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(512)
    small = max(peak(1024) for _ in range(3))
    assert peak(2560) < 1.5 * small


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, image = model_of(MARKERS, any_marker=True, start=True), image_of(noise(4, 240, 240, 7))
    requests = [Request((m,)) for m in MARKERS]
    expected = Whole(MaximStream(model, image, Engine(device="cpu"), requests, views=SIX_VIEWS))
    found = Whole(MaximStream(model, image, Engine(device="cuda", tile=240), requests, views=SIX_VIEWS))
    np.testing.assert_allclose(found.unit, expected.unit, atol=1e-5)
    assert next(model.plain.parameters()).device.type == "cpu"
