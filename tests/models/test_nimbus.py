"""A whole slide scores as one forward pass over it would, whatever the tiles, the kills and the pixels."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nimbus_fields import (
    cells_of,
    image_of,
    labels_of,
    narrow_model,
    narrow_network,
    noise,
    oracle_field,
    oracle_model,
    score,
)
from skimage.segmentation import find_boundaries

from mxbridge.cells import LabelCells, OutlineCells, Rings
from mxbridge.errors import NoPixelSize, OutputError, UsageError
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.nimbus import VIEWS
from mxbridge.models.nimbus_input import inner_mask, marker_channel, whole_input
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.stream.engine import Engine

NUMPY_VIEWS = [  # there, and back
    (lambda x: x, lambda x: x),
    (lambda x: np.rot90(x, 1, (-2, -1)), lambda x: np.rot90(x, -1, (-2, -1))),
    (lambda x: np.rot90(x, 2, (-2, -1)), lambda x: np.rot90(x, -2, (-2, -1))),
    (lambda x: np.rot90(x, 3, (-2, -1)), lambda x: np.rot90(x, -3, (-2, -1))),
    (lambda x: x[..., ::-1, :], lambda x: x[..., ::-1, :]),
    (lambda x: x[..., ::-1], lambda x: x[..., ::-1]),
]


def areas(image: np.ndarray, step: float, size: int, axis: int) -> np.ndarray:
    """Means over ``[i * step, (i + 1) * step)``, by the integral; between centres where that is less than a pixel."""
    length = image.shape[axis]
    moved = np.moveaxis(image.astype(np.float64), axis, -1)
    if step < 1:
        places = (np.arange(size) + 0.5) * step
        out = np.apply_along_axis(lambda row: np.interp(places, np.arange(length) + 0.5, row), -1, moved)
    else:
        integral = np.concatenate([np.zeros((*moved.shape[:-1], 1)), np.cumsum(moved, -1)], -1)
        edges = np.minimum(np.arange(size + 1) * step, length)
        at = np.apply_along_axis(lambda row: np.interp(edges, np.arange(length + 1), row), -1, integral)
        out = np.diff(at) / np.diff(edges)
    return np.moveaxis(out, -1, axis)


def one_pass(
    network: ResidualUNet,
    raw: np.ndarray,
    labels: np.ndarray,
    factors: list[float],
    um: tuple[float, float],
    views: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Score and deviation by a plain reading of the definition: the whole image at once at 1 µm per pixel, through the network
    as it was published."""
    shape = [max(1, int(np.ceil(length * s - 1e-6))) for length, s in zip(labels.shape, um, strict=True)]

    def shrink(plane: np.ndarray) -> np.ndarray:
        rows = areas(plane, 1 / um[0], shape[0], 0)
        return areas(rows, 1 / um[1], shape[1], 1)

    mask = shrink((labels > 0) & ~find_boundaries(labels, mode="inner", connectivity=1)) >= 0.5 - 1e-5
    stride = network.stride
    pad = [max(2 * stride, -(-length // stride) * stride) - length for length in shape]
    at, to = (
        np.minimum(np.floor((np.arange(labels.shape[k]) + 0.5) * um[k] + 1e-9), shape[k] - 1).astype(int)
        for k in (0, 1)
    )
    n = labels.max()
    means = []
    for plane, factor in zip(raw, factors, strict=True):
        both = np.stack([shrink(np.clip(plane.astype(np.float32) / np.float32(factor), 0, 1)), mask])
        both = np.pad(both, ((0, 0), (0, pad[0]), (0, 0)), mode="reflect" if shape[0] > 1 else "edge")
        both = np.pad(both, ((0, 0), (0, 0), (0, pad[1])), mode="reflect" if shape[1] > 1 else "edge")
        means.append([])
        for there, back in NUMPY_VIEWS[:views]:
            with torch.inference_mode():
                out = network(torch.from_numpy(there(both)[None].astype(np.float32).copy())).numpy()
            full = back(out)[0, 0, : shape[0], : shape[1]][at][:, to]
            means[-1].append([full[labels == k + 1].mean(dtype=np.float64) for k in range(n)])
    return np.mean(means, axis=1), np.std(means, axis=1)


@pytest.mark.slow
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    um=st.tuples(*[st.sampled_from([0.25, 0.325, 0.5, 0.5022, 1.0, 1.7])] * 2),
    depth=st.integers(1, 4),
    tile=st.integers(0, 60),
    batch=st.integers(1, 7),
    views=st.sampled_from(["none", "six"]),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=40)
def test_any_tiling_is_one_pass_over_the_whole(
    shape: tuple[int, int], um: tuple[float, float], depth: int, tile: int, batch: int, views: str, seed: int
) -> None:
    model = narrow_model(depth=depth, seed=seed % 7)
    labels, raw = labels_of(*shape, seed=seed), noise(2, *shape, seed=seed)
    engine = Engine(device="cpu", tile=2 * model.halo + model.stride + tile, batch=batch)
    cells, factors = cells_of(labels), [1900.0, 2500.0]
    scores = model.score(image_of(raw, um, chunk=37), cells, [0, 1], factors, engine, views=VIEWS[views])
    network = narrow_network(depth=depth, seed=seed % 7)
    expected, deviation = one_pass(network, raw, labels, factors, um, len(VIEWS[views]))
    np.testing.assert_allclose(scores.score, expected, atol=1e-5)
    if views == "six":
        np.testing.assert_allclose(scores.view_sd, deviation, atol=1e-5)
    else:
        assert np.isnan(scores.view_sd).all()
    area = np.bincount(labels.ravel(), minlength=len(cells) + 1)[1:]
    np.testing.assert_array_equal(scores.area_px, area)
    means = [np.bincount(labels.ravel(), weights=plane.ravel())[1:] / area for plane in raw]
    np.testing.assert_allclose(scores.intensity, means, rtol=1e-5)
    y, x = np.indices(shape) + 0.5
    np.testing.assert_allclose(
        scores.centroid, np.stack([np.bincount(labels.ravel(), weights=a.ravel())[1:] / area for a in (y, x)], 1)
    )
    inner = (labels > 0) & ~find_boundaries(labels, mode="inner", connectivity=1)
    np.testing.assert_array_equal(scores.eroded_px, np.bincount(labels[inner], minlength=len(cells) + 1)[1:])
    rim = set(labels[[0, -1]].ravel()) | set(labels[:, [0, -1]].ravel())
    np.testing.assert_array_equal(scores.touches_edge, [k in rim for k in range(1, len(cells) + 1)])


@given(
    size=st.tuples(st.integers(41, 70), st.integers(41, 70)),
    um=st.sampled_from([0.325, 0.5, 0.5022, 1.0]),
    tiles=st.lists(st.integers(6, 20), min_size=2, max_size=2),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=15)
def test_outlines_across_tiles_score_the_same(size: tuple[int, int], um: float, tiles: list[int], seed: int) -> None:
    """Cells as QuPath has them, large enough to lie in several tiles, some over others, some partly outside."""
    shape, rng = (int(size[0] / um), int(size[1] / um)), np.random.default_rng(seed)
    turn = np.linspace(0, 2 * np.pi, 17)[:-1]
    cells = []
    for _ in range(12):
        y, x = rng.uniform(-3, shape[0] + 3), rng.uniform(-3, shape[1] + 3)
        reach = rng.uniform(2, 25) * rng.uniform(0.7, 1.3, len(turn))
        cells.append([np.stack([x + reach * np.cos(turn), y + reach * np.sin(turn)], 1)])
    outlines = OutlineCells(tuple(map(str, range(12))), (None,) * 12, shape, Rings.of(cells))
    model, image = narrow_model(depth=2), image_of(noise(1, *shape, seed=seed), (um, um))
    least = 2 * model.halo + model.stride
    found = [
        model.score(image, outlines, [0], [2000.0], Engine(device="cpu", tile=tile))
        for tile in (4096, *(least + extra for extra in tiles))
    ]
    for other in found[1:]:
        assert other.tiles_done + other.tiles_skipped > 1
        for name in ("score", "intensity", "centroid"):
            np.testing.assert_allclose(
                getattr(other, name), getattr(found[0], name), atol=1e-5, rtol=1e-5, err_msg=name
            )
        for name in ("area_px", "eroded_px", "touches_edge"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name), err_msg=name)


def test_oracle_weights_and_field_at_any_tile(data: Path) -> None:
    """Depth 5 with its halo of 96: cores of 48 against one tile."""
    model = oracle_model(data / "nimbus")
    raw, labels = oracle_field(data / "nimbus", "fov_a")
    raw, labels = raw[:1, :150, :290], labels[:150, :290]
    runs = [score(model, raw, labels, um=1.0, tile=tile, views=VIEWS["six"]) for tile in (240, 600)]
    assert [run.tiles_done + run.tiles_skipped for run in runs] == [4 * 7, 1]
    np.testing.assert_allclose(runs[0].score, runs[1].score, atol=1e-5)
    np.testing.assert_allclose(runs[0].view_sd, runs[1].view_sd, atol=1e-5)


def test_erosion_is_the_inner_boundary() -> None:
    labels = labels_of(70, 80, seed=3, radius=6, spacing=8)
    expected = (labels > 0) & ~find_boundaries(labels, mode="inner", connectivity=1)
    np.testing.assert_array_equal(inner_mask(labels), expected)
    assert 0.2 < expected[labels > 0].mean() < 0.9


def test_training_and_inference_see_the_same(data: Path) -> None:
    """whole_input is what one tile feeds the network."""
    model = narrow_model()
    labels, raw = labels_of(61, 47, seed=1), noise(2, 61, 47, seed=1)
    seen = []
    engine = Engine(device="cpu")
    predict = engine.predict
    engine.predict = lambda network, inputs, core, views: seen.append(inputs) or predict(network, inputs, core, views)
    model.score(image_of(raw), cells_of(labels), [0, 1], [2000.0, 900.0], engine)
    expected = whole_input(raw, labels, [2000.0, 900.0], (0.5, 0.5), 1.0, stride=model.stride)
    assert torch.equal(torch.cat(seen), expected)
    assert set(np.unique(expected[:, 1])) == {0, 1}


def test_pyramid_levels_serve_as_the_full_resolution_does() -> None:
    """A level made of exact means gives what reading level 0 gives, as long as nothing is clipped."""
    model = narrow_model()
    raw, labels = noise(2, 96, 120, seed=4, dtype=np.float32), labels_of(96, 120, seed=4)
    half = raw.reshape(2, 48, 2, 60, 2).mean((2, 4))
    factors = [4000.0, 4000.0]
    flat = score(model, raw, labels, factors=factors)
    pyramid = score(model, raw, labels, factors=factors, image=image_of(raw, levels=(half, half[:, ::2, ::2])), tile=60)
    assert (flat.level, pyramid.level) == (0, 1)
    np.testing.assert_allclose(pyramid.score, flat.score, atol=1e-5)
    at_level = half.repeat(2, 1).repeat(2, 2)
    expected = [[plane[labels == k].mean() for k in range(1, labels.max() + 1)] for plane in at_level]
    np.testing.assert_allclose(pyramid.intensity, expected, rtol=1e-5)


def test_bad_pixels_stay_local_and_are_counted() -> None:
    model = narrow_model(depth=2)
    labels = labels_of(80, 100, seed=2)
    raw = noise(2, 80, 100, seed=2, dtype=np.float32)
    broken = raw.copy()
    hit = labels == 5
    spot = tuple(np.argwhere(hit)[0])
    broken[0][spot] = np.nan
    broken[0, 3, 4], broken[0, 3, 5] = np.inf, -7
    plain, found = score(model, raw, labels, tile=50), score(model, broken, labels, tile=50)
    np.testing.assert_array_equal(found.bad_pixels, [[2, 1], [0, 0]])
    assert np.isfinite(found.score).all()
    replaced = broken.copy()
    replaced[0] = np.nan_to_num(replaced[0], nan=0, posinf=0).clip(0)
    np.testing.assert_array_equal(score(model, replaced, labels, tile=50).score, found.score)
    np.testing.assert_array_equal(found.score[1], plain.score[1])
    far = np.flatnonzero(found.score[0] == plain.score[0])
    assert len(far) > 0.5 * len(plain.score[0])
    rest = hit.copy()
    rest[spot] = False
    np.testing.assert_allclose(found.intensity[0, 4], raw[0][rest].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, ">u2", np.uint32, np.int32, ">f4", np.float64, np.float16]
)
def test_every_stored_type(dtype: object) -> None:
    model = narrow_model(depth=2)
    labels = labels_of(40, 40, seed=2)
    raw = (noise(1, 40, 40, seed=2, dtype=np.float32) // 25).astype(np.uint8)
    expected = score(model, raw, labels, factors=[90.0])
    found = score(model, raw.astype(dtype), labels, factors=[90.0])
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.intensity, expected.intensity)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.float64, np.bool_])
def test_only_types_that_a_device_knows_go_there(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    """Some devices (mps) have no unsigned and no 64-bit types."""
    raw, sent = np.arange(12).reshape(3, 4).astype(dtype), []
    expected = marker_channel(raw, 5.0)
    from_numpy = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: sent.append(array.dtype) or from_numpy(array))
    assert marker_channel(raw, 5.0, torch.device("meta")).dtype == torch.float32
    assert sent == [np.float32]
    assert torch.equal(marker_channel(raw, 5.0, torch.device("cpu")), expected)


def test_numbers_beyond_float32_are_not_finite_to_the_model() -> None:
    found = marker_channel(np.array([[1e300, -1e300, np.nan, 2.0]]), 4.0)
    assert found.tolist() == [[0.0, 0.0, 0.0, 0.5]]


def test_tiles_without_cells_are_skipped_and_counted() -> None:
    model = narrow_model(depth=2)
    labels = np.zeros((300, 300), np.int32)
    labels[5:12, 5:12], labels[280:290, 10:20] = 1, 2
    raw = noise(1, 300, 300, seed=0)
    reads: list[int] = []
    level = da.from_array(raw, chunks=(1, 64, 64)).map_blocks(
        lambda block: reads.append(1) or block, meta=np.zeros((0, 0, 0), np.uint16)
    )
    image = LocalImage("field", (level,), (Channel("A"),), (1.0, 1.0), "id")
    found = score(model, raw, labels, image=image, tile=50)
    assert (found.tiles_done, found.tiles_skipped) == (2, 79)
    assert len(reads) <= 4
    np.testing.assert_allclose(found.score, score(model, raw, labels, um=1.0, tile=1000).score, atol=1e-5)


class Collected:
    """Maps of a whole image in memory."""

    def __init__(self, shape: tuple[int, int], markers: int) -> None:
        self.maps = np.full((markers, *shape), np.nan, np.float32)

    def write(self, marker: int, box: Box, values: np.ndarray) -> None:
        part = self.maps[marker, box.y0 : box.y1, box.x0 : box.x1]
        assert np.isnan(part).all()
        part[:] = values


def test_maps_cover_everything_once_and_agree_with_the_scores(tmp_path: Path) -> None:
    model = narrow_model(depth=2)
    labels, raw = labels_of(50, 70, seed=1), noise(2, 50, 70, seed=1)
    labels[:, 40:] = 0
    labels = np.where(labels > 0, labels, 0)
    maps, whole = Collected((50, 70), 2), Collected((50, 70), 2)
    scores = score(model, raw, labels, um=1.0, tile=28, views=VIEWS["six"], maps=maps)
    score(model, raw, labels, um=1.0, views=VIEWS["six"], maps=whole)
    assert scores.tiles_skipped == 0
    assert np.isfinite(maps.maps).all()
    np.testing.assert_allclose(maps.maps, whole.maps, atol=1e-5)
    values = np.unique(labels[labels > 0])
    for k in range(2):
        np.testing.assert_allclose(scores.score[k], [maps.maps[k][labels == v].mean() for v in values], atol=1e-5)


def test_a_full_disk_behind_the_model_is_said(tmp_path: Path) -> None:
    class Full(Collected):
        def write(self, marker: int, box: Box, values: np.ndarray) -> None:
            raise OutputError("maps.zarr: the disk is full")

    labels, raw = labels_of(50, 70, seed=1), noise(1, 50, 70, seed=1)
    with pytest.raises(OutputError, match="disk is full"):
        score(narrow_model(depth=2), raw, labels, tile=28, maps=Full((25, 35), 1))


def test_cells_without_pixels_get_no_value_and_are_counted() -> None:
    def square(y: float, x: float, side: float) -> list[np.ndarray]:
        return [np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])]

    outlines = Rings.of([square(5, 5, 8), square(20.6, 20.6, 0.3), square(100, 100, 9), square(30, 30, 2), []])
    cells = OutlineCells(tuple("abcde"), (None,) * 5, (40, 40), outlines)
    found = narrow_model(depth=2).score(image_of(noise(1, 40, 40, seed=0)), cells, [0], [2000.0], Engine(device="cpu"))
    np.testing.assert_array_equal(np.isnan(found.score[0]), [False, True, True, False, True])
    np.testing.assert_array_equal(found.area_px, [64, 0, 0, 4, 0])
    np.testing.assert_array_equal(found.eroded_px, [36, 0, 0, 0, 0])
    assert (found.cells_without_area, found.cells_without_core) == (3, 1)
    np.testing.assert_allclose(found.centroid[0], [9, 9])
    assert np.isnan(found.centroid[1]).all()


def test_no_cells_and_no_markers() -> None:
    model, raw = narrow_model(depth=2), noise(1, 30, 40, seed=0)
    empty = score(model, raw, np.zeros((30, 40), np.int32))
    assert empty.score.shape == (1, 0)
    assert (empty.tiles_done, empty.tiles_skipped) == (0, 1)
    none = model.score(image_of(raw), cells_of(labels_of(30, 40, seed=0)), [], [], Engine(device="cpu"))
    assert none.score.shape[0] == 0


def test_wrong_questions() -> None:
    model, labels, raw = narrow_model(depth=2), labels_of(30, 40, seed=0), noise(1, 30, 40, seed=0)
    with pytest.raises(NoPixelSize, match="--um-per-px"):
        score(model, raw, labels, image=image_of(raw, None))
    with pytest.raises(UsageError, match="--tile"):
        score(model, raw, labels, tile=5)
    for factors in ([0.0], [float("nan")], [1.0, 2.0]):
        with pytest.raises(ValueError, match="positive factor"):
            score(model, raw, labels, factors=factors)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide() -> None:
    """Peak of numpy's memory for one and for nine times the area, generated on the fly; the network is torch's business."""
    model = narrow_model(width=1, depth=1)

    block = np.kron(np.ones((8, 8), np.int32), np.pad(np.ones((16, 16), np.int32), 8))

    def peak(side: int) -> int:
        raw = da.random.default_rng(0).integers(0, 3000, (2, side, side), dtype=np.uint16, chunks=(1, 256, 256))
        chunks = ((256,) * (side // 256),) * 2
        labels = da.map_blocks(lambda block_info=None: block, chunks=chunks, dtype=np.int32)
        image = LocalImage("slide", (raw,), (Channel("A"), Channel("B")), (0.5, 0.5), "id")
        boxes = np.array([[0, 0, side, side]])
        cells = LabelCells(("1",), (None,), (side, side), labels, np.array([1]), boxes, "h")
        tracemalloc.start()
        model.score(image, cells, [0, 1], [2000.0, 2000.0], Engine(device="cpu", tile=260, workers=1))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(512)
    small = max(peak(1024) for _ in range(3))  # how far the reader is ahead at the peak varies with the machine's load
    assert peak(3072) < 1.5 * small  # nine times the pixels
